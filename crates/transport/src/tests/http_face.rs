//! Statuses, headers and texts of the peer port, over raw sockets.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::world::{CLUSTER, Node, heartbeat, raw, within};
use crate::{HashError, LeaseRefusal, PromoteError, Slice, SliceHash, SliceQuestion};

const CHECKED: &str = "X-Server-From: b2\r\nX-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\n";

/// Sends a request and compares status and body. Returns the whole response.
async fn check(
    node: &Node,
    method_path: &str,
    headers: &str,
    body: &[u8],
    code: u16,
    expected: &str,
) -> String {
    let head = format!(
        "{method_path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    let answer = raw(node.authority(), &[head.as_bytes(), body].concat(), |_| false).await;
    let (top, got) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(top.starts_with(&format!("HTTP/1.1 {code} ")), "{method_path}: {top}");
    assert_eq!(got, expected, "{method_path}");
    answer.to_lowercase()
}

#[tokio::test]
async fn plain_paths_answer_as_etcd() {
    let node = Node::new(0xa1).await;
    let n = &node;
    let members = "[{\"id\":161,\"peerURLs\":[\"http://127.0.0.1:1\"],\"name\":\"a\"}]\n";
    let answer = check(n, "GET /members", "", b"", 200, members).await;
    assert!(answer.contains("\r\nx-etcd-cluster-id: c1\r\n"));
    assert!(answer.contains("\r\ncontent-type: application/json\r\n"));
    let answer = check(n, "POST /members", "", b"", 405, "Method Not Allowed\n").await;
    assert!(answer.contains("\r\nallow: get\r\n"));
    assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"));
    let version = r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    check(n, "GET /version", "", b"", 200, version).await;
    check(n, "DELETE /version", "", b"", 405, "Method Not Allowed\n").await;
    check(n, "GET /downgrade/enabled", "", b"", 200, "false").await;
    for path in ["/", "/health", "/metrics", "/members/x", "/raft/x", "/downgrade"] {
        check(n, &format!("GET {path}"), "", b"", 404, "404 page not found\n").await;
    }
    let answer =
        raw(n.authority(), b"GET /raft/probing HTTP/1.1\r\nHost: x\r\n\r\n", |t| t.contains("Z\"}\n")).await;
    assert!(answer.contains("\r\n\r\n{\"OK\":true,\"Now\":\"20"), "{answer}");
}

#[tokio::test]
async fn hashes_answer_as_etcd() {
    let node = Node::new(0xa1).await;
    let n = &node;
    let hash = r#"{"header":{"revision":8},"hash":7,"compact_revision":-1,"hash_revision":8}"#;
    let path = "GET /members/hashkv";
    check(n, path, "X-Etcd-Cluster-ID: c1\r\n", b"{\"revision\":8}", 200, hash).await;
    check(n, path, "", b"{}", 200, hash).await;
    check(n, path, "X-Etcd-Cluster-ID: c2\r\n", b"{}", 412, "cluster ID mismatch\n").await;
    check(n, path, "", b"nonsense", 400, "error unmarshalling request\n").await;
    let compacted = "mvcc: required revision has been compacted\n";
    check(n, path, "", b"{\"revision\":1}", 400, compacted).await;
    let future = "mvcc: required revision is a future revision\n";
    check(n, path, "", b"{\"revision\":100}", 400, future).await;
    check(n, "POST /members/hashkv", "", b"{}", 405, "Method Not Allowed\n").await;
    let url = format!("http://{}/", node.authority());
    let ask =
        async |cluster, revision| crate::fetch_hash_kv(&url, cluster, revision, Duration::from_secs(5)).await;
    assert_eq!(ask(CLUSTER, 0).await.map(|hash| (hash.hash, hash.compact_revision)), Ok((7, -1)));
    assert_eq!(ask(CLUSTER, 1).await, Err(HashError::Compacted));
    assert_eq!(ask(CLUSTER, 100).await, Err(HashError::Future));
    assert_eq!(ask(CLUSTER + 1, 8).await, Err(HashError::OtherCluster));
}

#[tokio::test]
async fn slices_are_hashed_for_members_of_this_cluster() {
    let node = Node::new(0xa1).await;
    let n = &node;
    let (path, question) = ("GET /quorate/slice", br#"{"slice":{"changes":[4,9]},"anew":false}"#);
    check(n, path, "X-Etcd-Cluster-ID: c1\r\n", question, 200, r#"{"hash":7,"rows":2}"#).await;
    check(n, path, "X-Etcd-Cluster-ID: c2\r\n", question, 412, "cluster ID mismatch\n").await;
    check(n, path, "", b"{}", 400, "error unmarshalling request\n").await;
    check(n, "POST /quorate/slice", "", question, 405, "Method Not Allowed\n").await;
    let url = format!("http://{}/", node.authority());
    let ask = async |slice| {
        let question = SliceQuestion { slice, anew: true };
        crate::fetch_slice_hash(&url, CLUSTER, &question, Duration::from_secs(5)).await
    };
    assert_eq!(ask(Slice::Changes(4, 9)).await, Ok(SliceHash { hash: 7, rows: 2 }));
    assert_eq!(ask(Slice::Changes(4, 100)).await, Err(HashError::Future));
    let keys = Slice::Keys { revision: 9, from: "a".into(), to: None, rows: 1 };
    assert_eq!(ask(keys).await, Err(HashError::Other("unknown error: the slice is too large".to_owned())));
}

#[tokio::test]
async fn promotions_answer_as_etcd() {
    let node = Node::new(0xa1).await;
    let n = &node;
    let members = "[{\"id\":161,\"peerURLs\":[\"http://127.0.0.1:1\"],\"name\":\"a\"}]\n";
    let answer = check(n, "POST /members/promote/12", "", b"", 200, members).await;
    assert!(answer.contains("\r\nx-etcd-cluster-id: c1\r\n"));
    assert!(answer.contains("\r\ncontent-type: application/json\r\n"));
    check(n, "POST /members/promote/1", "", b"", 404, "membership: ID not found\n").await;
    let learners = "membership: can only promote a learner member\n";
    check(n, "POST /members/promote/2", "", b"", 412, learners).await;
    let in_step = "etcdserver: can only promote a learner member which is in sync with leader\n";
    check(n, "POST /members/promote/3", "", b"", 412, in_step).await;
    check(n, "POST /members/promote/4", "", b"", 500, r#"{"message":"Internal Server Error"}"#).await;
    for id in ["x", "", "+12", "-1", "18446744073709551616"] {
        let text = format!("member {id} not found in cluster\n");
        check(n, &format!("POST /members/promote/{id}"), "", b"", 404, &text).await;
    }
    check(n, "GET /members/promote/12", "", b"", 405, "Method Not Allowed\n").await;
    let url = format!("http://{}/", node.authority());
    let ask = async |member| crate::ask_to_promote(&url, member, Duration::from_secs(5)).await;
    assert_eq!(ask(12).await.map(|members| members[0].id), Ok(0xa1));
    assert_eq!(ask(1).await, Err(PromoteError::NotFound));
    assert_eq!(ask(2).await, Err(PromoteError::NotLearner));
    assert_eq!(ask(3).await, Err(PromoteError::NotReady));
    let other = Err(PromoteError::Other(r#"{"message":"Internal Server Error"}"#.to_owned()));
    assert_eq!(ask(4).await, other);
}

#[tokio::test]
async fn lease_questions_answer_as_etcd() {
    let node = Node::new(0xa1).await;
    let n = &node;
    for (path, other) in [("/leases", 400), ("/leases/internal", 500)] {
        let post = &format!("POST {path}");
        let question = |id: u8| if other == 400 { vec![0x08, id] } else { vec![0x0a, 2, 0x08, id] };
        let answer = check(n, &format!("GET {path}"), "", b"", 405, "Method Not Allowed\n").await;
        assert!(!answer.contains("\r\nallow:"));
        check(n, post, "", &vec![0; 65_537], 413, "request body too large\n").await;
        check(n, post, "", b"\xff", 400, "error unmarshalling request\n").await;
        check(n, post, "", &question(8), 404, "lease not found\n").await;
        let behind = "waiting for node to catch up its applied index has timed out\n";
        check(n, post, "", &question(9), 408, behind).await;
        check(n, post, "", &question(1), other, "not a primary lessor\n").await;
    }
    let answer = check(n, "POST /leases", "", b"\x08\x07", 200, "\x10\x07\x18\x3c").await;
    assert!(answer.contains("\r\ncontent-type: application/protobuf\r\n"));
    check(n, "POST /leases/internal", "", b"", 400, "error unmarshalling request\n").await;
}

#[tokio::test]
async fn lease_questions_go_from_member_to_member() {
    let (asking, leader) = (Node::new(0xa1).await, Node::new(0xb2).await);
    let ask = |id| asking.transport.renew_lease(&leader.url, id);
    assert_eq!(ask(7).await, Ok(60));
    assert_eq!(ask(8).await, Err(LeaseRefusal::NotFound));
    assert_eq!(ask(9).await, Err(LeaseRefusal::Behind));
    assert!(matches!(ask(1).await, Err(LeaseRefusal::Other(text)) if text.contains("not a primary lessor")));
    let answer = asking.transport.lease_time_to_live(&leader.url, 7, true).await.unwrap();
    assert_eq!((answer.ttl, answer.granted_ttl, answer.keys), (-1, 60, vec!["k".into()]));
    let nobody = asking.transport.renew_lease("http://127.0.0.1:1", 7).await;
    assert!(matches!(nobody, Err(LeaseRefusal::Other(_))), "{nobody:?}");
}

#[tokio::test]
async fn raft_posts_answer_as_etcd() {
    let (node, other) = (Node::new(0xa1).await, Node::new(0xb2).await);
    let n = &node;
    let good = heartbeat(&other, n, 4);
    let bytes = |message: &Message| message.encode_to_vec();
    let answer = check(n, "POST /raft", CHECKED, &bytes(&good), 204, "").await;
    assert!(answer.contains("\r\nx-etcd-cluster-id: c1\r\n"));
    assert_eq!(node.host.indexes(MessageType::MsgHeartbeat), [4]);
    check(n, "GET /raft", CHECKED, b"", 405, "Method Not Allowed\n").await;
    check(n, "POST /raft", "", &bytes(&good), 412, "incompatible version\n").await;
    let other_cluster = CHECKED.replace("c1", "0c1");
    check(n, "POST /raft", &other_cluster, &bytes(&good), 412, "cluster ID mismatch\n").await;
    check(n, "POST /raft", CHECKED, b"\xff", 400, "error unmarshalling raft message\n").await;
    let stray = Message { to: Some(9), ..good.clone() };
    check(n, "POST /raft", CHECKED, &bytes(&stray), 500, "error processing raft message\n").await;
    for kind in [0, 1, 10, 11, 12, 19, 22, 99] {
        let local = Message { r#type: Some(kind), ..good.clone() };
        check(n, "POST /raft", CHECKED, &bytes(&local), 204, "").await;
    }
    node.host.removed.lock().unwrap().insert(0xb2);
    check(n, "POST /raft", CHECKED, &bytes(&good), 500, "error processing raft message\n").await;
    assert_eq!(node.host.delivered.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn stream_requests_are_checked_in_etcds_order() {
    let (node, other) = (Node::new(0xa1).await, Node::new(0xb2).await);
    let n = &node;
    let with_to = format!("{CHECKED}X-Raft-To: a1\r\n");
    let answer = check(n, "GET /raft/stream/msgapp/b2", &with_to, b"", 404, "error sender not found\n").await;
    assert!(
        answer.contains("\r\nx-server-version: 3.7.3\r\n")
            && answer.contains("\r\nx-etcd-cluster-id: c1\r\n")
    );
    let answer = check(n, "POST /raft/stream/msgapp/b2", &with_to, b"", 405, "Method Not Allowed\n").await;
    assert!(!answer.contains("x-server-version"));
    check(n, "GET /raft/stream/msgapp/b2", "", b"", 412, "incompatible version\n").await;
    check(n, "GET /raft/stream/other/b2", &with_to, b"", 404, "invalid path\n").await;
    check(n, "GET /raft/stream/message/zz", &with_to, b"", 404, "invalid from\n").await;
    node.knows(&[&other]);
    check(n, "GET /raft/stream/message/b2", CHECKED, b"", 412, "to field mismatch\n").await;
    node.host.removed.lock().unwrap().insert(0xb2);
    check(n, "GET /raft/stream/message/b2", &with_to, b"", 410, "removed member\n").await;
    node.host.removed.lock().unwrap().clear();

    let request = format!("GET /raft/stream/message/b2 HTTP/1.1\r\nHost: x\r\n{with_to}\r\n");
    // The head comes at once, the first link heartbeat after 1.667 s: ten bytes in one chunk.
    let begun = Instant::now();
    let answer =
        raw(n.authority(), request.as_bytes(), |text| text.contains("\r\n\r\n")).await.to_lowercase();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(
        answer.starts_with("http/1.1 200 ok\r\n") && answer.contains("\r\ntransfer-encoding: chunked\r\n")
    );
    let heartbeat = "\r\n\r\na\r\n\0\0\0\0\0\0\0\u{2}\u{8}\u{8}\r\n";
    let answer =
        raw(n.authority(), request.as_bytes(), |text| text.to_lowercase().ends_with(heartbeat)).await;
    assert!(answer.to_lowercase().ends_with(heartbeat), "{answer:?}");
}

#[tokio::test]
async fn a_newer_stream_of_a_kind_ends_the_older() {
    let (node, other) = (Node::new(0xa1).await, Node::new(0xb2).await);
    node.knows(&[&other]);
    let request = format!(
        "GET /raft/stream/msgapp/b2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{CHECKED}X-Raft-To: a1\r\n\r\n"
    );
    let older = raw(node.authority(), request.as_bytes(), |_| false);
    let newer = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw(node.authority(), request.as_bytes(), |text| text.contains("\r\n\r\n")).await
    };
    let (older, newer) = tokio::join!(older, newer);
    assert!(older.ends_with("\r\n\r\n0\r\n\r\n"), "ended in order: {older:?}");
    assert!(newer.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn snapshots_are_posted_by_members_of_the_cluster() {
    let node = Node::new(0xa1).await;
    let n = &node;
    let answer = check(n, "GET /raft/snapshot", CHECKED, b"", 405, "Method Not Allowed\n").await;
    assert!(answer.contains("\r\nallow: post\r\n"));
    let path = "POST /raft/snapshot";
    check(n, path, "", b"", 412, "incompatible version\n").await;
    check(n, path, CHECKED, b"", 400, "failed to decode raft message (EOF)\n").await;
}

#[tokio::test]
async fn idle_connections_and_stalled_bodies_are_cut_after_five_seconds() {
    let node = Node::new(0xa1).await;
    let stalled = format!("POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n{CHECKED}\r\nabc");
    let begun = Instant::now();
    let idle = async {
        let mut stream = TcpStream::connect(node.authority()).await.unwrap();
        let mut sink = Vec::new();
        within(Duration::from_secs(8), stream.read_to_end(&mut sink)).await.ok();
    };
    let stalled = raw(node.authority(), stalled.as_bytes(), |_| false);
    let kept = raw(node.authority(), b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", |_| false);
    let ((), stalled, kept) = tokio::join!(idle, stalled, kept);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(4500) && took < Duration::from_millis(6500), "{took:?}");
    assert!(kept.starts_with("HTTP/1.1 200"));
    assert!(stalled.is_empty() || stalled.starts_with("HTTP/1.1 400"), "{stalled}");
}
