//! Probes each peer with GET `/raft/probing` every 4 s: measures the round trip, and logs changes of health.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::{
    context::hex,
    peer::Peer,
    post::{Call, Client},
};

#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now", default)]
    now: String,
}

pub(crate) async fn run(peer: Arc<Peer>) {
    let limits = &peer.context().limits;
    let (mut client, mut healthy, mut drifts) = (Client::new(limits), true, false);
    loop {
        tokio::time::sleep(limits.probe).await;
        let outcome = probe(&peer, &mut client).await;
        let log = &peer.context().log;
        match (&outcome, healthy) {
            (Ok(_), false) => {
                slog::info!(log, "prober detected healthy status"; "remote-peer-id" => hex(peer.id));
            }
            (Err(e), true) => {
                slog::warn!(log, "prober detected unhealthy status"; "remote-peer-id" => hex(peer.id), "error" => e);
            }
            (Ok(_), true) | (Err(_), false) => {}
        }
        healthy = outcome.is_ok();
        if let Ok(Some(drift)) = outcome {
            if drift > limits.clock_drift && !drifts {
                slog::warn!(log, "prober found high clock drift"; "remote-peer-id" => hex(peer.id),
                    "clock-drift" => format!("{drift:?}"));
            }
            drifts = drift > limits.clock_drift;
        }
    }
}

/// Sends one probe. Returns the clock drift of the peer, if it reports its clock.
async fn probe(peer: &Peer, client: &mut Client) -> Result<Option<Duration>, String> {
    let url = peer.urls.pick().ok_or("the peer has no URL")?;
    let call =
        Call { method: Method::GET, path: "/raft/probing", headers: HeaderMap::new(), body: Bytes::new() };
    let begun = Instant::now();
    let reply = client.call(&url, &call, peer.context().limits.request).await.map_err(|e| e.to_string())?;
    if reply.status != StatusCode::OK {
        return Err(format!("unexpected http status {}", reply.status));
    }
    match serde_json::from_slice::<Health>(&reply.body) {
        Ok(Health { ok: true, now: theirs }) => {
            let took = begun.elapsed();
            peer.counters.round_trip(took);
            peer.context().round_trip(peer.id, took);
            Ok(drift(&theirs, Timestamp::now(), took / 2))
        }
        Ok(Health { ok: false, .. }) => Err("the peer says that it is not well".to_owned()),
        Err(e) => Err(format!("malformed answer: {e}")),
    }
}

/// The difference of a peer's clock, which it read `ago`, from `now`; `None` if it reports no time.
pub(crate) fn drift(theirs: &str, now: Timestamp, ago: Duration) -> Option<Duration> {
    let ahead = theirs.parse::<Timestamp>().ok()?.duration_since(now);
    Some(ahead.saturating_add(SignedDuration::try_from(ago).ok()?).unsigned_abs())
}
