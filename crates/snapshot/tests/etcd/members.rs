//! A member that receives its leader's snapshot goes on as one that has applied the same log.
//!
//! Rows are equal byte for byte while nothing was compacted. After that the database lacks what a row points to beyond the
//! compacted revision, so pointers (docs/mvcc-format.md) begin anew there. All else is equal, and what can be read.

use crate::imports::{check, hashes};
use crate::world::{Buckets, Dice, World, edited, judge, run};
use bytes::Bytes;
use engine::{Engine, Family, MemoryEngine};
use machine::Point;
use proto::etcdserverpb as pb;
use snapshot::{ImportError, load_member};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use types::ConfState;

/// The member of every world.
const MEMBER: u64 = 1;

fn installed(file: &[u8], announced: &Point) -> Result<World, ImportError> {
    let engine = MemoryEngine::new();
    let loaded = load_member(file, &engine, announced, MEMBER, &mut |_, _| {});
    // What is loaded is durable, and what is not is no state.
    let engine = engine.crash();
    for row in ["applied", "conf_state", "mvcc/state"] {
        let is_there = engine.get(Family::Meta, row.as_bytes()).expect("memory does not fail").is_some();
        let may_lack = row == "mvcc/state" && loaded.is_ok();
        assert!(is_there == loaded.is_ok() || may_lack, "{row}, {loaded:?}");
    }
    loaded.map(|()| World::on(Arc::new(engine)))
}

fn received(leader: &World) -> World {
    installed(&leader.peer_file(10_000), &leader.point()).expect("a snapshot")
}

type Rows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

fn rows(world: &World) -> Rows {
    let mut rows = Rows::new();
    for family in Family::ALL {
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.insert((family, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        };
        world.engine.scan(family, b"", None, visit).expect("memory does not fail");
    }
    rows
}

/// The rows without pointers among versions.
fn without_pointers(mut rows: Rows) -> Rows {
    for ((family, key), row) in &mut rows {
        match family {
            Family::Latest => {
                let record = usize::from(u16::from_le_bytes(*row.last_chunk().expect("a length")));
                row.truncate(row.len() - 2 - record);
            }
            Family::Revs => {
                let tail = usize::from(*row.last().expect("a length"));
                let kv = row.len() - 1 - tail;
                // The flags of a tombstone and of a creation.
                row[kv] &= 3;
                row.truncate(kv + 1);
            }
            Family::Meta if key.starts_with(b"mvcc/dead/") => row.clear(),
            Family::Meta => {}
        }
    }
    rows
}

/// Every event that can be read, with the version before it.
fn events(world: &World) -> Vec<(mvcc::Event, Option<mvcc::KeyValue>)> {
    let (view, mut events) = (world.machine.shared().view(), Vec::new());
    let (from, to) = (view.compact_revision().max(0), i64::MAX - 1);
    let visit = &mut |event: mvcc::Event| {
        let before = event.previous.and_then(|previous| view.before(event.at, previous).expect("readable"));
        // Where it points to is no client's business.
        events.push((mvcc::Event { previous: None, ..event }, before));
        ControlFlow::Continue(())
    };
    view.events(from, to, visit).expect("readable");
    events
}

/// The keys of all leases.
fn attachments(world: &World) -> Vec<(machine::LeaseInfo, Vec<Bytes>)> {
    let shared = world.machine.shared();
    let keys = |id| shared.lease_keys(id, None, usize::MAX).expect("there is one");
    shared.leases().into_iter().map(|lease| (lease, keys(lease.id))).collect()
}

/// Fails unless both are equal, opened anew: hashes that compactions left do not survive that.
fn compare(old: &mut World, new: &mut World, seed: u64) {
    for world in [&mut *old, &mut *new] {
        let compacts = world.compacts;
        *world = World::on(Arc::clone(&world.engine));
        world.compacts = compacts;
        world.settles();
        check(world);
    }
    let differ = |a: Rows, b: Rows| {
        let key =
            |rows: &Rows, key: &(Family, Vec<u8>)| rows.get(key).map(|row| row.escape_ascii().to_string());
        let keys = a.keys().chain(b.keys()).filter(|at| a.get(*at) != b.get(*at));
        keys.take(3)
            .map(|at| format!("{:?} {}: {:?}, {:?}", at.0, at.1.escape_ascii(), key(&a, at), key(&b, at)))
            .collect::<Vec<_>>()
    };
    let is_compacted = old.machine.shared().view().compact_revision() >= 0;
    let (mine, theirs) = (rows(old), rows(new));
    if !is_compacted {
        assert_eq!(differ(mine.clone(), theirs.clone()), Vec::<String>::new(), "seed {seed}");
    }
    assert_eq!(differ(without_pointers(mine), without_pointers(theirs)), Vec::<String>::new(), "seed {seed}");
    assert_eq!(hashes(old), hashes(new), "seed {seed}");
    assert_eq!(events(old), events(new), "seed {seed}");
    assert_eq!(attachments(old), attachments(new), "seed {seed}");
    assert!(old.peer_file(u64::MAX) == new.peer_file(u64::MAX), "what they export, seed {seed}");
    assert_eq!(old.point(), new.point(), "seed {seed}");
    assert_eq!(old.machine.conf_state(), new.machine.conf_state(), "seed {seed}");
    let (old, new) = (old.machine.shared(), new.machine.shared());
    assert_eq!(*old.membership(), *new.membership(), "seed {seed}");
    assert_eq!(*old.alarms(), *new.alarms(), "seed {seed}");
    assert_eq!(old.sizes(), new.sizes(), "seed {seed}");
}

#[test]
fn a_received_member_equals_one_that_applied_the_log_and_goes_on_alike() {
    for seed in 0..60 {
        let mut old = World::young();
        old.compacts = seed % 3 > 0;
        old.lives_on(seed, 12 * seed);
        if seed % 6 == 5 {
            old = old.half_compacted(usize::try_from(2 * seed).expect("small"));
        }
        let mut new = received(&old);
        new.compacts = old.compacts;
        compare(&mut old, &mut new, seed);
        for world in [&mut old, &mut new] {
            world.lives_on(seed + 1_000, 150);
        }
        compare(&mut old, &mut new, seed);
        // Compacted now, too.
        for world in [&mut old, &mut new] {
            world.compacts = true;
            world.lives_on(seed + 2_000, 100);
        }
        compare(&mut old, &mut new, seed);
        // And it can send what it received.
        compare(&mut old, &mut received(&new), seed);
    }
}

#[test]
fn the_smallest_states_are_received() {
    // No revision, and no member but those of the configuration.
    let mut old = World::young();
    compare(&mut old, &mut received(&World::young()), 0);
    // One key.
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..Default::default() };
    old.request(|request| request.put = Some(put));
    let mut new = received(&old);
    compare(&mut old, &mut new, 1);
    // No key: its tombstone, and then nothing but the revision.
    for world in [&mut old, &mut new] {
        let del = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
        world.request(|request| request.delete_range = Some(del));
    }
    let mut new = received(&old);
    compare(&mut old, &mut new, 2);
    old.request(|request| {
        request.compaction = Some(pb::CompactionRequest { revision: 3, physical: true });
    });
    old.settles();
    let mut new = received(&old);
    assert_eq!(new.machine.shared().view().revision(), 3);
    compare(&mut old, &mut new, 3);
}

#[test]
fn many_keys_are_received() {
    const KEYS: u64 = 100_000;
    let mut old = World::young();
    let mut dice = Dice(5);
    let mut puts = (0..KEYS).map(|key| {
        let value = vec![b'v'; usize::try_from(dice.below(60)).expect("small")];
        let lease = [0, 7][usize::from(key % 10 == 0)];
        pb::PutRequest { key: format!("{key:08}").into(), value: value.into(), lease, ..Default::default() }
    });
    while old.puts(puts.by_ref().take(1_000)) > 0 {}
    let mut new = received(&old);
    assert_eq!(new.machine.shared().sizes().keys, 100_000);
    assert_eq!(attachments(&old), attachments(&new));
    assert!(rows(&old) == rows(&new), "rows differ");
    old.settles();
    new.settles();
    assert!(old.peer_file(u64::MAX) == new.peer_file(1_000), "what they export");
}

/// A leader with everything in its state, what it sends, and what it says of it.
fn leader() -> (World, Vec<u8>, Point) {
    let mut world = World::young();
    world.lives_on(11, 400);
    let file = world.peer_file(u64::MAX);
    let point = world.point();
    (world, file, point)
}

fn refused(file: &[u8], announced: &Point) -> String {
    installed(file, announced).map(|_| ()).expect_err("it was taken").to_string()
}

#[test]
fn a_database_of_another_point_is_refused_by_name() {
    let (_, file, point) = leader();
    let (index, term) = (point.index, point.term);
    let said = |announced: Point| refused(&file, &announced);
    assert_eq!(
        said(Point { index: index + 1, ..point.clone() }),
        format!(
            "the snapshot cannot be installed: its consistent_index is {index}, but the leader announces {}",
            index + 1
        )
    );
    assert_eq!(
        said(Point { term: term - 1, ..point.clone() }),
        format!(
            "the snapshot cannot be installed: its term is {term}, but the leader announces {}",
            term - 1
        )
    );
    // The order of the members does not matter, nor does it reach the rows.
    let mut turned = point.clone();
    turned.conf.voters.reverse();
    assert_eq!(installed(&file, &turned).expect("the same members").point(), point);

    let without = |key: &str| edited(&file, |all| drop(entries(all, "meta").remove(key.as_bytes())));
    let missing = "the snapshot cannot be installed: its term is missing, but the leader announces 3";
    assert_eq!(refused(&without("term"), &point), missing);
    assert!(refused(&without("consistent_index"), &point).contains("its consistent_index is missing"));
}

#[test]
fn the_members_by_role_are_the_messages() {
    let (_, file, point) = leader();
    let conf = ConfState { voters: vec![5, 1], learners: vec![9] };
    let announced = Point { conf, ..point.clone() };
    for stale in [None, Some(r#"{"voters":[7],"voters_outgoing":[8],"auto_leave":true}"#), Some("junk")] {
        let file = edited(&file, |all| {
            let meta = entries(all, "meta");
            meta.remove(&b"confState"[..]);
            meta.extend(stale.map(|json| (b"confState".to_vec(), json.into())));
        });
        let taken = installed(&file, &announced).expect("its own is not looked at").machine.conf_state();
        assert_eq!((taken.voters, taken.learners), (vec![1, 5], vec![9]), "{stale:?}");
    }
}

fn entries<'b>(all: &'b mut Buckets, bucket: &str) -> &'b mut BTreeMap<Vec<u8>, Vec<u8>> {
    all.get_mut(bucket.as_bytes()).expect("every bucket is there")
}

#[test]
fn a_database_that_does_not_know_the_member_is_refused() {
    let (_, file, point) = leader();
    let stranger = "the snapshot cannot be installed: it does not know this member, 1";
    let gone = edited(&file, |all| {
        entries(all, "members").remove(&b"1"[..]);
        entries(all, "members_removed").insert(b"1".to_vec(), b"removed".to_vec());
    });
    assert_eq!(refused(&gone, &point), stranger);
    let nobody = edited(&file, |all| drop(all.remove(&b"members"[..])));
    assert_eq!(refused(&nobody, &point), stranger);
}

#[test]
fn what_no_etcd_writes_is_refused_by_name() {
    let (_, file, point) = leader();
    let with = |bucket: &str, key: &[u8], value: &[u8]| {
        edited(&file, |all| drop(entries(all, bucket).insert(key.to_vec(), value.to_vec())))
    };
    let member = br#"{"id":10,"peerURLs":["http://a"]}"#;
    for (bucket, key, value, words) in [
        ("members", &b"a"[..], &b"{"[..], "the entry a of the bucket members is damaged: EOF"),
        ("members", b"b", member, "the entry b of the bucket members is damaged: it has another ID"),
        ("members", b"0a", member, "the entry 0a of the bucket members is damaged: it is no ID of a member"),
        ("members", b"A", member, "the entry A of the bucket members is damaged: it is no ID of a member"),
        ("members_removed", b"x", b"removed", "the entry x of the bucket members_removed is damaged"),
        ("members_removed", &[b'f'; 17], b"removed", "is damaged: it is no ID of a member"),
        ("meta", b"consistent_index", b"7", "the entry consistent_index of the bucket meta is damaged"),
        ("meta", b"term", b"", "the entry term of the bucket meta is damaged: it is no number of 8 bytes"),
        ("meta", b"storageVersion", b"3.8.0", "is above this member's 3.7"),
        ("meta", b"scheduledCompactRev", b"5", "the bucket meta is damaged: it is no revision"),
        ("auth", b"authEnabled", &[1], "it has users and roles"),
        ("lease", &[0; 8], b"\x08\x01", "bucket lease is damaged: it has another ID"),
        ("key", b"\x00\x01", b"", "the history is damaged at the key \\x00\\x01: it is no revision"),
    ] {
        let said = refused(&with(bucket, key, value), &point);
        assert!(
            said.starts_with("the snapshot cannot be read: ") && said.contains(words),
            "{bucket}: {said}"
        );
    }
    // As Go writes it.
    let go = br#"{"id":10,"peerURLs":["http://a\u0026b"],"name":"\u003cme\u003e","clientURLs":null}"#;
    let taken = installed(&with("members", b"a", go), &point).expect("etcd's JSON");
    let ours = r#"{"id":10,"peerURLs":["http://a&b"],"name":"<me>"}"#;
    let row = (Family::Meta, [&b"member/"[..], &10_u64.to_be_bytes()].concat());
    assert_eq!(rows(&taken)[&row], ours.as_bytes());
}

#[test]
fn a_damaged_database_is_refused_or_gives_a_sound_state() {
    let (_, file, point) = leader();
    let (mut taken, mut refusals) = (0, 0);
    for at in (0..file.len()).step_by(37) {
        let mut bad = file.clone();
        bad[at] ^= 1 << (at % 8);
        // bbolt has no sums over its data: a changed value passes. So does the older of two metas.
        match installed(&bad, &point) {
            Ok(world) => {
                check(&world);
                assert_eq!(
                    (world.machine.applied(), world.point()),
                    ((point.index, point.term), point.clone())
                );
                taken += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("snapshot"), "{error}");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 50 && taken > 50, "{refusals} were refused, {taken} were taken");
    for length in (0..file.len()).step_by(1_021).chain([file.len() - 1]) {
        let said = refused(&file[..length], &point);
        assert!(said.starts_with("the snapshot cannot be read: bbolt: "), "{length}: {said}");
    }
    // Pages in each other's places.
    let mut swapped = file.clone();
    let (front, back) = swapped.split_at_mut(5 * 4_096);
    front[3 * 4_096..4 * 4_096].swap_with_slice(&mut back[..4_096]);
    assert!(refused(&swapped, &point).starts_with("the snapshot cannot be read: bbolt: "));
}

#[test]
fn what_etcds_own_tool_writes_is_received() {
    let Some(etcdutl) = judge("QUORATE_ETCDUTL") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("a name").to_owned();
    for seed in 0..4 {
        let mut old = World::young();
        old.lives_on(seed, 100 * seed);
        old.settles();
        std::fs::write(path("db"), old.file(u64::MAX)).expect("a file");
        let (data, url) = (path(&format!("data{seed}")), "http://a:2380");
        let arguments = [
            "snapshot",
            "restore",
            &path("db"),
            "--data-dir",
            &data,
            "--name",
            "m1",
            "--initial-cluster",
            &format!("m1={url}"),
            "--initial-advertise-peer-urls",
            url,
        ];
        run(&etcdutl, &arguments);
        let file = std::fs::read(format!("{data}/member/snap/db")).expect("a database");
        let mut found = (0, Point::default());
        let _ = edited(&file, |all| found = announced(all));
        let (member, point) = found;
        let engine = MemoryEngine::new();
        load_member(&file[..], &engine, &point, member, &mut |_, _| {}).expect("etcd's database");
        let new = World::on(Arc::new(engine.crash()));
        check(&new);
        assert_eq!(new.point(), point);
        let membership = new.machine.shared().membership();
        assert_eq!(membership.members[&member].peer_urls, [url]);
        assert_eq!((membership.members.len(), point.conf.voters.as_slice()), (1, &[member][..]));
        let old = World::on(old.engine);
        assert_eq!(hashes(&old), hashes(&new), "seed {seed}");
        assert_eq!((events(&old), attachments(&old)), (events(&new), attachments(&new)), "seed {seed}");
    }
}

/// The only member of a database of etcd's, and where it stands.
fn announced(all: &mut Buckets) -> (u64, Point) {
    let number = |bytes: &Vec<u8>| u64::from_be_bytes(bytes[..].try_into().expect("8 bytes"));
    let meta = &all[&b"meta"[..]];
    let (index, term) = (number(&meta[&b"consistent_index"[..]]), number(&meta[&b"term"[..]]));
    let member = all[&b"members"[..]].keys().next().expect("a member");
    let member = u64::from_str_radix(std::str::from_utf8(member).expect("text"), 16).expect("an ID");
    (member, Point { index, term, conf: ConfState { voters: vec![member], learners: Vec::new() } })
}
