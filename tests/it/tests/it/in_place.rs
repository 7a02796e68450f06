//! The data directory of an etcd member that was stopped becomes ours, and ours one of etcd's again: the same member of the
//! same cluster, with everything that it held. What stands in the way is named before anything is changed.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::ensure;
use harness::{Addresses, Client, Cluster, Options, etcd_binary, etcd_binary_of, server_binary};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RangeResponse,
};

use crate::foreign::{check_refused, etcds, etcdutl};
use crate::members::grow::{Writer, keys};
use crate::support::{PATIENT, copy_all, get, is_etcd, no_panic, put, run};

const SETTLE: Duration = Duration::from_secs(30);
const LEASE: i64 = 7;

fn data_dir(command: &str, data: &Path, more: &[&str]) -> anyhow::Result<Output> {
    let mut asked = Command::new(server_binary()?);
    asked.args(["ctl", "data-dir", command]).args(more).arg(format!("--data-dir={}", data.display()));
    Ok(asked.output()?)
}

/// What the check says: nothing, or each obstacle.
fn obstacles(data: &Path) -> anyhow::Result<Vec<String>> {
    let Output { status, stdout, stderr } = data_dir("check", data, &[])?;
    let (said, error) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let named: Vec<String> =
        said.lines().filter_map(|line| line.strip_prefix("obstacle: ").map(str::to_owned)).collect();
    ensure!(
        status.success() == named.is_empty() && error.is_empty() == named.is_empty(),
        "{status}: {said}{error}"
    );
    Ok(named)
}

/// A directory on which etcd starts, made of ours.
fn give_back(data: &Path, to: &Path) -> anyhow::Result<()> {
    let done = data_dir("to-etcd", data, &[&to.display().to_string()])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Everything that a client can see of a member.
#[derive(Debug, PartialEq)]
struct Seen {
    member: u64,
    cluster: u64,
    hash: u32,
    keys: RangeResponse,
    old: RangeResponse,
    lease_ttl: i64,
    leased: Vec<Vec<u8>>,
}

/// At this revision; the older one is not compacted yet.
async fn see(client: &Client, at: usize, revision: i64, older: i64) -> anyhow::Result<Seen> {
    let header = client.status(at).await?.header.unwrap_or_default();
    let all =
        |revision| RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
    let range = async |revision| {
        let mut answer = client.range(at, all(revision), PATIENT).await?;
        answer.header = None;
        anyhow::Ok(answer)
    };
    let asked = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let lease = client.lease(at).lease_time_to_live(asked).await?.into_inner();
    Ok(Seen {
        member: header.member_id,
        cluster: header.cluster_id,
        // etcd 3.5 does not say of which revision it is.
        hash: client.hash_kv(at, revision).await?.0,
        keys: range(revision).await?,
        old: range(older).await?,
        lease_ttl: lease.granted_ttl,
        leased: lease.keys.iter().map(|key| key.to_vec()).collect(),
    })
}

/// Some of everything: versions, deletions, a lease, a compaction. Returns an older revision, and the newest.
async fn fill(client: &Client) -> anyhow::Result<(i64, i64)> {
    client.lease(0).lease_grant(LeaseGrantRequest { id: LEASE, ttl: 600 }).await?;
    let leased = PutRequest { key: "leased".into(), value: "v".into(), lease: LEASE, ..Default::default() };
    client.put(0, leased, PATIENT).await?;
    let mut compacted = 0;
    for n in 0..300 {
        let revision = put(client, 0, &format!("key/{}", n % 40), &"value ".repeat(n)).await?;
        if n % 7 == 0 {
            let delete = DeleteRangeRequest { key: format!("key/{}", n % 40).into(), ..Default::default() };
            client.kv(0).delete_range(delete).await?;
        }
        if n == 100 {
            compacted = revision;
        }
    }
    client.kv(0).compact(CompactionRequest { revision: compacted, physical: true }).await?;
    Ok((compacted + 20, client.revision(SETTLE).await?))
}

/// With and without snapshots of its own, stopped and killed (true).
const RELEASES: &[(&str, &str, bool)] = &[
    ("3.7", "--snapshot-count=50", false),
    ("3.7", "--snapshot-count=10000", true),
    ("3.6", "--snapshot-count=50", true),
    ("3.6", "--snapshot-count=10000", false),
    ("3.5", "--snapshot-count=50", false),
    ("3.5", "--snapshot-count=10000", true),
];

#[test]
fn an_etcd_members_directory_becomes_ours_and_etcds_again() {
    if is_etcd() {
        return;
    }
    run(async {
        for (release, flag, kill) in RELEASES {
            let (flag, etcd) = (*flag, etcd_binary_of(release)?);
            let options =
                Options { binary: Some(etcd.clone()), flags: vec![flag.to_owned()], ..Options::new(1) };
            let mut cluster = Cluster::start_with(&options)?;
            let client = cluster.client();
            let (old, revision) = fill(&client).await?;
            let before = see(&client, 0, revision, old).await?;
            ensure!(!obstacles(&cluster.members()[0].data)?.is_empty(), "it runs");
            end(&mut cluster, *kill)?;
            let member = cluster.member(0);
            let data = member.data.clone();
            ensure!(obstacles(&data)?.is_empty(), "{:?}", obstacles(&data)?);
            member.set_binary(&server_binary()?);
            // An older etcd is not let into a cluster of a later version.
            let stays = format!("--max-cluster-version={release}");
            member.set_flag(&stays, true);
            for restart in 0..2 {
                cluster.restart(0)?;
                let now = see(&client, 0, revision, old).await?;
                ensure!(now == before, "{restart}: {before:#?}\nnow: {now:#?}");
                cluster.stop(0)?;
            }
            cluster.restart(0)?;
            let further = put(&client, 0, "ours", "1").await?;
            ensure!(further == revision + 1, "{further} follows {revision}");
            let revision = fill_more(&client).await?;
            let before = see(&client, 0, revision, old).await?;
            end(&mut cluster, *kill)?;
            // etcd on the directory as it is: its database is old, and the log goes on from it.
            let member = cluster.member(0);
            let to = data.with_extension("given-back");
            give_back(&data, &to)?;
            member.set_binary(&etcd);
            member.set_flag(&stays, false);
            for back in [&to, &data] {
                cluster.member(0).set_data(back);
                cluster.restart(0)?;
                let now = see(&client, 0, revision, old).await?;
                ensure!(now == before, "{}: {before:#?}\nnow: {now:#?}", back.display());
                put(&client, 0, "etcd's", "2").await?;
                cluster.stop(0)?;
            }
            println!("etcd {release}, {flag}: there and back, revision {revision}");
        }
        Ok(())
    });
}

fn end(cluster: &mut Cluster, kill: bool) -> anyhow::Result<()> {
    if kill {
        return cluster.kill(0);
    }
    cluster.stop(0)?;
    Ok(())
}

async fn fill_more(client: &Client) -> anyhow::Result<i64> {
    for n in 0..50 {
        put(client, 0, &format!("more/{n}"), "v").await?;
    }
    client.revision(SETTLE).await
}

#[test]
fn a_cluster_is_taken_over_directory_by_directory_under_load_and_given_back() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut cluster = Cluster::start_with(&Options { etcd: vec![0, 1, 2], ..Options::new(3) })?;
        let client = cluster.client();
        client.wait_leader(SETTLE).await?;
        let writer = Writer::start(client.clone());
        for kind in ["ours", "etcd's"] {
            for at in 0..3 {
                cluster.stop(at)?;
                let member = cluster.member(at);
                if kind == "ours" {
                    member.set_binary(&server_binary()?);
                } else {
                    let to = member.data.with_extension("given-back");
                    give_back(&member.data, &to)?;
                    member.set_data(&to);
                    member.set_binary(&etcd_binary()?);
                }
                cluster.restart(at)?;
                client.wait_leader(SETTLE).await?;
                let revision = client.revision(SETTLE).await?;
                let hash = client.same_hash(revision, SETTLE).await?;
                println!("member {at} is {kind}: revision {revision}, HashKV {hash:08x}");
            }
        }
        let written = writer.stop().await?;
        let found = keys(&client, 0).await?;
        let lost = written.difference(&found).count();
        println!("{} writes, {lost} lost", written.len());
        ensure!(lost == 0 && written.len() > 100, "{} writes, {lost} lost", written.len());
        Ok(())
    });
}

#[test]
fn what_etcdutl_restored_starts_as_ours() {
    if is_etcd() {
        return;
    }
    run(async {
        let (mut cluster, client) = etcds(&[]).await?;
        let member = &cluster.members()[0];
        let (db, restored) = (member.data.join("member/snap/db"), cluster.folder().join("restored"));
        let (db, data) = (db.display().to_string(), restored.display().to_string());
        let url = member.addresses.peer_url();
        let flags = [
            "snapshot",
            "restore",
            &db,
            "--skip-hash-check",
            "--name=m0",
            &format!("--initial-cluster=m0={url}"),
            &format!("--initial-advertise-peer-urls={url}"),
            &format!("--data-dir={data}"),
        ];
        etcdutl(&flags)?;
        ensure!(obstacles(&restored)?.is_empty(), "{:?}", obstacles(&restored)?);
        let member = cluster.member(0);
        member.set_data(&restored);
        member.set_binary(&server_binary()?);
        cluster.restart(0)?;
        for n in 0..5 {
            ensure!(get(&client, 0, &format!("key/{n}")).await?.as_deref() == Some("theirs"), "key {n}");
        }
        put(&client, 0, "more", "1").await?;
        // Its database was read; without it the log says that there was one.
        cluster.stop(0)?;
        fs::remove_dir_all(restored.join("member/snap"))?;
        cluster.restart(0)?;
        ensure!(get(&client, 0, "more").await?.as_deref() == Some("1"), "it was acknowledged");
        cluster.stop(0)?;
        fs::remove_dir_all(restored.join("member/kv"))?;
        let words = ["goes on from a state at index 1", "nothing was changed"];
        check_refused(cluster.members()[0].flags(), &restored, cluster.folder(), &words)
    });
}

#[test]
fn members_that_speak_tls_are_an_obstacle() {
    if is_etcd() {
        return;
    }
    run(async {
        let (cluster, _) = etcds(&[]).await?;
        let (member, folder) = (&cluster.members()[0], cluster.folder());
        let (db, url) =
            (member.data.join("member/snap/db").display().to_string(), member.addresses.peer_url());
        for (name, list, words) in [
            (
                "two",
                format!("m0={url},m1=https://127.0.0.1:1"),
                ["(m1) at https://127.0.0.1:1", "plain HTTP alone"],
            ),
            (
                "own",
                format!("m0={url},m0=https://127.0.0.1:2,m1={url}1"),
                ["(m0) at https://127.0.0.1:2", "plain HTTP"],
            ),
        ] {
            let restored = folder.join(name);
            let advertised: Vec<&str> =
                list.split(',').filter_map(|member| member.strip_prefix("m0=")).collect();
            etcdutl(&[
                "snapshot",
                "restore",
                &db,
                "--skip-hash-check",
                "--name=m0",
                &format!("--initial-cluster={list}"),
                &format!("--initial-advertise-peer-urls={}", advertised.join(",")),
                &format!("--data-dir={}", restored.display()),
            ])?;
            let named = obstacles(&restored)?;
            println!("{named:?}");
            ensure!(named.len() == 1 && words.iter().all(|word| named[0].contains(word)), "{named:?}");
            let flags: Vec<String> =
                member.flags().iter().filter(|flag| !flag.starts_with("--data-dir=")).cloned().collect();
            let flags = [flags, vec![format!("--data-dir={}", restored.display())]].concat();
            check_refused(&flags, &restored, folder, &words)?;
        }
        Ok(())
    });
}

/// Something done to a stopped member's directory, and words that name it.
type Obstacle = (fn(&Path) -> anyhow::Result<()>, &'static [&'static str]);

const OBSTACLES: &[Obstacle] = &[
    (|data| Ok(fs::remove_file(data.join("member/snap/db"))?), &["snap/db cannot be read"]),
    (
        |data| Ok(OpenOptions::new().write(true).open(data.join("member/snap/db"))?.set_len(9_000)?),
        &["snap/db cannot be read"],
    ),
    (|data| Ok(fs::remove_dir_all(data.join("member/wal"))?), &["there is no log in"]),
    (
        |data| {
            let file = OpenOptions::new().write(true).open(newest(&data.join("member/wal"), "wal")?)?;
            Ok(file.write_all_at(&[0xff; 64], 600)?)
        },
        &["the log in", "cannot be read"],
    ),
    (|data| Ok(fs::write(newest(&data.join("member/snap"), "snap")?, "rubbish")?), &[".snap cannot be read"]),
];

fn newest(dir: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let files = fs::read_dir(dir)?.filter_map(|file| Some(file.ok()?.path()));
    let found = files.filter(|path| path.extension().is_some_and(|known| known == extension)).max();
    found.ok_or_else(|| anyhow::anyhow!("no .{extension} file in {}", dir.display()))
}

#[test]
fn whatever_stands_in_the_way_is_named_and_nothing_is_changed() {
    if is_etcd() {
        return;
    }
    run(async {
        let (cluster, _) = etcds(&["--snapshot-count=10"]).await?;
        let member = &cluster.members()[0];
        let kept = cluster.folder().join("kept");
        copy_all(&member.data, &kept)?;
        for (spoil, words) in OBSTACLES {
            fs::remove_dir_all(&member.data)?;
            copy_all(&kept, &member.data)?;
            spoil(&member.data)?;
            let named = obstacles(&member.data)?;
            ensure!(named.len() == 1, "{words:?}: {named:?}");
            println!("{}", named[0]);
            for word in *words {
                ensure!(named[0].contains(word), "{word:?} is not in {named:?}");
            }
            check_refused(member.flags(), &member.data, cluster.folder(), words)?;
        }
        // Two at once are both named; the directories of two members mixed up.
        let (other, _) = etcds(&["--snapshot-count=10"]).await?;
        fs::remove_dir_all(&member.data)?;
        copy_all(&kept, &member.data)?;
        fs::copy(other.members()[0].data.join("member/snap/db"), member.data.join("member/snap/db"))?;
        fs::write(newest(&member.data.join("member/snap"), "snap")?, "rubbish")?;
        let named = obstacles(&member.data)?;
        ensure!(named.len() == 2 && named[0].contains("does not know the member"), "{named:?}");
        check_refused(member.flags(), &member.data, cluster.folder(), &["does not know the member"])
    });
}

#[test]
fn a_takeover_that_is_killed_begins_anew() {
    if is_etcd() {
        return;
    }
    run(async {
        let options = Options { etcd: vec![0], ..Options::new(1) };
        let mut cluster = Cluster::start_with(&options)?;
        let client = cluster.client();
        for n in 0..2_000 {
            put(&client, 0, &format!("key/{n}"), &"v".repeat(4_000)).await?;
        }
        let revision = client.revision(SETTLE).await?;
        let hash = client.hash_kv(0, revision).await?;
        cluster.stop(0)?;
        cluster.member(0).set_binary(&server_binary()?);
        let mut seen = 0;
        for wait in [5, 10, 20, 30, 40, 60, 80, 100, 150] {
            cluster.member(0).start()?;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            cluster.kill(0)?;
            seen += usize::from(cluster.members()[0].data.join("member/kv.unfinished").exists());
        }
        cluster.restart(0)?;
        println!("{seen} of 9 kills came in the middle");
        ensure!(client.hash_kv(0, revision).await? == hash, "it holds something else");
        ensure!(!cluster.members()[0].data.join("member/kv.unfinished").exists(), "a part is left");
        no_panic(&fs::read_to_string(cluster.members()[0].log())?);
        Ok(())
    });
}

fn etcdctl(client_url: &str, words: &[&str]) -> anyhow::Result<()> {
    let tool = etcd_binary()?.with_file_name("etcdctl");
    let done = Command::new(tool).arg(format!("--endpoints={client_url}")).args(words).output()?;
    ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// What `check takeover` says of a cluster that runs.
fn live_obstacles(client_url: &str) -> anyhow::Result<Vec<String>> {
    let mut asked = Command::new(server_binary()?);
    let done = asked.args(["ctl", "check", "takeover"]).arg(format!("--endpoints={client_url}")).output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let named: Vec<String> =
        said.lines().filter_map(|line| line.strip_prefix("obstacle: ").map(str::to_owned)).collect();
    ensure!(done.status.success() == named.is_empty(), "{}: {said}", done.status);
    Ok(named)
}

#[test]
fn users_and_alarms_are_named_where_etcd_runs_and_where_it_does_not() {
    if is_etcd() {
        return;
    }
    run(async {
        let options = Options { etcd: vec![0], ..Options::new(1) };
        let mut cluster = Cluster::start_with(&options)?;
        let url = cluster.members()[0].addresses.client_url();
        put(&cluster.client(), 0, "key", "v").await?;
        ensure!(live_obstacles(&url)?.is_empty(), "{:?}", live_obstacles(&url)?);
        let peer = Addresses::free()?;
        etcdctl(&url, &["member", "add", "m1", "--learner", &format!("--peer-urls={}", peer.peer_url())])?;
        let named = live_obstacles(&url)?;
        ensure!(named.iter().any(|line| line.contains("was never started")), "{named:?}");
        for words in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            etcdctl(&url, words)?;
        }
        let named = live_obstacles(&url)?;
        println!("{named:#?}");
        ensure!(named.iter().any(|line| line.contains("authentication")), "{named:?}");
        cluster.stop(0)?;
        let data = cluster.members()[0].data.clone();
        let named = obstacles(&data)?;
        ensure!(named.len() == 1 && named[0].contains("users and roles"), "{named:?}");
        cluster.member(0).set_binary(&server_binary()?);
        cluster.member(0).start()?;
        let process = cluster.member(0).process()?;
        let ended = process.wait_end(SETTLE)?;
        let output = process.output();
        no_panic(&output);
        ensure!(ended.code() == Some(1) && output.contains("users and roles"), "{ended}: {output}");
        // etcd goes on.
        let flags = cluster.members()[0].flags().to_vec();
        let again = cluster.folder().join("again.log");
        let mut etcd = harness::Process::start(&etcd_binary()?, &flags, &again)?;
        etcd.wait_for(harness::READY, SETTLE)?;
        Ok(())
    });
}
