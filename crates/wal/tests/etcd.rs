//! The log and etcd's own code, each reading what the other wrote.
//!
//! The judge is `tests/wal-go` (`walcheck`), built on `go.etcd.io/etcd/server/v3/storage/wal` 3.7.3; it answers only
//! when four of etcd's readers agree. `QUORATE_WALCHECK` is its path. Without it these tests do nothing, and fail if
//! `QUORATE_REQUIRE_JUDGES=1`, as in `make test`.

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, walpb};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::{Entry, EntryKind, HardState};
use wal::{FsDisk, Options, Wal};

/// The judge, used by one test at a time: between fork and exec, a starting program holds the test process's open and
/// locked files, so a log that another test just closed would seem in use.
struct Judge {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

fn judge() -> Option<Judge> {
    let path = std::env::var_os("QUORATE_WALCHECK").filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        let required = std::env::var("QUORATE_REQUIRE_JUDGES").is_ok_and(|value| value == "1");
        assert!(!required, "QUORATE_WALCHECK names no walcheck, and QUORATE_REQUIRE_JUDGES=1 asks for it");
        not_run();
    }
    path.map(|path| Judge { path, _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) })
}

#[expect(clippy::print_stderr, reason = "a test that is not run says so")]
fn not_run() {
    eprintln!("NOT RUN: QUORATE_WALCHECK is not set (tests/etcd-suite/build.sh --only walcheck)");
}

fn walcheck(judge: &Judge, segment_bytes: u64, arguments: &[&str], dir: &Path, numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    let output = Command::new(&judge.path)
        .arg(format!("-segment-bytes={segment_bytes}"))
        .args(arguments)
        .arg(dir)
        .args(&numbers)
        .output()
        .expect("walcheck starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "walcheck {arguments:?} {numbers:?}: {problem}");
    String::from_utf8(output.stdout).expect("walcheck prints text")
}

/// What walcheck prints, without what depends on the writer: file sizes, and all snapshot records but the last.
fn comparable(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().collect();
    let last_snapshot = lines.iter().rposition(|line| line.starts_with("snapshot "));
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "file" => writeln!(out, "file {}", words[1]),
            "snapshot" if Some(n) != last_snapshot || words[1] == "0" => Ok(()),
            _ => writeln!(out, "{line}"),
        }
        .expect("strings take what is written");
    }
    out
}

fn open(dir: &Path, options: Options) -> (Wal<FsDisk>, wal::Replayed) {
    Wal::open_with(FsDisk::open(dir).expect("the directory"), options).expect("the log opens")
}

/// The same as [`comparable`], from our reader.
fn ours(dir: &Path, options: Options, from: u64) -> String {
    let (wal, replayed) = open(dir, options);
    assert_eq!(replayed.repaired, None);
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "wal"))
        .collect();
    names.sort();
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("strings take what is written");
    for name in names {
        line(format!("file {name}"));
    }
    line(format!("metadata {}", hex(&replayed.metadata)));
    if let Some(snapshot) = &replayed.snapshot {
        let conf = snapshot.conf_state.clone().unwrap_or_default();
        let (voters, learners) = (ids(&conf.voters), ids(&conf.learners));
        line(format!("snapshot {} {} {voters} {learners}", snapshot.index(), snapshot.term()));
    }
    let HardState { term, vote, commit } = replayed.hard_state;
    line(format!("hardstate {term} {vote:x} {commit}"));
    let (mut low, end) = (from.max(wal.first_index()), wal.last_index() + 1);
    line_entries(&wal, &mut low, end, &mut line);
    line(format!("entries {}", end - from.max(wal.first_index())));
    out
}

fn line_entries(wal: &Wal<FsDisk>, low: &mut u64, end: u64, line: &mut impl FnMut(String)) {
    while *low < end {
        for Entry { term, index, kind, data } in wal.entries(*low, end, 1 << 20).expect("entries") {
            let number = u8::from(kind == EntryKind::ConfChange);
            line(format!("entry {index} {term} {number} {} {}", data.len(), hex(&Sha256::digest(&data))));
            *low = index + 1;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("strings take what is written");
        out
    })
}

fn ids(list: &[u64]) -> String {
    let list: Vec<String> = list.iter().map(|id| format!("{id:x}")).collect();
    if list.is_empty() { "-".to_owned() } else { list.join(",") }
}

#[test]
fn while_we_hold_the_log_etcd_does_not_open_it() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("wal");
    walcheck(&judge, SMALL.segment_bytes, &["write"], &dir, &[5]);
    let held = open(&dir, SMALL);
    let output = Command::new(&judge.path).arg("append").arg(&dir).output().expect("walcheck starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && problem.contains("locked"), "{problem}");
    drop(held);
    walcheck(&judge, SMALL.segment_bytes, &["append"], &dir, &[1]);
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let byte = index.to_le_bytes()[0];
    let kind = if index.is_multiple_of(9) { EntryKind::ConfChange } else { EntryKind::Normal };
    Entry { term, index, kind, data: Bytes::from(vec![byte; size]) }
}

const SMALL: Options = Options { segment_bytes: 2_000_000, ..Options::DEFAULT };

#[test]
fn what_etcd_writes_is_read_alike_and_gone_on_with() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("wal");
    let theirs = walcheck(&judge, SMALL.segment_bytes, &["write"], &dir, &[200]);
    assert!(theirs.matches("file ").count() > 3, "several segments:\n{}", comparable(&theirs));
    assert_eq!(ours(&dir, SMALL, 0), comparable(&theirs));

    // We continue where etcd ended, in a new term and over its uncommitted end; then etcd continues; then we read
    // again.
    let (mut wal, replayed) = open(&dir, SMALL);
    let HardState { term, commit, .. } = replayed.hard_state;
    let entries: Vec<Entry> =
        (commit + 1..commit + 40).map(|index| entry(term + 1, index, 100_000)).collect();
    for batch in entries.chunks(3) {
        wal.append(batch, Some(&HardState { term: term + 1, vote: 7, commit })).expect("append");
        wal.sync().expect("sync");
    }
    wal.close().expect("close");
    let theirs = walcheck(&judge, SMALL.segment_bytes, &["read"], &dir, &[]);
    assert_eq!(ours(&dir, SMALL, 0), comparable(&theirs));
    let theirs = walcheck(&judge, SMALL.segment_bytes, &["append"], &dir, &[30]);
    assert_eq!(ours(&dir, SMALL, 0), comparable(&theirs));
}

#[test]
fn a_log_of_etcds_own_segment_size_is_read() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("wal");
    let theirs = walcheck(&judge, wal::SEGMENT_BYTES, &["write"], &dir, &[40]);
    assert_eq!(ours(&dir, Options::default(), 0), comparable(&theirs));
}

#[test]
fn what_we_write_etcd_reads_alike_after_restarts_overwrites_and_repairs() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { segment_bytes: 20_000, ..Options::DEFAULT };
    let disk = || FsDisk::open(dir.path()).expect("the directory");
    let mut wal = Wal::create_with(disk(), b"\x08\x01\x10\x02", options).expect("create");
    let mut term = 1;
    for round in 0..12_u64 {
        term += round / 4;
        let first = wal.last_index() + 1 - (round % 3).min(wal.last_index() - wal.hard_state().commit);
        for batch in 0..6 {
            let entries: Vec<Entry> = (0..4)
                .map(|n| {
                    let index = first + batch * 4 + n;
                    entry(term, index, usize::try_from(index * 37 % 1500).expect("small"))
                })
                .collect();
            let state = HardState { term, vote: round % 2, commit: first + batch * 4 - 1 };
            wal.append(&entries, Some(&state).filter(|_| batch % 2 == 0)).expect("append");
            wal.sync().expect("sync");
        }
        let commit = wal.hard_state().commit;
        let conf_state = Some(raftpb::ConfState { voters: vec![1, 2], ..raftpb::ConfState::default() });
        let snapshot = walpb::Snapshot { index: Some(commit), term: wal.term(commit), conf_state };
        wal.save_snapshot(&snapshot).expect("snapshot");
        wal.close().expect("close");
        let theirs = walcheck(&judge, options.segment_bytes, &["read"], dir.path(), &[]);
        assert_eq!(ours(dir.path(), options, 0), comparable(&theirs));
        tear(dir.path());
        let (reopened, replayed) = open(dir.path(), options);
        assert!(replayed.repaired.is_some());
        wal = reopened;
    }
    release(&judge, dir.path(), options, wal);
}

/// Leaves half a record behind the log's end, as a crash would; the superblock does not cover it.
fn tear(dir: &Path) {
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    names.sort();
    let last = names.pop().expect("a segment");
    let mut bytes = std::fs::read(&last).expect("read");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("records") / 8 * 8 + 8;
    bytes.truncate(bytes.len().max(end + 2000));
    bytes.resize(bytes.len().max(end + 2000), 0);
    bytes[end..end + 8].copy_from_slice(&1500_u64.to_le_bytes());
    bytes[end + 8..end + 100].fill(3);
    std::fs::write(&last, bytes).expect("write");
}

fn release(judge: &Judge, dir: &Path, options: Options, mut wal: Wal<FsDisk>) {
    let commit = wal.hard_state().commit;
    wal.release(commit).expect("release");
    assert_eq!(wal.first_index(), commit, "nothing before is readable");
    wal.close().expect("close");
    // etcd reads the rest from the newest snapshot record on.
    let (wal, replayed) = open(dir, options);
    let first = wal.first_index();
    assert!(first > 1 && first <= commit, "segments were removed up to {first}");
    drop(wal);
    let snapshot = replayed.snapshot.expect("there are some");
    let theirs = walcheck(judge, options.segment_bytes, &["read"], dir, &[snapshot.index(), snapshot.term()]);
    assert_eq!(ours(dir, options, snapshot.index() + 1), comparable(&theirs));
}

#[test]
fn the_same_calls_leave_the_same_bytes() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (theirs, mine) = (dir.path().join("theirs"), dir.path().join("mine"));
    walcheck(&judge, wal::SEGMENT_BYTES, &["write"], &theirs, &[60]);
    let name = "0000000000000000-0000000000000000.wal";
    let bytes = std::fs::read(theirs.join(name)).expect("read");
    let records = records(&bytes);
    let mut wal: Option<Wal<FsDisk>> = None;
    for (n, record) in records.iter().enumerate() {
        let data = record.data.clone().unwrap_or_default();
        match (record.r#type(), wal.as_mut()) {
            (1, None) => wal = Some(Wal::create(FsDisk::open(&mine).expect("open"), &data).expect("create")),
            (2, Some(wal)) => {
                let message = raftpb::Entry::decode(data).expect("an entry");
                let kind = if message.r#type.is_some_and(|t| t == 1) {
                    EntryKind::ConfChange
                } else {
                    EntryKind::Normal
                };
                let (term, index) = (message.term(), message.index());
                let data = message.data.unwrap_or_default();
                wal.append(&[Entry { term, index, kind, data }], None).expect("append");
            }
            (3, Some(wal)) => {
                let message = raftpb::HardState::decode(data).expect("a state");
                let (term, vote, commit) = (message.term(), message.vote(), message.commit());
                wal.append(&[], Some(&HardState { term, vote, commit })).expect("append");
            }
            (5, Some(_)) if n == 2 => {}
            (5, Some(wal)) => {
                wal.save_snapshot(&walpb::Snapshot::decode(data).expect("a snapshot")).expect("save");
            }
            (4, None) => {}
            other => panic!("record {n} of type {}", other.0),
        }
    }
    wal.expect("there was a metadata record").close().expect("close");
    let mine = std::fs::read(mine.join(name)).expect("read");
    assert!(records.len() > 80 && bytes == mine, "{} records", records.len());
}

fn records(bytes: &[u8]) -> Vec<walpb::Record> {
    let mut records = Vec::new();
    let mut at = 0;
    loop {
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if word == 0 {
            return records;
        }
        let length = usize::try_from(word & ((1 << 56) - 1)).expect("a length");
        let padding = usize::try_from(word >> 56 & 7).expect("small");
        records.push(walpb::Record::decode(&bytes[at + 8..at + 8 + length]).expect("a record"));
        at += 8 + length + padding;
    }
}
