//! What readers see, and when they see it.

use super::script::{Bench, log, settings};
use crate::{Settings, kv, put_cost};
use proto::etcdserverpb as pb;

#[test]
fn readers_see_a_group_whole_when_it_is_applied() {
    let mut bench = Bench::new(settings());
    let shared = bench.machine.shared();
    assert_eq!((shared.applied_index(), shared.view().revision()), (0, 1));
    let before = shared.view();
    bench.machine.apply(&log(&["put a 1", "add 1 http://a", "alarm on 1 1"])).expect("applies");
    assert_eq!((shared.applied_index(), shared.applied_term(), shared.view().revision()), (3, 1, 2));
    assert_eq!(shared.membership().members.len(), 1);
    assert!(!shared.alarms().is_empty());
    assert_eq!(before.revision(), 1, "a View does not move");
}

#[test]
fn a_request_has_room_until_the_quota_is_reached() {
    let bench = Bench::new(Settings { quota_bytes: 20_480 + 300, ..settings() });
    let shared = bench.machine.shared();
    let put = pb::PutRequest { value: vec![0; 43].into(), ..Default::default() };
    assert!(shared.has_room_for(put_cost(&put)));
    assert!(!shared.has_room_for(put_cost(&put) + 1));
    assert!(shared.has_room_for(0));
}

#[test]
fn only_plain_ranges_make_a_transaction_read_only() {
    use pb::request_op::Request;
    let op = |request| pb::RequestOp { request: Some(request) };
    let range =
        |serializable| op(Request::RequestRange(pb::RangeRequest { serializable, ..Default::default() }));
    let nested = op(Request::RequestTxn(pb::TxnRequest::default()));
    let txn = |success, failure| pb::TxnRequest { success, failure, ..Default::default() };
    let check = |txn: &pb::TxnRequest, read_only, serializable| {
        assert_eq!((kv::is_read_only(txn), kv::is_serializable(txn)), (read_only, serializable), "{txn:?}");
    };
    check(&txn(vec![], vec![]), true, true);
    check(&txn(vec![range(true)], vec![range(false)]), true, false);
    check(&txn(vec![range(true)], vec![range(true)]), true, true);
    check(&txn(vec![range(true), nested], vec![]), false, false);
    check(&txn(vec![op(Request::RequestPut(pb::PutRequest::default()))], vec![]), false, false);
}
