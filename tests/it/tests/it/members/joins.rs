//! Members that join: killed at any point, among etcd's, as learners.

use std::time::Duration;

use anyhow::ensure;
use harness::{Addresses, Member};
use proto::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, RangeRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tonic::Code;

use super::{Growing, Kind, listed, promote, put_patiently, refused};
use crate::support::{PATIENT, no_panic, put, run};

/// Few enough that an etcd leader sends its log and no snapshot.
const FEW: usize = 20;

async fn fill(growing: &Growing, count: usize) -> anyhow::Result<()> {
    let client = growing.client();
    for number in 0..count {
        put(&client, 0, &format!("before/{number}"), "v").await?;
    }
    Ok(())
}

/// A member of ours joins a cluster of etcd's, and then an etcd member joins both.
#[test]
fn ours_joins_etcd_and_etcd_joins_ours() {
    run(async {
        for (first, second) in [(Kind::Etcd("3.7"), Kind::Ours), (Kind::Ours, Kind::Etcd("3.7"))] {
            let mut growing = Growing::start(first).await?;
            fill(&growing, FEW).await?;
            for kind in [second, first] {
                let at = growing.join(kind).await?;
                put_patiently(&growing.client_of(&[at]), 0, &format!("joined/{at}")).await?;
                growing.agree().await?;
            }
            let list = listed(growing.admin(2)).await?;
            ensure!(list.iter().all(|member| !member.name.is_empty()), "{list:?}");
            // Each leads once, over the other kind.
            let client = growing.client();
            for at in 0..3 {
                client.make_leader(at, super::SETTLE).await?;
                put_patiently(&client, at, "led").await?;
            }
            growing.agree().await?;
            println!("{second:?} joined {first:?}");
        }
        Ok(())
    });
}

/// The log is empty at first, then it has a part of what the others have.
#[test]
fn a_member_that_is_killed_while_it_joins_goes_on() {
    run(async {
        let mut growing = Growing::start(Kind::Ours).await?;
        fill(&growing, 500).await?;
        let joined = growing.add(Kind::Ours, false).await?;
        let mut kills = 0;
        for millis in [40, 60, 80, 100, 120, 150, 200, 300] {
            let member = &mut growing.at(joined).member;
            member.start()?;
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let ended = member.process()?.ended()?;
            ensure!(ended.is_none(), "it ended by itself: {ended:?}\n{}", member.process()?.tail(5));
            member.kill()?;
            kills += 1;
        }
        let member = &mut growing.at(joined).member;
        member.start()?;
        member.wait_ready()?;
        no_panic(&member.process()?.output());
        growing.agree().await?;
        println!("{kills} kills while it joined");
        Ok(())
    });
}

/// Somebody who lists the members, and never sends an entry.
async fn serve_lists(listener: TcpListener, list: String) -> anyhow::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await?;
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let (status, body) = match head.split(' ').nth(1) {
            Some("/members") => ("200 OK", list.as_str()),
            Some("/version") => ("200 OK", r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0"}"#),
            Some("/downgrade/enabled") => ("200 OK", "false"),
            _ => ("404 Not Found", ""),
        };
        let head = format!("HTTP/1.1 {status}\r\nX-Etcd-Cluster-ID: ab\r\nConnection: close\r\n");
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Nobody sends a log: the member waits, and after each restart it waits again, whatever its flags say by then.
#[test]
fn an_empty_log_is_not_filled_with_first_entries_after_a_restart() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let silent = format!("http://{}", listener.local_addr()?);
        let (folder, addresses) = (tempfile::tempdir()?, Addresses::free()?);
        let list = format!(
            r#"[{{"id":1,"peerURLs":["{silent}"],"name":"m0"}},{{"id":2,"peerURLs":["{}"]}}]"#,
            addresses.peer_url()
        );
        tokio::spawn(serve_lists(listener, list));
        let cluster = format!("--initial-cluster=m0={silent},m1={}", addresses.peer_url());
        let flags = |state: &str| [cluster.clone(), format!("--initial-cluster-state={state}")];
        let mut member =
            Member::new("m1", &Kind::Ours.binary()?, folder.path(), addresses, &flags("existing"));
        let mut lines = "starting local member";
        for _ in 0..3 {
            member.start()?;
            member.process()?.wait_for(lines, PATIENT)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let process = member.process()?;
            ensure!(process.ended()?.is_none(), "it ended:\n{}", process.tail(5));
            no_panic(&process.output());
            member.kill()?;
            lines = "restarting local member";
        }
        let output = std::fs::read_to_string(member.log())?;
        ensure!(output.contains("\"commit-index\":0"), "{output}");
        // Where --initial-cluster-state says "new" by then, too: flags are not looked at any more.
        let mut member =
            Member::new("m1", &Kind::Ours.binary()?, folder.path(), Addresses::free()?, &flags("new"));
        member.start()?;
        member.process()?.wait_for(lines, PATIENT)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let process = member.process()?;
        ensure!(process.ended()?.is_none(), "it ended:\n{}", process.tail(5));
        ensure!(!process.output().contains("became leader"), "it leads alone:\n{}", process.output());
        Ok(())
    });
}

/// A voter that was asked for comes as a learner, which costs no quorum, and becomes a voter by itself.
#[test]
fn growing_never_costs_the_quorum_where_learners_are_promoted_by_themselves() {
    run(async {
        let mut growing = Growing::start_with(Kind::Ours, &["--auto-promote-learners"]).await?;
        for size in [2, 3] {
            let joined = growing.add(Kind::Ours, false).await?;
            let id = growing.at(joined).id;
            // A learner that nobody has started stays one, and the others go on without it.
            tokio::time::sleep(Duration::from_secs(3)).await;
            put_patiently(&growing.client_of(&[0]), 0, "alone").await?;
            let list = listed(growing.admin(0)).await?;
            ensure!(list.iter().any(|member| member.id == id && member.is_learner), "{list:?}");
            growing.at(joined).member.start()?;
            growing.at(joined).member.wait_ready()?;
            let begun = std::time::Instant::now();
            while listed(growing.admin(0)).await?.iter().any(|member| member.is_learner) {
                ensure!(begun.elapsed() < super::SETTLE, "it is still a learner");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            put_patiently(&growing.client_of(&[joined]), 0, "voter").await?;
            ensure!(listed(growing.admin(joined)).await?.len() == size);
        }
        growing.agree().await
    });
}

/// The whole life of a learner, each question asked of the leader and of a follower.
#[test]
fn a_learner_joins_and_is_promoted_through_whomever_is_asked() {
    run(async {
        let mut growing = Growing::grow(Kind::Ours, 2).await?;
        let client = growing.client();
        client.make_leader(0, super::SETTLE).await?;
        let learner = growing.add(Kind::Ours, true).await?;
        let id = growing.at(learner).id;
        let text = "etcdserver: can only promote a learner member which is in sync with leader";
        let many = "etcdserver: too many learner members in cluster";
        let voter = growing.at(1).id;
        for at in [0, 1] {
            let mut admin = growing.admin(at);
            let promote = MemberPromoteRequest { id };
            refused(admin.member_promote(promote).await, Code::FailedPrecondition, text)?;
            let add = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
            refused(admin.member_add(add).await, Code::FailedPrecondition, many)?;
            let promote = MemberPromoteRequest { id: voter };
            let text = "etcdserver: can only promote a learner member";
            refused(admin.member_promote(promote).await, Code::FailedPrecondition, text)?;
            let promote = MemberPromoteRequest { id: 7 };
            refused(admin.member_promote(promote).await, Code::NotFound, "etcdserver: member not found")?;
        }
        let member = &mut growing.at(learner).member;
        member.start()?;
        member.wait_ready()?;
        let own = growing.client_of(&[learner]);
        let read = RangeRequest { key: "before".into(), serializable: true, ..RangeRequest::default() };
        own.range(0, read, PATIENT).await?;
        let status = put(&own, 0, "k", "v").await.err().map(|error| format!("{error:#}"));
        let status = status.unwrap_or_default();
        ensure!(status.contains("etcdserver: rpc not supported for learner"), "{status}");
        // Through the follower: only the leader knows.
        let members = promote(&growing, 1, id).await?;
        ensure!(members.len() == 3 && members.iter().all(|member| !member.is_learner), "{members:?}");
        put_patiently(&own, 0, "promoted").await?;
        growing.agree().await
    });
}
