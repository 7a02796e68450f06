//! The log lines about faulty peers: one for each fault, however often it occurs.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::world::{CLUSTER, Node, raw, until};

/// Peers are dialled ten times a second: this is six or seven times.
const WATCH: Duration = Duration::from_millis(650);

/// A fake peer that sends the response of `answer` to each request, and closes the connection.
async fn false_peer(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4000];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let answer = answer(&String::from_utf8_lossy(&request[..length]));
            // The other end may have closed already: that is tested.
            let _ = stream.write_all(&answer).await;
        }
    });
    url
}

fn stream_head(version: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nX-Server-Version: {version}\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// A line for each of the two kinds of stream that a peer is asked for.
#[track_caller]
fn one_a_stream(node: &Node, words: &str) {
    let lines = node.lines.with(words);
    assert_eq!(lines.len(), 2, "{words:?}: {lines:#?}");
    assert!(lines.iter().any(|line| line.contains("=stream MsgApp v2")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("=stream Message")), "{lines:#?}");
}

#[tokio::test]
async fn a_stream_of_garbage_is_told_once() {
    for garbage in
        [&b"nonsense"[..], b"9\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\r\n", b"5\r\n\x02\0\0\0", b"0\r\n\r\n"]
    {
        let node = Node::new(0xa1).await;
        let garbage = garbage.to_vec();
        let url = false_peer(move |_| [stream_head("3.7.3").as_bytes(), &garbage].concat()).await;
        node.transport.update_peers(&[(0xb2, vec![url])]);
        tokio::time::sleep(WATCH).await;
        one_a_stream(&node, "established TCP streaming connection");
        one_a_stream(&node, "lost TCP streaming connection");
        assert!(node.lines.with("became").len() <= 4, "{:#?}", node.lines.with("became"));
    }
}

#[tokio::test]
async fn a_peer_of_an_old_version_is_told_once_and_a_younger_one_is_read() {
    let node = Node::new(0xa1).await;
    let url = false_peer(|_| stream_head("2.0.9").into_bytes()).await;
    node.transport.update_peers(&[(0xb2, vec![url])]);
    tokio::time::sleep(WATCH).await;
    one_a_stream(&node, "the peer's version is too old");
    // The minor version before ours, and one after it.
    for version in ["3.6.11", "3.8.0"] {
        let node = Node::new(0xa1).await;
        let url = false_peer(move |_| stream_head(version).into_bytes()).await;
        node.transport.update_peers(&[(0xb2, vec![url])]);
        until("read", || node.lines.with("established TCP streaming connection").len() == 2).await;
    }
}

#[tokio::test]
async fn requests_of_old_versions_and_other_clusters_are_told_once() {
    let node = Node::new(0xa1).await;
    let ask = async |version: &str, cluster: u64| {
        let request = format!(
            "GET /raft/stream/message/b2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Server-From: b2\r\n\
             X-Server-Version: {version}\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {cluster:x}\r\n\
             X-Raft-To: a1\r\n\r\n"
        );
        raw(node.authority(), request.as_bytes(), |_| false).await
    };
    for _ in 0..5 {
        assert!(ask("2.3.8", CLUSTER).await.ends_with("incompatible version\n"));
        assert!(ask("3.7.3", 0xdead).await.ends_with("cluster ID mismatch\n"));
        assert!(ask("3.7.3", CLUSTER).await.ends_with("error sender not found\n"));
    }
    for words in [
        "failed version compatibility check",
        "theirs is \"2.3.8\", at least \"3.0.0\" wanted remote-peer=b2 at 127.0.0.1",
        "request cluster ID mismatch",
        "theirs is dead remote-peer=b2 at 127.0.0.1",
        "failed to find remote peer in cluster",
    ] {
        assert_eq!(node.lines.with(words).len(), 1, "{words}: {:#?}", node.lines.with(""));
    }
}

#[tokio::test]
async fn garbage_on_the_peer_port_is_told_once() {
    let node = Node::new(0xa1).await;
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Server-From: b2\r\nX-Server-Version: 3.7.3\r\n\
             X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    for _ in 0..5 {
        raw(node.authority(), b"\x01\x02no HTTP at all\r\n\r\n", |_| false).await;
        raw(node.authority(), &[head("/raft", 3).as_bytes(), b"\xff\xff\xff"].concat(), |_| false).await;
        let snapshot = [head("/raft/snapshot", 16).as_bytes(), &[0xff; 16]].concat();
        raw(node.authority(), &snapshot, |_| false).await;
    }
    for words in ["spoke no HTTP", "failed to unmarshal Raft message", "failed to decode Raft message"] {
        assert_eq!(node.lines.with(words).len(), 1, "{words}: {:#?}", node.lines.with(""));
    }
    assert!(node.host.delivered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_url_where_somebody_else_lives_is_told_once() {
    let node = Node::new(0xa1).await;
    let html = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let url = false_peer(move |_| html.as_bytes().to_vec()).await;
    // And a URL that nobody serves: each URL is tried, and each error is logged once.
    node.transport.update_peers(&[(0xb2, vec![url, "http://127.0.0.1:1".to_owned()])]);
    tokio::time::sleep(2 * WATCH).await;
    let lines = node.lines.with("failed to dial stream of remote peer");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(node.lines.with("refused").len(), 2, "{lines:#?}");
}

#[tokio::test]
async fn a_clock_that_drifts_is_told_once() {
    let node = Node::new(0xa1).await;
    let probe = |_: &str| {
        let body = r#"{"OK":true,"Now":"2001-02-03T04:05:06.5Z"}"#;
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let url = false_peer(probe).await;
    node.transport.update_peers(&[(0xb2, vec![url])]);
    tokio::time::sleep(Duration::from_millis(8_500)).await;
    let lines = node.lines.with("prober found high clock drift");
    assert_eq!(lines.len(), 1, "two probes: {lines:#?}");
}
