//! What is imported has the same history, whoever wrote it.

use crate::world::{World, edited};
use engine::{Engine, MemoryEngine};
use snapshot::{load, status};
use std::sync::Arc;

/// A file without its checksum.
fn content(file: &[u8]) -> &[u8] {
    &file[..file.len() - 32]
}

fn imported(content: &[u8]) -> Result<World, String> {
    let engine = MemoryEngine::new();
    load(content, &engine, &mut |_, _| {}).map_err(|error| error.to_string())?;
    // The import is durable when it returns.
    Ok(World::on(Arc::new(engine.crash())))
}

/// The hash at every revision that can be read.
pub(crate) fn hashes(world: &World) -> Vec<mvcc::HashKv> {
    let view = world.machine.shared().view();
    let first = view.compact_revision().max(0);
    (first..=view.revision()).map(|revision| view.hash_kv(revision).expect("readable")).collect()
}

pub(crate) fn check(world: &World) {
    let store = mvcc::Store::open(Arc::clone(&world.engine) as Arc<dyn Engine>).expect("opens");
    assert_eq!(store.check().expect("readable"), Vec::<String>::new());
}

#[test]
fn what_was_exported_is_imported_with_its_history() {
    for seed in 0..30 {
        let mut old = World::some(seed, 20 * seed);
        if seed % 3 == 1 {
            old = old.half_compacted(usize::try_from(5 * seed).expect("small"));
        }
        if seed % 2 == 0 {
            old.raise_alarms();
        }
        let file = old.file(u64::MAX);
        let mut new = imported(content(&file)).expect("a snapshot");
        check(&new);
        old = World::on(old.engine);
        old.settles();
        assert_eq!(hashes(&old), hashes(&new), "seed {seed}");
        let (before, after) = (old.machine.shared(), new.machine.shared());
        assert_eq!(before.leases(), after.leases());
        assert_eq!(*before.alarms(), *after.alarms());
        assert_eq!(before.membership().cluster_version, after.membership().cluster_version);
        assert_eq!(before.sizes(), after.sizes(), "seed {seed}");
        assert!(after.membership().members.is_empty() && new.machine.applied() == (0, 0));
        // Both go on alike, chains included.
        for world in [&mut old, &mut new] {
            world.goes_on(seed, 100);
            check(world);
        }
        assert_eq!(hashes(&old), hashes(&new), "seed {seed}");
    }
}

#[test]
fn a_status_is_etcdutls() {
    let Some(etcdutl) = crate::world::judge("QUORATE_ETCDUTL") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("db");
    let name = path.to_str().expect("a name");
    for seed in 0..4 {
        let file = World::some(seed, 100 * seed).file(u64::MAX);
        std::fs::write(&path, &file).expect("a file");
        let theirs = crate::world::run(&etcdutl, &["snapshot", "status", name, "-w", "json"]);
        let ours = status(content(&file), &mut |_, _| {}).expect("a snapshot");
        let expected = format!(
            r#"{{"hash":{},"revision":{},"totalKey":{},"totalSize":{},"version":"{}"}}"#,
            ours.hash, ours.revision, ours.total_keys, ours.total_bytes, ours.version
        );
        assert_eq!(theirs.trim(), expected);
    }
}

/// A snapshot with one more entry.
fn with(bucket: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
    edited(&World::some(1, 30).peer_file(u64::MAX), |all| {
        all.entry(bucket.as_bytes().to_vec()).or_default().insert(key.to_vec(), value.to_vec());
    })
}

#[test]
fn what_etcd_would_not_write_is_refused_by_name() {
    let refused = |bucket: &str, key: &[u8], value: &[u8]| {
        imported(&with(bucket, key, value)).err().unwrap_or_else(|| panic!("{bucket} was imported"))
    };
    let auth =
        "the snapshot cannot be read: it has users and roles, which this version of quorate does not know";
    assert_eq!(refused("auth", b"authEnabled", &[1]), auth);
    assert_eq!(refused("authUsers", b"root", b"\x0a\x04root"), auth);
    assert_eq!(refused("authRoles", b"root", b"\x0a\x04root"), auth);
    for (bucket, key, value, words) in [
        ("lease", &[0; 8][..], &b"\x08\x01"[..], "bucket lease is damaged: it has another ID"),
        ("alarm", b"\xff", b"", "the entry \\xff of the bucket alarm is damaged"),
        ("cluster", b"clusterVersion", b"3.9.0", "bucket cluster is damaged: cluster version 3.9.0 is above"),
        ("cluster", b"downgrade", b"{", "the entry downgrade of the bucket cluster is damaged"),
        ("meta", b"finishedCompactRev", b"5", "the bucket meta is damaged: it is no revision"),
        ("meta", b"storageVersion", b"3.8.0", "is above this member's 3.7"),
        ("key", b"\x00\x01", b"", "the history is damaged at the key \\x00\\x01: it is no revision"),
    ] {
        let said = refused(bucket, key, value);
        assert!(said.starts_with("the snapshot cannot be read: ") && said.contains(words), "{said}");
    }
    imported(&with("later", b"key", b"value")).map(|_| ()).expect("etcd ignores what it does not know");
}

#[test]
fn a_damaged_file_is_refused_or_gives_a_sound_store() {
    let file = World::some(3, 200).file(u64::MAX);
    let content = content(&file);
    let mut refused = 0;
    for at in (0..content.len()).step_by(61) {
        let mut bad = content.to_vec();
        bad[at] ^= 1 << (at % 8);
        // bbolt has no sums over its data: a changed value passes.
        match imported(&bad) {
            Ok(world) => check(&world),
            Err(error) => {
                assert!(error.contains("snapshot"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused} were refused");
    for length in (0..content.len()).step_by(4_000) {
        let said = imported(&content[..length]).err().expect("a part of a file");
        assert!(said.starts_with("the snapshot cannot be read: bbolt: "), "{said}");
    }
    let foreign = bbolt::measure(bbolt::Options::DEFAULT, std::iter::empty::<(&str, [(&str, &str); 0])>());
    let foreign = foreign.and_then(|layout| {
        bbolt::write(Vec::new(), &layout, std::iter::empty::<(&str, [(&str, &str); 0])>())
    });
    let said = imported(&foreign.expect("a file")).err().expect("no keys");
    assert_eq!(said, "the file is no snapshot of etcd: it has no bucket of keys");
}
