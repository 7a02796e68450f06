//! Scenarios of members, versions, alarms and quota.

use super::script::{check, check_with, settings};
use crate::Settings;

const BOOT: &str = r#"
    add 1 http://a -> AddNode 1 {"id":1,"peerURLs":["http://a"]}
    add 2 http://b -> AddNode 2 {"id":2,"peerURLs":["http://b"]}
"#;

fn after_boot(script: &str) {
    check(&format!("{BOOT}{script}"));
}

#[test]
fn a_member_joins_learns_votes_moves_and_leaves() {
    after_boot(
        r#"
        learner 3 http://c -> AddLearner 3 {"id":3,"peerURLs":["http://c"],"isLearner":true}
        members -> [{"id":1,"peerURLs":["http://a"]},{"id":2,"peerURLs":["http://b"]},\
            {"id":3,"peerURLs":["http://c"],"isLearner":true}] removed [] voters [1, 2] learners [3] version none
        attr 3 carol http://c:2379 -> published
        promote 3 -> AddNode 3 {"id":3,"peerURLs":["http://c"],"name":"carol","clientURLs":["http://c:2379"]}
        update 3 http://d -> Update 3 {"id":3,"peerURLs":["http://d"],"name":"carol","clientURLs":["http://c:2379"]}
        remove 1 -> Remove 1
        members -> [{"id":2,"peerURLs":["http://b"]},\
            {"id":3,"peerURLs":["http://d"],"name":"carol","clientURLs":["http://c:2379"]}] removed [1] voters [2, 3] learners [] version none
        "#,
    );
}

#[test]
fn a_refused_change_tells_raft_nothing() {
    after_boot(
        r#"
        add 2 http://x -> AddNode 0 refused: etcdserver: member ID already exist
        add 3 http://b -> AddNode 0 refused: etcdserver: Peer URLs already exists
        learner 3 http://c -> AddLearner 3 {"id":3,"peerURLs":["http://c"],"isLearner":true}
        learner 4 http://d -> AddLearner 0 refused: etcdserver: too many learner members in cluster
        promote 9 -> AddNode 0 refused: etcdserver: member not found
        promote 2 -> AddNode 0 refused: etcdserver: can only promote a learner member
        update 9 http://x -> Update 0 refused: etcdserver: member not found
        update 2 http://a -> Update 0 refused: etcdserver: Peer URLs already exists
        update 2 http://b -> Update 2 {"id":2,"peerURLs":["http://b"]}
        remove 9 -> Remove 0 refused: etcdserver: member not found
        remove 2 -> Remove 2
        remove 2 -> Remove 0 refused: membership: ID removed
        add 2 http://b -> AddNode 0 refused: membership: ID removed
        attr 2 late http://b:2379 -> published
        members -> [{"id":1,"peerURLs":["http://a"]},{"id":3,"peerURLs":["http://c"],"isLearner":true}] removed [2] voters [1] learners [3] version none
        "#,
    );
}

#[test]
fn a_change_that_etcd_panics_on_is_a_fault() {
    after_boot(
        r#"
        change 0 3 {"id":4,"peerURLs":[]} -> fault: entry 3 cannot be applied: a change of member 3 describes member 4
        change 7 3 {} -> fault: entry 3 cannot be applied: unknown kind of change 7
        change 0 3 nonsense -> fault: entry 3 cannot be applied: a change's context is no JSON of a member: expected ident at line 1 column 2
        remove 1 -> Remove 1
        remove 2 -> fault: entry 4 cannot be applied: a change of member 2 leaves no voter
        attr 9 x http://x -> fault: entry 4 cannot be applied: attributes of member 9, which nobody knows
        attr 2 -> fault: entry 4 cannot be applied: attributes are missing
        "#,
    );
}

#[test]
fn versions_and_downgrades_are_remembered() {
    check(
        r#"
        version 3.6.0 -> published
        version 3.8.0 -> fault: entry 2 cannot be applied: cluster version 3.8.0 is above this member's 3.7
        version new -> fault: entry 2 cannot be applied: cluster version "new" is no version
        downgrade on 3.6.0 -> published
        members -> [] removed [] voters [] learners [] version 3.6.0 {"target-version":"3.6.0","enabled":true}
        downgrade 3.6.0 -> published
        version 3.7.0 -> published
        downgrade_test -> published
        members -> [] removed [] voters [] learners [] version 3.7.0 {"target-version":"","enabled":false}
        "#,
    );
}

#[test]
fn alarms_are_raised_listed_and_disarmed() {
    check(
        "
        alarm on 5 1 -> alarms 5:1
        alarm on 5 1 -> alarms 5:1
        alarm on 4 2 -> alarms 4:2
        alarm on 4 0 -> alarms
        alarm odd 4 1 -> alarms
        alarm get 0 0 -> alarms 5:1 4:2
        alarm get 0 1 -> alarms 5:1
        alarm off 6 1 -> alarms
        alarm off 5 0 -> alarms
        alarms -> alarms 5:1 4:2
        restart
        alarm off 5 1 -> alarms 5:1
        alarm off 4 2 -> alarms 4:2
        alarms -> alarms
        ",
    );
}

#[test]
fn without_space_only_what_frees_it_goes_through() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        put a 1 lease=7 -> rev=2
        put b 1 -> rev=3
        alarm on 5 1 -> alarms 5:1
        put a 2 -> refused: etcdserver: mvcc: database space exceeded
        grant 8 60 -> refused: etcdserver: mvcc: database space exceeded
        txn if version:a=0 then put a 2 else del b end -> refused: etcdserver: mvcc: database space exceeded
        txn then txn then put a 2 else end else end -> refused: etcdserver: mvcc: database space exceeded
        txn then del b else end -> rev=4 then [rev=4 deleted=1]
        range a -> rev=4 count=1 a=1@c2m2v1L7
        compact 3 -> rev=4
        revoke 7 -> rev=5
        del a -> rev=5 deleted=0
        alarm off 5 1 -> alarms 5:1
        put a 2 -> rev=6
        ",
    );
}

#[test]
fn a_corrupt_cluster_does_nothing_but_alarms_and_members() {
    let corrupt = "refused: etcdserver: corrupt cluster";
    check(&format!(
        r#"
        grant 7 60 -> rev=1 id=7 ttl=60
        put a 1 -> rev=2
        alarm on 5 2 -> alarms 5:2
        alarm on 5 1 -> alarms 5:1
        put a 2 -> {corrupt}
        range a -> {corrupt}
        del a -> {corrupt}
        txn then del a else end -> {corrupt}
        compact 2 -> {corrupt}
        grant 8 60 -> {corrupt}
        revoke 7 -> {corrupt}
        checkpoint 7 30 -> rev=2
        add 1 http://a -> AddNode 1 {{"id":1,"peerURLs":["http://a"]}}
        version 3.7.0 -> published
        get a -> rev=2 count=1 a=1@c2m2v1
        alarm off 5 2 -> alarms 5:2
        put a 2 -> refused: etcdserver: mvcc: database space exceeded
        checkpoint 7 0 -> rev=2
        "#
    ));
}

#[test]
fn a_put_beyond_the_quota_takes_effect_and_asks_for_the_alarm() {
    // An empty store counts as 20,480 bytes.
    let settings = Settings { quota_bytes: 20_480 + 256 + 3, ..settings() };
    check_with(
        settings,
        "
        put a 1 -> rev=2
        put b 1 -> refused: etcdserver: mvcc: database space exceeded over quota
        get a * -> rev=3 count=2 a=1@c2m2v1 b=1@c3m3v1
        txn then put b 2 else end -> refused: etcdserver: mvcc: database space exceeded over quota
        txn then del b else end -> rev=5 then [rev=5 deleted=1]
        put b 1 lease=9 -> refused: etcdserver: requested lease not found
        del a -> rev=6 deleted=1
        alarm on 1 1 -> alarms 1:1
        put a 1 -> refused: etcdserver: mvcc: database space exceeded
        ",
    );
}
