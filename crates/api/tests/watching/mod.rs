//! Watching, as a client sees it.

mod limits;

use super::{CLUSTER, MEMBER, Server, put};
use api::Limits;
use proto::{
    etcdserverpb::{
        self as pb, WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
        watch_create_request::FilterType, watch_request::RequestUnion,
    },
    mvccpb,
};
use std::time::{Duration, Instant};
use tokio::{
    sync::mpsc::{self, Sender},
    time::{sleep, timeout},
};
use tokio_stream::Stream;
use tonic::Streaming;

const PATIENCE: Duration = Duration::from_secs(20);

/// How long to watch for responses that must not come.
const SILENCE: Duration = Duration::from_millis(150);

/// Requests that a test may queue, in messages.
const REQUESTS_MAX: usize = 20_000;

struct Watcher {
    requests: Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

struct Requests(mpsc::Receiver<WatchRequest>);

impl Stream for Requests {
    type Item = WatchRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<WatchRequest>> {
        self.0.poll_recv(cx)
    }
}

impl Watcher {
    async fn open(server: &Server) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut client = WatchClient::new(server.channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.watch(Requests(receiver)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn on(server: &Server, create: WatchCreateRequest) -> Self {
        let mut watcher = Self::open(server).await;
        watcher.create(create);
        assert!(watcher.next().await.created);
        watcher
    }

    fn create(&self, create: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(create));
    }

    fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
    }

    fn ask_for_progress(&self) {
        self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    fn ask(&self, request: RequestUnion) {
        self.requests.try_send(WatchRequest { request_union: Some(request) }).unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        timeout(PATIENCE, self.responses.message()).await.expect("a response comes").unwrap().unwrap()
    }

    async fn silence(&mut self) {
        if let Ok(response) = timeout(SILENCE, self.responses.message()).await {
            panic!("nothing was to come, but {response:?}");
        }
    }

    /// `count` events, as `key=value@revision`, or `-key@revision` for a delete.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.extend(self.next().await.events.iter().map(show));
        }
        seen
    }
}

fn show(event: &mvccpb::Event) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kv = event.kv.as_ref().unwrap();
    let before = event.prev_kv.as_ref().map_or_else(String::new, |kv| format!(" was {}", text(&kv.value)));
    let (key, at) = (text(&kv.key), kv.mod_revision);
    if event.r#type == mvccpb::event::EventType::Delete as i32 {
        format!("-{key}@{at}{before}")
    } else {
        format!("{key}={}@{at}{before}", text(&kv.value))
    }
}

fn key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn from(key_name: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..key(key_name) }
}

fn everything() -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

async fn delete(server: &Server, key: &'static str) {
    let request = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    server.kv().delete_range(request).await.unwrap();
}

async fn compact(server: &Server, revision: i64) {
    server.kv().compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
}

async fn metric(server: &Server, name: &str) -> i64 {
    let page = server.http("GET /metrics").await;
    let line = page.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)).unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

async fn settles(server: &Server, name: &str, expected: i64) {
    let begun = Instant::now();
    while metric(server, name).await != expected {
        assert!(begun.elapsed() < PATIENCE, "{name} stays {}", metric(server, name).await);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_watcher_is_told_what_happens_to_its_keys() {
    let server = Server::start().await;
    server.put("k", "1").await; // revision 2
    let mut watcher = Watcher::open(&server).await;
    watcher.create(WatchCreateRequest { prev_kv: true, ..key("k") });
    let created = watcher.next().await;
    let header = created.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision), (CLUSTER, MEMBER, 2));
    assert!(header.raft_term > 0 && created.created && !created.canceled && created.watch_id == 0);
    server.put("k", "2").await;
    server.put("other", "x").await;
    delete(&server, "k").await;
    let first = watcher.next().await;
    assert_eq!((first.watch_id, first.header.unwrap().revision, first.events.len()), (0, 3, 1));
    assert_eq!(show(&first.events[0]), "k=2@3 was 1");
    assert_eq!(watcher.events(1).await, ["-k@5 was 2"]);
    watcher.cancel(0);
    let canceled = watcher.next().await;
    assert!(
        canceled.canceled && !canceled.created && canceled.watch_id == 0 && canceled.cancel_reason.is_empty()
    );
    watcher.cancel(0); // already cancelled
    watcher.cancel(77); // never existed
    server.put("k", "3").await;
    watcher.silence().await;
    drop(watcher.requests); // no more requests; the client may still listen
    assert!(timeout(SILENCE, watcher.responses.message()).await.is_err());
}

#[tokio::test]
async fn ids_and_refusals_are_etcds() {
    let server = Server::start().await;
    let mut watcher = Watcher::open(&server).await;
    let id = |watch_id| WatchCreateRequest { watch_id, ..key("k") };
    for (asked, given) in [(id(0), 0), (id(1), 1), (id(0), 2), (id(-7), -7), (id(3), 3), (id(0), 4)] {
        watcher.create(asked);
        let created = watcher.next().await;
        assert!(created.created && !created.canceled);
        assert_eq!(created.watch_id, given);
    }
    let reversed = WatchCreateRequest { range_end: "a".into(), ..key("k") };
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    for (refused, reason) in [
        (id(3), "mvcc: duplicate watch ID provided on the WatchStream"),
        (WatchCreateRequest { range_end: "k".into(), ..key("k") }, "mvcc: watcher range is empty"),
        (reversed, "mvcc: watcher range is empty"),
        (from("k", -1), compacted),
    ] {
        watcher.create(refused);
        let answer = watcher.next().await;
        assert!(answer.created && answer.canceled);
        assert_eq!((answer.watch_id, &answer.cancel_reason[..]), (-1, reason));
        assert_eq!((answer.compact_revision, answer.header.unwrap().revision), (0, 1));
    }
    watcher.cancel(3);
    assert!(watcher.next().await.canceled);
    watcher.create(id(3)); // free again
    assert_eq!(watcher.next().await.watch_id, 3);
    watcher.requests.try_send(WatchRequest { request_union: None }).unwrap(); // unknown: ignored
    server.put("k", "1").await;
    assert_eq!(watcher.events(6).await, ["k=1@2"; 6]);
}

#[tokio::test]
async fn ranges_and_filters_choose_what_is_told() {
    let server = Server::start().await;
    let range = |start: &'static str, end: &'static str| WatchCreateRequest {
        key: start.into(),
        range_end: end.into(),
        ..Default::default()
    };
    let filtered = |filters: &[i32]| WatchCreateRequest { filters: filters.to_vec(), ..range("a", "c") };
    let (no_put, no_delete) = (FilterType::Noput as i32, FilterType::Nodelete as i32);
    let cases = [
        (range("b", ""), vec!["b=1@3", "-b@6"]),
        (range("a", "b"), vec!["a=1@2", "aa=1@4"]),
        (range("b", "\0"), vec!["b=1@3", "c=1@5", "-b@6"]),
        (everything(), vec!["a=1@2", "b=1@3", "aa=1@4", "c=1@5", "-b@6"]),
        (range("", "\0"), vec!["a=1@2", "b=1@3", "aa=1@4", "c=1@5", "-b@6"]),
        (filtered(&[no_put]), vec!["-b@6"]),
        (filtered(&[no_delete]), vec!["a=1@2", "b=1@3", "aa=1@4"]),
        (filtered(&[99]), vec!["a=1@2", "b=1@3", "aa=1@4", "-b@6"]),
    ];
    let mut watchers = Vec::new();
    for (create, expected) in cases {
        watchers.push((Watcher::on(&server, create.clone()).await, expected.clone()));
        // The same from a past revision: before any event now, history when read later.
        watchers
            .push((Watcher::on(&server, WatchCreateRequest { start_revision: 2, ..create }).await, expected));
    }
    for key in ["a", "b", "aa", "c"] {
        server.put(key, "1").await;
    }
    delete(&server, "b").await;
    for (watcher, expected) in &mut watchers {
        assert_eq!(&watcher.events(expected.len()).await, expected);
    }
    let mut nothing = Watcher::on(&server, filtered(&[no_put, no_delete])).await;
    server.put("a", "2").await;
    nothing.silence().await;
}

#[tokio::test]
async fn a_watcher_starts_in_the_past_now_or_in_the_future() {
    let server = Server::start().await;
    for value in ["1", "2", "3"] {
        server.put("k", value).await; // revisions 2 to 4
    }
    let mut past = Watcher::on(&server, WatchCreateRequest { prev_kv: true, ..from("k", 3) }).await;
    let told = past.next().await;
    assert_eq!(told.header.unwrap().revision, 4);
    assert_eq!(told.events.iter().map(show).collect::<Vec<_>>(), ["k=2@3 was 1", "k=3@4 was 2"]);
    let mut now = Watcher::on(&server, key("k")).await;
    let mut future = Watcher::on(&server, from("k", 6)).await;
    future.ask_for_progress();
    server.put("k", "4").await; // revision 5
    assert_eq!(
        (now.events(1).await, past.events(1).await),
        (vec!["k=4@5".into()], vec!["k=4@5 was 3".into()])
    );
    future.silence().await; // no event, and no progress before the revision it starts at
    server.put("k", "5").await;
    let told = future.next().await;
    assert_eq!(show(&told.events[0]), "k=5@6");
    let progress = future.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision, progress.events.len()), (-1, 6, 0));
}

#[tokio::test]
async fn a_compacted_start_ends_the_watcher_and_says_what_is_left() {
    let server = Server::start().await;
    for value in ["1", "2", "3", "4"] {
        server.put("k", value).await; // revisions 2 to 5
    }
    compact(&server, 4).await;
    let mut watcher = Watcher::open(&server).await;
    watcher.create(from("k", 3));
    assert!(watcher.next().await.created);
    let told = watcher.next().await;
    assert_eq!((told.canceled, told.created, told.compact_revision, told.watch_id), (true, false, 4, 0));
    assert_eq!((told.header.unwrap().revision, &told.cancel_reason[..]), (0, ""));
    // Its ID stays taken until the client cancels it.
    watcher.create(WatchCreateRequest { watch_id: 7, ..key("k") });
    watcher.create(WatchCreateRequest { watch_id: 7, ..from("k", 2) });
    assert!(!watcher.next().await.canceled);
    assert!(watcher.next().await.canceled);
    watcher.cancel(0);
    assert!(watcher.next().await.canceled);
    let mut at_it = Watcher::on(&server, WatchCreateRequest { prev_kv: true, ..from("k", 4) }).await;
    assert_eq!(at_it.events(2).await, ["k=3@4", "k=4@5 was 3"]); // older values are compacted
}

#[tokio::test]
async fn progress_is_told_when_it_is_asked_for_and_in_intervals() {
    let interval = Duration::from_millis(1); // raised to 100 ms, as in etcd
    let limits = Limits { watch_progress_interval: interval, ..Limits::default() };
    let server = Server::with(0, limits).await;
    let mut watcher = Watcher::open(&server).await;
    watcher.ask_for_progress(); // no watcher: no response
    watcher.silence().await;
    watcher.create(key("k"));
    assert!(watcher.next().await.created);
    server.put("other", "1").await;
    watcher.ask_for_progress();
    let told = watcher.next().await;
    assert_eq!((told.watch_id, told.header.unwrap().revision, told.events.len()), (-1, 2, 0));
    let mut notified = Watcher::on(&server, WatchCreateRequest { progress_notify: true, ..key("k") }).await;
    let begun = Instant::now();
    for _ in 0..3 {
        let told = notified.next().await;
        assert_eq!((told.watch_id, told.header.unwrap().revision, told.events.len()), (0, 2, 0));
    }
    assert!((200..5_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    watcher.silence().await; // it did not ask for intervals
}

#[tokio::test]
async fn ten_thousand_watchers_on_one_stream_are_all_told() {
    let server = Server::start().await;
    let mut watcher = Watcher::open(&server).await;
    for id in 0..10_000 {
        watcher.create(WatchCreateRequest { key: format!("k{}", id % 100).into(), ..Default::default() });
    }
    for id in 0..10_000 {
        assert_eq!(watcher.next().await.watch_id, id);
    }
    assert_eq!(metric(&server, "etcd_debugging_mvcc_watcher_total").await, 10_000);
    for _ in 0..3 {
        for at in 0..100 {
            server.put(&format!("k{at}"), "v").await;
        }
    }
    let mut told = vec![Vec::new(); 10_000];
    let mut count = 0;
    while count < 30_000 {
        let response = watcher.next().await;
        count += response.events.len();
        let id = usize::try_from(response.watch_id).unwrap();
        told[id].extend(response.events.into_iter().map(|event| event.kv.unwrap()));
    }
    for (id, kvs) in told.iter().enumerate() {
        let revisions: Vec<i64> = kvs.iter().map(|kv| kv.mod_revision).collect();
        let first = 2 + (id % 100) as i64;
        assert_eq!(revisions, [first, first + 100, first + 200]);
    }
    settles(&server, "etcd_debugging_mvcc_pending_events_total", 0).await;
    assert_eq!(metric(&server, "etcd_debugging_mvcc_events_total").await, 30_000);
    drop(watcher);
    settles(&server, "etcd_debugging_mvcc_watcher_total", 0).await;
    settles(&server, "etcd_debugging_mvcc_watch_stream_total", 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bounded_queue_and_delays_nobody() {
    const VALUES: usize = 2_000;
    let server = Server::start().await;
    let mut slow = Watcher::on(&server, key("k")).await;
    let mut quick = Watcher::on(&server, key("k")).await;
    let value = "x".repeat(10_000);
    for _ in 0..VALUES {
        server.put("k", &value).await; // 20 MB in all
        assert_eq!(quick.next().await.events.len(), 1);
    }
    assert_eq!(metric(&server, "etcd_debugging_mvcc_slow_watcher_total").await, 1);
    let pending = metric(&server, "etcd_debugging_mvcc_pending_events_total").await;
    assert!((1..40).contains(&pending), "{pending} events of 10 KB wait");
    // The missed events come from the history, then from the ring.
    let mut revisions = Vec::new();
    while revisions.len() < VALUES {
        revisions
            .extend(slow.next().await.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert!(revisions.iter().copied().eq(2..2 + VALUES as i64), "in order, each once: {revisions:?}");
    settles(&server, "etcd_debugging_mvcc_slow_watcher_total", 0).await;
}

#[tokio::test]
async fn a_slow_watcher_learns_that_its_history_was_compacted() {
    let server = Server::start().await;
    let mut slow = Watcher::on(&server, key("k")).await;
    let value = "x".repeat(100_000);
    for _ in 0..100 {
        server.put("k", &value).await; // 10 MB: more than the ring holds
    }
    compact(&server, 100).await;
    server.put("k", "last").await;
    let mut last = 1;
    let canceled = loop {
        let told = slow.next().await;
        if told.canceled {
            break told;
        }
        for event in told.events {
            last += 1;
            assert_eq!(event.kv.unwrap().mod_revision, last);
        }
    };
    assert_eq!(canceled.compact_revision, 100);
    assert!((2..100).contains(&last), "{last}");
}

#[tokio::test]
async fn all_of_a_large_revision_comes_in_one_response_or_in_marked_pieces() {
    let server = Server::start().await;
    let value = "x".repeat(1_000_000);
    for at in 0..6 {
        server.put(&format!("k{at}"), &value).await;
    }
    let mut whole = Watcher::on(&server, WatchCreateRequest { prev_kv: true, ..everything() }).await;
    let create = WatchCreateRequest { prev_kv: true, fragment: true, ..everything() };
    let mut cut = Watcher::on(&server, create).await;
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    server.kv().delete_range(all).await.unwrap();
    let told = whole.next().await;
    assert_eq!((told.events.len(), told.fragment), (6, false));
    let mut lengths = Vec::new();
    loop {
        let told = cut.next().await;
        lengths.push(told.events.len());
        if !told.fragment {
            break;
        }
    }
    assert_eq!(lengths, [2, 2, 2]);
}

#[tokio::test]
async fn a_group_of_more_events_than_are_matched_at_once_is_told_all_the_same() {
    let server = Server::start().await;
    for at in 0..50 {
        let puts = (0..100).map(|sub| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(&format!("k{at}-{sub}"), "v"))),
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
        server.kv().txn(txn).await.unwrap();
    }
    let mut watcher = Watcher::on(&server, everything()).await;
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    server.kv().delete_range(all).await.unwrap();
    server.put("k", "1").await;
    assert_eq!(watcher.next().await.events.len(), 5_000);
    assert_eq!(watcher.events(1).await, ["k=1@53"]);
}

#[tokio::test]
async fn a_group_of_more_bytes_than_are_kept_is_told_though_nothing_follows_it() {
    // A delete's row is its key: 2,200 of them exceed the tap.
    const KEYS: usize = 2_200;
    let server = Server::start().await;
    let name = |at: usize| format!("{at:04}{}", "k".repeat(4_000));
    for first in (0..KEYS).step_by(100) {
        let puts = (first..first + 100).map(|at| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(&name(at), "v"))),
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
        server.kv().txn(txn).await.unwrap();
    }
    let mut watcher = Watcher::on(&server, everything()).await;
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    server.kv().delete_range(all).await.unwrap();
    assert_eq!(watcher.next().await.events.len(), KEYS);
}

/// First and last revision of [`much_and_its_compaction`].
const MUCH: (i64, i64) = (3, 52);

/// More events than are delivered at once, all compacted before the first delivery.
async fn much_and_its_compaction(server: &Server) -> Watcher {
    server.put("0", "v").await;
    let watcher = Watcher::on(server, everything()).await;
    let request = |at: usize| {
        let puts = (0..100).map(|sub| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(&format!("k{sub}"), &at.to_string()))),
        });
        pb::TxnRequest { success: puts.collect(), ..Default::default() }
    };
    let compaction = pb::CompactionRequest { revision: MUCH.1, physical: false };
    // Proposed before any other task runs, so they are applied in one group.
    let asked: Vec<_> = (0..50).map(request).map(|request| server.node.propose(request, None)).collect();
    let compacted = server.node.propose(compaction, None);
    for answer in asked {
        answer.await.unwrap();
    }
    compacted.await.unwrap();
    watcher
}

/// A synced watcher still receives all events, and compaction completes.
#[tokio::test]
async fn a_watcher_that_keeps_up_is_not_canceled_by_a_compaction_to_the_head() {
    let server = Server::start().await;
    let mut watcher = much_and_its_compaction(&server).await;
    let mut told = Vec::new();
    while told.len() < 5_000 {
        let response = watcher.next().await;
        assert!(!response.canceled, "after {} events: {response:?}", told.len());
        told.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert!(told.is_sorted() && (told[0], told[4_999]) == MUCH, "{} to {}", told[0], told[4_999]);
    let is_done = || server.node.machine().view().compaction_done() == MUCH.1;
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < PATIENCE, "compaction waits for ever");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn streams_end_when_the_server_goes_down() {
    let server = Server::start().await;
    let mut watcher = Watcher::on(&server, key("k")).await;
    server.stop.send(()).unwrap();
    let status = timeout(PATIENCE, watcher.responses.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    timeout(PATIENCE, server.serving).await.unwrap().unwrap();
}
