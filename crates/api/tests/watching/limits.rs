//! The limits of `WatchLimits`, set small.

use super::*;
use api::WatchLimits;
use tonic::transport::Channel;

async fn server(watching: WatchLimits) -> Server {
    Server::with(0, Limits { watching, ..Limits::default() }).await
}

/// A transaction of puts, and so one revision.
fn puts(keys: std::ops::Range<usize>, value: &str) -> pb::TxnRequest {
    let put = |at| pb::request_op::Request::RequestPut(put(&format!("k{at}"), value));
    let success = keys.map(|at| pb::RequestOp { request: Some(put(at)) }).collect();
    pb::TxnRequest { success, ..Default::default() }
}

#[tokio::test]
async fn a_group_beyond_what_is_published_at_once_is_read_as_history() {
    let server = server(WatchLimits { publish_events: 4, turn_steps: 1, ..WatchLimits::default() }).await;
    let mut watcher = Watcher::on(&server, everything()).await;
    for (keys, revision) in [(3, 2), (4, 3), (5, 4), (50, 5), (1, 6)] {
        server.kv().txn(puts(0..keys, "v")).await.unwrap();
        let events = watcher.events(keys).await;
        assert_eq!(events.len(), keys);
        assert!(events.iter().all(|event| event.ends_with(&format!("=v@{revision}"))), "{events:?}");
    }
    watcher.silence().await;
}

/// With a limit of zero, compaction does not wait, and a synced watcher is cancelled.
#[tokio::test]
async fn compaction_waits_for_who_keeps_up_only_so_long() {
    let server =
        server(WatchLimits { undelivered_kept: Duration::ZERO, turn_steps: 1, ..WatchLimits::default() })
            .await;
    let mut watcher = much_and_its_compaction(&server).await;
    let mut told = 0;
    let end = loop {
        let response = watcher.next().await;
        if response.canceled {
            break response;
        }
        told += response.events.len();
        assert!(told < 5_000, "all of it was told");
    };
    assert_eq!(end.compact_revision, MUCH.1);
}

/// Responses fill the stream's window and the connection's buffer; then requests are not read.
#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read_from() {
    const WINDOW_BYTES: u32 = 65_535;
    let server = server(WatchLimits { unread_answers: 4, ..WatchLimits::default() }).await;
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.initial_stream_window_size(WINDOW_BYTES).connect().await.unwrap();
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let responses = WatchClient::new(channel).watch(Requests(receiver)).await.unwrap().into_inner();
    let mut watcher = Watcher { requests, responses };
    for _ in 0..REQUESTS_MAX {
        watcher.create(key("k"));
    }
    let (mut created, mut before) = (0, -1);
    while created != before {
        sleep(SILENCE).await;
        (before, created) = (created, metric(&server, "etcd_debugging_mvcc_watcher_total").await);
    }
    assert!((1..REQUESTS_MAX as i64 * 3 / 4).contains(&created), "{created} watchers were created");
    for id in 0..REQUESTS_MAX as i64 {
        assert_eq!(watcher.next().await.watch_id, id);
    }
}
