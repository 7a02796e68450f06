//! Responses of writes whose rows are read after the entry was applied.

use super::{super::frames::TXN, *};
use machine::Limits as MachineLimits;

/// Applying an entry reads no rows for its response.
async fn reads_later() -> Server {
    let none = Cost { rows: 0, bytes: 0 };
    let limits = MachineLimits { entry_reads: none, group_reads: none, ..MachineLimits::default() };
    serving(limits, long()).await
}

async fn serving(machine: MachineLimits, limits: Limits) -> Server {
    Server::applying(machine, Arc::new(MemoryEngine::default()), 0, limits).await
}

fn ops(requests: impl IntoIterator<Item = Op>) -> Vec<pb::RequestOp> {
    requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
}

/// Reads around writes that they must see or must not see, also in a nested transaction.
fn around(reads: &[pb::RangeRequest], number: usize) -> pb::TxnRequest {
    let delete = |key: &'static str, range_end: &'static str| {
        let (key, range_end) = (key.into(), range_end.into());
        Op::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: true })
    };
    let ranges = || reads.iter().cloned().map(Op::RequestRange);
    let before = Op::RequestPut(pb::PutRequest { prev_kv: true, ..put("k58", &format!("new {number}")) });
    let inner = pb::TxnRequest {
        compare: Vec::new(),
        success: ops([delete("k3", "k35")].into_iter().chain(ranges()).chain([
            Op::RequestPut(pb::PutRequest { prev_kv: true, ..put("k57", &"x".repeat(number * 13 % 700)) }),
            Op::RequestRange(range("k", "l")),
        ])),
        failure: Vec::new(),
    };
    let again = (50..55).map(|key| Op::RequestPut(put(&format!("k{key}a"), &"y".repeat(number % 91))));
    let success = ranges()
        .chain([before])
        .chain(ranges())
        .chain([Op::RequestTxn(inner), delete("k1", &"k12"[..2 + number % 2])])
        .chain(ranges())
        .chain(again);
    pb::TxnRequest { success: ops(success), ..Default::default() }
}

#[tokio::test]
async fn what_is_read_after_a_write_is_what_would_have_been_read_within_it() {
    let all = MachineLimits { entry_reads: Cost::MAX, group_reads: Cost::MAX, ..MachineLimits::default() };
    let (at_once, later) = (serving(all, Limits::default()).await, reads_later().await);
    fill(&at_once).await;
    fill(&later).await;
    let mut previous = 0;
    for (number, reads) in every_kind().chunks(5).enumerate() {
        let request = around(reads, number);
        let one = at_once.kv().txn(request.clone()).await.unwrap().into_inner();
        let other = later.kv().txn(request.clone()).await.unwrap().into_inner();
        assert_eq!(one, other, "{request:?}");
        let put = pb::PutRequest { prev_kv: true, ..put("k1", &number.to_string()) };
        let one = at_once.kv().put(put.clone()).await.unwrap().into_inner();
        assert_eq!(one, later.kv().put(put).await.unwrap().into_inner());
        previous += usize::from(one.prev_kv.is_some());
        let delete = pb::DeleteRangeRequest { key: "k4".into(), range_end: "k42".into(), prev_kv: true };
        let one = at_once.kv().delete_range(delete.clone()).await.unwrap().into_inner();
        assert_eq!(one, later.kv().delete_range(delete).await.unwrap().into_inner());
        previous += one.prev_kvs.len();
    }
    assert!(previous > 10, "{previous}");
    assert!(later.metric("quorate_work_total{lane=\"long\"}").await > 1_000, "pieces take turns");
    assert_eq!(later.metric("quorate_in_flight_bytes{kind=\"answers\"}").await, 0);
}

/// Twenty small transactions with responses of 32 MiB that nobody reads.
#[tokio::test]
async fn unread_answers_of_writes_hold_little_and_no_compaction_up_and_end_by_name() {
    let limits = Limits { view_hold_max: Duration::from_millis(200), ..Limits::default() };
    let server = serving(MachineLimits::default(), limits).await;
    server.fill("k", 64, 1 << 18).await;
    let mut raw = Raw::connect(server.address, 64 << 10).await;
    for number in 0..20 {
        let write = Op::RequestPut(put(&format!("done{number}"), "1"));
        let lists = [write, Op::RequestRange(range("k", "l")), Op::RequestRange(range("k", "l"))];
        let request = pb::TxnRequest { success: ops(lists), ..Default::default() };
        raw.send(&call(1 + 2 * number, TXN, &request)).await;
    }
    sleep(Duration::from_millis(150)).await;
    let held = server.metric("quorate_in_flight_bytes{kind=\"answers\"}").await;
    assert!(held < 96 << 20, "{held}");
    let count = server.kv().range(range("done", "donf")).await.unwrap().into_inner().count;
    assert_eq!(count, 20, "each was done");
    let revision = server.put("k00063", "later").await.header.unwrap().revision;
    let compact = pb::CompactionRequest { revision, physical: true };
    timeout(PATIENCE, server.kv().compact(compact)).await.expect("the answers hold it up").unwrap();
    for number in 0..20 {
        raw.send(&window(1 + 2 * number, 1 << 30)).await;
    }
    raw.send(&window(0, 1 << 30)).await;
    timeout(PATIENCE, raw.until(|seen| seen.ended.len() == 20)).await.expect("they end");
    assert!(raw.seen.bytes.values().all(|bytes| *bytes < 32 << 20), "before they are whole");
    assert_eq!(server.metric("quorate_in_flight_bytes{kind=\"answers\"}").await, 0);
}
