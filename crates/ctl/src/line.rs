//! Finds the command in a command line. Its name may stand anywhere between the flags, and may be abbreviated as long
//! as it is unambiguous.

use crate::commands::{Action, Command};
use crate::failure::Failure;
use crate::flags::{Flag, Flags, Kind, Parsed};
use gotext::quote::quote;
use std::fmt::Write as _;

/// A command line that was parsed.
#[derive(Debug)]
pub(crate) enum Line {
    Do(Invocation),
    /// Help with the last command of this path.
    Help(Vec<&'static Command>),
}

/// A command with its flags and arguments.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) action: Action,
    /// The commands from the root to this one.
    pub(crate) path: Vec<&'static Command>,
    /// Its own flags and those of the commands above it.
    pub(crate) flags: Flags,
    /// Everything else on the command line.
    pub(crate) args: Vec<Vec<u8>>,
    /// How many of `args` precede `--`, if it is there.
    pub(crate) before_dashes: Option<usize>,
}

/// Parses a command line. `program` is what the user typed.
pub(crate) fn read(program: &str, root: &'static Command, args: &[Vec<u8>]) -> Result<Line, Failure> {
    let mut path = vec![root];
    let mut rest = args.to_vec();
    while let Some(at) = first_word(&rest, &known(&path)) {
        let here = path[path.len() - 1];
        match next(here, &rest[at]) {
            Some(command) => {
                rest.remove(at);
                path.push(command);
            }
            None if path.len() == 1 => return Err(unknown(program, here, &rest[at])),
            None => break,
        }
    }
    let mut flags = Flags::new(known(&path));
    let command = path[path.len() - 1];
    let parsed = flags.parse(&rest).map_err(|text| {
        Failure::error(text).hint(format!("Run '{} --help' for usage.", title(program, &path)))
    })?;
    match (parsed, command.action) {
        (Parsed::Help, _) | (Parsed::Arguments(..), None) => Ok(Line::Help(path)),
        (Parsed::Arguments(args, before_dashes), Some(action)) => {
            Ok(Line::Do(Invocation { action, path, flags, args, before_dashes }))
        }
    }
}

/// The words that call the last command of a path: `quorate ctl endpoint health`.
pub(crate) fn title(program: &str, path: &[&Command]) -> String {
    let mut title = program.to_owned();
    for command in path.iter().skip(1) {
        write!(title, " {}", command.name).expect("a String takes everything");
    }
    title
}

/// The flags of a command and of those above it.
fn known(path: &[&'static Command]) -> Vec<&'static Flag> {
    let mut flags: Vec<&Flag> = path.iter().rev().flat_map(|command| command.flags).collect();
    flags.sort_by_key(|flag| flag.name);
    flags
}

/// The position of the first argument that is neither a flag nor, as far as is known, a flag's value.
fn first_word(args: &[Vec<u8>], flags: &[&Flag]) -> Option<usize> {
    let is_switch = |known: Option<&&Flag>| known.is_some_and(|flag| flag.kind == Kind::Bool);
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let takes_next = match &arg[..] {
            b"--" => return None,
            b"--help" | b"-h" => false,
            _ if arg.contains(&b'=') => false,
            [b'-', b'-', name @ ..] => !is_switch(flags.iter().find(|flag| flag.name.as_bytes() == name)),
            [b'-', short] => !is_switch(flags.iter().find(|flag| flag.short == Some(*short))),
            _ => false,
        };
        if !arg.is_empty() && arg[0] != b'-' {
            return Some(at);
        }
        at += if takes_next { 2 } else { 1 };
    }
    None
}

/// The subcommand of this name, or the only one with this prefix.
fn next(command: &'static Command, word: &[u8]) -> Option<&'static Command> {
    if let Some(exact) = command.commands.iter().find(|c| c.name.as_bytes() == word) {
        return Some(exact);
    }
    let mut begin = command.commands.iter().filter(|c| c.name.as_bytes().starts_with(word));
    begin.next().filter(|_| begin.next().is_none())
}

fn unknown(program: &str, command: &Command, word: &[u8]) -> Failure {
    let mut text = format!("unknown command {} for {}", quote(word), quote(program.as_bytes()));
    let typed = String::from_utf8_lossy(word).to_lowercase();
    let near = |name: &str| distance(&typed, name) <= 2 || name.starts_with(&typed);
    let names: Vec<_> = command.commands.iter().map(|c| c.name).filter(|name| near(name)).collect();
    if !names.is_empty() {
        text.push_str("\n\nDid you mean this?\n");
        for name in names {
            writeln!(text, "\t{name}").expect("a String takes everything");
        }
    }
    Failure::error(text).hint(format!("Run '{program} --help' for usage."))
}

/// The Levenshtein distance of two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{Line, distance, read, title};
    use crate::commands::{Action, ROOT};

    fn line(args: &[&str]) -> Result<Line, String> {
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        read("etcdctl", &ROOT, &args).map_err(|failure| failure.lines())
    }

    fn action(args: &[&str]) -> (Action, Vec<String>) {
        match line(args) {
            Ok(Line::Do(it)) => {
                (it.action, it.args.into_iter().map(|a| String::from_utf8(a).unwrap()).collect())
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn a_command_stands_anywhere_and_may_be_cut_short() {
        let key = vec!["k".to_owned()];
        assert_eq!(action(&["get", "k"]), (Action::Get, key.clone()));
        assert_eq!(
            action(&["--endpoints", "get", "-w", "json", "ge", "k", "--prefix"]),
            (Action::Get, key.clone())
        );
        assert_eq!(action(&["--hex", "get", "--", "k"]), (Action::Get, key));
        assert_eq!(action(&["endp", "--cluster", "hea"]).0, Action::EndpointHealth);
        assert_eq!(action(&["mem", "l", "--consistency=s"]).0, Action::MemberList);
    }

    #[test]
    fn what_is_unknown_is_said_as_etcdctl_says_it() {
        assert_eq!(
            line(&["gett", "a"]).unwrap_err(),
            "Error: unknown command \"gett\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n\nRun 'etcdctl --help' for usage.\n"
        );
        // A flag that the root does not know takes the next word with it.
        assert!(
            line(&["--prefix", "get", "a1b2c3"])
                .unwrap_err()
                .starts_with("Error: unknown command \"a1b2c3\"")
        );
        let flag = line(&["endpoint", "health", "--foo"]).unwrap_err();
        assert_eq!(flag, "Error: unknown flag: --foo\nRun 'etcdctl endpoint health --help' for usage.\n");
    }

    #[test]
    fn help_is_for_the_command_before_it() {
        for (args, path) in [
            (&[][..], "etcdctl"),
            (&["endpoint"], "etcdctl endpoint"),
            (&["endpoint", "x"], "etcdctl endpoint"),
            (&["get", "-h"], "etcdctl get"),
        ] {
            match line(args) {
                Ok(Line::Help(commands)) => assert_eq!(title("etcdctl", &commands), path),
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("gett", "get"), 1);
        assert_eq!(distance("", "get"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
