//! Restores: a new cluster on the rows of an old one.

use super::script::{Bench, rows, settings};
use crate::{Member, start_new_cluster};

const OLD: &[&str] = &[
    "add 1 http://a",
    "add 2 http://b",
    "remove 2",
    "version 3.7.0",
    "grant 7 60",
    "put a 1 lease=7",
    "put b 1",
    "put a 2 lease=7",
    "del b",
    "alarm on 1 1",
];

fn old() -> Bench {
    let mut bench = Bench::new(settings());
    for command in OLD {
        let said = bench.run(command);
        assert!(!said.contains("refused") && !said.contains("fault"), "{command}: {said}");
    }
    bench
}

fn member(id: u64) -> Member {
    Member { id, name: format!("m{id}"), peer_urls: vec![format!("http://new-{id}")], ..Member::default() }
}

fn restored(bump: Option<u64>) -> Bench {
    let engine = old().engine;
    start_new_cluster(&*engine, &[member(9), member(8)], (2, 2), bump).expect("memory does not fail");
    // The restore is durable when it returns.
    Bench::on(engine.crash().into(), settings())
}

#[test]
fn a_new_cluster_keeps_everything_but_the_members() {
    let (mut old, mut new) = (old(), restored(None));
    let members = new.run("members");
    assert!(
        members.starts_with(r#"[{"id":8,"peerURLs":["http://new-8"],"name":"m8"},{"id":9,"#),
        "{members}"
    );
    assert!(members.ends_with("removed [] voters [8, 9] learners [] version 3.7.0"), "{members}");
    assert_eq!(new.machine.applied(), (2, 2));
    assert_eq!(new.machine.shared().membership().cluster_version.as_deref(), Some("3.7.0"));
    for look in ["get a", "get b", "get a rev=2", "get b rev=3", "leases", "alarms"] {
        assert_eq!(new.run(look), old.run(look), "{look}");
    }
}

#[test]
fn a_bumped_cluster_goes_on_later_and_has_no_past() {
    let mut new = restored(Some(1_000));
    assert_eq!(new.run("get a"), "rev=1005 count=1 a=2@c2m4v2L7");
    assert_eq!(new.run("get a rev=1004"), "refused: etcdserver: mvcc: required revision has been compacted");
    assert_eq!(new.run("get a rev=1005"), "rev=1005 count=1 a=2@c2m4v2L7");
    while new.machine.idle().expect("memory does not fail") {}
    assert_eq!(new.machine.shared().view().compaction_done(), 1_005);
    let history: Vec<String> = rows(&*new.engine).into_iter().filter(|row| row.starts_with("revs")).collect();
    assert_eq!(history.len(), 2, "the newest version of what lives, and the row that raised: {history:#?}");
    assert!(new.run("put c 1").starts_with("refused"), "alarms are kept, as etcd keeps them");
    new.run("alarm off 1 1");
    assert_eq!(new.run("put c 1"), "rev=1006");
}

#[test]
fn revisions_end() {
    let engine = old().engine;
    let before = rows(&*engine);
    for by in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 5] {
        let error = start_new_cluster(&*engine, &[member(9)], (1, 2), Some(by)).expect_err("too far");
        assert!(error.to_string().starts_with("revision 5 cannot be raised by"), "{error}");
    }
    assert_eq!(rows(&*engine), before, "nothing is written then");
}
