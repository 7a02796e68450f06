//! The log against a naive model, on a disk that loses unsynced data, loses power at any moment, and fails.
//!
//! The model is the list of all records. After a crash the log must hold a prefix of it that reaches at least to the
//! last sync.

use bytes::Bytes;
use proptest::prelude::*;
use proto::{raftpb, walpb};
use std::collections::BTreeMap;
use types::{Entry, EntryKind, HardState};
use wal::{MemDisk, Options, Wal, WalError};

#[derive(Clone, Debug)]
enum Record {
    Entry(Entry),
    State(HardState),
    Snapshot(u64, u64),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// Index and term below the first entry, if a snapshot replaced the log.
    base: (u64, u64),
    entries: BTreeMap<u64, Entry>,
    hard: HardState,
}

impl State {
    fn last(&self) -> u64 {
        self.entries.keys().last().copied().unwrap_or(self.base.0)
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.entries.get(&index).map(|e| e.term) }
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, entry.clone());
            }
            Record::State(state) => self.hard = *state,
            Record::Snapshot(index, term) => {
                if *index > self.last() || (*index >= self.base.0 && self.term(*index) != Some(*term)) {
                    self.entries.clear();
                    self.base = (*index, *term);
                }
            }
        }
    }

    /// What is read back from these records: a snapshot counts once it is committed.
    fn read(records: &[Record]) -> Self {
        let mut state = Self::default();
        let mut pending = None;
        for record in records {
            match record {
                Record::Snapshot(index, _) if *index > state.hard.commit => pending = Some(record.clone()),
                Record::Entry(entry) => {
                    if let Some(Record::Snapshot(index, term)) = pending.take()
                        && entry.index == index + 1
                    {
                        state.apply(&Record::Snapshot(index, term));
                    }
                    state.apply(record);
                }
                Record::State(hard) => {
                    state.apply(record);
                    if matches!(&pending, Some(Record::Snapshot(index, _)) if *index <= hard.commit) {
                        state.apply(&pending.take().expect("matched above"));
                    }
                }
                Record::Snapshot(..) => state.apply(record),
            }
        }
        state
    }
}

struct Rig {
    disk: MemDisk,
    options: Options,
    wal: Wal<MemDisk>,
    records: Vec<Record>,
    durable: usize,
    released: u64,
    next: u32,
}

const METADATA: &[u8] = b"whose log this is";

#[derive(Clone, Debug)]
enum Step {
    Append { back: u64, count: usize, size: usize, state: bool },
    Commit,
    Sync,
    Vote,
    Snapshot { ahead: u64 },
    Release { back: u64 },
    Reopen,
    Stop { seed: u64 },
    Crash { seed: u64 },
    Fault { after: u64, seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop_oneof![4 => Just(0_u64), 1 => 0..12_u64], 0..9_usize, prop_oneof![6 => 0..300_usize, 1 => 300..6000_usize], any::<bool>())
            .prop_map(|(back, count, size, state)| Step::Append { back, count, size, state }),
        2 => Just(Step::Commit),
        6 => Just(Step::Sync),
        1 => Just(Step::Vote),
        1 => prop_oneof![3 => Just(0_u64), 1 => 1..50_u64].prop_map(|ahead| Step::Snapshot { ahead }),
        2 => (0..20_u64).prop_map(|back| Step::Release { back }),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Stop { seed }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => (1..12_u64, any::<u64>()).prop_map(|(after, seed)| Step::Fault { after, seed }),
    ]
}

/// Limits of a server and small ones, so that every branch behind them is reached.
fn options() -> impl Strategy<Value = Options> {
    let segment_bytes = prop_oneof![Just(1_000_u64), Just(8_192), Just(100_000)];
    let write_bytes_max = prop_oneof![Just(1_usize), Just(500), Just(2_048), Just(4 << 20)];
    let unsynced_bytes_max = prop_oneof![Just(200_u64), Just(2_000), Just(8_000), Just(16 << 20)];
    let superblock_sync_bytes = prop_oneof![Just(1_u64), Just(3_000), Just(8 << 20)];
    let read_bytes_max = prop_oneof![Just(1_u64), Just(700), Just(256 << 10)];
    let replay_bytes = prop_oneof![Just(64_usize), Just(1_000), Just(1 << 20)];
    let limits = (write_bytes_max, unsynced_bytes_max, superblock_sync_bytes, read_bytes_max, replay_bytes);
    (segment_bytes, limits).prop_map(|(segment_bytes, (write, unsynced, superblock, read, replay))| Options {
        segment_bytes,
        write_bytes_max: write,
        unsynced_bytes_max: unsynced,
        superblock_sync_bytes: superblock,
        read_bytes_max: read,
        replay_bytes: replay,
        zero_ahead_bytes: 0,
    })
}

impl Rig {
    fn new(options: Options) -> Self {
        let disk = MemDisk::new();
        let wal = Wal::create_with(disk.clone(), METADATA, options).expect("create");
        Self { disk, options, wal, records: Vec::new(), durable: 0, released: 0, next: 0 }
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.records.iter().for_each(|record| state.apply(record));
        state
    }

    fn apply(&mut self, step: &Step) {
        let result = match step {
            Step::Append { back, count, size, state } => self.append(*back, *count, *size, *state),
            Step::Commit => {
                let last = self.wal.last_index();
                self.hard(|hard| hard.commit = last)
            }
            Step::Vote => self.hard(|hard| {
                hard.term += 1;
                hard.vote = hard.term % 3;
            }),
            Step::Sync => self.sync(),
            Step::Snapshot { ahead } => self.snapshot(*ahead),
            Step::Release { back } => self.release(*back),
            Step::Reopen => {
                self.reopen(self.records.len());
                Ok(())
            }
            Step::Stop { seed } => {
                self.wal.sync_all().expect("the disk is well");
                self.disk.crash(*seed);
                self.reopen(self.records.len());
                Ok(())
            }
            Step::Crash { seed } => {
                self.disk.crash(*seed);
                self.reopen(self.durable);
                Ok(())
            }
            Step::Fault { after, seed } => {
                self.disk.fail_after(*after);
                let result = self.until_it_fails();
                assert!(result.is_err(), "the disk fails, so something must");
                assert!(matches!(self.wal.sync(), Err(WalError::Failed)), "nothing is tried again");
                self.disk.crash(*seed);
                self.reopen(self.durable);
                Ok(())
            }
        };
        result.expect("the disk is well");
    }

    fn until_it_fails(&mut self) -> Result<(), WalError> {
        for n in 0..20 {
            self.append(n % 3, 4, 700, true)?;
            self.sync()?;
            self.release(5)?;
        }
        Ok(())
    }

    fn append(&mut self, back: u64, count: usize, size: usize, with_state: bool) -> Result<(), WalError> {
        let hard = self.wal.hard_state();
        let first =
            (self.wal.last_index() + 1).saturating_sub(back).max(hard.commit + 1).max(self.wal.first_index());
        let term =
            hard.term.max(self.wal.term(self.wal.last_index()).unwrap_or(0)).max(1) + u64::from(back > 0);
        let entries: Vec<Entry> = (first..).take(count).map(|index| self.entry(term, index, size)).collect();
        let last = first + count as u64 - 1;
        let state = with_state.then_some(HardState {
            term,
            vote: hard.vote,
            commit: hard.commit.max(last.saturating_sub(3)),
        });
        self.records.extend(entries.iter().cloned().map(Record::Entry));
        self.records.extend(state.map(Record::State));
        self.wal.append(&entries, state.as_ref())
    }

    fn entry(&mut self, term: u64, index: u64, size: usize) -> Entry {
        self.next += 1;
        let kind = if self.next.is_multiple_of(7) { EntryKind::ConfChange } else { EntryKind::Normal };
        // Some payloads are zeros, which look like unwritten sectors.
        let fill = if self.next.is_multiple_of(3) { 0 } else { self.next.to_le_bytes()[0] };
        let mut data = vec![fill; size * usize::from(!self.next.is_multiple_of(5))];
        if let Some(start) = data.get_mut(..4) {
            start.copy_from_slice(&self.next.to_le_bytes());
        }
        Entry { term, index, kind, data: Bytes::from(data) }
    }

    fn hard(&mut self, change: impl FnOnce(&mut HardState)) -> Result<(), WalError> {
        let mut hard = self.wal.hard_state();
        change(&mut hard);
        if hard == HardState::default() {
            return Ok(());
        }
        self.records.push(Record::State(hard));
        self.wal.append(&[], Some(&hard))
    }

    fn sync(&mut self) -> Result<(), WalError> {
        // A commit index alone is not synced: count only up to the last record that must be durable.
        let (mut hard, mut pending, mut needed) = (HardState::default(), None, 0);
        for (n, record) in self.records.iter().enumerate() {
            let must = match record {
                Record::Entry(_) => true,
                Record::Snapshot(index, _) => {
                    pending = Some(*index).filter(|index| *index > hard.commit);
                    true
                }
                Record::State(state) => {
                    let promises = (state.term, state.vote) != (hard.term, hard.vote);
                    hard = *state;
                    let commits_a_snapshot = pending.take_if(|index| *index <= hard.commit).is_some();
                    promises || commits_a_snapshot
                }
            };
            needed = if must { n + 1 } else { needed };
        }
        self.wal.sync()?;
        self.durable = self.durable.max(needed);
        Ok(())
    }

    fn snapshot(&mut self, ahead: u64) -> Result<(), WalError> {
        let hard = self.wal.hard_state();
        let index = if ahead == 0 { hard.commit } else { self.wal.last_index() + ahead };
        let term = if ahead == 0 { self.wal.term(index) } else { Some(hard.term.max(1)) };
        let Some(term) = term.filter(|_| index > 0) else { return Ok(()) };
        let conf_state = Some(raftpb::ConfState { voters: vec![1, 2], ..raftpb::ConfState::default() });
        self.records.push(Record::Snapshot(index, term));
        self.wal.save_snapshot(&walpb::Snapshot { index: Some(index), term: Some(term), conf_state })?;
        self.durable = self.records.len();
        if ahead > 0 {
            self.hard(|hard| (hard.term, hard.commit) = (term, index))?;
            self.sync()?;
        }
        Ok(())
    }

    fn release(&mut self, back: u64) -> Result<(), WalError> {
        // Released entries must be committed and durable.
        let durable = State::read(&self.records[..self.durable]);
        let index = durable.hard.commit.saturating_sub(back);
        self.released = self.released.max(index);
        self.wal.release(index)
    }

    /// Reopens the log: it must hold a prefix of at least `least` records.
    fn reopen(&mut self, least: usize) {
        let (wal, replayed) =
            Wal::open_with(self.disk.clone(), self.options).expect("a crash does no damage");
        assert_eq!(replayed.metadata, METADATA);
        self.wal = wal;
        let found = (least..=self.records.len()).find(|&n| {
            let state = State::read(&self.records[..n]);
            self.holds(&state)
        });
        let Some(found) = found else {
            panic!(
                "the log holds no prefix of what was written from record {least} on: {:?}\nrecords {:?}",
                self.wal,
                self.records.iter().map(brief).collect::<Vec<_>>()
            )
        };
        self.records.truncate(found);
        // A snapshot that never counted is forgotten, as in the log.
        if State::read(&self.records) != self.state() {
            let state = State::read(&self.records);
            self.records
                .retain(|record| !matches!(record, Record::Snapshot(index, _) if *index > state.hard.commit));
        }
        self.durable = self.records.len();
        self.check();
    }

    fn holds(&self, state: &State) -> bool {
        let wal = &self.wal;
        let (first, last) = (wal.first_index(), wal.last_index());
        wal.hard_state() == state.hard
            && last == state.last()
            && first > state.base.0
            && (first - 1..=last).all(|index| wal.term(index) == state.term(index))
            && wal.entries(first, last + 1, u64::MAX).expect("entries")
                == state.entries.range(first..).map(|(_, entry)| entry.clone()).collect::<Vec<_>>()
    }

    fn check(&self) {
        let state = self.state();
        assert!(
            self.holds(&state),
            "{:?} should hold {:?} entries to {}",
            self.wal,
            state.hard,
            state.last()
        );
        let released = self.released.max(state.base.0 + 1);
        assert!(self.wal.first_index() <= released, "only what was released may be gone");
    }
}

fn brief(record: &Record) -> String {
    match record {
        Record::Entry(entry) => format!("e{}@{}", entry.index, entry.term),
        Record::State(state) => format!("s{}/{}/{}", state.term, state.vote, state.commit),
        Record::Snapshot(index, term) => format!("snap{index}@{term}"),
    }
}

fn cases(count: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(count);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn the_log_is_a_prefix_of_what_was_written_and_never_shorter_than_what_was_synced(
        options in options(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new(options);
        for step in &steps {
            rig.apply(step);
            rig.check();
        }
        rig.reopen(rig.records.len());
    }
}

#[test]
fn a_log_that_was_not_made_whole_does_not_exist() {
    let options = Options { segment_bytes: 4096, ..Options::DEFAULT };
    for fault in 1..20 {
        for seed in 0..20 {
            let disk = MemDisk::new();
            disk.fail_after(fault);
            let made = Wal::create_with(disk.clone(), METADATA, options);
            disk.crash(seed);
            let Ok(wal) = made else {
                match Wal::open_with(disk.clone(), options) {
                    Ok((wal, replayed)) => {
                        assert_eq!((wal.last_index(), replayed.metadata), (0, Bytes::from_static(METADATA)));
                    }
                    Err(WalError::NotFound) => {
                        Wal::create_with(disk, METADATA, options).expect("a new attempt");
                    }
                    Err(error) => panic!("half a log was taken for one: {error}"),
                }
                continue;
            };
            drop(wal);
            assert!(matches!(Wal::create(disk.clone(), METADATA), Err(WalError::Exists)));
            Wal::open_with(disk, options).expect("it was made");
        }
    }
}
