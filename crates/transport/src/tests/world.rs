//! Transports in one process, with hosts that record their calls.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::etcdserverpb as pb;
use proto::raftpb::{Entry, Message, MessageType};
use slog::{Drain, Logger, OwnedKVList, Record, o};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    Answer, HashError, HashKv, Host, Identity, IncomingSnapshot, LeaseRefusal, Limits, OutgoingSnapshot,
    PromoteError, Slice, SliceHash, SliceQuestion, SnapshotRefusal, Transport,
};

pub(super) const CLUSTER: u64 = 0xc1;

type Make = dyn Fn(Message) -> Answer<Result<OutgoingSnapshot, String>> + Send + Sync;
type Take = dyn Fn(Message, IncomingSnapshot) -> Answer<Result<(), SnapshotRefusal>> + Send + Sync;

#[derive(Default)]
pub(super) struct TestHost {
    /// What it sends to who needs a snapshot; nothing without.
    pub(super) make: Mutex<Option<Box<Make>>>,
    /// Called from inside of what tells of snapshots.
    pub(super) told: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    /// What it does with a snapshot; refuses it without.
    pub(super) take: Mutex<Option<Box<Take>>>,
    pub(super) delivered: Mutex<Vec<Message>>,
    pub(super) batches: AtomicUsize,
    pub(super) unreachable: Mutex<Vec<u64>>,
    pub(super) snapshots: Mutex<Vec<(u64, bool)>>,
    pub(super) removed: Mutex<BTreeSet<u64>>,
    pub(super) rejected: AtomicUsize,
}

impl Host for TestHost {
    fn deliver(&self, messages: Vec<Message>) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.delivered.lock().unwrap().extend(messages);
    }

    fn unreachable(&self, member: u64) {
        self.unreachable.lock().unwrap().push(member);
    }

    fn snapshot_for(&self, message: Message) -> Answer<Result<OutgoingSnapshot, String>> {
        match &*self.make.lock().unwrap() {
            Some(make) => make(message),
            None => Box::pin(async { Err("there is none".to_owned()) }),
        }
    }

    fn snapshot_status(&self, member: u64, ok: bool) {
        self.snapshots.lock().unwrap().push((member, ok));
        if let Some(told) = &*self.told.lock().unwrap() {
            told();
        }
    }

    fn receive_snapshot(
        &self,
        message: Message,
        database: IncomingSnapshot,
    ) -> Answer<Result<(), SnapshotRefusal>> {
        match &*self.take.lock().unwrap() {
            Some(take) => take(message, database),
            None => Box::pin(async { Err(SnapshotRefusal::Save("no space left on device".to_owned())) }),
        }
    }

    fn is_removed(&self, member: u64) -> bool {
        self.removed.lock().unwrap().contains(&member)
    }

    fn members_json(&self) -> String {
        r#"[{"id":161,"peerURLs":["http://127.0.0.1:1"],"name":"a"}]"#.into()
    }

    fn version_json(&self) -> String {
        r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#.into()
    }

    fn downgrade_enabled(&self) -> Answer<Result<bool, String>> {
        Box::pin(async { Ok(false) })
    }

    fn hash_kv(&self, revision: i64) -> Answer<Result<HashKv, HashError>> {
        Box::pin(async move {
            match revision {
                1 => Err(HashError::Compacted),
                100 => Err(HashError::Future),
                _ => Ok(HashKv { revision: 8, hash: 7, compact_revision: -1, hash_revision: 8 }),
            }
        })
    }

    fn hash_slice(&self, question: SliceQuestion) -> Answer<Result<SliceHash, HashError>> {
        Box::pin(async move {
            match question.slice {
                Slice::Changes(_, 100) => Err(HashError::Future),
                Slice::Changes(_, _) => Ok(SliceHash { hash: 7, rows: 2 }),
                Slice::Keys { .. } => Err(HashError::Other("the slice is too large".to_owned())),
            }
        })
    }

    fn promote(&self, member: u64) -> Answer<Result<String, PromoteError>> {
        let members = self.members_json();
        Box::pin(async move {
            match member {
                1 => Err(PromoteError::NotFound),
                2 => Err(PromoteError::NotLearner),
                3 => Err(PromoteError::NotReady),
                4 => Err(PromoteError::Other("etcdserver: not leader".to_owned())),
                _ => Ok(members),
            }
        })
    }

    fn renew_lease(&self, id: i64) -> Answer<Result<i64, LeaseRefusal>> {
        Box::pin(async move {
            match id {
                7 => Ok(60),
                8 => Err(LeaseRefusal::NotFound),
                9 => Err(LeaseRefusal::Behind),
                _ => Err(LeaseRefusal::Other("not a primary lessor".into())),
            }
        })
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Answer<Result<pb::LeaseTimeToLiveResponse, LeaseRefusal>> {
        let renewed = self.renew_lease(id);
        Box::pin(async move {
            let keys = if keys { vec!["k".into()] } else { Vec::new() };
            let granted_ttl = renewed.await?;
            Ok(pb::LeaseTimeToLiveResponse { id, ttl: -1, granted_ttl, keys, ..Default::default() })
        })
    }

    fn peer_rejected_us(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

impl TestHost {
    pub(super) fn indexes(&self, kind: MessageType) -> Vec<u64> {
        self.delivered.lock().unwrap().iter().filter(|m| m.r#type() == kind).map(Message::index).collect()
    }

    pub(super) fn unreachables(&self) -> usize {
        self.unreachable.lock().unwrap().len()
    }
}

/// What a member logs at level info and above: "message key=value …".
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// The lines that contain this text.
    pub(super) fn with(&self, words: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(words)).cloned().collect()
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        if record.level().is_at_least(slog::Level::Info) {
            let mut line = Line(record.msg().to_string());
            slog::KV::serialize(&record.kv(), record, &mut line).unwrap();
            self.0.lock().unwrap().push(line.0);
        }
        Ok(())
    }
}

struct Line(String);

impl slog::Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        use std::fmt::Write as _;
        write!(self.0, " {key}={value}").unwrap();
        Ok(())
    }
}

/// A member under test.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) url: String,
    pub(super) host: Arc<TestHost>,
    pub(super) transport: Arc<Transport>,
    pub(super) lines: Lines,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Node {
    pub(super) async fn new(id: u64) -> Self {
        Self::of_cluster(id, CLUSTER).await
    }

    pub(super) async fn of_cluster(id: u64, cluster: u64) -> Self {
        Self::with(id, cluster, Limits::default()).await
    }

    pub(super) async fn with(id: u64, cluster: u64, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lines = Lines::default();
        let identity =
            Identity { member: id, cluster, peer_urls: vec![url.clone()], version: "3.7.3".into() };
        let transport = Transport::with(identity, limits, Logger::root(lines.clone(), o!()));
        let host = Arc::new(TestHost::default());
        transport.start(host.clone());
        let mut node = Self { id, url, host, transport, lines, serving: None };
        node.serve(listener);
        node
    }

    pub(super) fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(self.transport.clone().serve(listener, shutdown));
        self.serving = Some((stop, task));
    }

    /// Closes the port and all accepted connections.
    pub(super) async fn stop_serving(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            let _ = stop.send(());
            task.await.unwrap();
        }
    }

    /// Opens the same port again.
    pub(super) async fn serve_again(&mut self) {
        let address = self.url.strip_prefix("http://").unwrap().to_owned();
        self.serve(TcpListener::bind(address).await.unwrap());
    }

    pub(super) fn knows(&self, others: &[&Node]) {
        let peers: Vec<_> = others.iter().map(|node| (node.id, vec![node.url.clone()])).collect();
        self.transport.update_peers(&peers);
    }

    pub(super) fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Waits until the streams of this node to `other` are open.
    pub(super) async fn attached(&self, other: &Node) {
        let peer = self.transport.peers().member(other.id).unwrap();
        until("both streams attached", || {
            crate::codec::Kind::ALL.iter().all(|kind| peer.lane(*kind).is_attached())
        })
        .await;
    }
}

/// Two members that know each other, with all four streams open.
pub(super) async fn pair() -> (Node, Node) {
    pair_with(Limits::default()).await
}

/// The same, with these limits.
pub(super) async fn pair_with(limits: Limits) -> (Node, Node) {
    let (a, b) = (Node::with(0xa1, CLUSTER, limits.clone()).await, Node::with(0xb2, CLUSTER, limits).await);
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.attached(&b).await;
    b.attached(&a).await;
    (a, b)
}

/// Waits for a condition, at most ten seconds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("in time")
}

pub(super) fn append(from: &Node, to: &Node, index: u64, entries: u64, bytes: usize) -> Message {
    let entry = |i| Entry {
        term: Some(3),
        index: Some(index + i),
        data: Some(vec![7; bytes].into()),
        ..Default::default()
    };
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        to: Some(to.id),
        from: Some(from.id),
        term: Some(3),
        log_term: Some(3),
        index: Some(index),
        entries: (1..=entries).map(entry).collect(),
        commit: Some(index),
        ..Default::default()
    }
}

pub(super) fn heartbeat(from: &Node, to: &Node, commit: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgHeartbeat.into()),
        to: Some(to.id),
        from: Some(from.id),
        term: Some(3),
        index: Some(commit),
        commit: Some(commit),
        ..Default::default()
    }
}

/// Sends raw bytes, reads until the other end closes or `enough` is true. Returns what was read, as text.
pub(super) async fn raw(authority: &str, request: &[u8], enough: impl Fn(&str) -> bool) -> String {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if enough(&text) || stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    within(Duration::from_secs(8), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}
