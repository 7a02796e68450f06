//! Stories of watch streams: the files in `scripts`, with their expected output.
//!
//! ```text
//! put KEY=VALUE…     one revision, published        open STREAM                 step     one step of catching up
//! delete KEY…        the same; txn KEY… KEY=VALUE…  watch STREAM KEY [OPTION…]  finish   reads the round under way
//! miss KEY=VALUE…    written, and skipped           cancel STREAM ID            settle   all of it, till nothing is left
//! compact REVISION                                  progress, tick, close STREAM
//! break, mend        the history cannot be read     read STREAM [count=N]       counts   watchers, slow, pending events
//! ```
//!
//! Options: `end=KEY`, `id=N`, `start=N`, `prev`, `noput`, `nodelete`, `notify`. A txn deletes, then puts, in one revision.
//! `large KEY…` puts 70 kB at each key. An event reads `key=value@revision` (`6.2`: the third change of revision 6), a
//! deletion `-key@revision`; with the version before, `(its revision)` behind it.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p watch --test scripts` writes what is found: read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

mod naive;

use goldenscript::{Context, Runner};
use naive::{Change, Naive};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use types::KeyRange;
use watch::{Create, Hub, Response, Round, Spec, Step, StreamKey};

/// The number of files in `scripts`, so that none gets lost.
const STORIES: usize = 8;

/// Options of `watch` that are single words.
const FLAGS: [&str; 4] = ["prev", "noput", "nodelete", "notify"];

struct Story {
    hub: Hub,
    past: Naive,
    streams: BTreeMap<String, StreamKey>,
    reading: Option<Round>,
}

impl Story {
    fn new() -> Self {
        Self { hub: Hub::new(1), past: Naive::new(), streams: BTreeMap::new(), reading: None }
    }

    fn stream(&self, name: &str) -> Result<StreamKey, Box<dyn Error>> {
        Ok(*self.streams.get(name).ok_or("no such stream")?)
    }

    fn write(&mut self, changes: &[Change]) {
        let events = self.past.write(changes);
        self.hub.publish(events, self.past.revision);
        self.tell();
    }

    /// Dispatches everything; interleavings are the model test's business.
    fn tell(&mut self) {
        while self.hub.is_dispatching() {
            self.hub.step(&self.past);
        }
    }

    fn step(&mut self) -> &'static str {
        match self.hub.step(&self.past) {
            Step::Idle => "nothing to do",
            Step::Again => "told from memory",
            Step::Read(round) => {
                self.reading = Some(round);
                "history is to be read"
            }
        }
    }

    fn finish(&mut self) -> bool {
        let Some(round) = self.reading.take() else { return false };
        let result = round.read(&self.past);
        self.hub.finish(&round, result);
        true
    }

    fn read(&mut self, stream: StreamKey, count: usize) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        for _ in 0..count {
            let Some(response) = self.hub.pop(stream) else { break };
            writeln!(out, "{}", show(&response))?;
        }
        Ok(if out.is_empty() { "nothing".to_owned() } else { out })
    }
}

fn puts(puts: &[(String, String)]) -> Vec<Change> {
    puts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

fn deletes(keys: &[String]) -> Vec<Change> {
    keys.iter().map(|key| (key.clone(), None)).collect()
}

fn show(response: &Response) -> String {
    match response {
        Response::Created { id, revision } => format!("watcher {id} created at {revision}"),
        Response::Refused { refusal, .. } => format!("refused: {refusal:?}"),
        Response::Canceled { id, revision } => format!("watcher {id} canceled at {revision}"),
        Response::Compacted { id, compact_revision } => {
            format!("watcher {id} ends: compacted up to {compact_revision}")
        }
        Response::Progress { id: Some(id), revision } => format!("watcher {id} is at {revision}"),
        Response::Progress { id: None, revision } => format!("all are at {revision}"),
        Response::Failed { reason } => format!("the stream ends: {reason}"),
        Response::Events { id, revision, events, .. } => {
            let text = String::from_utf8_lossy(events);
            let shown: Vec<String> = text.split_whitespace().map(shorten).collect();
            format!("watcher {id} at {revision}: {}", shown.join(" "))
        }
    }
}

/// Large values are shown by their length.
fn shorten(event: &str) -> String {
    if event.len() < 40 { event.to_owned() } else { format!("{}…({} B)", &event[..4], event.len()) }
}

#[derive(goldenscript::Command)]
enum Act {
    Put(Vec<(String, String)>),
    Large(Vec<String>),
    Delete(Vec<String>),
    Txn(Vec<String>, Vec<(String, String)>),
    Miss(Vec<(String, String)>),
    Compact(i64),
    Break,
    Mend,
    Open(String),
    Close(String),
    Watch {
        stream: String,
        key: String,
        #[arg(key, optional)]
        end: String,
        #[arg(key, optional)]
        id: i64,
        #[arg(key, optional)]
        start: i64,
        #[arg(optional)]
        flags: Vec<String>,
    },
    Cancel(String, i64),
    Progress(String),
    Tick(String),
    Step,
    Finish,
    Settle,
    Read {
        stream: String,
        #[arg(key)]
        count: Option<usize>,
    },
    Counts,
}

impl Runner for Story {
    type Command = Act;

    fn run(&mut self, act: &Act, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match act {
            Act::Put(changes) => self.write(&puts(changes)),
            Act::Large(keys) => {
                let changes = keys.iter().map(|key| (key.clone(), Some("v".repeat(70_000))));
                self.write(&changes.collect::<Vec<_>>());
            }
            Act::Delete(keys) => self.write(&deletes(keys)),
            Act::Txn(keys, changes) => self.write(&[deletes(keys), puts(changes)].concat()),
            Act::Miss(changes) => {
                self.past.write(&puts(changes));
                self.hub.skip(self.past.revision);
                self.tell();
            }
            Act::Compact(revision) => self.past.compacted = *revision,
            Act::Break => self.past.is_broken = true,
            Act::Mend => self.past.is_broken = false,
            Act::Open(name) => drop(self.streams.insert(name.clone(), self.hub.open())),
            Act::Close(stream) => self.hub.close(self.stream(stream)?),
            Act::Watch { stream, key, end, id, start, flags } => {
                if let Some(flag) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
                    return Err(format!("no option {flag}").into());
                }
                let has = |name: &str| flags.iter().any(|flag| flag == name);
                let range = KeyRange::from_wire(key.clone().into(), end.clone().into());
                let (puts, deletes) = (!has("noput"), !has("nodelete"));
                let spec = Spec { range, puts, deletes, previous: has("prev") };
                let create = Create { id: *id, spec, start: *start, fragment: false, notify: has("notify") };
                self.hub.create(self.stream(stream)?, create, self.past.compacted);
            }
            Act::Cancel(stream, id) => self.hub.cancel(self.stream(stream)?, *id),
            Act::Progress(stream) => self.hub.request_progress(self.stream(stream)?),
            Act::Tick(stream) => self.hub.tick(self.stream(stream)?),
            Act::Step => self.step().clone_into(&mut out),
            Act::Finish => out = if self.finish() { out } else { "nothing is read".to_owned() },
            Act::Settle => while self.finish() || self.step() != "nothing to do" {},
            Act::Read { stream, count } => {
                out = self.read(self.stream(stream)?, count.unwrap_or(usize::MAX))?;
            }
            Act::Counts => {
                let counts = self.hub.counts();
                let (watchers, slow, pending) = (counts.watchers, counts.slow, counts.pending);
                out = format!("{watchers} watchers, {slow} behind, {pending} events wait");
            }
        }
        self.hub.check();
        Ok(out)
    }
}

#[test]
fn stories() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), STORIES, "{files:?}");
    for file in files {
        goldenscript::run(&mut Story::new(), file).unwrap();
    }
}
