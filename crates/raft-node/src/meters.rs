//! The node's metrics, under etcd's names; [`Meters::register`] exposes them. Measured once a batch, without a lock:
//! per-entry counts go into plain local cells ([`Applies`]), and to the shared ones once a group.

use crate::core::{Dropped, Log};
use machine::{Effect, Kind, Outcome, Response};
use prometheus::core::Collector;
use prometheus::local::LocalHistogram;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};
use proto::etcdserverpb::{TxnResponse, response_op};
use proto::walpb;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use types::{Entry, HardState, Index, Term};
use wal::WalError;

/// Applying an entry for longer than this is slow: etcd's `--warning-apply-duration`.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Why something of a peer was dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PeerDrop {
    /// No correct peer sends it.
    Invalid,
    Removed,
    /// A queue to the consensus thread or the log is full.
    Full,
    Core(Dropped),
}

impl PeerDrop {
    fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Removed => "removed",
            Self::Full => "full",
            Self::Core(Dropped::Message) => "unfit",
            Self::Core(Dropped::Read) => "read twice",
            Self::Core(Dropped::Proposal) => "hops",
        }
    }
}

/// The node's metric series.
#[derive(Clone)]
pub struct Meters {
    pub(crate) fsync: Histogram,
    pub(crate) write: Histogram,
    pub(crate) written_bytes: IntGauge,
    apply: HistogramVec,
    slow_applies: IntCounter,
    pub(crate) late_heartbeats: IntCounter,
    ranges: IntCounter,
    txns: IntCounter,
    compaction_pause: Histogram,
    compaction_total: Histogram,
    compaction_last: IntGauge,
    peer_drops: IntCounterVec,
    promotions: IntCounter,
    promotions_refused: IntCounterVec,
}

/// Histogram options with `count` buckets from `start` up, each twice the one before.
fn options(name: &str, help: &str, start: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, 2.0, count).expect("constant, valid buckets");
    HistogramOpts::new(name, help).buckets(buckets)
}

fn histogram(name: &str, help: &str, start: f64, count: usize) -> Histogram {
    Histogram::with_opts(options(name, help, start, count)).expect("a constant, valid metric name")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a constant, valid metric name")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a constant, valid metric name")
}

impl Default for Meters {
    #[rustfmt::skip]
    fn default() -> Self {
        let apply = options("etcd_server_apply_duration_seconds", "The latency distributions of v2 apply called by backend.", 0.0001, 20);
        Self {
            fsync: histogram("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.", 0.001, 14),
            write: histogram("etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL.", 0.001, 14),
            written_bytes: gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
            apply: HistogramVec::new(apply, &["version", "op", "success"]).expect("constant, valid labels"),
            slow_applies: counter("etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk)."),
            late_heartbeats: counter(
                "etcd_server_heartbeat_send_failures_total",
                "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            ),
            ranges: counter("etcd_mvcc_range_total", "Total number of ranges seen by this member."),
            txns: counter("etcd_mvcc_txn_total", "Total number of txns seen by this member."),
            compaction_pause: histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "Bucketed histogram of db compaction pause duration.",
                1.0,
                13,
            ),
            compaction_total: histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Bucketed histogram of db compaction total duration.",
                100.0,
                14,
            ),
            compaction_last: gauge("etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start."),
            peer_drops: IntCounterVec::new(
                Opts::new("quorate_peer_messages_dropped_total", "What peers sent and this member did not take, by reason."),
                &["reason"],
            ).expect("constant, valid labels"),
            promotions: counter(
                "etcd_server_learner_promote_successes",
                "The total number of successful learner promotions while this member is leader.",
            ),
            promotions_refused: IntCounterVec::new(
                Opts::new(
                    "etcd_server_learner_promote_failures",
                    "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
                ),
                &["Reason"],
            ).expect("constant, valid labels"),
        }
    }
}

impl Meters {
    /// Adds all series to the registry. Panics if a name is taken, which the first start would show.
    pub fn register(&self, registry: &Registry) {
        let all: [Box<dyn Collector>; 14] = [
            Box::new(self.fsync.clone()),
            Box::new(self.write.clone()),
            Box::new(self.written_bytes.clone()),
            Box::new(self.apply.clone()),
            Box::new(self.slow_applies.clone()),
            Box::new(self.late_heartbeats.clone()),
            Box::new(self.ranges.clone()),
            Box::new(self.txns.clone()),
            Box::new(self.compaction_pause.clone()),
            Box::new(self.compaction_total.clone()),
            Box::new(self.compaction_last.clone()),
            Box::new(self.peer_drops.clone()),
            Box::new(self.promotions.clone()),
            Box::new(self.promotions_refused.clone()),
        ];
        for collector in all {
            registry.register(collector).expect("metric names are registered once");
        }
    }

    /// Counts a range that was answered without the log.
    pub fn count_range(&self) {
        self.ranges.inc();
    }

    /// Counts the operations of an answered transaction; as in etcd, it is one only with more than one operation.
    pub fn count_txn(&self, answer: &TxnResponse) {
        let count = Operations::of(answer);
        self.ranges.inc_by(count.ranges);
        if count.ranges + count.writes > 1 {
            self.txns.inc();
        }
    }

    pub(crate) fn peer_dropped(&self, why: PeerDrop) {
        self.peer_drops.with_label_values(&[why.reason()]).inc();
    }

    /// The number of drops for a reason: `invalid`, `removed`, `full`, `unfit`, `read twice`, `hops`.
    pub fn peer_drops(&self, reason: &str) -> u64 {
        self.peer_drops.with_label_values(&[reason]).get()
    }

    pub(crate) fn promoted(&self) {
        self.promotions.inc();
    }

    /// The reasons are few: texts of errors.
    pub(crate) fn not_promoted(&self, reason: &str) {
        self.promotions_refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn compaction_step(&self, took: Duration) {
        self.compaction_pause.observe(took.as_secs_f64() * 1e3);
    }

    pub(crate) fn compaction_done(&self, took: Duration) {
        self.compaction_total.observe(took.as_secs_f64() * 1e3);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.compaction_last.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

#[derive(Default)]
struct Operations {
    ranges: u64,
    writes: u64,
}

impl Operations {
    fn of(answer: &TxnResponse) -> Self {
        let mut count = Self::default();
        // Nested as deeply as a request may be; on the heap, because the stack may not suffice.
        let mut open = vec![answer];
        while let Some(txn) = open.pop() {
            for op in &txn.responses {
                match &op.response {
                    Some(response_op::Response::ResponseRange(_)) => count.ranges += 1,
                    Some(response_op::Response::ResponseTxn(inner)) => open.push(inner),
                    Some(_) => count.writes += 1,
                    None => {}
                }
            }
        }
        count
    }
}

/// The consensus thread's local cells for per-entry counts.
pub(crate) struct Applies {
    meters: Meters,
    /// By kind, failed ones behind; made when first needed, so that only what happened is shown.
    cells: [Option<LocalHistogram>; 2 * Kind::ALL.len()],
}

impl Applies {
    pub(crate) fn new(meters: Meters) -> Self {
        Self { meters, cells: Default::default() }
    }

    /// Measures a group of entries; its time is divided equally among them, since they are applied in one go.
    pub(crate) fn group(&mut self, took: Duration, entries: &[Entry], outcomes: &[Outcome]) {
        let Some(first) = entries.first() else { return };
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let each = took / count;
        if each >= SLOW_APPLY {
            self.meters.slow_applies.inc_by(count.into());
        }
        for outcome in outcomes {
            let Effect::Answer(answer) = &outcome.effect else { continue };
            let entry =
                outcome.index.checked_sub(first.index).and_then(|at| entries.get(usize::try_from(at).ok()?));
            let kind = entry.map_or(Kind::Unknown, |entry| Kind::of(&entry.data));
            let cell = kind as usize + if answer.is_ok() { 0 } else { Kind::ALL.len() };
            let success = if answer.is_ok() { "true" } else { "false" };
            let apply = &self.meters.apply;
            self.cells[cell]
                .get_or_insert_with(|| apply.with_label_values(&["v3", kind.name(), success]).local())
                .observe(each.as_secs_f64());
            let answer = match answer {
                Ok(Response::Unread(unread)) => Ok(&unread.answer),
                answer => answer.as_ref(),
            };
            match answer {
                Ok(Response::Range(_)) => self.meters.count_range(),
                Ok(Response::Txn(answer)) => self.meters.count_txn(answer),
                _ => {}
            }
        }
        self.cells.iter().flatten().for_each(LocalHistogram::flush);
    }
}

pub(crate) struct TimedLog<L> {
    log: L,
    meters: Meters,
}

impl<L: Log> TimedLog<L> {
    pub(crate) fn new(log: L, meters: Meters) -> Self {
        Self { log, meters }
    }
}

impl<L: Log> Log for TimedLog<L> {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        let start = Instant::now();
        let before = self.log.written_bytes();
        let result = self.log.append(entries, hard_state);
        self.meters.write.observe(start.elapsed().as_secs_f64());
        let written = self.log.written_bytes() - before;
        self.meters.written_bytes.add(i64::try_from(written).unwrap_or(i64::MAX));
        result
    }

    fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
        self.log.save_snapshot(snapshot)
    }

    fn sync(&mut self) -> Result<(), WalError> {
        if !self.log.must_sync() {
            return self.log.sync();
        }
        let start = Instant::now();
        let result = self.log.sync();
        self.meters.fsync.observe(start.elapsed().as_secs_f64());
        result
    }

    fn sync_all(&mut self) -> Result<(), WalError> {
        let start = Instant::now();
        let result = self.log.sync_all();
        self.meters.fsync.observe(start.elapsed().as_secs_f64());
        result
    }

    fn must_sync(&self) -> bool {
        self.log.must_sync()
    }

    fn written_bytes(&self) -> u64 {
        self.log.written_bytes()
    }

    fn first_index(&self) -> Index {
        self.log.first_index()
    }

    fn last_index(&self) -> Index {
        self.log.last_index()
    }

    fn term(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        self.log.entries(low, high, max_bytes)
    }

    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    fn release(&mut self, index: Index) -> Result<(), WalError> {
        self.log.release(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::{Command, Refusal};
    use proto::etcdserverpb as pb;
    use types::EntryKind;

    fn entry(index: Index, command: &Command) -> Entry {
        Entry { term: 1, index, kind: EntryKind::Normal, data: command.encode(1) }
    }

    #[test]
    fn a_group_is_counted_by_kind_and_by_how_it_went() {
        let meters = Meters::default();
        let (put, txn) = (Command::from(pb::PutRequest::default()), Command::from(pb::TxnRequest::default()));
        let range = || pb::ResponseOp {
            response: Some(response_op::Response::ResponseRange(pb::RangeResponse::default())),
        };
        let answer = TxnResponse { responses: vec![range(), range()], ..Default::default() };
        let outcome = |index, effect| Outcome { index, request_id: 1, effect, over_quota: false };
        let outcomes = [
            outcome(5, Effect::Answer(Ok(Response::Put(pb::PutResponse::default())))),
            outcome(6, Effect::Answer(Err(Refusal::LeaseNotFound))),
            outcome(7, Effect::Answer(Ok(Response::Txn(answer)))),
            outcome(8, Effect::Nothing),
        ];
        let entries = [entry(5, &put), entry(6, &put), entry(7, &txn), entry(8, &put)];
        Applies::new(meters.clone()).group(Duration::from_millis(400), &entries, &outcomes);
        let applied = |op, success| meters.apply.with_label_values(&["v3", op, success]).get_sample_count();
        assert_eq!((applied("Put", "true"), applied("Put", "false"), applied("Txn", "true")), (1, 1, 1));
        assert_eq!((meters.slow_applies.get(), meters.ranges.get(), meters.txns.get()), (4, 2, 1));
    }
}
