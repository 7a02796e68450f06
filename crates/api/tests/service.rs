//! The client port as a client sees it: one member, in process, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use api::{Api, Identity, Limits, Pace, Snapshots};
use engine::{Engine, MemoryEngine};
use machine::{Machine, Member, Membership, Settings};
use proto::{
    etcdserverpb::maintenance_client::MaintenanceClient,
    etcdserverpb::{self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient},
    raftpb,
};
use raft_node::{Handle, Options, Outbound, bootstrap};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{Code, Request, Status, transport::Channel};
use wal::{MemDisk, Wal};

mod edge;
mod frames;
mod holding;
mod long;
mod watching;
mod work;

const MEMBER: u64 = 0x1234;
const CLUSTER: u64 = 7;

struct Nowhere;

impl Outbound for Nowhere {
    fn send(&self, _: Vec<raftpb::Message>) {}
    fn members_changed(&self, _: Arc<Membership>) {}
}

fn node(quota_bytes: i64, engine: Arc<dyn Engine>, limits: machine::Limits) -> Handle {
    let disk = MemDisk::new();
    let mut wal = Wal::create(disk.clone(), &bootstrap::metadata(MEMBER, CLUSTER)).unwrap();
    let member = Member {
        id: MEMBER,
        name: "a".into(),
        peer_urls: vec!["http://127.0.0.1:2380".into()],
        ..Member::default()
    };
    let (entries, state) = bootstrap::first_log(&[member]);
    wal.append(&entries, Some(&state)).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (wal, _) = Wal::open(disk).unwrap();
    let settings = Settings { quota_bytes, limits, ..Settings::new(MEMBER, 2) };
    let machine = Machine::open(engine, settings).unwrap();
    let options = Options { request_timeout: Duration::from_secs(2), ..Options::new(MEMBER, CLUSTER) };
    raft_node::start(options, wal, machine, Arc::new(Nowhere), discard()).unwrap().0
}

fn discard() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

struct Server {
    address: std::net::SocketAddr,
    channel: Channel,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    node: Handle,
}

impl Server {
    async fn start() -> Self {
        Self::with(0, Limits::default()).await
    }

    async fn with(quota_bytes: i64, limits: Limits) -> Self {
        Self::on(Arc::new(MemoryEngine::default()), quota_bytes, limits).await
    }

    async fn on(engine: Arc<dyn Engine>, quota_bytes: i64, limits: Limits) -> Self {
        Self::applying(machine::Limits::default(), engine, quota_bytes, limits).await
    }

    async fn applying(
        machine: machine::Limits,
        engine: Arc<dyn Engine>,
        quota_bytes: i64,
        limits: Limits,
    ) -> Self {
        let node = node(quota_bytes, engine, machine);
        node.watch_leader().wait_for(|leadership| leadership.is_leader).await.unwrap();
        Self::of(node, limits).await
    }

    /// Serves a node; several servers may share it.
    async fn of(node: Handle, limits: Limits) -> Self {
        let identity = Identity { member: MEMBER, cluster: CLUSTER, version: "3.7.3".into() };
        let api = Api::new(node.clone(), node.machine(), identity, limits, discard());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving =
            tokio::spawn(api::serve(listener, api, api::Traffic::All, async { drop(stopped.await) }));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, channel, stop, serving, node }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    async fn put(&self, key: &str, value: &str) -> pb::PutResponse {
        self.kv().put(put(key, value)).await.unwrap().into_inner()
    }

    /// One HTTP/1.1 exchange; returns the whole response as text.
    async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n");
        // One byte first: protocol detection must not depend on how bytes arrive.
        stream.write_all(&request.as_bytes()[..1]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        stream.write_all(&request.as_bytes()[1..]).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn range(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test]
async fn what_is_put_is_read_back_with_a_full_header() {
    let server = Server::start().await;
    let header = server.put("k", "v").await.header.unwrap();
    assert_eq!(
        (header.cluster_id, header.member_id, header.revision, header.raft_term),
        (CLUSTER, MEMBER, 2, 2)
    );
    for serializable in [false, true] {
        let request = pb::RangeRequest { serializable, ..range("k", "") };
        let answer = server.kv().range(request).await.unwrap().into_inner();
        assert_eq!((answer.header.unwrap().revision, answer.count, answer.more), (2, 1, false));
        assert_eq!((&answer.kvs[0].value[..], answer.kvs[0].version), (&b"v"[..], 1));
    }
    let request = pb::PutRequest { prev_kv: true, ..put("k", "w") };
    let answer = server.kv().put(request).await.unwrap().into_inner();
    assert_eq!(&answer.prev_kv.unwrap().value[..], b"v");
    let request = pb::DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let answer = server.kv().delete_range(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.header.unwrap().revision), (1, 4));
    let answer = server.kv().delete_range(request).await.unwrap().into_inner();
    assert_eq!((answer.deleted, answer.header.unwrap().revision), (0, 4), "nothing deleted, no new revision");
}

#[tokio::test]
async fn transactions_compare_and_write_or_only_read() {
    use pb::{compare::*, request_op::Request as Op};
    let server = Server::start().await;
    let compare = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: "k".into(),
        target_union: Some(TargetUnion::ModRevision(0)),
        ..Default::default()
    };
    let write = pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request: Some(Op::RequestPut(put("k", "v"))) }],
        failure: vec![pb::RequestOp { request: Some(Op::RequestRange(range("k", ""))) }],
    };
    let answer = server.kv().txn(write.clone()).await.unwrap().into_inner();
    assert!(answer.succeeded);
    assert_eq!(answer.header.unwrap().revision, 2);
    let before = server.node.status().last;
    let answer = server.kv().txn(pb::TxnRequest::default()).await.unwrap().into_inner();
    assert!(answer.succeeded);
    let read = pb::TxnRequest { success: write.failure.clone(), ..Default::default() };
    let answer = server.kv().txn(read).await.unwrap().into_inner();
    assert_eq!((answer.header.unwrap().revision, answer.responses.len()), (2, 1));
    assert_eq!(server.node.status().last, before, "reads do not enter the log");
    let answer = server.kv().txn(write).await.unwrap().into_inner();
    assert!(!answer.succeeded);
    assert_eq!(server.node.status().last, before + 1, "a write does, whatever it compares");
}

#[tokio::test]
async fn refusals_have_etcds_codes_and_texts() {
    let limits = Limits { max_txn_ops: 1, ..Limits::default() };
    let server = Server::with(0, limits).await;
    let mut kv = server.kv();
    let key = "etcdserver: key is not provided";
    refused(kv.put(put("", "v")).await, Code::InvalidArgument, key);
    refused(kv.range(range("", "")).await, Code::InvalidArgument, key);
    refused(
        kv.range(pb::RangeRequest { revision: 9, ..range("k", "") }).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    refused(
        kv.put(pb::PutRequest { lease: 5, ..put("k", "v") }).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let none = pb::RequestOp::default();
    refused(
        kv.txn(pb::TxnRequest { success: vec![none.clone(), none], ..Default::default() }).await,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    refused(
        kv.compact(pb::CompactionRequest { revision: 9, physical: false }).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    let large = "x".repeat(1_572_864);
    refused(kv.put(put("k", &large)).await, Code::InvalidArgument, "etcdserver: request is too large");
    let larger = "x".repeat(2 << 20);
    let wanted = "grpc: received message larger than max (2097160 vs. 2097152)";
    refused(kv.put(put("k", &larger)).await, Code::ResourceExhausted, wanted);
}

#[tokio::test]
async fn the_unserved_is_refused_by_name() {
    let server = Server::start().await;
    let mut auth = AuthClient::new(server.channel.clone());
    let status = auth.auth_enable(pb::AuthEnableRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("etcdserverpb.Auth/AuthEnable"), "{}", status.message());
}

#[tokio::test]
async fn metadata_is_looked_at_as_etcds_interceptors_do() {
    let server = Server::start().await;
    let mut request = Request::new(range("k", ""));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request.metadata_mut().insert("client-api-version", "3.7".parse().unwrap());
    server.kv().range(request).await.unwrap();
    server.kv().range(range("k", "")).await.unwrap();
    let metrics = server.http("GET /metrics").await;
    for version in ["3.7", "unknown"] {
        let line = format!(
            "etcd_server_client_requests_total{{client_api_version=\"{version}\",type=\"unary\"}} 1\n"
        );
        assert!(metrics.contains(&line), "{version}");
    }
    assert!(metrics.contains(
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 2\n"
    ));
    assert!(metrics.contains("etcd_server_has_leader 1\n"));
    assert!(metrics.contains("etcd_server_leader_changes_seen_total 1\n"));
    assert!(metrics.contains("etcd_server_version{server_version=\"3.7.3\"} 1\n"));
}

#[tokio::test]
async fn a_stream_of_pieces_merges_into_what_range_answers() {
    let server = Server::with(0, Limits { max_request_bytes: 4096, ..Limits::default() }).await;
    for i in 0..700 {
        server.put(&format!("k{i:04}"), &"v".repeat(20)).await;
    }
    let check = async |request: pb::RangeRequest| {
        let whole = server.kv().range(request.clone()).await.unwrap().into_inner();
        let mut pieces = server.kv().range_stream(request).await.unwrap().into_inner();
        let mut merged = pb::RangeResponse::default();
        let mut number = 0;
        while let Some(piece) = pieces.message().await.unwrap() {
            let piece = piece.range_response.unwrap();
            assert!(merged.header.is_none(), "the header comes with the last piece");
            merged.kvs.extend(piece.kvs);
            (merged.header, merged.more, merged.count) = (piece.header, piece.more, piece.count);
            number += 1;
        }
        assert_eq!(merged, whole);
        number
    };
    assert!(check(range("k", "l")).await > 5);
    assert_eq!(check(range("k0007", "")).await, 1);
    assert_eq!(check(range("a", "b")).await, 1);
    check(pb::RangeRequest { limit: 300, ..range("k", "\0") }).await;
    check(pb::RangeRequest { limit: 10, ..range("k", "\0") }).await;
    check(pb::RangeRequest { limit: 700, keys_only: true, ..range("\0", "\0") }).await;
    check(pb::RangeRequest { revision: 400, ..range("k", "l") }).await;
    assert_eq!(check(pb::RangeRequest { count_only: true, ..range("k", "l") }).await, 1);
    let sorted = pb::RangeRequest { sort_order: 2, ..range("k", "l") };
    let answer = server.kv().range_stream(sorted).await;
    refused(answer, Code::Unimplemented, "RangeStream does not support custom sort orders");
}

#[tokio::test]
async fn a_full_quota_raises_the_alarm_and_refuses_puts_but_not_deletes() {
    let server = Server::with(53_248, Limits::default()).await;
    server.put("k", &"x".repeat(20_000)).await;
    let text = "etcdserver: mvcc: database space exceeded";
    let answer = server.kv().put(put("k", &"x".repeat(30_000))).await;
    refused(answer, Code::ResourceExhausted, text);
    refused(server.kv().put(put("small", "v")).await, Code::ResourceExhausted, text);
    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(server.kv().delete_range(delete).await.unwrap().into_inner().deleted, 1);
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let alarms = maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms;
    assert_eq!(alarms, [pb::AlarmMember { member_id: MEMBER, alarm: pb::AlarmType::Nospace as i32 }]);
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, ["memberID:4660 alarm:NOSPACE"]);
    assert_eq!(status.db_size_quota, 53_248);
    let health = server.http("GET /health").await;
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    assert!(health.ends_with("{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"), "{health}");
    assert!(server.http("GET /health?exclude=NOSPACE").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_physical_compaction_answers_when_the_history_is_gone() {
    let server = Server::start().await;
    for i in 0..100 {
        server.put("k", &i.to_string()).await;
    }
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let request = pb::CompactionRequest { revision: 90, physical: true };
    let answer = server.kv().compact(request).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 101);
    assert_eq!(server.node.machine().view().compaction_done(), 90);
    let old = pb::RangeRequest { revision: 89, ..range("k", "") };
    let text = "etcdserver: mvcc: required revision has been compacted";
    refused(server.kv().range(old).await, Code::OutOfRange, text);
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    assert_eq!((hash.compact_revision, hash.hash_revision), (90, 101));
    refused(maintenance.hash_kv(pb::HashKvRequest { revision: 1 }).await, Code::OutOfRange, text);
    maintenance.hash(pb::HashRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_snapshot_is_sent_away() {
    let pace = Pace { bytes_min: 1, window: Duration::from_millis(200) };
    let limits = Limits { snapshots: Snapshots { pace, ..Snapshots::default() }, ..Limits::default() };
    let server = Server::with(0, limits).await;
    for number in 0..32 {
        server.put(&number.to_string(), &"v".repeat(1 << 20)).await;
    }
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let mut pieces = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let first = pieces.message().await.unwrap().unwrap();
    assert!(first.blob.len() == 32 << 10 && first.remaining_bytes > 31 << 20, "{}", first.remaining_bytes);
    tokio::time::sleep(Duration::from_millis(600)).await;
    // Buffered pieces arrive first; then the stream must fail, not end.
    let status = loop {
        match pieces.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a snapshot that was cut looks whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // Its permit is free again.
    let mut whole = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(piece) = whole.message().await.unwrap() {
        bytes += piece.blob.len();
    }
    assert!(bytes > 32 << 20 && bytes % 512 == 32, "{bytes}");
}

#[tokio::test]
async fn members_are_listed_without_a_revision() {
    let server = Server::start().await;
    let mut cluster = ClusterClient::new(server.channel.clone());
    for linearizable in [false, true] {
        let request = pb::MemberListRequest { linearizable };
        let answer = cluster.member_list(request).await.unwrap().into_inner();
        assert_eq!(answer.header.unwrap().revision, 0);
        assert_eq!(
            (answer.members[0].id, &answer.members[0].peer_ur_ls[0][..]),
            (MEMBER, "http://127.0.0.1:2380")
        );
    }
}

#[tokio::test]
async fn members_are_changed_in_etcds_words() {
    let server = Server::start().await;
    let mut cluster = ClusterClient::new(server.channel.clone());
    let add = |url: &str, is_learner| pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    let bad = "etcdserver: given member URLs are invalid";
    refused(cluster.member_add(pb::MemberAddRequest::default()).await, Code::InvalidArgument, bad);
    refused(cluster.member_add(add("127.0.0.1:1", false)).await, Code::InvalidArgument, bad);
    let taken = "etcdserver: Peer URLs already exists";
    refused(cluster.member_add(add("http://127.0.0.1:2380", true)).await, Code::FailedPrecondition, taken);
    let added = cluster.member_add(add("HTTP://127.0.0.1:1", true)).await.unwrap().into_inner();
    let learner = added.member.unwrap();
    assert_eq!(
        (learner.is_learner, &learner.name[..], &learner.peer_ur_ls[0][..]),
        (true, "", "http://127.0.0.1:1")
    );
    assert_eq!((added.members.len(), added.header.unwrap().revision), (2, 0));
    assert!(added.members.contains(&learner));
    let many = "etcdserver: too many learner members in cluster";
    refused(cluster.member_add(add("http://127.0.0.1:3", true)).await, Code::FailedPrecondition, many);
    let promote = pb::MemberPromoteRequest { id: learner.id };
    let early = "etcdserver: can only promote a learner member which is in sync with leader";
    refused(cluster.member_promote(promote).await, Code::FailedPrecondition, early);
    let update = |urls: &[&str]| pb::MemberUpdateRequest {
        id: learner.id,
        peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
    };
    refused(cluster.member_update(update(&[])).await, Code::InvalidArgument, bad);
    refused(cluster.member_update(update(&["x"])).await, Code::InvalidArgument, bad);
    let moved = cluster.member_update(update(&["http://127.0.0.1:9", "http://127.0.0.1:8"])).await.unwrap();
    let moved = moved.into_inner().members.into_iter().find(|member| member.id == learner.id).unwrap();
    assert_eq!(moved.peer_ur_ls, ["http://127.0.0.1:9", "http://127.0.0.1:8"], "as they were given");
    let few = "etcdserver: re-configuration failed due to not enough started members";
    refused(cluster.member_remove(pb::MemberRemoveRequest { id: MEMBER }).await, Code::Unknown, few);
    let remove = pb::MemberRemoveRequest { id: learner.id };
    assert_eq!(cluster.member_remove(remove).await.unwrap().into_inner().members.len(), 1);
    for answer in [
        cluster.member_remove(remove).await.map(drop),
        cluster.member_promote(promote).await.map(drop),
        cluster.member_update(update(&["http://127.0.0.1:9"])).await.map(drop),
    ] {
        refused(answer, Code::NotFound, "etcdserver: member not found");
    }
}

#[tokio::test]
async fn plain_http_has_its_pages_on_the_same_port() {
    let server = Server::start().await;
    let check = async |request: &str, head: &str, tail: &str| {
        let response = server.http(request).await;
        assert!(response.starts_with(head) && response.ends_with(tail), "{request}: {response}");
    };
    check("GET /health", "HTTP/1.1 200 OK", "{\"health\":\"true\",\"reason\":\"\"}").await;
    check("GET /health?serializable=true", "HTTP/1.1 200 OK", "\"reason\":\"\"}").await;
    let version = "{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}";
    check("GET /version", "HTTP/1.1 200 OK", version).await;
    check("POST /version", "HTTP/1.1 405 Method Not Allowed", "Method Not Allowed\n").await;
    check("GET /livez?verbose", "HTTP/1.1 200 OK", "[+]serializable_read ok\nok\n").await;
    check("GET /readyz/non_learner", "HTTP/1.1 200 OK", "\r\n\r\nok\n").await;
    check("POST /v3/kv/put", "HTTP/1.1 400 Bad", r#"{"code":3,"message":"etcdserver: key is not provided"}"#)
        .await;
    check("GET /v3/kv/put", "HTTP/1.1 501 Not", r#"{"code":12,"message":"Method Not Allowed"}"#).await;
    check(
        "GET //health",
        "HTTP/1.1 307 Temporary Redirect",
        "<a href=\"/health\">Temporary Redirect</a>.\n\n",
    )
    .await;
    check("OPTIONS /v3/kv/put", "HTTP/1.1 200 OK", "\r\n\r\n").await;
    check("GET /v2/keys", "HTTP/1.1 404 Not Found", "404 page not found\n").await;
    check("GET /", "HTTP/1.1 404 Not Found", "404 page not found\n").await;
}

#[tokio::test]
async fn many_calls_at_once_on_one_connection_are_all_answered() {
    let server = Server::start().await;
    let calls: Vec<_> = (0..2_000)
        .map(|i| {
            let mut kv = server.kv();
            tokio::spawn(async move {
                let key = format!("k{i}");
                kv.put(put(&key, &"v".repeat(i % 700))).await.unwrap();
                let request = pb::RangeRequest { key: key.into(), ..Default::default() };
                kv.range(request).await.unwrap().into_inner().kvs[0].value.len()
            })
        })
        .collect();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), i % 700);
    }
}

#[tokio::test]
async fn an_answer_larger_than_every_buffer_arrives_whole() {
    let server = Server::start().await;
    let value = "x".repeat(1 << 20);
    for i in 0..8 {
        server.put(&format!("k{i}"), &value).await;
    }
    let answer = server.kv().range(range("k", "l")).await.unwrap().into_inner();
    assert!(answer.kvs.len() == 8 && answer.kvs.iter().all(|kv| kv.value == value.as_bytes()));
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight_and_refuses_what_is_new() {
    let server = Server::start().await;
    let calls: Vec<_> = (0..100)
        .map(|i| {
            let mut kv = server.kv();
            tokio::spawn(async move { kv.put(put(&format!("k{i}"), "v")).await })
        })
        .collect();
    // Until the calls are in flight.
    while server.node.machine().view().revision() == 1 {
        tokio::task::yield_now().await;
    }
    server.stop.send(()).unwrap();
    let mut answered = 0;
    for call in calls {
        answered += i64::from(call.await.unwrap().is_ok());
    }
    assert!(answered > 0);
    assert!(server.node.machine().view().revision() > answered);
    tokio::time::timeout(Duration::from_secs(3), server.serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// Nested transactions around one put, in the branch taken or the other.
fn nested(levels: usize, taken: bool) -> pb::TxnRequest {
    use pb::request_op::Request as Op;
    (0..levels).fold(pb::TxnRequest::default(), |inner, level| {
        let op = if level == 0 { Op::RequestPut(put("deep", "v")) } else { Op::RequestTxn(inner) };
        let ops = vec![pb::RequestOp { request: Some(op) }];
        let (success, failure) = if taken { (ops, Vec::new()) } else { (Vec::new(), ops) };
        pb::TxnRequest { compare: Vec::new(), success, failure }
    })
}

/// As in etcd the operation limit decides, above it the decoder's own limit.
#[tokio::test]
async fn transactions_are_nested_as_deep_as_their_budget_goes() {
    let server = Server::start().await;
    let budget = Limits::default().max_txn_ops;
    assert!(server.kv().txn(nested(budget, false)).await.unwrap().into_inner().succeeded);
    refused(
        server.kv().txn(nested(budget + 1, false)).await,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    let server = Server::with(0, Limits { max_txn_ops: 10_000, ..Limits::default() }).await;
    let deepest = proto::deep::LEVELS_MAX;
    assert!(server.kv().txn(nested(deepest, false)).await.unwrap().into_inner().succeeded);
    // The response is nested too deep for this client, but the put was applied.
    assert_eq!(server.kv().txn(nested(deepest, true)).await.unwrap_err().code(), Code::Internal);
    assert_eq!(server.kv().range(range("deep", "")).await.unwrap().into_inner().count, 1);
    refused(
        server.kv().txn(nested(deepest + 1, false)).await,
        Code::Internal,
        "grpc: error unmarshalling request: transactions are nested deeper than 1000 levels",
    );
    server.put("after", "v").await;
}
