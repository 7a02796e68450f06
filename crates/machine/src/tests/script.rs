//! Runs a script: `command -> expected`, one a line. A command is one log entry (see `parse`) or a look at the state
//! (`get`, `read`, `members`, `leases`, `alarms`, `restart`).

use super::parse::{self, Tokens};
use super::render;
use crate::{Limits, Machine, Outcome, Settings};
use engine::{Engine, Family, MemoryEngine};
use mvcc::Cost;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::Entry;

/// The member under test; its request IDs start with it.
pub(super) const MEMBER: u64 = 1;

pub(super) fn settings() -> Settings {
    Settings { quota_bytes: -1, ..Settings::new(MEMBER, 2) }
}

pub(super) struct Bench {
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) machine: Machine,
    settings: Settings,
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Self {
        Self::on(Arc::new(MemoryEngine::new()), settings)
    }

    pub(super) fn on(engine: Arc<MemoryEngine>, settings: Settings) -> Self {
        let machine = Machine::open(Arc::clone(&engine) as Arc<dyn Engine>, settings).expect("opens");
        Self { engine, machine, settings }
    }

    pub(super) fn restart(&mut self) {
        *self = Self::on(Arc::clone(&self.engine), self.settings);
    }

    pub(super) fn run(&mut self, command: &str) -> String {
        let mut tokens = Tokens::new(command);
        let shared = self.machine.shared();
        match tokens.peek() {
            Some("restart") => {
                self.restart();
                "ok".to_owned()
            }
            Some("get") => {
                render::stopped(shared.range(&parse::range(&mut tokens)).map(|r| render::range(&r)))
            }
            Some("read") => {
                tokens.next();
                render::stopped(shared.read_txn(&parse::txn(&mut tokens)).map(|r| render::txn(&r)))
            }
            Some("members") => render::members(&shared.membership(), &self.machine.conf_state()),
            Some("leases") => render::leases(&shared),
            Some("alarms") => render::alarms(&shared.alarms().list(0)),
            _ => self.apply(command),
        }
    }

    fn apply(&mut self, command: &str) -> String {
        let entries = [entry(self.machine.applied().0 + 1, command)];
        let whole = match self.machine.apply_short(&entries) {
            Ok((_, 0)) => self.machine.apply(&entries),
            short => short.map(|(outcomes, _)| outcomes),
        };
        match whole {
            Ok(outcomes) => render::outcome(&outcomes[0]),
            Err(fault) => {
                self.restart();
                format!("fault: {fault}")
            }
        }
    }
}

pub(super) fn entry(index: u64, command: &str) -> Entry {
    let (kind, data) = parse::entry(index, command);
    Entry { term: 1, index, kind, data }
}

pub(super) fn log<S: AsRef<str>>(commands: &[S]) -> Vec<Entry> {
    (1..).zip(commands).map(|(index, command)| entry(index, command.as_ref())).collect()
}

pub(super) fn rows(engine: &dyn Engine) -> Vec<String> {
    let mut rows = Vec::new();
    for family in Family::ALL {
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push(format!("{} {} = {}", family.name(), key.escape_ascii(), value.escape_ascii()));
            ControlFlow::Continue(())
        };
        engine.scan(family, b"", None, visit).expect("memory does not fail");
    }
    rows
}

/// The smallest limits: all reads are deferred, and every entry that touches a key is a group of its own.
pub(super) const LEAST: Limits = {
    let none = Cost { rows: 0, bytes: 0 };
    Limits { entry_reads: none, group_reads: none, group_keys: 0 }
};

pub(super) fn check(script: &str) {
    check_with(settings(), script);
}

pub(super) fn check_with(settings: Settings, script: &str) {
    check_once(settings, script);
    check_once(Settings { limits: LEAST, ..settings }, script);
}

fn check_once(settings: Settings, script: &str) {
    let mut bench = Bench::new(settings);
    let (mut expected, mut actual) = (String::new(), String::new());
    for line in lines(script) {
        let (command, result) = line.split_once(" -> ").unwrap_or((&line, "ok"));
        writeln!(expected, "{command} -> {result}").expect("strings grow");
        writeln!(actual, "{command} -> {}", bench.run(command)).expect("strings grow");
    }
    assert!(expected == actual, "expected:\n{expected}\nactual:\n{actual}");
    // The resulting state must survive a restart.
    let before = render::state(&bench.machine);
    bench.restart();
    assert_eq!(before, render::state(&bench.machine), "after a restart");
}

/// The script's lines; a trailing backslash joins a line with the next.
fn lines(script: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let last = lines.last_mut().expect("never empty");
        if let Some(part) = line.strip_suffix('\\') {
            last.push_str(part);
        } else {
            last.push_str(line);
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

pub(super) fn only(outcomes: &[Outcome]) -> &Outcome {
    assert_eq!(outcomes.len(), 1);
    &outcomes[0]
}
