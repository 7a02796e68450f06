//! Bytes that are no request, on both ports: nothing falls over, and peers are told what is wrong.

use anyhow::ensure;
use harness::Cluster;
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};

use crate::support::{get, no_panic, put, run, seed, talk};

/// HTTP/2's client preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn rubbish_on_either_port_harms_nothing() {
    run(async {
        let seed = seed();
        println!("IT_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        put(&client, 0, "before", "1").await?;
        let (client_port, peer_port) = {
            let addresses = &cluster.members()[0].addresses;
            (addresses.client.number(), addresses.peer.number())
        };
        for round in 0..20 {
            let mut noise = vec![0; 1 << (round % 17)];
            random.fill_bytes(&mut noise);
            let after_preface = [PREFACE, &noise].concat();
            let long_header = [b"GET / HTTP/1.1\r\nX: ", vec![b'a'; 1 << 20].as_slice()].concat();
            let half = b"POST /raft HTTP/1.1\r\nContent-Length: 100\r\n\r\nshort".to_vec();
            for bytes in
                [noise, after_preface, long_header, half].into_iter().take(if round == 0 { 4 } else { 2 })
            {
                talk(client_port, &bytes)?;
                talk(peer_port, &bytes)?;
            }
        }
        ensure!(get(&client, 0, "before").await?.as_deref() == Some("1"), "a write is lost");
        put(&client, 0, "after", "2").await?;
        let process = cluster.member(0).process()?;
        ensure!(process.ended()?.is_none(), "it ended");
        no_panic(&process.output());
        Ok(())
    });
}

#[test]
fn a_peer_request_that_is_wrong_gets_etcds_answer() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        put(&client, 0, "before", "1").await?;
        let port = cluster.members()[0].addresses.peer.number();
        let cluster_id =
            format!("{:x}", client.status(0).await?.header.map_or(0, |header| header.cluster_id));
        let rubbish = "\u{1}\u{2}\u{3}rubbish";
        for (method, path, id, body, status) in [
            ("GET", "/raft", cluster_id.as_str(), "", "405"),
            ("POST", "/raft", "1234", rubbish, "412"),
            ("POST", "/raft", cluster_id.as_str(), rubbish, "400"),
            ("POST", "/raft/stream/message/1", cluster_id.as_str(), "", "405"),
            ("GET", "/raft/stream/nonsense/1", cluster_id.as_str(), "", "404"),
            ("GET", "/raft/stream/message/1", "1234", "", "412"),
            ("GET", "/raft/stream/message/zzz", cluster_id.as_str(), "", "404"),
            ("GET", "/members", cluster_id.as_str(), "", "200"),
            ("GET", "/nonsense", cluster_id.as_str(), "", "404"),
        ] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Etcd-Cluster-ID: {id}\r\n\
                 X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Server-From: 1\r\nX-Raft-To: 1\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = String::from_utf8_lossy(&talk(port, request.as_bytes())?).into_owned();
            println!("{method} {path} of cluster {id}: {}", answer.lines().next().unwrap_or_default());
            ensure!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{method} {path} of cluster {id}: {answer}"
            );
        }
        put(&client, 0, "after", "2").await?;
        no_panic(&cluster.member(0).process()?.output());
        Ok(())
    });
}
