//! A load of all kinds of requests at a steady rate, whatever the answers take: many may be under way at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use harness::{Client, txn_of_puts};
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, ResponseHeader, TxnRequest, compare,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::history::Digest;

/// Every key begins with it.
pub(super) const ALL: &str = "takeover/";
/// Keys of leases that are renewed all the time: `takeover/kept/<number>`.
pub(super) const KEPT: &str = "takeover/kept/";
/// Keys of leases that nobody renews: `takeover/lease/<ID>`.
pub(super) const BRIEF: &str = "takeover/lease/";
/// How many other keys there are, `takeover/k/<number>`.
const KEYS: u64 = 4_000;
/// What a write has at most under way, besides reads: beyond that requests are left out, and counted.
const UNDER_WAY_MAX: usize = 512;
/// etcd itself gives up after seven seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a value.
const VALUE: usize = 128;
/// Seconds that a lease has which nobody renews.
const BRIEF_TTL: i64 = 5;
/// Seconds that a renewed lease has.
pub(super) const KEPT_TTL: i64 = 10;
/// The first half is renewed by streams, the other half by single requests of the load.
pub(super) const KEPT_LEASES: i64 = 20;
/// The ID of the first of them.
pub(super) const KEPT_ID: i64 = 7_000;

/// Errors of raft that etcd passes on as they are: of a member that is being removed, and of a leader that hands over.
const ETCD_ONLY: [&str; 2] = ["raft: stopped", "raft proposal dropped"];

/// A lease that nobody renews.
struct Brief {
    /// Before it was asked for.
    asked: Instant,
    is_revoked: bool,
}

/// What the clients of a round share.
pub(super) struct Stage {
    client: Mutex<Arc<Client>>,
    stopping: AtomicBool,
    noted: Mutex<Noted>,
    briefs: Mutex<HashMap<String, Brief>>,
    /// The newest revision of an acknowledged write.
    newest: AtomicI64,
    next: AtomicU64,
    sent: AtomicU64,
    left_out: AtomicU64,
}

/// What the load has seen.
#[derive(Default)]
pub(super) struct Noted {
    /// Revision and events of each acknowledged write.
    pub(super) acknowledged: Vec<(i64, Digest)>,
    /// When each was acknowledged.
    pub(super) times: Vec<Instant>,
    /// Requests that failed, by kind and error.
    pub(super) failed: BTreeMap<String, u64>,
    /// What must not happen.
    violations: Vec<String>,
}

/// What a request failed with.
enum Failed {
    /// The server's error, or the connection's.
    With(Status),
    /// No answer in time.
    Late,
}

impl Stage {
    pub(super) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self {
            client: Mutex::new(Arc::new(client)),
            stopping: AtomicBool::new(false),
            noted: Mutex::default(),
            briefs: Mutex::default(),
            newest: AtomicI64::new(0),
            next: AtomicU64::new(1),
            sent: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        })
    }

    /// Who is there for clients, who move on as members come and go.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.lock().unwrap())
    }

    pub(super) fn ask(&self, client: Client) {
        *self.client.lock().unwrap() = Arc::new(client);
    }

    pub(super) fn violation(&self, text: String) {
        let violations = &mut self.noted.lock().unwrap().violations;
        if violations.len() < 20 {
            violations.push(text);
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.noted.lock().unwrap().violations.clone()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Requests that were sent, and that were left out because too many were under way.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.left_out.load(Relaxed))
    }

    pub(super) fn take(&self) -> Noted {
        std::mem::take(&mut *self.noted.lock().unwrap())
    }

    /// The key of such a lease was deleted.
    pub(super) fn lease_ended(&self, lease: &str, now: Instant) {
        let Some(brief) = self.briefs.lock().unwrap().remove(lease) else {
            return self.violation(format!("lease {lease} ended twice, or was none"));
        };
        let ttl = Duration::from_secs(BRIEF_TTL.unsigned_abs());
        let lived = now.duration_since(brief.asked);
        if !brief.is_revoked && lived < ttl {
            self.violation(format!("lease {lease} ended after {lived:?} instead of {ttl:?}"));
        }
    }

    fn acknowledge(&self, header: Option<ResponseHeader>, digest: Digest) {
        let revision = header.map_or(0, |header| header.revision);
        self.newest.fetch_max(revision, Relaxed);
        let mut noted = self.noted.lock().unwrap();
        noted.acknowledged.push((revision, digest));
        noted.times.push(Instant::now());
    }

    /// Retryable: the member is on its way out or without a leader for now, or the connection broke. etcd has no code of
    /// its own for two of these, so that its text is all there is ([`ETCD_ONLY`]); ours has neither.
    fn failed(&self, what: &str, failed: &Failed) {
        let (is_retryable, text) = match failed {
            Failed::Late => (false, format!("{what}: no answer within {LIMIT:?}")),
            Failed::With(status) => {
                let is_local = std::error::Error::source(status).is_some();
                let words = if is_local { "the connection broke" } else { status.message() };
                let is_retryable = is_local
                    || status.code() == Code::Unavailable
                    || status.code() == Code::Unknown && ETCD_ONLY.contains(&words);
                (is_retryable, format!("{what}: {:?}: {words}", status.code()))
            }
        };
        if !is_retryable {
            self.violation(format!("not retryable: {text}"));
        }
        *self.noted.lock().unwrap().failed.entry(text).or_default() += 1;
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Failed> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer.map_err(Failed::With),
        Err(_) => Err(Failed::Late),
    }
}

/// Sends `rate` requests a second until the stage is stopped, then waits for the last answers.
pub(super) async fn run(stage: Arc<Stage>, rate: u64, seed: u64) {
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut random = SmallRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut due = 0;
    while !stage.is_stopping() {
        ticks.tick().await;
        let now_due =
            u64::try_from(begun.elapsed().as_micros()).expect("no million years") * rate / 1_000_000;
        for _ in due..now_due {
            match Arc::clone(&room).try_acquire_owned() {
                Err(_) => drop(stage.left_out.fetch_add(1, Relaxed)),
                Ok(permit) => {
                    stage.sent.fetch_add(1, Relaxed);
                    let request = draw(&stage, &mut random);
                    tokio::spawn(async move {
                        request.await;
                        drop(permit);
                    });
                }
            }
        }
        due = now_due;
    }
    let all = u32::try_from(UNDER_WAY_MAX).expect("it is small");
    drop(room.acquire_many(all).await.expect("it is never closed"));
}

/// The next request: of a hundred, 45 puts, 15 transactions, 25 reads, 6 deletes, 9 of leases.
fn draw(stage: &Arc<Stage>, random: &mut SmallRng) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    let client = stage.client();
    let at = random.random_range(0..client.size());
    let (key, other) = (random.random_range(0..KEYS), random.random_range(0..KEYS));
    let to = Request { stage: Arc::clone(stage), client, at, number: stage.next.fetch_add(1, Relaxed) };
    match random.random_range(0..100) {
        0..45 => Box::pin(to.put(key)),
        45..60 => Box::pin(to.txn(key, other)),
        60..75 => Box::pin(to.range(key, false)),
        75..85 => Box::pin(to.range(key, true)),
        85..91 => Box::pin(to.delete(key)),
        91..94 => Box::pin(to.lease(random.random_ratio(1, 3))),
        _ => Box::pin(to.keep(random.random_range(KEPT_LEASES / 2..KEPT_LEASES))),
    }
}

/// One request, and to whom.
struct Request {
    stage: Arc<Stage>,
    client: Arc<Client>,
    at: usize,
    number: u64,
}

fn key(number: u64) -> Bytes {
    format!("{ALL}k/{number:04}").into()
}

impl Request {
    fn value(&self) -> Bytes {
        format!("{:016x}{:.<width$}", self.number, "", width = VALUE - 16).into()
    }

    fn put_of(&self, key: Bytes, lease: i64) -> PutRequest {
        PutRequest { key, value: self.value(), lease, ..Default::default() }
    }

    async fn put(self, number: u64) {
        let put = self.put_of(key(number), 0);
        let digest = Digest::NONE.put(&put.key, &put.value, 0);
        match within(self.client.put(self.at, put, LIMIT)).await {
            Ok(answer) => self.stage.acknowledge(answer.header, digest),
            Err(failed) => self.stage.failed("put", &failed),
        }
    }

    /// If the key is there two are put, otherwise it alone.
    async fn txn(self, number: u64, other: u64) {
        // One even, one odd: a transaction may not put a key twice.
        let (first, second) = (key(number & !1), key(other | 1));
        let puts = [self.put_of(first.clone(), 0), self.put_of(second.clone(), 0)];
        let one = Digest::NONE.put(&first, &puts[0].value, 0);
        let two = one.put(&second, &puts[1].value, 0);
        let compare = Compare {
            key: first,
            target: compare::CompareTarget::Create.into(),
            result: compare::CompareResult::Greater.into(),
            target_union: Some(compare::TargetUnion::CreateRevision(0)),
            ..Default::default()
        };
        let failure = txn_of_puts([puts[0].clone()]).success;
        let txn = TxnRequest { compare: vec![compare], failure, ..txn_of_puts(puts) };
        match within(self.client.txn(self.at, txn, LIMIT)).await {
            Ok(answer) => self.stage.acknowledge(answer.header, if answer.succeeded { two } else { one }),
            Err(failed) => self.stage.failed("txn", &failed),
        }
    }

    /// A linearizable read is of all that was acknowledged before it began.
    async fn range(self, number: u64, serializable: bool) {
        let range = RangeRequest { key: key(number), serializable, ..Default::default() };
        let newest = self.stage.newest.load(Relaxed);
        match within(self.client.range(self.at, range, LIMIT)).await {
            Ok(answer) => {
                let revision = answer.header.map_or(0, |header| header.revision);
                if !serializable && revision < newest {
                    self.stage.violation(format!("a read at revision {revision} after a write at {newest}"));
                }
            }
            Err(failed) => self.stage.failed("range", &failed),
        }
    }

    async fn delete(self, number: u64) {
        let key = key(number);
        let mut kv = self.client.kv(self.at);
        let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
        match within(kv.delete_range(delete)).await.map(tonic::Response::into_inner) {
            Ok(answer) if answer.deleted == 1 => {
                self.stage.acknowledge(answer.header, Digest::NONE.delete(&key));
            }
            Ok(_) => {}
            Err(failed) => self.stage.failed("delete", &failed),
        }
    }

    /// A lease that nobody renews, with a key. It ends by itself, or is revoked.
    async fn lease(self, revoke: bool) {
        let asked = Instant::now();
        let mut leases = self.client.lease(self.at);
        let grant = LeaseGrantRequest { ttl: BRIEF_TTL, id: 0 };
        let id = match within(leases.lease_grant(grant)).await {
            Ok(answer) => answer.into_inner().id,
            Err(failed) => return self.stage.failed("lease grant", &failed),
        };
        let name = format!("{id:016x}");
        let put = self.put_of(format!("{BRIEF}{name}").into(), id);
        self.stage.briefs.lock().unwrap().insert(name.clone(), Brief { asked, is_revoked: false });
        let digest = Digest::NONE.put(&put.key, &put.value, id);
        match within(self.client.put(self.at, put, LIMIT)).await {
            Ok(answer) => self.stage.acknowledge(answer.header, digest),
            // Its lease ended meanwhile: an answer may take longer than it lives.
            Err(Failed::With(status)) if status.code() == Code::NotFound && is_over(asked) => return,
            Err(failed) => return self.stage.failed("put with a lease", &failed),
        }
        if revoke {
            if let Some(brief) = self.stage.briefs.lock().unwrap().get_mut(&name) {
                brief.is_revoked = true;
            }
            match within(leases.lease_revoke(LeaseRevokeRequest { id })).await {
                Err(Failed::With(status)) if status.code() == Code::NotFound && is_over(asked) => {}
                Err(failed) => self.stage.failed("lease revoke", &failed),
                Ok(_) => {}
            }
        }
    }

    async fn keep(self, number: i64) {
        let ask = tokio_stream::iter([LeaseKeepAliveRequest { id: KEPT_ID + number }]);
        let mut leases = self.client.lease(self.at);
        let renewed = async {
            let mut answers = leases.lease_keep_alive(ask).await?.into_inner();
            answers
                .next()
                .await
                .unwrap_or_else(|| Err(Status::unavailable("the stream ended without an answer")))
        };
        match within(renewed).await {
            Ok(answer) if answer.ttl > 0 => {}
            Ok(answer) => self.stage.violation(format!("lease {} is gone: {answer:?}", answer.id)),
            Err(failed) => self.stage.failed("lease keepalive", &failed),
        }
    }
}

fn is_over(asked: Instant) -> bool {
    asked.elapsed() >= Duration::from_secs(BRIEF_TTL.unsigned_abs())
}

/// Renews the first half of the kept leases as clientv3 does: on one stream, every third of their time.
pub(super) async fn renew(stage: Arc<Stage>) {
    let every = Duration::from_secs(KEPT_TTL.unsigned_abs()) / 3;
    for round in 0.. {
        let client = stage.client();
        let asks = again_and_again(every);
        if let Ok(answers) = client.lease(round % client.size()).lease_keep_alive(asks).await {
            let mut answers = answers.into_inner();
            while let Some(Ok(answer)) = answers.next().await {
                if answer.ttl <= 0 {
                    stage.violation(format!("lease {} is gone: {answer:?}", answer.id));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All leases of the first half, again and again.
fn again_and_again(every: Duration) -> impl tokio_stream::Stream<Item = LeaseKeepAliveRequest> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            for number in 0..KEPT_LEASES / 2 {
                if send.send(LeaseKeepAliveRequest { id: KEPT_ID + number }).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(every).await;
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receive)
}
