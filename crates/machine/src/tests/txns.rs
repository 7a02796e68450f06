//! Scenarios of compares and nested transactions.

use super::check;
use super::script::{Bench, settings};

#[test]
fn all_writes_of_a_transaction_share_one_revision_and_ranges_see_the_ones_before() {
    check(
        "
        put a 1 -> rev=2
        txn if value:a=1 then get a ; put a 2 ; get a ; put b 1 ; del a ; get a * else end \
            -> rev=3 then [rev=2 count=1 a=1@c2m2v1 | rev=3 | rev=3 count=1 a=2@c2m3v2 | rev=3 | rev=3 deleted=1 | \
            rev=3 count=1 b=1@c3m3v1]
        txn if value:a=1 then put a 2 else get b end -> rev=3 else [rev=3 count=1 b=1@c3m3v1]
        txn if version:a=0 then del x else end -> rev=3 then [rev=3 deleted=0]
        put a 1 -> rev=4
        ",
    );
}

#[test]
fn a_value_that_is_not_there_compares_false_and_all_else_as_zero() {
    check(
        "
        read if value:x=1 then else end -> rev=1 else []
        read if value:x!=1 then else end -> rev=1 else []
        read if value?:x=1 then else end -> rev=1 else []
        read if version:x=0 create:x=0 mod:x=0 lease:x=0 then else end -> rev=1 then []
        read if version:x<1 version:x>-1 version:x!=1 then else end -> rev=1 then []
        read if version:x..z=0 then else end -> rev=1 then []
        read if value:x..z!=1 then else end -> rev=1 else []
        ",
    );
}

#[test]
fn a_compare_of_a_range_must_hold_for_every_key() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        put a 1 lease=7 -> rev=2
        put b 1 -> rev=3
        put b 1 -> rev=4
        txn if create:a..c>1 then put hit 1 else end -> rev=5 then [rev=5]
        txn if version:a..c=1 then put hit 1 else del none end -> rev=5 else [rev=5 deleted=0]
        txn if value:a..c=1 then del none else end -> rev=5 then [rev=5 deleted=0]
        txn if value:a..*=1 mod:a..*>1 then del none else end -> rev=5 then [rev=5 deleted=0]
        txn if lease:a=7 then del none else end -> rev=5 then [rev=5 deleted=0]
        txn if lease:a..c=7 then del none else end -> rev=5 else []
        txn if value?:a=1 then del none else end -> rev=5 else []
        txn if version?:a>0 then del none else end -> rev=5 then [rev=5 deleted=0]
        read if lease:a=7 lease:b=0 mod:b=4 create:b=3 version:b=2 version:a..c>0 then get a else end \
            -> rev=5 then [rev=5 count=1 a=1@c2m2v1L7]
        ",
    );
}

/// Three values exceed what is compared in one piece.
#[test]
fn a_compare_of_many_bytes_must_hold_for_every_key_too() {
    let v = "v".repeat(600_000);
    check(&format!(
        "
        put a {v} -> rev=2
        put b {v} -> rev=3
        put c {v} -> rev=4
        read if value:a..d={v} then else end -> rev=4 then []
        put c 1 -> rev=5
        read if value:a..d={v} then else end -> rev=5 else []
        read if value:c..d=1 then else end -> rev=5 then []
        "
    ));
}

#[test]
fn one_refusal_refuses_the_whole_transaction() {
    let refused = [
        ("put b 2 lease=9", "etcdserver: requested lease not found"),
        ("put b ignore_value", "etcdserver: key not found"),
        ("put b 2 ignore_lease", "etcdserver: key not found"),
        ("get a rev=4", "etcdserver: mvcc: required revision is a future revision"),
        ("get a rev=2", "etcdserver: mvcc: required revision has been compacted"),
        ("get a rev=-2", "etcdserver: mvcc: required revision has been compacted"),
        ("txn then put b 2 lease=9 else end", "etcdserver: requested lease not found"),
    ];
    for (op, text) in refused {
        check(&format!(
            "
            put a 1 -> rev=2
            put a 2 -> rev=3
            compact 3 -> rev=3
            txn then put c 1 ; {op} else end -> refused: {text}
            get a * -> rev=3 count=1 a=2@c2m3v2
            txn if version:a=0 then {op} else del none end -> rev=3 else [rev=3 deleted=0]
            "
        ));
    }
}

/// etcd 3.7.3 accepts these, and its members panic while executing them.
#[test]
fn a_put_cannot_keep_what_the_transaction_deletes_before_it() {
    let refused = [
        "del j * ; put k ignore_value",
        "del k ; put k 2 ignore_lease",
        "put x 1 ; del a z ; put k ignore_value prev",
        "txn then del j * else end ; put k ignore_value",
        "del j * ; txn then txn then put k ignore_value else end else end",
        "del j * ; put j 2 ; put k ignore_value",
        "del k ; put k 2 ; del j * ; put k ignore_value",
        "txn if version:k=1 then del k else end ; txn if version:k=1 then put k ignore_value else end",
    ];
    for ops in refused {
        for by in ["", "elsewhere "] {
            check(&format!(
                "
                put k 1 -> rev=2
                {by}txn then {ops} else end -> refused: etcdserver: key not found
                get a * -> rev=2 count=1 k=1@c2m2v1
                put x 1 -> rev=3
                "
            ));
        }
    }
}

#[test]
fn a_put_keeps_what_no_operation_of_the_branches_taken_deletes_before_it() {
    let accepted = [
        "put k ignore_value ; del l *",
        "del a k ; put k ignore_value",
        "del m a ; put k ignore_value",
        "del j * ; put k 1 ; put k ignore_value",
        "txn if version:k=9 then del k else end ; put k ignore_value",
        "del l * ; txn then else del k end ; txn then put k ignore_value else end",
        // The second condition is evaluated before the transaction: nothing is put.
        "put j 1 ; txn if version:j=1 then del j * ; put k ignore_value else put k ignore_value end",
    ];
    for ops in accepted {
        let mut bench = Bench::new(settings());
        bench.run("put k 1");
        let answer = bench.run(&format!("txn then {ops} else end"));
        assert!(answer.starts_with("rev=3 then"), "{ops}: {answer}");
        assert!(bench.run("get k").starts_with("rev=3 count=1 k=1@"), "{ops}");
    }
}

#[test]
fn what_etcd_refuses_keeps_its_words() {
    check(
        "
        put k 1 -> rev=2
        txn then del j * ; put k ignore_value ; put z 1 lease=9 else end \
            -> refused: etcdserver: requested lease not found
        txn then del j * ; put k ignore_value ; get k rev=9 else end \
            -> refused: etcdserver: mvcc: required revision is a future revision
        txn then put n 1 ; put n ignore_value else end -> refused: etcdserver: key not found
        get a * -> rev=2 count=1 k=1@c2m2v1
        ",
    );
}

#[test]
fn nested_branches_are_chosen_before_anything_is_written() {
    check(
        "
        txn then put a 1 ; txn if version:a=0 then put b 1 ; txn if value:x=1 then else put c 1 end else put d 1 end \
            ; txn if version:a=1 then put e 1 else put f 1 end else end \
            -> rev=2 then [rev=2 | rev=0 then [rev=2 | rev=0 else [rev=2]] | rev=0 else [rev=2]]
        get a * -> rev=2 count=4 a=1@c2m2v1 b=1@c2m2v1 c=1@c2m2v1 f=1@c2m2v1
        ",
    );
}

#[test]
fn elsewhere_a_transaction_writes_the_same_without_running_its_ranges() {
    check(
        "
        elsewhere txn then put a 1 ; get a else end -> rev=2 then [rev=2 | rev=2 count=0]
        get a -> rev=2 count=1 a=1@c2m2v1
        ",
    );
}

#[test]
fn a_read_that_writes_is_a_fault() {
    check("read then put a 1 else end -> fault: broken invariant: a write was taken for a read-only request");
}

/// etcd nests as deep as the operations limit allows; prost alone decodes 50 levels.
#[test]
fn transactions_are_applied_as_deep_as_they_are_decoded() {
    // Half of the consensus thread's stack.
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
        let mut bench = Bench::new(settings());
        let deepest = proto::deep::LEVELS_MAX;
        for (rev, levels) in [(2, 51), (3, 127), (4, deepest)] {
            let nested = |inner: &str| {
                let (open, close) =
                    ("txn if version:k=0 then else ".repeat(levels - 1), " end".repeat(levels - 1));
                format!("txn then {open}{inner}{close} else end")
            };
            bench.run("put k 1");
            let answer = bench.run(&nested("get k ; del k ; put x ignore_value"));
            assert_eq!(answer, "refused: etcdserver: key not found", "{levels} levels");
            let answer = bench.run(&nested("put k 2 ignore_lease ; get k"));
            assert!(answer.starts_with(&format!("rev={}", rev * 2 - 1)), "{levels} levels: {answer}");
        }
        let deeper =
            format!("txn then {}{} else end", "txn then ".repeat(deepest), " else end".repeat(deepest));
        assert!(bench.run(&deeper).starts_with("fault: "));
    });
    thread.expect("a thread").join().expect("no panic");
}

#[test]
fn a_read_between_two_puts_of_a_key_sees_the_first() {
    check(
        "
        put a 1 -> rev=2
        txn then put a 2 prev ; get a ; txn then put a 3 prev ; get a * else end ; put a 4 prev ; get a * else end \
            -> rev=3 then [rev=3 prev a=1@c2m2v1 | rev=3 count=1 a=2@c2m3v2 | rev=0 then [rev=3 prev a=2@c2m3v2 | \
            rev=3 count=1 a=3@c2m3v3] | rev=3 prev a=3@c2m3v3 | rev=3 count=1 a=4@c2m3v4]
        ",
    );
}
