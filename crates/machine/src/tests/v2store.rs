//! The dump for etcd 3.5 and 3.6, against the one that etcd 3.5.35 makes after the same changes (`v2store.json`, without its
//! statistics and its queue of events).

use super::script::{Bench, settings};
use crate::v2_store;
use engine::Engine as _;
use serde_json::{Map, Value};
use std::sync::Arc;

fn dump(commands: &[&str]) -> String {
    let mut bench = Bench::new(settings());
    for command in commands {
        let said = bench.run(command);
        assert!(!said.contains("refused") && !said.contains("fault"), "{command}: {said}");
    }
    let rows = Arc::clone(&bench.engine).snapshot();
    String::from_utf8(v2_store(&*rows).expect("its own rows")).expect("text")
}

fn object(json: &str) -> Map<String, Value> {
    match serde_json::from_str(json).expect("JSON") {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

/// Checks that a node is etcd's, with all below it. What it leaves out is zero in etcd's, or a number that nobody asks for.
fn check(mut ours: Map<String, Value>, mut theirs: Map<String, Value>) {
    let path = ours["Path"].clone();
    for left_out in ["CreatedIndex", "ModifiedIndex", "ExpireTime"] {
        let value = theirs.remove(left_out).expect("etcd's has it");
        assert!(
            value.is_number() || value == "0001-01-01T00:00:00Z",
            "{path}: {value} would have to be there"
        );
    }
    match (ours.remove("Children"), theirs.remove("Children")) {
        (Some(Value::Null), Some(Value::Null)) => {}
        (Some(Value::Object(ours)), Some(Value::Object(mut theirs))) => {
            for (name, child) in ours {
                let Value::Object(child) = child else { panic!("{path}: {name} is no node") };
                let other = theirs.remove(&name).unwrap_or_else(|| panic!("{path}: etcd has no {name}"));
                let Value::Object(other) = other else { panic!("{path}: {name} is no node") };
                check(child, other);
            }
            assert!(theirs.is_empty(), "{path} lacks {:?}", theirs.keys());
        }
        (ours, theirs) => panic!("{path}: {ours:?} for {theirs:?}"),
    }
    // A value that is JSON itself may differ in what is escaped.
    let value = |node: &mut Map<String, Value>| {
        let text = node.remove("Value").expect("a value");
        let text = text.as_str().expect("text").to_owned();
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    assert_eq!(value(&mut ours), value(&mut theirs), "{path}");
    assert_eq!(ours, theirs, "{path}");
}

#[test]
fn members_are_where_etcd_looks_for_them() {
    let dump = dump(&[
        "add 1 http://a:2380",
        "add 18364758544493064720 http://b?x=1&y=<2>",
        "add 3 http://c",
        "learner 4 http://d",
        "attr 1 m1 http://a:2379",
        "remove 3",
        "version 3.5.0",
    ]);
    let (mut ours, mut theirs) = (object(&dump), object(include_str!("v2store.json")));
    let root = |store: &mut Map<String, Value>| match store.remove("Root") {
        Some(Value::Object(root)) => root,
        other => panic!("{other:?}"),
    };
    check(root(&mut ours), root(&mut theirs));
    assert!(ours.is_empty(), "{ours:?}");
    assert!(dump.len() < 1_200, "{} bytes", dump.len());
}

#[test]
fn a_cluster_without_a_version_has_none_and_a_name_alone_is_not_published() {
    let dump = dump(&[r#"change 0 5 {"id":5,"peerURLs":["http://a"],"name":"m5"}"#]);
    let expected = concat!(
        r#"{"Root":{"Path":"/","Value":"","Children":{"0":{"Path":"/0","Value":"","Children":{"#,
        r#""members":{"Path":"/0/members","Value":"","Children":{"5":{"Path":"/0/members/5","Value":"","Children":{"#,
        r#""raftAttributes":{"Path":"/0/members/5/raftAttributes","Value":"{\"peerURLs\":[\"http://a\"]}","Children":null}"#,
        r#"}}}},"removed_members":{"Path":"/0/removed_members","Value":"","Children":{}}}},"#,
        r#""1":{"Path":"/1","Value":"","Children":{}}}}}"#
    );
    assert_eq!(dump, expected);
}
