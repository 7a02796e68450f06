//! Peers that are not what they should be: one clear line, nobody ends, the others go on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::{Between, Cluster, Options, Process, etcd_binary};
use proto::etcdserverpb::{
    AuthEnableRequest, AuthStatusRequest, AuthUserAddRequest, AuthUserListRequest, MemberUpdateRequest,
    auth_client::AuthClient, cluster_client::ClusterClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, member_list, put_patiently, start, unharmed,
};
use crate::{
    kill::{begin, finish, progress},
    support::{no_panic, run, seed, talk},
};

/// How long a fault lasts. Peers are dialled ten times a second meanwhile.
const WATCH: Duration = Duration::from_secs(5);

/// Connections cut in each part of a test, at least. How many are in a given time depends on the machine.
const CUTS_MIN: u64 = 6;
/// How long a part may take for them.
const CUTS_WITHIN: Duration = Duration::from_mins(1);

/// Lines about one fault: one for each of the ways in which a peer is met (two streams, POSTs, requests of its own), and
/// some reserve for what changes meanwhile. Not one for each attempt.
const LINES_MAX: usize = 6;

/// The lines of one member about a fault: there are some, and not too many.
fn told(cluster: &mut Cluster, at: usize, words: &[&str]) -> anyhow::Result<()> {
    let process = cluster.member(at).process()?;
    let lines = process.lines_with(words);
    println!("m{at}: {lines:#?}");
    ensure!(!lines.is_empty(), "m{at} says nothing of {words:?}:\n{}", process.tail(10));
    ensure!(lines.len() <= LINES_MAX, "m{at} says it {} times", lines.len());
    Ok(())
}

#[test]
fn an_etcd_member_of_another_cluster_is_kept_out_and_told() {
    run(async {
        let mut cluster = start(ONE_ETCD)?;
        let client = cluster.client();
        put_patiently(&client, OURS, "before").await?;
        cluster.kill(ETCD)?;
        // The same names and URLs, another token: it dials us, and we dial it.
        let data = format!("--data-dir={}", cluster.folder().join("stranger").display());
        let flags: Vec<String> = cluster.members()[ETCD].flags().to_vec();
        let flags = [&flags[..], &[data, "--initial-cluster-token=another".to_owned()]].concat();
        let log = cluster.folder().join("stranger.log");
        let stranger = Process::start(&etcd_binary()?, &flags, &log)?;
        let begun = Instant::now();
        while begun.elapsed() < WATCH {
            put_patiently(&client, OURS, "during").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for at in [OURS, 1] {
            told(&mut cluster, at, &["cluster ID mismatch"])?;
        }
        ensure!(stranger.output().contains("cluster ID mismatch"), "the stranger was not told why");
        drop(stranger);
        cluster.restart(ETCD)?;
        unharmed(&mut cluster, &client).await
    });
}

#[test]
fn connections_cut_in_the_middle_of_frames_lose_nothing() {
    run(cut(TWO_ETCD));
    run(cut(ONE_ETCD));
}

async fn cut(etcd: &[usize]) -> anyhow::Result<()> {
    let seed = seed();
    println!("etcd members {etcd:?}, IT_SEED={seed}");
    let mut cluster = Cluster::prepare(&Options { indirect: true, ..Options::mixed(etcd) })?;
    let mut between = Vec::new();
    for (at, member) in (0..).zip(cluster.members()) {
        let via = member.addresses.via.as_ref().expect("members of an indirect cluster");
        between.push(Between::start(via.number(), member.addresses.peer.number(), seed ^ at).await?);
    }
    for at in 0..cluster.size() {
        cluster.member(at).start()?;
    }
    for at in 0..cluster.size() {
        cluster.member(at).wait_ready()?;
    }
    let client = cluster.client();
    let load = begin(&client, seed).await?;
    for leader in [OURS, ETCD] {
        cut_within(&between, 0);
        client.make_leader(leader, ELECTION).await?;
        // A message of one Put is some 200 bytes, a batch some kilobytes.
        for within in [300_000, 30_000] {
            let (before, begun) = (cuts(&between), Instant::now());
            cut_within(&between, within);
            tokio::time::sleep(WATCH / 4).await;
            while cuts(&between) < before + CUTS_MIN {
                ensure!(
                    begun.elapsed() < CUTS_WITHIN,
                    "too few cuts within {within} bytes to prove anything: {}",
                    cuts(&between) - before
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            progress(&load, &format!("the end of cuts within {within} bytes")).await?;
        }
    }
    cut_within(&between, 0);
    println!("{} connections were cut", cuts(&between));
    progress(&load, "the end").await?;
    finish(&client, load).await?;
    all_run(&mut cluster)
}

fn cuts(between: &[Between]) -> u64 {
    between.iter().map(Between::cuts).sum()
}

fn cut_within(between: &[Between], bytes: usize) {
    for one in between {
        one.cut_within(bytes);
    }
}

#[test]
fn a_wrong_peer_url_is_told_once_and_harms_nobody() {
    run(async {
        let mut cluster = start(ONE_ETCD)?;
        let client = cluster.client();
        put_patiently(&client, OURS, "before").await?;
        let id = client.status(ETCD).await?.header.unwrap_or_default().member_id;
        let right = cluster.members()[ETCD].addresses.peer_url();
        // A client port: somebody listens, and is no peer. Then one where nobody does, then a name that is none.
        let client_url = cluster.members()[ETCD].addresses.client_url();
        for wrong in
            [client_url, "http://127.0.0.1:9".to_owned(), "http://no.such.host.invalid:2380".to_owned()]
        {
            let mut admin = ClusterClient::new(client.channel(ETCD));
            admin.member_update(MemberUpdateRequest { id, peer_ur_ls: vec![wrong.clone()] }).await?;
            let members = member_list(&client, OURS).await?;
            ensure!(members.iter().any(|member| member.peer_ur_ls == [wrong.as_str()]), "{members:#?}");
            // Streams that are open live on; a member that starts again finds nobody there, and is found. An orderly end,
            // because what is replayed from the log begins at the old URL.
            cluster.stop(OURS)?;
            cluster.restart(OURS)?;
            for at in 0..client.size() {
                put_patiently(&client, at, "during").await?;
            }
            tokio::time::sleep(WATCH / 5).await;
            told(&mut cluster, OURS, &["failed to dial stream of remote peer"])?;
            let revision = client.revision(ELECTION).await?;
            client.same_hash(revision, SETTLE).await?;
            println!("{wrong}: all three serve");
        }
        let mut admin = ClusterClient::new(client.channel(ETCD));
        admin.member_update(MemberUpdateRequest { id, peer_ur_ls: vec![right] }).await?;
        unharmed(&mut cluster, &client).await
    });
}

#[test]
fn a_peer_that_speaks_garbage_is_told_and_told_of() {
    run(async {
        let mut cluster = start(TWO_ETCD)?;
        let client = cluster.client();
        put_patiently(&client, OURS, "before").await?;
        let header = client.status(OURS).await?.header.unwrap_or_default();
        let port = cluster.members()[OURS].addresses.peer.number();
        let sender = client.status(ETCD).await?.header.unwrap_or_default().member_id;
        // In the name of a member: no HTTP, no message, no message of a member's, a snapshot that is none.
        let post = |path: &str, body: &[u8]| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: m0\r\nX-Etcd-Cluster-ID: {:x}\r\nX-Server-From: {sender:x}\r\n\
                 X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nContent-Length: {}\r\n\r\n",
                header.cluster_id,
                body.len()
            );
            [head.as_bytes(), body].concat()
        };
        for _ in 0..30 {
            talk(port, b"\0\x01\x02 no HTTP at all\r\n\r\n")?;
            talk(port, &post("/raft", b"\xff\xff\xff"))?;
            talk(port, &post("/raft/snapshot", &[0xff; 16]))?;
        }
        told(&mut cluster, OURS, &["failed to unmarshal Raft message"])?;
        told(&mut cluster, OURS, &["failed to decode Raft message"])?;
        told(&mut cluster, OURS, &["spoke no HTTP"])?;
        unharmed(&mut cluster, &client).await
    });
}

#[test]
fn a_peer_of_an_older_minor_version_is_followed_and_holds_the_clusters_version_down() {
    run(async {
        let mut cluster = Cluster::prepare(&Options::new(3))?;
        let old = cluster.members()[ETCD].addresses.peer.number();
        let listener = TcpListener::bind(("127.0.0.1", old)).await?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(older_member(stream));
            }
        });
        for at in [OURS, 1] {
            cluster.member(at).start()?;
        }
        for at in [OURS, 1] {
            cluster.member(at).wait_ready()?;
        }
        let client = cluster.client();
        let port = cluster.members()[OURS].addresses.peer.number();
        let begun = Instant::now();
        let version = loop {
            put_patiently(&client, OURS, "older").await?;
            let ask = b"GET /version HTTP/1.1\r\nHost: m0\r\nConnection: close\r\n\r\n";
            let version = String::from_utf8_lossy(&talk(port, ask)?).into_owned();
            if !version.contains("not_decided") {
                break version;
            }
            ensure!(begun.elapsed() < SETTLE, "no cluster version is decided: {version}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ensure!(version.contains(r#""etcdcluster":"3.6.0""#), "{version}");
        for at in [OURS, 1] {
            let process = cluster.member(at).process()?;
            ensure!(process.ended()?.is_none(), "m{at} ended");
            no_panic(&process.output());
            told(&mut cluster, at, &["established TCP streaming connection", "stream Message"])?;
        }
        Ok(())
    });
}

/// What a member of 3.6 would answer, as far as it matters here: its version, and streams on which nothing comes.
async fn older_member(mut stream: TcpStream) {
    let mut request = vec![0; 4_000];
    let length = stream.read(&mut request).await.unwrap_or(0);
    let answer = if request[..length].starts_with(b"GET /version ") {
        let body = r#"{"etcdserver":"3.6.11","etcdcluster":"3.6.0","storage":"3.6.0"}"#;
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    } else if request[..length].starts_with(b"GET /raft/stream/") {
        "HTTP/1.1 200 OK\r\nX-Server-Version: 3.6.11\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
    } else {
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned()
    };
    // Whoever asked may be gone: then nobody reads it.
    let _ = stream.write_all(answer.as_bytes()).await;
    if answer.contains("chunked") {
        tokio::time::sleep(WATCH).await;
    }
}

#[test]
fn a_user_added_at_an_etcd_member_ends_ours_by_name_and_nobody_else() {
    run(async {
        let mut cluster = start(TWO_ETCD)?;
        let client = cluster.client();
        client.make_leader(ETCD, ELECTION).await?;
        // Questions go through etcd's log too; they end nobody.
        let mut auth = AuthClient::new(client.channel(ETCD));
        for leader in [ETCD, OURS] {
            client.make_leader(leader, ELECTION).await?;
            ensure!(!auth.auth_status(AuthStatusRequest {}).await?.into_inner().enabled, "it is enabled");
            ensure!(auth.user_list(AuthUserListRequest {}).await?.into_inner().users.is_empty(), "a user");
            let refusal = auth.auth_enable(AuthEnableRequest {}).await.err();
            ensure!(
                refusal.is_some_and(|status| status.message().contains("root user does not exist")),
                "root"
            );
        }
        unharmed(&mut cluster, &client).await?;
        // The first user is what a member without an auth store cannot follow: it says so, and does not diverge.
        client.make_leader(ETCD, ELECTION).await?;
        let user =
            AuthUserAddRequest { name: "u".to_owned(), password: "p".to_owned(), ..Default::default() };
        auth.user_add(user).await?;
        let process = cluster.member(OURS).process()?;
        let status = process.wait_end(SETTLE)?;
        let output = process.output();
        no_panic(&output);
        let lines = process.lines_with(&["auth_user_add: there is no auth store yet"]);
        println!("ended with {status}: {lines:#?}");
        ensure!(status.code() == Some(1) && !lines.is_empty(), "{status}: {}", process.tail(5));
        for at in [1, ETCD] {
            put_patiently(&client, at, "after").await?;
        }
        Ok(())
    });
}
