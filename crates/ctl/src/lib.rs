//! # The command line client
//!
//! `quorate ctl` has etcdctl's commands, flags, environment variables, output and exit codes. It speaks gRPC to any
//! etcd-compatible server.
//!
//! ```text
//!   arguments ─▶ line ─▶ Invocation ─▶ run::*  ─▶ Client ─▶ endpoint, the next one if it is down
//!      tables in commands/   │           │          one connection, current-thread runtime
//!      pflag's rules in      │           ▼
//!      flags.rs              │         print::{simple, fields, json, protobuf, table} ─▶ stdout
//!                            └─ ETCDCTL_* in settings.rs
//! ```
//!
//! Invariants:
//!
//! * stdout and the exit code are etcdctl 3.7.3's, byte for byte; the first line on stderr is etcdctl's last one.
//!   `tests/it` compares the two programs on the same servers.
//! * Where etcdctl writes its client library's JSON log to stderr, this writes one line, or nothing.
//! * A write that was sent is never sent again.
//! * `version`, `help` and a wrong argument start no runtime, open no socket and read no environment.
//!
//! The command line is parsed here and not by a library, because what etcdctl accepts is part of the interface:
//! abbreviated commands, `-wjson`, `--limit=0x10`, arguments that are not UTF-8, and the text of each error.
//!
//! TLS, authentication and discovery by DNS are not supported: their flags are refused by name.

mod address;
mod client;
mod commands;
mod concurrency;
mod failure;
mod flags;
mod help;
mod line;
mod print;
mod run;
mod settings;
mod text;
mod watches;

use commands::{Action, Command, ROOT};
use failure::Failure;
use line::{Invocation, Line};
use snapshot::Offline;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::ExitCode;

/// What `version` prints: the etcdctl that this follows.
const VERSION: &str = "etcdctl version: 3.7.3\nAPI version: 3.7\n";

/// Runs the client if the program was started as `quorate ctl`, or through a link named `etcdctl`; else `None`.
///
/// `offline` does the work on snapshot files, because this crate does not know the engine.
pub fn called(mut args: impl Iterator<Item = OsString>, offline: &dyn Offline) -> Option<ExitCode> {
    let program = args.next()?;
    if Path::new(&program).file_name().is_some_and(|name| name == "etcdctl") {
        return Some(main("etcdctl", args, offline));
    }
    (args.next()? == "ctl").then(|| main("quorate ctl", args, offline))
}

/// Runs one command line. `program` is what the user typed, without arguments.
fn main(program: &str, args: impl Iterator<Item = OsString>, offline: &dyn Offline) -> ExitCode {
    let args: Vec<Vec<u8>> = args.map(OsString::into_vec).collect();
    match dispatch(program, &args, offline) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let lines = failure.lines();
            if !lines.is_empty() {
                print::warn(lines.trim_end_matches('\n'));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(program: &str, args: &[Vec<u8>], offline: &dyn Offline) -> Result<(), Failure> {
    let invocation = match line::read(program, &ROOT, args)? {
        Line::Help(path) => return print::stdout(help::of(program, &path).as_bytes()),
        Line::Do(invocation) => invocation,
    };
    match invocation.action {
        Action::Version => print::stdout(VERSION.as_bytes()),
        Action::SnapshotStatus => run::offline::status(&invocation, offline),
        Action::SnapshotRestore => run::offline::restore(&invocation, offline),
        Action::DataDirCheck => run::offline::check(&invocation, offline),
        Action::DataDirToEtcd => run::offline::to_etcd(&invocation, offline),
        Action::Options => print::stdout(help::options().as_bytes()),
        Action::Help => {
            let path = find(&invocation.args);
            print::stdout(help::of(program, &path).as_bytes())
        }
        _ => start(program, invocation),
    }
}

/// The path of commands that `help a b` names, up to the first unknown word.
fn find(words: &[Vec<u8>]) -> Vec<&'static Command> {
    let mut path: Vec<&'static Command> = vec![&ROOT];
    for word in words {
        let here = path[path.len() - 1];
        match here.commands.iter().find(|command| command.name.as_bytes() == word) {
            Some(command) => path.push(command),
            None => break,
        }
    }
    path
}

fn start(program: &str, invocation: Invocation) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    runtime.block_on(run::run(program, invocation))
}
