//! etcd's own cases (`v3rpc/key_test.go`, `TestTxnDuplicateKeys`, `TestKVPut*` of its integration suite), as tables.

use super::*;
use bytes::Bytes;
use proto::etcdserverpb::Compare;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &'static str) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.into(), value: "v".into(), ..Default::default() }))
}

fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }))
}

fn range_op(key: &'static str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure }))
}

fn check_txn(name: &str, success: Vec<RequestOp>, expected: Result<(), EtcdError>) {
    let as_failure = TxnRequest { failure: success.clone(), ..Default::default() };
    let as_success = TxnRequest { success, ..Default::default() };
    assert_eq!(txn(&as_success, 128), expected, "{name}");
    assert_eq!(txn(&as_failure, 128), expected, "{name}, in the failure branch");
}

#[test]
fn a_range_needs_a_key_and_known_sort_options() {
    let check = |key: &'static str, sort_order, sort_target, expected| {
        let request = RangeRequest { key: key.into(), sort_order, sort_target, ..Default::default() };
        assert_eq!(range(&request), expected, "{key:?} {sort_order} {sort_target}");
    };
    check("", 0, 0, Err(EtcdError::EmptyKey));
    check("", 9, 9, Err(EtcdError::EmptyKey));
    check("k", 0, 0, Ok(()));
    check("k", 2, 4, Ok(()));
    check("k", 3, 0, Err(EtcdError::InvalidSortOption));
    check("k", -1, 0, Err(EtcdError::InvalidSortOption));
    check("k", 0, 5, Err(EtcdError::InvalidSortOption));
}

#[test]
fn a_streamed_range_comes_in_key_order_and_unfiltered() {
    let check = |request: RangeRequest, expected: Option<&str>| {
        let request = RangeRequest { key: "k".into(), ..request };
        let got = range_stream(&request).err().map(|status| status.message().to_owned());
        assert_eq!(got.as_deref(), expected, "{request:?}");
    };
    let sorted = |sort_order, sort_target| RangeRequest { sort_order, sort_target, ..Default::default() };
    let orders = Some("RangeStream does not support custom sort orders");
    let filters = Some("RangeStream does not support revision filters");
    check(sorted(0, 0), None);
    check(sorted(1, 0), None);
    check(sorted(0, 3), None);
    check(sorted(2, 0), orders);
    check(sorted(1, 3), orders);
    check(RangeRequest { min_mod_revision: 1, ..Default::default() }, filters);
    check(RangeRequest { max_create_revision: -1, ..Default::default() }, filters);
}

#[test]
fn a_put_gives_no_value_or_lease_where_it_keeps_the_stored_one() {
    let check = |request: PutRequest, expected| assert_eq!(put(&request), expected, "{request:?}");
    let key = Bytes::from_static(b"k");
    check(PutRequest::default(), Err(EtcdError::EmptyKey));
    check(PutRequest { key: key.clone(), ..Default::default() }, Ok(()));
    check(
        PutRequest { key: key.clone(), ignore_value: true, value: "v".into(), ..Default::default() },
        Err(EtcdError::ValueProvided),
    );
    check(PutRequest { key: key.clone(), ignore_value: true, lease: 7, ..Default::default() }, Ok(()));
    check(
        PutRequest { key, ignore_lease: true, lease: 7, ..Default::default() },
        Err(EtcdError::LeaseProvided),
    );
}

#[test]
fn a_delete_needs_a_key() {
    assert_eq!(delete(&DeleteRangeRequest::default()), Err(EtcdError::EmptyKey));
    assert_eq!(delete(&DeleteRangeRequest { key: "k".into(), ..Default::default() }), Ok(()));
}

#[test]
fn an_operation_of_a_transaction_is_checked_as_its_own_call() {
    check_txn("nothing", vec![], Ok(()));
    check_txn("an operation that says nothing", vec![RequestOp::default()], Err(EtcdError::KeyNotFound));
    check_txn("a put without a key", vec![put_op("")], Err(EtcdError::EmptyKey));
    check_txn("a delete without a key", vec![delete_op("", "")], Err(EtcdError::EmptyKey));
    check_txn("a range without a key", vec![range_op("")], Err(EtcdError::EmptyKey));
    check_txn(
        "a nested range without a key",
        vec![nested(vec![range_op("")], vec![])],
        Err(EtcdError::EmptyKey),
    );
    let compare = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    assert_eq!(txn(&compare, 128), Err(EtcdError::EmptyKey), "a compare without a key");
}

#[test]
fn a_nested_level_gets_what_the_levels_above_left() {
    let ranges = |n| vec![range_op("k"); n];
    let check = |name: &str, request: &TxnRequest, max, expected| {
        assert_eq!(txn(request, max), expected, "{name}");
    };
    let flat = TxnRequest { success: ranges(3), failure: ranges(2), ..Default::default() };
    check("the longest list counts", &flat, 3, Ok(()));
    check("one too many", &flat, 2, Err(EtcdError::TooManyOps));
    let compares = vec![Compare { key: "k".into(), ..Default::default() }; 4];
    let compared = TxnRequest { compare: compares, ..flat };
    check("compares count too", &compared, 3, Err(EtcdError::TooManyOps));
    let mut outer = vec![nested(ranges(2), vec![])];
    outer.extend(ranges(1));
    let deep = TxnRequest { success: outer, ..Default::default() };
    check("two and two", &deep, 4, Ok(()));
    check("two and one left", &deep, 3, Err(EtcdError::TooManyOps));
}

#[test]
fn no_key_is_written_twice() {
    let dup = Err(EtcdError::DuplicateKey);
    check_txn("two puts", vec![put_op("abc"), put_op("abc")], dup);
    check_txn("two keys", vec![put_op("abc"), put_op("abcd")], Ok(()));
    check_txn("a put, then a delete", vec![put_op("abc"), delete_op("abc", "")], dup);
    check_txn("a delete, then a put", vec![delete_op("abc", ""), put_op("abc")], dup);
    check_txn("a put inside a deleted range", vec![put_op("abc"), delete_op("a", "b")], dup);
    check_txn("a put at the end of a deleted range", vec![put_op("b"), delete_op("a", "b")], Ok(()));
    check_txn("deletes that overlap", vec![delete_op("abc", ""), delete_op("a", "b")], Ok(()));
    check_txn("a put and a read", vec![put_op("abc"), range_op("abc")], Ok(()));
    check_txn("a key behind a deleted one", vec![delete_op("a", ""), put_op("a\0")], Ok(()));
    check_txn("an empty deleted range", vec![delete_op("b", "a"), put_op("b")], Ok(()));
    check_txn("a delete of everything from a key on", vec![delete_op("a", "\0"), put_op("b")], Ok(()));
    check_txn(
        "between deletes that do not touch",
        vec![delete_op("a", "b"), delete_op("c", "d"), put_op("bb")],
        Ok(()),
    );
    check_txn(
        "a delete that swallows others",
        vec![delete_op("c", "d"), delete_op("e", "f"), delete_op("b", "z"), put_op("dd")],
        dup,
    );
}

#[test]
fn nested_branches_share_keys_with_each_other_only() {
    let dup = Err(EtcdError::DuplicateKey);
    let a = || vec![put_op("a")];
    check_txn("both branches put it", vec![nested(a(), a())], Ok(()));
    check_txn("a branch puts it twice", vec![nested(vec![put_op("a"), put_op("a")], vec![])], dup);
    check_txn("the parent puts it too", vec![put_op("a"), nested(a(), vec![])], dup);
    check_txn("the parent deletes it", vec![delete_op("a", "b"), nested(vec![], a())], dup);
    check_txn("a sibling puts it", vec![nested(a(), a()), nested(vec![], a())], dup);
    check_txn(
        "a nested delete under a put",
        vec![put_op("a"), nested(vec![delete_op("a", "b")], vec![])],
        dup,
    );
    check_txn(
        "a sibling's delete before it",
        vec![nested(vec![delete_op("a", "b")], vec![]), nested(vec![put_op("aa")], vec![])],
        dup,
    );
    // etcd checks siblings in order, so it misses a delete after a put.
    check_txn(
        "a sibling's delete behind it",
        vec![nested(vec![put_op("aa")], vec![]), nested(vec![delete_op("a", "b")], vec![])],
        Ok(()),
    );
    check_txn("two levels down", vec![put_op("a"), nested(vec![nested(a(), vec![])], vec![])], dup);
}

/// Compares random operations with a quadratic check.
#[test]
fn the_overlap_check_agrees_with_a_naive_one() {
    const KEYS: [&str; 6] = ["a", "a\0", "b", "bb", "c", "d"];
    let mut seed = 7u64;
    let mut draw = |n: usize| {
        // xorshift64: a fixed sequence is enough here.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % n as u64).expect("a small number")
    };
    for _ in 0..20_000 {
        let ops: Vec<_> = (0..=draw(4))
            .map(|_| match draw(3) {
                0 => put_op(KEYS[draw(6)]),
                1 => delete_op(KEYS[draw(6)], ""),
                _ => delete_op(KEYS[draw(6)], KEYS[draw(6)]),
            })
            .collect();
        let request = TxnRequest { success: ops.clone(), ..Default::default() };
        let expected = if naive_overlap(&ops) { Err(EtcdError::DuplicateKey) } else { Ok(()) };
        assert_eq!(txn(&request, 128), expected, "{ops:?}");
    }
}

fn naive_overlap(ops: &[RequestOp]) -> bool {
    let covers = |delete: &DeleteRangeRequest, key: &[u8]| {
        if delete.range_end.is_empty() {
            key == &delete.key[..]
        } else {
            key >= &delete.key[..] && key < &delete.range_end[..]
        }
    };
    ops.iter().enumerate().any(|(i, op)| {
        let Some(Request::RequestPut(put)) = &op.request else { return false };
        ops.iter().enumerate().any(|(j, other)| match &other.request {
            Some(Request::RequestPut(other)) => i != j && other.key == put.key,
            Some(Request::RequestDeleteRange(delete)) => covers(delete, &put.key),
            _ => false,
        })
    })
}
