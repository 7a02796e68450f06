//! Scenarios of put, delete, range and compaction.

use super::check;

#[test]
fn a_put_moves_the_revision_and_keeps_what_it_is_told_to_keep() {
    check(
        "
        put a 1 -> rev=2
        put a 2 prev -> rev=3 prev a=1@c2m2v1
        put b 1 prev -> rev=4
        put a ignore_value prev -> rev=5 prev a=2@c2m3v2
        put c ignore_value -> refused: etcdserver: key not found
        put c x ignore_lease -> refused: etcdserver: key not found
        put c x lease=9 -> refused: etcdserver: requested lease not found
        get a * -> rev=5 count=2 a=2@c2m5v3 b=1@c4m4v1
        ",
    );
}

#[test]
fn a_delete_moves_the_revision_only_if_there_was_something() {
    check(
        "
        put a 1 -> rev=2
        put b 2 -> rev=3
        put c 3 -> rev=4
        del x -> rev=4 deleted=0
        del a c prev -> rev=5 deleted=2 prev a=1@c2m2v1 b=2@c3m3v1
        del a * -> rev=6 deleted=1
        del a * prev -> rev=6 deleted=0
        put a 9 -> rev=7
        get a -> rev=7 count=1 a=9@c7m7v1
        ",
    );
}

#[test]
fn a_range_counts_what_it_does_not_return() {
    check(
        "
        put a 3 -> rev=2
        put b 2 -> rev=3
        put c 1 -> rev=4
        put a 4 -> rev=5
        get a * limit=1 -> rev=5 count=3 more a=4@c2m5v2
        get a * count -> rev=5 count=3
        get a * rev=2 -> rev=5 count=1 a=3@c2m2v1
        get a * rev=6 -> refused: etcdserver: mvcc: required revision is a future revision
        get a * rev=-4 count -> rev=5 count=3
        get a * min_mod=4 -> rev=5 count=3 a=4@c2m5v2 c=1@c4m4v1
        get a * max_create=3 limit=1 -> rev=5 count=3 more a=4@c2m5v2
        get a * sort=value:desc limit=2 -> rev=5 count=3 more a=4@c2m5v2 b=2@c3m3v1
        get a * sort=mod:none -> rev=5 count=3 b=2@c3m3v1 c=1@c4m4v1 a=4@c2m5v2
        get a * sort=key:desc limit=1 -> rev=5 count=3 more c=1@c4m4v1
        get a * sort=value:none limit=1 -> rev=5 count=3 more b=2@c3m3v1
        get c a -> rev=5 count=0
        get x -> rev=5 count=0
        ",
    );
}

#[test]
fn keys_without_values_come_without_leases_unless_sorted_by_value() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        put a 2 lease=7 -> rev=2
        put b 1 -> rev=3
        get a * keys -> rev=3 count=2 a=@c2m2v1 b=@c3m3v1
        get a * keys sort=value:asc -> rev=3 count=2 b=@c3m3v1 a=@c2m2v1L7
        get a -> rev=3 count=1 a=2@c2m2v1L7
        ",
    );
}

#[test]
fn a_compaction_is_refused_when_done_or_ahead_and_hides_what_is_older() {
    check(
        "
        put a 1 -> rev=2
        put a 2 -> rev=3
        put a 3 -> rev=4
        compact 5 -> refused: etcdserver: mvcc: required revision is a future revision
        compact 3 -> rev=4
        compact 3 -> refused: etcdserver: mvcc: required revision has been compacted
        compact 2 -> refused: etcdserver: mvcc: required revision has been compacted
        get a rev=2 -> refused: etcdserver: mvcc: required revision has been compacted
        get a rev=3 -> rev=4 count=1 a=2@c2m3v2
        get a -> rev=4 count=1 a=3@c2m4v3
        ",
    );
}

#[test]
fn a_range_in_the_log_is_answered_only_where_it_was_proposed() {
    check(
        "
        put a 1 -> rev=2
        range a -> rev=2 count=1 a=1@c2m2v1
        range a rev=9 -> refused: etcdserver: mvcc: required revision is a future revision
        elsewhere range a -> nothing
        noop -> nothing
        put a 2 -> rev=3
        ",
    );
}

#[test]
fn what_no_etcd_member_can_apply_is_a_fault_that_names_the_entry() {
    check(
        "
        put a 1 -> rev=2
        unknown -> fault: entry 2 cannot be applied: no request of a known kind
        headless -> fault: entry 2 cannot be applied: the request has no header
        user_add -> fault: entry 2 cannot be applied: auth_user_add: there is no auth store yet
        put a 2 -> rev=3
        ",
    );
}

/// etcd logs `auth status`: such an entry from an etcd member must not stop ours. Without users and roles the other
/// requests have no effect in etcd either.
#[test]
fn questions_to_an_auth_store_that_is_empty_change_nothing() {
    check(
        "
        put a 1 -> rev=2
        auth_status -> nothing
        auth_enable -> nothing
        user_get -> nothing
        put a 2 -> rev=3
        ",
    );
}
