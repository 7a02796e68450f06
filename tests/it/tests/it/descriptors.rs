//! File descriptors run out: clients that only connect take none from the store or the peers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use harness::{Cluster, Options, server_binary};

use crate::support::{get, is_etcd, metric, put, run};

/// Descriptors that a member may hold.
const LIMIT: u32 = 256;

/// Connections that only connect: more than [`LIMIT`], whatever else holds descriptors.
const IDLE: u32 = 400;

/// A program that is the server under test with [`LIMIT`] descriptors.
fn limited(folder: &Path) -> anyhow::Result<PathBuf> {
    let script = folder.join("limited");
    let text = format!(
        "#!/bin/sh\nulimit -Sn 64 && ulimit -Hn {LIMIT} && exec {} \"$@\"\n",
        server_binary()?.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// Connections that say how an HTTP/2 client begins, or nothing; those that were closed at once are let go.
fn idle(port: u16) -> anyhow::Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for number in 0..IDLE {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        if number % 2 == 0 {
            // Refused before it is written, or after: both are seen by the reader below.
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        open.push(stream);
    }
    std::thread::sleep(Duration::from_secs(2));
    open.retain_mut(|stream| {
        stream.set_nonblocking(true).is_ok() && {
            let mut buffer = [0; 1024];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(_) => {}
                    Err(e) => break e.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
        }
    });
    Ok(open)
}

#[test]
fn four_hundred_idle_connections_take_no_file_from_the_store_and_none_from_the_peers() {
    if is_etcd() {
        return; // it waits in the kernel's queue instead
    }
    run(async {
        let folder = tempfile::tempdir()?;
        let options = Options { binary: Some(limited(folder.path())?), ..Options::new(3) };
        let mut cluster = Cluster::start_with(&options)?;
        let client = cluster.client();
        // A connection to each, from before.
        for number in 0..3 {
            put(&client, number, "before", "1").await?;
        }
        let ports: Vec<u16> =
            cluster.members().iter().map(|member| member.addresses.client.number()).collect();
        let mut held = Vec::new();
        for port in &ports {
            let open = idle(*port)?;
            ensure!(open.len() < LIMIT as usize && !open.is_empty(), "{} of {IDLE} are open", open.len());
            held.push(open);
        }
        println!("open: {:?} of {IDLE} each", held.iter().map(Vec::len).collect::<Vec<_>>());
        // Writes go on, with flushes of the store among them, on the connection that was there before.
        let value = "v".repeat(1 << 20);
        for number in 0..80 {
            put(&client, number % 3, &format!("key{number}"), &value)
                .await
                .context("beside idle connections")?;
        }
        // A peer that comes back finds room.
        cluster.kill(2)?;
        cluster.member(2).start()?;
        cluster.member(2).wait_ready()?;
        put(&client, 0, "after", "2").await?;
        ensure!(get(&cluster.client(), 2, "after").await? == Some("2".to_owned()), "member 2 lags");
        for number in 0..2 {
            ensure!(cluster.member(number).process()?.ended()?.is_none(), "member {number} ended");
        }
        // Places that come free are given away again.
        held.clear();
        std::thread::sleep(Duration::from_millis(500));
        let refused = metric(ports[0], "quorate_client_connections_refused_total")?;
        ensure!(refused >= f64::from(IDLE - LIMIT), "{refused} were refused");
        ensure!(metric(ports[0], "quorate_client_connections")? < 10.0, "places are not given back");
        put(&cluster.client(), 0, "new", "3").await?;
        Ok(())
    });
}
