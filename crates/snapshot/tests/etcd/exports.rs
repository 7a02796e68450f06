//! What we export, read by etcd's tools.

use crate::world::{World, judge, run};
use bbolt::{Limits, Reader, Value};
use std::collections::BTreeMap;
use std::fs;

type Entries = BTreeMap<String, Vec<u8>>;

/// The buckets of a file, each with its entries; keys as text, escaped.
fn buckets(file: &[u8]) -> BTreeMap<String, Entries> {
    let reader = Reader::open(file, Limits::DEFAULT).expect("a file");
    let mut all: BTreeMap<String, Entries> = BTreeMap::new();
    reader
        .walk(&mut |item| {
            let key = item.key.escape_ascii().to_string();
            match (item.path, item.value) {
                ([], _) => _ = all.insert(key, Entries::new()),
                ([bucket], Value::Bytes(value)) => {
                    let bucket = bucket.escape_ascii().to_string();
                    all.entry(bucket).or_default().insert(key, value.to_vec());
                }
                other => panic!("{other:?}"),
            }
            Ok::<_, bbolt::ReadError>(())
        })
        .expect("a whole file");
    all
}

#[test]
fn an_empty_member_has_every_bucket() {
    let all = buckets(&World::new().file(u64::MAX));
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    let expected = [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ];
    assert_eq!(names, expected);
    let filled: Vec<&String> =
        all.iter().filter(|(_, entries)| !entries.is_empty()).map(|(name, _)| name).collect();
    assert_eq!(filled, ["auth"], "what etcd writes at a first start");
}

#[test]
fn the_buckets_hold_what_etcds_hold() {
    let mut world = World::some(4, 0);
    world.request(|request| {
        let put = proto::etcdserverpb::PutRequest {
            key: "a".into(),
            value: "1".into(),
            lease: 7,
            ..Default::default()
        };
        request.put = Some(put);
    });
    world.raise_alarms();
    let all = buckets(&world.file(u64::MAX));
    let text = |bucket: &str, key: &str| String::from_utf8(all[bucket][key].clone()).expect("text");
    assert_eq!(text("cluster", "clusterVersion"), "3.7.0");
    assert_eq!(text("meta", "storageVersion"), "3.7.0");
    assert_eq!(
        text("meta", "confState"),
        r#"{"voters":[1,254,32622,18364758544493064720],"auto_leave":false}"#
    );
    assert_eq!(all["meta"]["consistent_index"], world.machine.applied().0.to_be_bytes());
    assert_eq!(all["meta"]["term"], 3_u64.to_be_bytes());
    assert!(!all["meta"].contains_key("finishedCompactRev"), "nothing was compacted");
    assert_eq!(
        text("members", "fedcba9876543210"),
        r#"{"id":18364758544493064720,"peerURLs":["http://m18364758544493064720:2380"],"name":"m18364758544493064720"}"#
    );
    assert_eq!((all["members"].len(), all["members_removed"].len()), (4, 6));
    assert_eq!(text("members_removed", "1fdb97530eca864"), "removed");
    assert_eq!(all["lease"][r"\x00\x00\x00\x00\x00\x00\x00\x07"], [8, 7, 16, 60, 24, 17]);
    assert_eq!(all["alarm"].keys().collect::<Vec<_>>(), [r"\x08\x01\x10\x01", r"\x08\xac\x02\x10\x01"]);
    let row = r"\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00";
    assert_eq!(all["key"][row], b"\x0a\x01a\x10\x02\x18\x02\x20\x01\x2a\x011\x30\x07");
}

#[test]
fn steps_of_any_length_give_the_same_bytes() {
    for seed in 0..4 {
        let world = World::some(seed, 300);
        let file = world.file(u64::MAX);
        for step_bytes in [0, 1, 700, 10_000] {
            assert!(world.file(step_bytes) == file, "steps of {step_bytes} bytes, seed {seed}");
            // A peer's is the same without the checksum.
            assert!(world.peer_file(step_bytes) == file[..file.len() - 32], "a peer's, {step_bytes} bytes");
        }
    }
}

#[test]
fn etcds_tools_check_and_hash_what_we_export() {
    let (Some(etcdutl), Some(check)) = (judge("QUORATE_ETCDUTL"), judge("QUORATE_BBOLTCHECK")) else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    for seed in 0..8 {
        let mut world = World::some(seed, 120 * seed);
        if seed % 2 == 1 {
            world = world.half_compacted(usize::try_from(10 * seed).expect("small"));
        }
        let file = world.file(5_000);
        let path = dir.path().join(format!("db{seed}"));
        let name = path.to_str().expect("a name");
        fs::write(&path, &file).expect("a file");
        assert!(run(&check, &["check", name]).ends_with(&format!("end 10 {}\n", entries(&file))));
        let status = run(&etcdutl, &["snapshot", "status", name, "-w", "json"]);
        // Without the hashes that compactions left: etcd's did not survive either.
        world = World::on(world.engine);
        let view = world.machine.shared().view();
        let (newest, size) = (last_revision(&file), file.len() - 32);
        assert!(status.contains(&format!("\"revision\":{newest},")), "{status}");
        assert!(status.contains(&format!("\"totalSize\":{size},\"version\":\"3.7.0\"")), "{status}");
        // etcd finishes a compaction under way before it hashes.
        while world.machine.idle().expect("memory does not fail") {}
        let (first, last) = (view.compact_revision().max(1), view.revision());
        let step = usize::try_from(1 + (last - first) / 12).expect("small");
        for revision in (first..=last).step_by(step).chain([last]) {
            fs::write(&path, &file[..size]).expect("a file");
            let theirs = run(&etcdutl, &["hashkv", name, "--rev", &revision.to_string(), "-w", "json"]);
            let ours = world.machine.shared().view().hash_kv(revision).expect("a hash");
            let expected = format!(
                r#"{{"hash":{},"hashRevision":{revision},"compactRevision":{}}}"#,
                ours.hash, ours.compact_revision
            );
            assert_eq!(theirs.trim(), expected, "seed {seed}");
        }
    }
}

fn entries(file: &[u8]) -> usize {
    buckets(file).values().map(BTreeMap::len).sum()
}

/// The newest revision that has a row.
fn last_revision(file: &[u8]) -> i64 {
    let reader = Reader::open(file, Limits::DEFAULT).expect("a file");
    let (mut cursor, mut last) = (reader.bucket(b"key").expect("a search").expect("a bucket").cursor(), 0);
    while let Some(entry) = cursor.next_entry().expect("an entry") {
        last = i64::from_be_bytes(entry.key[..8].try_into().expect("eight bytes"));
    }
    last
}
