//! The help texts, made from the tables of commands and flags.

use crate::commands::{Command, GLOBAL, GROUPS};
use crate::flags::{Flag, Kind};
use crate::line::title;
use std::fmt::Write as _;

/// The help of the last command in a path.
pub(crate) fn of(program: &str, path: &[&'static Command]) -> String {
    let command = path[path.len() - 1];
    let mut out = format!("{}\n\nUsage:\n  {}", command.about, title(program, path));
    if !command.arguments.is_empty() {
        out.push(' ');
        out.push_str(command.arguments);
    }
    out.push('\n');
    if !command.details.is_empty() {
        out.push('\n');
        out.push_str(command.details);
    }
    if path.len() == 1 {
        for group in GROUPS {
            list(&mut out, group, command.commands.iter().filter(|c| c.group == *group));
        }
    } else {
        list(&mut out, "Commands", command.commands.iter());
        let own: Vec<&Flag> = path[1..].iter().flat_map(|command| command.flags).collect();
        if !own.is_empty() {
            out.push_str("\nFlags:\n");
            flags(&mut out, &own);
        }
    }
    if !command.commands.is_empty() {
        write!(out, "\nUse \"{} [command] --help\" for more about a command.\n", title(program, path))
            .expect("a String takes everything");
    }
    writeln!(out, "Use \"{program} options\" for the flags that all commands take.")
        .expect("a String takes everything");
    out
}

/// The flags that all commands take.
pub(crate) fn options() -> String {
    let mut out = String::from("The following options can be passed to any command:\n\n");
    flags(&mut out, &GLOBAL.iter().collect::<Vec<_>>());
    out.push_str("\nEach is also read from the environment: --dial-timeout from ETCDCTL_DIAL_TIMEOUT.\n");
    out
}

fn list(out: &mut String, heading: &str, commands: impl Iterator<Item = &'static Command>) {
    let commands: Vec<_> = commands.collect();
    if commands.is_empty() {
        return;
    }
    let wide = commands.iter().map(|c| c.name.len()).max().unwrap_or(0).max(11);
    writeln!(out, "\n{heading}:").expect("a String takes everything");
    for command in commands {
        writeln!(out, "  {:wide$}  {}", command.name, command.about).expect("a String takes everything");
    }
}

fn flags(out: &mut String, flags: &[&Flag]) {
    let left = |flag: &Flag| {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |s| format!("-{}, ", char::from(s)));
        let value = match flag.kind {
            Kind::Bool => "",
            Kind::Text => " <text>",
            Kind::Int | Kind::Uint => " <number>",
            Kind::Duration => " <duration>",
            Kind::List => " <a,b,...>",
        };
        format!("{short}--{}{value}", flag.name)
    };
    let wide = flags.iter().map(|flag| left(flag).len()).max().unwrap_or(0);
    for flag in flags {
        write!(out, "  {:wide$}  {}", left(flag), flag.usage).expect("a String takes everything");
        if !matches!(flag.default, "" | "0" | "false") {
            write!(out, " (default {})", flag.default).expect("a String takes everything");
        }
        out.push('\n');
    }
}
