//! Snapshots: taken under load by two clients, checked, damaged, restored, and compared key by key.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Load, Options, Shape};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, SnapshotRequest, WatchCreateRequest, WatchRequest, WatchResponse,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use proto::mvccpb::KeyValue;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::{Said, call, ctl, judge, orders::version_becomes};
use crate::support::{PATIENT, put, run};

/// The size of a piece: etcd's `snapshotSendBufferSize`.
const PIECE_BYTES: usize = 32 << 10;

/// How long a member waits for a client that takes nothing.
const STALL_MAX: Duration = Duration::from_mins(1);

/// Every key at a revision; 0 = now.
pub(super) async fn all(client: &Client, at: usize, revision: i64) -> anyhow::Result<(i64, Vec<KeyValue>)> {
    let range =
        RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..RangeRequest::default() };
    let answer = client.range(at, range, PATIENT).await?;
    Ok((answer.header.context("a header")?.revision, answer.kvs))
}

/// Takes a snapshot as a client of its own, and checks what etcd's clients may rely on.
async fn stream(client: &Client, at: usize) -> anyhow::Result<Vec<u8>> {
    let mut pieces = client.maintenance(at).snapshot(SnapshotRequest {}).await?.into_inner();
    let (mut file, mut total) = (Vec::new(), None);
    while let Some(piece) = pieces.message().await? {
        ensure!(
            piece.version == "3.7.0" && piece.blob.len() <= PIECE_BYTES,
            "a piece of {}",
            piece.blob.len()
        );
        let done = file.len() as u64 + piece.blob.len() as u64;
        let is_sum = total.is_some_and(|total| file.len() as u64 == total);
        if is_sum {
            ensure!(piece.remaining_bytes == 0 && piece.blob.len() == 32, "the checksum comes last");
        } else {
            let total = *total.get_or_insert(done + piece.remaining_bytes);
            ensure!(done + piece.remaining_bytes == total, "the bytes to come are told exactly");
        }
        file.extend_from_slice(&piece.blob);
    }
    ensure!(file.len() % 512 == 32 && file.len() as u64 == total.unwrap_or(0) + 32, "{} bytes", file.len());
    Ok(file)
}

/// A number of `snapshot status -w json`.
fn field(json: &str, name: &str) -> anyhow::Result<i64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).with_context(|| format!("{name} in {json}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

fn status(file: &Path) -> anyhow::Result<(i64, i64)> {
    let said = ctl(&["snapshot", "status", &file.display().to_string(), "-w", "json"])?;
    ensure!(said.code == Some(0), "{said:?}");
    Ok((field(&said.out, "revision")?, field(&said.out, "totalKey")?))
}

pub(super) fn restore(cluster: &Cluster, at: usize, file: &Path, more: &[&str]) -> anyhow::Result<Said> {
    restore_with(|arguments| ctl(arguments), cluster, at, file, more)
}

/// A prepared cluster's member as `snapshot restore` has to be told of it, ours or etcdutl's.
pub(super) fn restore_with(
    program: impl Fn(&[&str]) -> anyhow::Result<Said>,
    cluster: &Cluster,
    at: usize,
    file: &Path,
    more: &[&str],
) -> anyhow::Result<Said> {
    let member = &cluster.members()[at];
    let initial =
        member.flags().iter().find(|flag| flag.starts_with("--initial-cluster=")).context("a flag")?;
    let token =
        member.flags().iter().find(|flag| flag.starts_with("--initial-cluster-token=")).context("a flag")?;
    let (file, data) = (file.display().to_string(), format!("--data-dir={}", member.data.display()));
    let (name, urls) = (
        format!("--name={}", member.name),
        format!("--initial-advertise-peer-urls={}", member.addresses.peer_url()),
    );
    let fixed = ["snapshot", "restore", &file, &data, &name, &urls, initial, token];
    program(&[&fixed[..], more].concat())
}

/// Restores all members, starts them and waits until they serve.
pub(super) fn restored(size: usize, file: &Path, more: &[&str]) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::prepare(&Options { token: "restored".to_owned(), ..Options::new(size) })?;
    for at in 0..size {
        let said = restore(&cluster, at, file, more)?;
        ensure!(said.code == Some(0) && said.out.is_empty(), "{said:?}");
    }
    for at in 0..size {
        cluster.member(at).start()?;
    }
    for at in 0..size {
        cluster.member(at).wait_ready()?;
    }
    Ok(cluster)
}

#[test]
fn snapshots_taken_under_load_are_restored_to_three_members() {
    run(async {
        let source = Cluster::start(3)?;
        let client = source.client();
        // Which the leader decides some time after the start.
        version_becomes(&source, "3.7.0").await?;
        for number in 0..200 {
            put(&client, 0, &format!("kept/{number:03}"), "first").await?;
        }
        let gone =
            DeleteRangeRequest { key: "kept/100".into(), range_end: "kept/150".into(), ..Default::default() };
        client.kv(0).delete_range(gone).await?;
        put(&client, 0, "kept/000", "second").await?;
        client.kv(0).compact(CompactionRequest { revision: 150, physical: true }).await?;
        let base = client.revision(PATIENT).await?;
        let load = Load::start(&client, Shape { readers: 0, ..Shape::default() }, base);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let folder = tempfile::tempdir()?;
        let (theirs, ours) = (folder.path().join("etcdctl.db"), folder.path().join("own.db"));
        let endpoint = format!("--endpoints={}", source.members()[0].addresses.client_url());
        let etcdctl = judge("etcdctl")?;
        let to = theirs.display().to_string();
        let saving =
            tokio::task::spawn_blocking(move || call(&etcdctl, &[&endpoint, "snapshot", "save", &to]));
        fs::write(&ours, stream(&client, 1).await?)?;
        let said = saving.await??;
        ensure!(said.code == Some(0) && said.out.contains("Server version 3.7.0"), "{said:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        load.stop().await;
        for file in [&theirs, &ours] {
            same_everywhere(&client, file).await?;
        }
        Ok(())
    });
}

async fn same_everywhere(source: &Client, file: &Path) -> anyhow::Result<()> {
    let (revision, keys) = status(file)?;
    let (_, expected) = all(source, 0, revision).await?;
    ensure!(expected.len() as i64 == keys, "{keys} keys in the snapshot, {} at {revision}", expected.len());
    let hash = source.hash_kv(0, revision).await?;
    let cluster = restored(3, file, &[])?;
    let client = cluster.client();
    let old = source.status(0).await?.header.context("a header")?;
    for at in 0..3 {
        let (now, kvs) = all(&client, at, 0).await?;
        ensure!(now == revision && kvs == expected, "member {at} is at {now}, with {} keys", kvs.len());
        ensure!(client.hash_kv(at, revision).await? == hash, "member {at}: the history differs");
        let header = client.status(at).await?.header.context("a header")?;
        ensure!(header.cluster_id != old.cluster_id && header.member_id != old.member_id, "the old identity");
    }
    let compacted = RangeRequest { key: "kept/000".into(), revision: 149, ..Default::default() };
    let refusal = client.range(0, compacted, PATIENT).await.err().context("compacted history came back")?;
    ensure!(refusal.code() == Code::OutOfRange, "{refusal}");
    ensure!(put(&client, 1, "after", "1").await? == revision + 1, "the revision goes on");
    client.same_hash(revision + 1, PATIENT).await?;
    let again = restore(&cluster, 0, file, &[])?;
    ensure!(again.code == Some(1) && again.error.contains("not empty or could not be read"), "{again:?}");
    println!("revision {revision}, {keys} keys: the same on three restored members");
    Ok(())
}

#[test]
fn a_bumped_restore_never_gives_a_revision_twice() {
    run(async {
        let source = Cluster::start(1)?;
        let client = source.client();
        for value in ["1", "2", "3"] {
            put(&client, 0, "key", value).await?;
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("own.db");
        fs::write(&file, stream(&client, 0).await?)?;
        let (revision, _) = status(&file)?;
        // What the old cluster does after its snapshot is what a client may have seen.
        let seen = put(&client, 0, "key", "seen by a client").await?;
        for (more, code) in [(&["--bump-revision=1000"][..], 128), (&["--mark-compacted"], 128)] {
            let prepared = Cluster::prepare(&Options::new(1))?;
            let said = restore(&prepared, 0, &file, more)?;
            let text = "Error: --mark-compacted required if --revision-bump > 0";
            ensure!(said.code == Some(code) && said.error == text, "{said:?}");
        }
        let cluster = restored(1, &file, &["--bump-revision=1000", "--mark-compacted"])?;
        let client = cluster.client();
        let (now, kvs) = all(&client, 0, 0).await?;
        ensure!(
            now == revision + 1000 && now > seen && kvs.len() == 1 && kvs[0].value == "3",
            "{now} {kvs:?}"
        );
        for past in [revision, seen, now - 1] {
            let refusal = all(&client, 0, past).await.err().context("there is no past")?;
            ensure!(
                refusal.to_string().contains("required revision has been compacted"),
                "{past}: {refusal}"
            );
        }
        ensure!(all(&client, 0, now).await?.1 == kvs, "the present can be asked for");
        // An informer that watched the old cluster is told to list anew.
        let told = watch_from(&client, seen + 1).await?;
        ensure!(told.canceled && told.compact_revision == now, "{told:?}");
        ensure!(put(&client, 0, "key", "4").await? == now + 1, "it goes on there");
        let told = watch_from(&client, now + 1).await?;
        ensure!(!told.canceled && told.events.len() == 1, "{told:?}");
        Ok(())
    });
}

/// What a new watcher of all keys is told after that it exists.
async fn watch_from(client: &Client, start_revision: i64) -> anyhow::Result<WatchResponse> {
    let create =
        WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), start_revision, ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The client's side stays open.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut told = WatchClient::new(client.channel(0)).watch(requests).await?.into_inner();
    let created = timeout(PATIENT, told.message()).await??.context("the stream ended")?;
    ensure!(created.created, "{created:?}");
    timeout(PATIENT, told.message()).await??.context("the stream ended")
}

#[test]
fn restored_leases_hold_their_keys_and_end() {
    const TTL: i64 = 3;
    run(async {
        let source = Cluster::start(1)?;
        let client = source.client();
        for (id, ttl) in [(7, TTL), (8, 1_000)] {
            client.lease(0).lease_grant(LeaseGrantRequest { id, ttl }).await?;
            let key = format!("on/{id}").into();
            client.put(0, PutRequest { key, lease: id, ..Default::default() }, PATIENT).await?;
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("own.db");
        fs::write(&file, stream(&client, 0).await?)?;
        let cluster = restored(3, &file, &[])?;
        let client = cluster.client();
        let at = client.wait_leader(PATIENT).await?;
        let question = LeaseTimeToLiveRequest { id: 8, keys: true };
        let long = client.lease(at).lease_time_to_live(question).await?.into_inner();
        ensure!(long.granted_ttl == 1_000 && long.keys == ["on/8"], "{long:?}");
        let deadline = Instant::now() + Duration::from_secs(TTL.unsigned_abs()) + PATIENT;
        loop {
            let (_, kvs) = all(&client, at, 0).await?;
            let keys: Vec<_> = kvs.iter().map(|kv| kv.key.clone()).collect();
            if keys == ["on/8"] {
                break;
            }
            ensure!(keys == ["on/7", "on/8"] && Instant::now() < deadline, "{keys:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.same_hash(client.revision(PATIENT).await?, PATIENT).await?;
        Ok(())
    });
}

#[test]
fn a_snapshot_that_was_cut_or_changed_is_refused_by_name() {
    run(async {
        let source = Cluster::start(1)?;
        let client = source.client();
        for number in 0..300 {
            put(&client, 0, &format!("key/{number}"), &"v".repeat(500)).await?;
        }
        let whole = stream(&client, 0).await?;
        let folder = tempfile::tempdir()?;
        let write = |name: &str, bytes: &[u8]| -> anyhow::Result<PathBuf> {
            let path = folder.path().join(name);
            fs::write(&path, bytes)?;
            Ok(path)
        };
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        let flipped = write("flipped", &flipped)?;
        let page = whole.len() / 2 / 4096 * 4096;
        let mut misplaced = whole.clone();
        misplaced[page] ^= 4;
        let misplaced = write("misplaced", &misplaced)?;
        let sector = page;
        let cut = write("cut", &whole[..sector])?;
        let lying = write("lying", &[&whole[..sector], &whole[whole.len() - 32..]].concat())?;
        let empty = write("empty", b"")?;
        let check = |file: &Path, more: &[&str], text: &str| -> anyhow::Result<()> {
            let cluster = Cluster::prepare(&Options::new(1))?;
            let said = restore(&cluster, 0, file, more)?;
            ensure!(said.code == Some(1) && said.error.contains(text), "{}: {said:?}", file.display());
            ensure!(!cluster.members()[0].data.join("member/wal").exists(), "no server may start on it");
            Ok(())
        };
        let skip = &["--skip-hash-check"][..];
        check(&flipped, &[], "Error: expected sha256 [")?;
        // bbolt has no sums over its data, but each page says where it belongs.
        check(&misplaced, skip, "the snapshot cannot be read: bbolt: page ")?;
        check(&cut, &[], "Error: snapshot missing hash but --skip-hash-check=false")?;
        check(&cut, skip, "the snapshot cannot be read: bbolt: page ")?;
        check(&lying, &[], "Error: expected sha256 [")?;
        check(&empty, &[], "snapshot missing hash")?;
        check(&empty, skip, "Error: the snapshot cannot be read: bbolt: no valid meta page")?;
        check(&folder.path().join("absent"), &[], "No such file or directory")?;
        for bad in [&flipped, &misplaced, &cut, &lying, &empty] {
            let said = ctl(&["snapshot", "status", &bad.display().to_string()])?;
            ensure!(said.code == Some(1) && !said.error.is_empty(), "{}: {said:?}", bad.display());
        }
        Ok(())
    });
}

#[test]
fn a_client_that_stops_reading_its_snapshot_disturbs_nobody() {
    run(async {
        let source = Cluster::start(1)?;
        let client = source.client();
        for number in 0..64 {
            put(&client, 0, &format!("large/{number}"), &"v".repeat(1 << 20)).await?;
        }
        let mut stalled = client.maintenance(0).snapshot(SnapshotRequest {}).await?.into_inner();
        stalled.message().await?.context("a first piece")?;
        let begun = Instant::now();
        let revision = put(&client, 0, "after", "1").await?;
        client.kv(0).compact(CompactionRequest { revision, physical: true }).await?;
        client.maintenance(0).defragment(proto::etcdserverpb::DefragmentRequest {}).await?;
        let whole = stream(&client, 0).await?;
        ensure!(whole.len() > 64 << 20, "another client gets all of it: {} bytes", whole.len());
        let took = begun.elapsed();
        println!("put, compaction, defragmentation and a snapshot beside a stalled one: {took:.1?}");
        ensure!(took < STALL_MAX / 2, "they waited for the stalled client: {took:?}");
        Ok(())
    });
}
