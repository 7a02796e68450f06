//! `watch`: prints events, and runs a program for each.

use super::Session;
use crate::commands::WATCH;
use crate::failure::{BAD_ARGS, ERROR, Failure, INTERRUPTED, INVALID_INPUT};
use crate::flags::{Flags, Parsed};
use crate::line::Invocation;
use crate::print::{Answer, Printer, say, stdout, warn};
use crate::text::words::{end_of_prefix, split_line};
use crate::watches::{Update, Watches, is_progress};
use gotext::quote::quote;
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use tokio::sync::mpsc;

/// Lines of stdin that are read ahead.
const LINES_MAX: usize = 64;

const BAD_NUMBER: &str = "bad number of arguments";

/// The key and range end from the environment.
struct Environment {
    key: Vec<u8>,
    range_end: Vec<u8>,
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let read = |name| std::env::var_os(name).map(OsString::into_vec).unwrap_or_default();
        let it = Self { key: read("ETCDCTL_WATCH_KEY"), range_end: read("ETCDCTL_WATCH_RANGE_END") };
        if it.key.is_empty() && !it.range_end.is_empty() {
            let end = quote(&it.range_end);
            let text = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
            return Err(Failure::args(text));
        }
        Ok(it)
    }
}

/// A watch, and the program to run for each event.
#[derive(Debug)]
struct Plan {
    create: pb::WatchCreateRequest,
    command: Vec<Vec<u8>>,
}

pub(crate) async fn run(invocation: Invocation) -> Result<(), Failure> {
    let environment = Environment::read()?;
    if invocation.flags.is("interactive") {
        return interactive(invocation, &environment).await;
    }
    let (args, dashes) = (invocation.args.clone(), invocation.before_dashes);
    let (words, command) = arguments(&args, dashes, &environment)?;
    let (session, client) = Session::connect(invocation)?;
    let plan = Plan { create: create(&session.invocation.flags, &words)?, command };
    let mut watches = Watches::new(&client, true);
    watches.add(plan.create.clone()).await;
    while !watches.is_over() {
        for (_, update) in watches.next().await {
            show(&session.printer, &plan, update).await?;
        }
    }
    Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
}

/// Splits the arguments into keys and the command after `--`.
#[allow(clippy::type_complexity, reason = "two lists of words")]
fn arguments(
    args: &[Vec<u8>],
    before_dashes: Option<usize>,
    environment: &Environment,
) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>), Failure> {
    let (keys, command) = args.split_at(before_dashes.unwrap_or(args.len()));
    if before_dashes.is_some() && command.is_empty() {
        return Err(Failure::args("bad number of arguments (found separator --, but no commands)"));
    }
    let mut keys = keys.to_vec();
    if !environment.key.is_empty() {
        if !keys.is_empty() {
            return Err(Failure::args("bad number of arguments (found conflicting environment key)"));
        }
        keys.push(environment.key.clone());
        if !environment.range_end.is_empty() {
            keys.push(environment.range_end.clone());
        }
    }
    Ok((keys, command.to_vec()))
}

fn create(flags: &Flags, words: &[Vec<u8>]) -> Result<pb::WatchCreateRequest, Failure> {
    let prefix = flags.is("prefix");
    let (key, range_end) = match words {
        [] => return Err(Failure::args(BAD_NUMBER)),
        [_, _] if prefix => {
            return Err(Failure::args("`range_end` and `--prefix` are mutually exclusive"));
        }
        [key, end] => (key.clone(), end.clone()),
        [key, ..] if prefix && key.is_empty() => (vec![0], vec![0]),
        [key, ..] if prefix => (key.clone(), end_of_prefix(key)),
        [key, ..] => (key.clone(), Vec::new()),
    };
    Ok(pb::WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision: flags.int("rev"),
        progress_notify: flags.is("progress-notify"),
        prev_kv: flags.is("prev-kv"),
        ..Default::default()
    })
}

/// Prints an answer, and runs the command for each event.
async fn show(printer: &Printer, plan: &Plan, update: Update) -> Result<(), Failure> {
    let answer = match update {
        Update::Answer(answer) => answer,
        Update::Lost(answer, why) => {
            warn(format_args!("watch was canceled ({why})"));
            answer
        }
        Update::Ended => return Ok(()),
    };
    if is_progress(&answer) {
        say(format_args!("progress notify: {}", answer.header.map_or(0, |header| header.revision)))?;
    }
    printer.print(&Answer::Watch(&answer))?;
    if !plan.command.is_empty() {
        for event in &answer.events {
            execute(&plan.command, answer.header.map_or(0, |header| header.revision), event).await?;
        }
    }
    Ok(())
}

async fn execute(command: &[Vec<u8>], revision: i64, event: &Event) -> Result<(), Failure> {
    let kv = event.kv.clone().unwrap_or_default();
    let mut process = std::process::Command::new(OsStr::from_bytes(&command[0]));
    process
        .args(command[1..].iter().map(|word| OsStr::from_bytes(word)))
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", quote(event.r#type().as_str_name().as_bytes()))
        .env("ETCD_WATCH_KEY", quote(&kv.key))
        .env("ETCD_WATCH_VALUE", quote(&kv.value));
    let why = match super::execute(process).await {
        Ok(()) => return Ok(()),
        Err(ended) => ended.text,
    };
    let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
    warn(format_args!("command [{}] error ({why})", words.join(" ")));
    Err(Failure::silent(ERROR))
}

/// Reads lines from stdin: each is a watch or a progress request.
async fn interactive(invocation: Invocation, environment: &Environment) -> Result<(), Failure> {
    let (session, client) = Session::connect(invocation)?;
    let (sender, mut lines) = mpsc::channel(LINES_MAX);
    // Ends with the program: nothing can wake a thread that reads a terminal.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut table = Table { watches: Watches::new(&client, true), plans: Vec::new() };
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(Ok(line)) => table.line(&line, environment).await?,
                Some(Err(error)) => return Err(unreadable(&error)),
                None => return Err(unreadable(&"EOF")),
            },
            all = table.watches.next(), if !table.watches.is_over() => {
                for (index, update) in all {
                    show(&session.printer, &table.plans[index], update).await?;
                }
            }
        }
    }
}

fn unreadable(why: &impl std::fmt::Display) -> Failure {
    Failure::new(INVALID_INPUT, format!("error reading watch request line: {why}"))
}

struct Table<'a> {
    watches: Watches<'a>,
    plans: Vec<Plan>,
}

impl Table<'_> {
    async fn line(&mut self, line: &str, environment: &Environment) -> Result<(), Failure> {
        let words = split_line(line.as_bytes())?;
        match words.first().map(Vec::as_slice) {
            None => warn(format_args!("Invalid command: {line} (watch and progress supported)")),
            Some(b"watch") if words.len() < 2 && environment.key.is_empty() => {
                warn(format_args!("Invalid command {line} (command type or key is not provided)"));
            }
            Some(b"watch") => self.watch(line, &words[1..], environment).await?,
            Some(b"progress") => self.watches.ask_progress().await?,
            Some(_) => warn(format_args!("Invalid command {line} (only support watch)")),
        }
        Ok(())
    }

    async fn watch(
        &mut self,
        line: &str,
        words: &[Vec<u8>],
        environment: &Environment,
    ) -> Result<(), Failure> {
        let mut flags = Flags::new(WATCH.iter().collect());
        let (args, dashes) = match flags.parse(words).map_err(|why| Failure::new(BAD_ARGS, why))? {
            Parsed::Arguments(args, dashes) => (args, dashes),
            Parsed::Help => return Err(Failure::args("pflag: help requested")),
        };
        let (keys, command) = arguments(&args, dashes, environment)?;
        if keys.is_empty() && command.is_empty() {
            return Err(Failure::args(BAD_NUMBER));
        }
        match create(&flags, &keys) {
            Ok(create) => {
                self.plans.push(Plan { create: create.clone(), command });
                self.watches.add(create).await;
            }
            Err(failure) => {
                let why = failure.text.unwrap_or_default();
                warn(format_args!("Invalid command {line} ({why})"));
            }
        }
        // Flush before the next line is read.
        stdout(b"")
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, arguments, create};
    use crate::commands::WATCH;
    use crate::flags::Flags;

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    fn environment(key: &str, range_end: &str) -> Environment {
        Environment { key: key.into(), range_end: range_end.into() }
    }

    #[test]
    fn keys_stand_before_the_dashes_or_in_the_environment() {
        let plain = environment("", "");
        let split = |args: &[&str], dashes, environment: &Environment| {
            arguments(&words(args), dashes, environment).map_err(|failure| failure.lines())
        };
        assert_eq!(split(&["a", "b"], None, &plain), Ok((words(&["a", "b"]), words(&[]))));
        assert_eq!(
            split(&["a", "echo", "echo"], Some(1), &plain),
            Ok((words(&["a"]), words(&["echo", "echo"])))
        );
        let both = environment("k", "l");
        assert_eq!(split(&["echo"], Some(0), &both), Ok((words(&["k", "l"]), words(&["echo"]))));
        let conflict = "Error: bad number of arguments (found conflicting environment key)\n";
        assert_eq!(split(&["a"], None, &both), Err(conflict.to_owned()));
        assert_eq!(split(&["a", "echo"], Some(1), &both), Err(conflict.to_owned()));
        let nothing = "Error: bad number of arguments (found separator --, but no commands)\n";
        assert_eq!(split(&["a"], Some(1), &plain), Err(nothing.to_owned()));
    }

    #[test]
    fn ranges() {
        let mut flags = Flags::new(WATCH.iter().collect());
        assert!(create(&flags, &[]).is_err());
        let range = create(&flags, &words(&["a", "c"])).unwrap();
        assert_eq!((&range.key[..], &range.range_end[..]), (&b"a"[..], &b"c"[..]));
        flags.parse(&words(&["--prefix", "--rev=7"])).unwrap();
        let all = create(&flags, &words(&[""])).unwrap();
        assert_eq!((&all.key[..], &all.range_end[..], all.start_revision), (&b"\0"[..], &b"\0"[..], 7));
        assert!(create(&flags, &words(&["a", "c"])).is_err());
    }
}
