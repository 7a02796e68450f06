//! Responses read while they are sent: equal to complete ones, little memory, and no delay for others.

use super::{
    frames::RANGE,
    holding::wire::{Raw, call, window},
    *,
};
use api::{Cost, InFlight, WorkLimits};
use proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as OpResponse,
};
use tokio::time::{sleep, timeout};

mod unread;

const PATIENCE: Duration = Duration::from_secs(20);

/// Limits that make everything above a few bytes long, in pieces of a few rows.
pub(crate) fn long() -> Limits {
    let work = WorkLimits {
        inline: Cost { rows: 0, bytes: 0 },
        short: Cost { rows: 0, bytes: 300 },
        piece_bytes: 200,
        remembered_bytes: 100,
        ..WorkLimits::default()
    };
    let answers = InFlight { free_bytes: 0, ..InFlight::default() };
    Limits { work, answers, ..Limits::default() }
}

/// Keys put once or more, some of them deleted and put again.
async fn fill(server: &Server) {
    for i in 0..60 {
        server.put(&format!("k{i:02}"), &"v".repeat(i * 7 % 101)).await;
    }
    for i in (0..60).step_by(3) {
        server.put(&format!("k{i:02}"), &"w".repeat(i * 11 % 301)).await;
    }
    for i in (0..60).step_by(7) {
        let key = format!("k{i:02}").into();
        server.kv().delete_range(pb::DeleteRangeRequest { key, ..Default::default() }).await.unwrap();
    }
    for i in (0..60).step_by(14) {
        server.put(&format!("k{i:02}"), "again").await;
    }
}

fn every_kind() -> Vec<pb::RangeRequest> {
    let mut requests = Vec::new();
    for base in [range("k", "l"), range("k05", ""), range("k1", "k4"), range("\0", "\0"), range("x", "y")] {
        for revision in [0, 75, 85] {
            for limit in [0, 1, 20] {
                let base = pb::RangeRequest { revision, limit, ..base.clone() };
                for (sort_target, sort_order) in
                    [(0, 0), (0, 1), (0, 2), (1, 1), (2, 2), (3, 0), (4, 1), (4, 2)]
                {
                    for keys_only in [false, true] {
                        requests.push(pb::RangeRequest {
                            sort_target,
                            sort_order,
                            keys_only,
                            ..base.clone()
                        });
                    }
                }
                requests.push(pb::RangeRequest { count_only: true, ..base.clone() });
                requests.push(pb::RangeRequest { min_mod_revision: 30, max_create_revision: 55, ..base });
            }
        }
    }
    requests
}

#[tokio::test]
async fn what_is_sent_as_it_is_read_is_what_is_sent_whole() {
    let whole = Server::start().await;
    let pieces = Server::of(whole.node.clone(), long()).await;
    fill(&whole).await;
    let requests = every_kind();
    for request in &requests {
        let [one, other] = [&whole, &pieces].map(|server| (server.kv(), request.clone()));
        let (one, other) =
            tokio::join!(async { { one.0 }.range(one.1).await.unwrap().into_inner() }, async {
                { other.0 }.range(other.1).await.unwrap().into_inner()
            },);
        assert_eq!(one, other, "{request:?}");
        if request.sort_order == 0 && request.min_mod_revision == 0 {
            let mut stream = pieces.kv().range_stream(request.clone()).await.unwrap().into_inner();
            let mut merged = pb::RangeResponse::default();
            while let Some(piece) = stream.message().await.unwrap() {
                let piece = piece.range_response.unwrap();
                merged.kvs.extend(piece.kvs);
                (merged.header, merged.more, merged.count) = (piece.header, piece.more, piece.count);
            }
            assert_eq!(merged, one, "as a stream: {request:?}");
        }
    }
    let has = pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: "k05".into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    for (number, requests) in requests.chunks(7).enumerate() {
        let op = |range: &pb::RangeRequest| pb::RequestOp { request: Some(Op::RequestRange(range.clone())) };
        let (some, others) = requests.split_at(number % 8 % requests.len());
        let request = pb::TxnRequest {
            compare: vec![has.clone(); number % 2],
            success: some.iter().map(op).collect(),
            failure: others.iter().map(op).collect(),
        };
        let one = whole.kv().txn(request.clone()).await.unwrap().into_inner();
        let other = pieces.kv().txn(request.clone()).await.unwrap().into_inner();
        assert_eq!(one, other, "{request:?}");
        assert!(one.responses.iter().all(|op| matches!(op.response, Some(OpResponse::ResponseRange(_)))));
    }
    assert!(pieces.metric("quorate_work_total{lane=\"long\"}").await > 1_000, "pieces take turns");
    assert_eq!(pieces.metric("quorate_in_flight_bytes{kind=\"answers\"}").await, 0);
}

/// Sixteen lists of 16 MiB each.
#[tokio::test]
async fn long_lists_that_nobody_takes_hold_little_and_no_compaction_up() {
    let answers = InFlight { stall: Duration::from_millis(200), ..InFlight::default() };
    let limits = Limits { answers, view_hold_max: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with(0, limits).await;
    server.fill("k", 64, 1 << 18).await;
    let mut raw = Raw::connect(server.address, 64 << 10).await;
    let list = pb::RangeRequest { serializable: true, ..range("k", "l") };
    for number in 0..16 {
        raw.send(&call(1 + 2 * number, RANGE, &list)).await;
    }
    sleep(Duration::from_millis(500)).await;
    let held = server.metric("quorate_in_flight_bytes{kind=\"answers\"}").await;
    // For each a piece ahead and one in the slot; the first also hold rows that were read while there was much room.
    assert!((16 << 18..(32 << 20) + 16 * (4 << 18)).contains(&held), "{held}");
    assert_eq!(server.metric("quorate_work_running{lane=\"long\"}").await, 0, "nobody reads on");
    let revision = server.put("k00063", "later").await.header.unwrap().revision;
    let compact = pb::CompactionRequest { revision, physical: true };
    timeout(PATIENCE, server.kv().compact(compact)).await.expect("the lists hold it up").unwrap();
    for number in 0..16 {
        raw.send(&window(1 + 2 * number, 1 << 30)).await;
    }
    raw.send(&window(0, 1 << 30)).await;
    timeout(PATIENCE, raw.until(|seen| seen.ended.len() == 16)).await.expect("they end");
    let whole = 64 << 18;
    assert!(raw.seen.bytes.values().all(|bytes| *bytes < whole), "the revision is compacted");
    assert_eq!(server.metric("quorate_in_flight_bytes{kind=\"answers\"}").await, 0);
    // A client that reads gets all of it.
    assert_eq!(server.kv().range(range("k", "l")).await.unwrap().into_inner().kvs.len(), 64);
}

#[tokio::test]
async fn a_long_list_whose_client_leaves_is_not_read_on() {
    let server = Server::with(0, long()).await;
    server.fill("k", 64, 1 << 18).await;
    for _ in 0..20 {
        let mut raw = Raw::connect(server.address, 64 << 10).await;
        raw.send(&call(1, RANGE, &range("k", "l"))).await;
        timeout(PATIENCE, raw.until(|seen| seen.bytes.values().any(|bytes| *bytes > 0)))
            .await
            .expect("it begins");
    }
    let is_quiet = async || {
        server.metric("quorate_in_flight_bytes{kind=\"answers\"}").await == 0
            && server.metric("quorate_work_running{lane=\"long\"}").await == 0
    };
    timeout(PATIENCE, async {
        while !is_quiet().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("all of it goes");
}
