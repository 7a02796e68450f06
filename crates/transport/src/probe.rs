//! GET `/raft/probing` every 4 s: the round trip, and one log line when a peer's health changes.
//!
//! etcd probes twice, once for each of its two kinds of connection; one is enough to measure and to tell.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use crate::{
    context::hex,
    limits::{PROBE, REQUEST},
    peer::Peer,
    post::{Call, Client},
};

#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
}

pub(crate) async fn run(peer: Arc<Peer>) {
    let (mut client, mut healthy) = (Client::default(), true);
    loop {
        tokio::time::sleep(PROBE).await;
        let outcome = probe(&peer, &mut client).await;
        let log = &peer.context().log;
        match (&outcome, healthy) {
            (Ok(()), false) => {
                slog::info!(log, "prober detected healthy status"; "remote-peer-id" => hex(peer.id));
            }
            (Err(e), true) => {
                slog::warn!(log, "prober detected unhealthy status"; "remote-peer-id" => hex(peer.id), "error" => e);
            }
            (Ok(()), true) | (Err(_), false) => {}
        }
        healthy = outcome.is_ok();
    }
}

async fn probe(peer: &Peer, client: &mut Client) -> Result<(), String> {
    let url = peer.urls.pick().ok_or("the peer has no URL")?;
    let call =
        Call { method: Method::GET, path: "/raft/probing", headers: HeaderMap::new(), body: Bytes::new() };
    let begun = Instant::now();
    let reply = client.call(&url, &call, REQUEST).await.map_err(|e| e.to_string())?;
    if reply.status != StatusCode::OK {
        return Err(format!("unexpected http status {}", reply.status));
    }
    match serde_json::from_slice::<Health>(&reply.body) {
        Ok(Health { ok: true }) => {
            peer.counters.round_trip(begun.elapsed());
            peer.context().round_trip(peer.id, begun.elapsed());
            Ok(())
        }
        Ok(Health { ok: false }) => Err("the peer says that it is not well".to_owned()),
        Err(e) => Err(format!("malformed answer: {e}")),
    }
}
