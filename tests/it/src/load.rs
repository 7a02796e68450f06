//! A load that remembers: writers and readers that note every request with its times and its answer.
//!
//! Each writer is a closed loop over its own keys: one request at a time, the next when it was
//! answered or given up. After an error it goes to the next member. It never sends a write twice,
//! so a write whose answer is missing is in the record as just that.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::etcdserverpb::{Compare, PutRequest, RangeRequest, TxnRequest, compare, response_op};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;

use crate::{Client, txn_of_puts};

/// After an error, so that a dead cluster is not asked a hundred thousand times a second.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// A comparison that failed. Nobody else writes the key, so that unless a write without an answer
/// was late, this is wrong: no write can be at revision 0, and the checker will say so.
const DECLINED: Option<i64> = Some(0);

/// What the load looks like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Every key begins with it.
    pub prefix: String,
    /// Closed loops that write.
    pub writers: usize,
    /// Closed loops that read, linearizably.
    pub readers: usize,
    /// Keys each writer owns.
    pub keys_per_writer: usize,
    /// Size of a value.
    pub value_bytes: usize,
    /// After this a write is given up as unknown.
    pub limit: Duration,
    /// Pause of each loop between two requests.
    pub pace: Duration,
    /// Drives which key, which kind of write and which member.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            prefix: "it/".to_owned(),
            writers: 16,
            readers: 4,
            keys_per_writer: 8,
            value_bytes: 128,
            limit: Duration::from_secs(1),
            pace: Duration::ZERO,
            seed: 1,
        }
    }
}

/// One write and what became of it, as far as its sender knows.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key of the request.
    pub key: Bytes,
    /// Its value, never written before or after.
    pub value: Bytes,
    /// Before it was sent.
    pub started: Instant,
    /// After it was answered or given up.
    pub ended: Instant,
    /// The revision it was acknowledged at; `None` = may or may not have happened.
    pub acked: Option<i64>,
    /// The mod revision of the key before, where the answer said so (0 = there was none).
    pub previous: Option<i64>,
}

/// One linearizable read that was answered.
#[derive(Debug, Clone)]
pub struct Read {
    /// The key of the request.
    pub key: Bytes,
    /// Before it was sent.
    pub started: Instant,
    /// After it was answered.
    pub ended: Instant,
    /// The revision of the answer's header.
    pub revision: i64,
    /// Mod revision and value of what it found.
    pub found: Option<(i64, Bytes)>,
}

/// Everything a load did.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The newest revision before the load began.
    pub base: i64,
    /// Every write that was sent.
    pub writes: Vec<Write>,
    /// Every read that was answered.
    pub reads: Vec<Read>,
}

impl Record {
    /// The longest time without an acknowledgement between `from` and the last one, and when it began.
    pub fn longest_gap(&self, from: Instant) -> Duration {
        let mut ends: Vec<Instant> =
            self.writes.iter().filter(|w| w.acked.is_some() && w.ended > from).map(|w| w.ended).collect();
        ends.sort_unstable();
        let starts = std::iter::once(&from).chain(&ends);
        starts.zip(&ends).map(|(a, b)| b.duration_since(*a)).max().unwrap_or_default()
    }
}

/// A glance at a running load.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Writes acknowledged so far.
    pub acked: u64,
    /// Writes whose answer never came.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// The newest revision acknowledged.
    pub revision: i64,
    /// When the last acknowledgement came (or the load began).
    pub last_ack: Instant,
}

/// A load that runs until stopped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    loops: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    shape: Shape,
    stopping: AtomicBool,
    so_far: Mutex<(Record, Figures)>,
}

impl Load {
    /// Begins. `base` is the newest revision before it.
    pub fn start(client: &Client, shape: Shape, base: i64) -> Self {
        let figures = Figures { acked: 0, unknown: 0, reads: 0, revision: base, last_ack: Instant::now() };
        let record = Record { base, ..Record::default() };
        let shared = Arc::new(Shared {
            client: client.clone(),
            stopping: AtomicBool::new(false),
            so_far: Mutex::new((record, figures)),
            shape,
        });
        let mut loops = JoinSet::new();
        for writer in 0..shared.shape.writers {
            loops.spawn(Arc::clone(&shared).write(writer));
        }
        for reader in 0..shared.shape.readers {
            loops.spawn(Arc::clone(&shared).read(reader));
        }
        Self { shared, loops }
    }

    /// The figures up to now.
    pub fn figures(&self) -> Figures {
        self.shared.so_far().1
    }

    /// The writes noted after the first `skip`.
    pub fn writes_after(&self, skip: usize) -> Vec<Write> {
        self.shared.so_far().0.writes.get(skip..).map(<[Write]>::to_vec).unwrap_or_default()
    }

    /// Lets every loop finish its request, and hands over the record.
    pub async fn stop(mut self) -> Record {
        self.shared.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.loops.join_next().await {
            ended.expect("a load's loop ends by itself");
        }
        std::mem::take(&mut self.shared.so_far().0)
    }
}

impl Shared {
    fn so_far(&self) -> MutexGuard<'_, (Record, Figures)> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, writer: usize, slot: usize) -> Bytes {
        format!("{}{writer:04}/{slot:04}", self.shape.prefix).into()
    }

    async fn write(self: Arc<Self>, writer: usize) {
        let mut random = SmallRng::seed_from_u64(self.shape.seed ^ ((writer as u64) << 32));
        let mut at = writer % self.client.size();
        // What this writer knows each of its keys to be at; `None` after a write without an answer.
        let mut known = vec![Some(0); self.shape.keys_per_writer];
        // Whether a write without an answer may still come out of some queue and change the key.
        let mut doubtful = vec![false; self.shape.keys_per_writer];
        for sequence in 0.. {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let slot = random.random_range(0..known.len());
            let width = self.shape.value_bytes;
            let value = Bytes::from(format!("{writer}/{sequence}/{:.<width$}", ""));
            let value = value.slice(..width.max(24).min(value.len()));
            let compare = known[slot].filter(|_| random.random_ratio(1, 4));
            let write = self.send(at, self.key(writer, slot), value, compare).await;
            if write.acked == DECLINED && doubtful[slot] {
                known[slot] = None;
                continue;
            }
            known[slot] = write.acked;
            let answered = write.acked.is_some();
            self.note(write);
            if !answered {
                doubtful[slot] = true;
                at = (at + 1) % self.client.size();
                tokio::time::sleep(AFTER_ERROR).await;
            }
            if !self.shape.pace.is_zero() {
                tokio::time::sleep(self.shape.pace).await;
            }
        }
    }

    /// A Put with `prev_kv`, or with `compare` the same Put if the key is still at that revision.
    async fn send(&self, at: usize, key: Bytes, value: Bytes, compare: Option<i64>) -> Write {
        let put = PutRequest { key: key.clone(), value: value.clone(), prev_kv: true, ..Default::default() };
        let limit = self.shape.limit;
        let started = Instant::now();
        let answer = match compare {
            None => self.client.put(at, put, limit).await.map(Some),
            Some(revision) => {
                let txn = put_if_at(put, revision);
                self.client.txn(at, txn, limit).await.map(|mut txn| match txn.responses.pop()?.response? {
                    response_op::Response::ResponsePut(mut put) if txn.succeeded => {
                        put.header = txn.header;
                        Some(put)
                    }
                    _ => None,
                })
            }
        };
        let ended = Instant::now();
        let (acked, previous) = match answer {
            Ok(Some(put)) => (
                Some(put.header.map_or(0, |header| header.revision)),
                Some(put.prev_kv.map_or(0, |kv| kv.mod_revision)),
            ),
            Ok(None) => (DECLINED, None),
            Err(_) => (None, None),
        };
        Write { key, value, started, ended, acked, previous }
    }

    fn note(&self, write: Write) {
        let mut so_far = self.so_far();
        let (record, figures) = &mut *so_far;
        match write.acked {
            Some(revision) => {
                figures.acked += 1;
                figures.revision = figures.revision.max(revision);
                figures.last_ack = figures.last_ack.max(write.ended);
            }
            None => figures.unknown += 1,
        }
        record.writes.push(write);
    }

    fn note_read(&self, read: Read) {
        let mut so_far = self.so_far();
        so_far.0.reads.push(read);
        so_far.1.reads += 1;
    }

    async fn read(self: Arc<Self>, reader: usize) {
        let mut random = SmallRng::seed_from_u64(!self.shape.seed ^ ((reader as u64) << 32));
        while !self.stopping.load(Ordering::Relaxed) {
            let writer = random.random_range(0..self.shape.writers);
            let key = self.key(writer, random.random_range(0..self.shape.keys_per_writer));
            let at = random.random_range(0..self.client.size());
            let range = RangeRequest { key: key.clone(), ..Default::default() };
            let started = Instant::now();
            let answer = self.client.range(at, range, self.shape.limit).await;
            let ended = Instant::now();
            let Ok(mut answer) = answer else {
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            };
            let revision = answer.header.map_or(0, |header| header.revision);
            let found = answer.kvs.pop().map(|kv| (kv.mod_revision, kv.value));
            self.note_read(Read { key, started, ended, revision, found });
            // Reads are many times cheaper than writes: without a pause they would be most of the load.
            tokio::time::sleep(self.shape.pace.max(Duration::from_millis(2))).await;
        }
    }
}

/// Txn: if `mod_revision` of the key is still `revision`, the put.
fn put_if_at(put: PutRequest, revision: i64) -> TxnRequest {
    let compare = Compare {
        key: put.key.clone(),
        target: compare::CompareTarget::Mod.into(),
        result: compare::CompareResult::Equal.into(),
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    TxnRequest { compare: vec![compare], ..txn_of_puts([put]) }
}
