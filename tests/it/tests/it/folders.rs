//! Ports and data directories that are somebody else's.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::ensure;
use harness::{Addresses, Cluster, Member, Port, Process, READY, server_binary};

use crate::support::{get, is_etcd, no_panic, put, refused, run};

/// How long we watch a server that must not come up.
const WATCH: Duration = Duration::from_secs(8);

/// Until two members left of three serve again, whoever led before.
const ELECTION: Duration = Duration::from_secs(20);

#[test]
fn a_port_in_use_is_one_clear_line_and_exit_code_1() {
    for which in ["client", "peer"] {
        let folder = tempfile::tempdir().unwrap();
        let addresses = Addresses::free().unwrap();
        let port: &Port = if which == "client" { &addresses.client } else { &addresses.peer };
        let taken = TcpListener::bind(("127.0.0.1", port.number())).unwrap();
        let mut args =
            vec!["--name=m0".to_owned(), format!("--data-dir={}", folder.path().join("data").display())];
        args.extend(addresses.flags());
        args.push(format!("--initial-cluster=m0={}", addresses.peer_url()));
        let (status, output) = refused(&args, folder.path()).unwrap();
        assert_eq!(status.code(), Some(1), "{which} port in use:\n{output}");
        let last = output.lines().last().unwrap_or_default();
        assert!(last.to_lowercase().contains("address already in use"), "{which} port in use:\n{output}");
        assert!(last.contains(&port.number().to_string()), "the line does not name the port: {last}");
        no_panic(&output);
        println!("{which} port in use: {status}");
        drop(taken);
    }
}

#[test]
fn a_second_process_on_a_data_directory_never_serves_and_harms_nothing() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        put(&client, 0, "before", "1").await?;
        let folder = tempfile::tempdir()?;
        let mut second = same_data(&cluster, folder.path(), "m0")?;
        second.start()?;
        let (ended, output) = watch(&mut second)?;
        // etcd waits for its database's lock for as long as it takes; ending is as good.
        println!("the second process: {ended}");
        ensure!(!output.contains(READY), "the second process serves:\n{output}");
        if !is_etcd() {
            ensure!(
                ended == "exit status: 1",
                "it waits instead of saying that the directory is in use: {ended}"
            );
            ensure!(
                output.contains(&cluster.members()[0].data.display().to_string()),
                "no path in:\n{output}"
            );
        }
        no_panic(&output);
        put(&client, 0, "during", "2").await?;
        drop(second);
        cluster.kill(0)?;
        cluster.restart(0)?;
        ensure!(get(&client, 0, "before").await?.as_deref() == Some("1"), "a write is lost");
        ensure!(get(&client, 0, "during").await?.as_deref() == Some("2"), "a write is lost");
        Ok(())
    });
}

#[test]
fn a_member_started_on_the_data_of_another_loses_nothing() {
    run(async {
        let mut cluster = Cluster::start(3)?;
        let client = cluster.client();
        put(&client, 0, "before", "1").await?;
        let revision = client.revision(ELECTION).await?;
        client.same_hash(revision, ELECTION).await?;
        // Somebody mixes up two directories: m2 starts on the data of m1, while both are down.
        cluster.kill(1)?;
        cluster.kill(2)?;
        let data = cluster.members()[1].data.display().to_string();
        let flags = replaced(cluster.members()[2].flags(), "--data-dir", &data);
        let mut wrong = Process::start(&server_binary()?, &flags, &cluster.folder().join("wrong.log"))?;
        let begun = Instant::now();
        let mut acked = 0;
        while begun.elapsed() < WATCH && wrong.ended()?.is_none() && acked < 50 {
            // etcd takes the ID from the data, not from the flags: this is m1 at another address.
            acked += usize::from(put(&client, 0, &format!("during/{acked}"), "x").await.is_ok());
        }
        println!("m2 on m1's data: {:?}, {acked} writes meanwhile", wrong.ended()?);
        if let Some(status) = wrong.ended()? {
            ensure!(status.code() == Some(1), "it ended with {status}");
            ensure!(
                wrong.tail(1).contains(&data),
                "its last line does not name the directory: {}",
                wrong.tail(1)
            );
        }
        no_panic(&wrong.output());
        drop(wrong);
        cluster.restart(1)?;
        cluster.restart(2)?;
        let revision = client.revision(ELECTION).await?;
        let hash = client.same_hash(revision, ELECTION).await?;
        for write in 0..acked {
            let value = get(&client, 0, &format!("during/{write}")).await?;
            ensure!(value.as_deref() == Some("x"), "write {write} is lost");
        }
        println!("revision {revision}, HashKV {hash:08x} on all three");
        Ok(())
    });
}

#[test]
fn a_member_of_another_cluster_is_kept_out() {
    run(async {
        let mut cluster = Cluster::start(3)?;
        let client = cluster.client();
        put(&client, 0, "before", "1").await?;
        cluster.kill(2)?;
        client.revision(ELECTION).await?;
        // The same URLs and names, another token: another cluster ID.
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data").display().to_string();
        let flags = replaced(cluster.members()[2].flags(), "--data-dir", &data);
        let flags = replaced(&flags, "--initial-cluster-token", "another");
        let mut stranger = Process::start(&server_binary()?, &flags, &folder.path().join("stranger.log"))?;
        let begun = Instant::now();
        while begun.elapsed() < WATCH && stranger.ended()?.is_none() {
            put(&client, 0, "during", "2").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let output = stranger.output();
        println!("the stranger: {:?}", stranger.ended()?);
        ensure!(!output.contains(READY), "the stranger serves:\n{output}");
        ensure!(output.to_lowercase().contains("cluster id mismatch"), "it does not say why:\n{output}");
        no_panic(&output);
        drop(stranger);
        cluster.restart(2)?;
        let revision = client.revision(WATCH).await?;
        client.same_hash(revision, WATCH).await?;
        ensure!(get(&client, 2, "during").await?.as_deref() == Some("2"), "a write is lost");
        Ok(())
    });
}

#[test]
fn a_data_directory_that_cannot_be_is_one_clear_line_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    for data in [file.display().to_string(), "/proc/nowhere".to_owned()] {
        let addresses = Addresses::free().unwrap();
        let mut args = vec!["--name=m0".to_owned(), format!("--data-dir={data}")];
        args.extend(addresses.flags());
        args.push(format!("--initial-cluster=m0={}", addresses.peer_url()));
        let (status, output) = refused(&args, folder.path()).unwrap();
        assert_eq!(status.code(), Some(1), "{data}:\n{output}");
        assert!(output.lines().last().unwrap_or_default().contains(&data), "{data} is not named:\n{output}");
        no_panic(&output);
        println!("--data-dir={data}: {status}");
    }
}

/// The flags, one of them with another value.
fn replaced(flags: &[String], name: &str, value: &str) -> Vec<String> {
    flags
        .iter()
        .map(|flag| match flag.split_once('=') {
            Some((this, _)) if this == name => format!("{name}={value}"),
            _ => flag.clone(),
        })
        .collect()
}

/// A member with ports of its own on the first member's data.
fn same_data(cluster: &Cluster, folder: &std::path::Path, name: &str) -> anyhow::Result<Member> {
    let addresses = Addresses::free()?;
    let flags = vec![
        format!("--initial-cluster={name}={}", addresses.peer_url()),
        format!("--data-dir={}", cluster.members()[0].data.display()),
    ];
    Ok(Member::new(name, &server_binary()?, folder, addresses, &flags))
}

/// Watches a server that must not serve: how it ended (or that it runs), and its words.
fn watch(member: &mut Member) -> anyhow::Result<(String, String)> {
    let process = member.process()?;
    let ended = match process.wait_end(WATCH) {
        Ok(status) => status.to_string(),
        Err(_) => "still waiting".to_owned(),
    };
    Ok((ended, process.output()))
}
