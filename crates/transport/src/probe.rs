//! GET `/raft/probing` every 4 s: the round trip, and one log line when a peer's health changes.
//!
//! etcd probes twice, once for each of its two kinds of connection; one is enough to measure and to tell.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
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
    /// Its wall clock, RFC 3339.
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
            // Nothing here depends on it; whoever compares the members' logs, or their files' times, wants to know.
            if drift > limits.clock_drift && !drifts {
                slog::warn!(log, "prober found high clock drift"; "remote-peer-id" => hex(peer.id),
                    "clock-drift" => format!("{drift:?}"));
            }
            drifts = drift > limits.clock_drift;
        }
    }
}

/// One round trip, and how far the peer's wall clock is from this member's, where it says it.
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
            // It read its clock about half a round trip ago.
            let mine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(since_epoch(&theirs).map(|theirs| theirs.abs_diff(mine.saturating_sub(took / 2))))
        }
        Ok(Health { ok: false, .. }) => Err("the peer says that it is not well".to_owned()),
        Err(e) => Err(format!("malformed answer: {e}")),
    }
}

/// A time as Go writes it (RFC 3339, with a fraction or not, at any offset), since 1970; `None` for anything else.
pub(crate) fn since_epoch(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let marks = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    if marks.iter().any(|(at, mark)| text.get(*at..at + 1) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let fraction = rest.strip_prefix('.').map_or("", |digits| {
        digits.split_at_checked(digits.bytes().take_while(u8::is_ascii_digit).count()).map_or("", |(d, _)| d)
    });
    let zone = rest.trim_start_matches('.').trim_start_matches(|c: char| c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), at) => {
            let (hours, minutes) = at.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Civil date to days: H. Hinnant, "chrono-compatible low-level date algorithms".
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
}
