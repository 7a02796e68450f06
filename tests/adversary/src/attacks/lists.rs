//! Attacks by answers that are large: asked for and not read, left early, or read by many.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::future::{join_all, try_join_all};
use proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest, request_op};

use super::{RANGE, TXN, list, put_and_read};
use crate::{
    data::{REMADE, VALUES},
    json::{self, base64},
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Lists that are reset, and how soon.
const CANCELLED: u32 = 300;
const CANCELLED_JSON: u32 = 150;
const CANCELLED_AFTER: Duration = Duration::from_millis(4);
const CANCELLED_EVERY: Duration = Duration::from_secs(5);
/// Connections that they come from.
const CONNECTIONS: u32 = 10;

/// B2: lists of 100 MB, each reset after 4 ms: the work must end with its client.
pub(crate) async fn cancelled(target: Target) -> anyhow::Result<Outcome> {
    let connections = connections(&target, CONNECTIONS, Windows::WIDE).await?;
    let count = target.count(CANCELLED) as usize;
    target
        .every(CANCELLED_EVERY, async || {
            let ask = connections.iter().cycle().take(count).map(async |connection| {
                let call = connection.call(RANGE, &list(VALUES)).await?;
                tokio::time::sleep(CANCELLED_AFTER).await;
                drop(call);
                anyhow::Ok(())
            });
            try_join_all(ask).await
        })
        .await?;
    Ok(Outcome::quiet())
}

/// B2: the same through the JSON gateway, by clients that close their connection.
pub(crate) async fn cancelled_json(target: Target) -> anyhow::Result<Outcome> {
    let (address, count) = (target.leader(), target.count(CANCELLED_JSON));
    target
        .every(CANCELLED_EVERY, async || {
            let ask = (0..count).map(async |_| {
                let request = json_list(address).await?;
                tokio::time::sleep(CANCELLED_AFTER).await;
                drop(request);
                anyhow::Ok(())
            });
            try_join_all(ask).await
        })
        .await?;
    Ok(Outcome::quiet())
}

/// Before a client that was refused tries again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// B5: one client lists all values, again and again.
pub(crate) async fn one_large(target: Target) -> anyhow::Result<Outcome> {
    read_again(&target, 1, RANGE, list(VALUES)).await
}

/// B5: six clients do.
pub(crate) async fn six_large(target: Target) -> anyhow::Result<Outcome> {
    read_again(&target, 6, RANGE, list(VALUES)).await
}

/// Gets in one transaction: as many as there may be.
const GETS: usize = 128;

/// B5: six clients read the same large value in each operation of a transaction.
pub(crate) async fn large_reads(target: Target) -> anyhow::Result<Outcome> {
    let get = RangeRequest { key: format!("{VALUES}{:08}", 0).into(), ..Default::default() };
    let get = RequestOp { request: Some(request_op::Request::RequestRange(get)) };
    let txn = TxnRequest { success: vec![get; GETS], ..Default::default() };
    read_again(&target, 6, TXN, txn).await
}

/// B5: the same after a put, so that the log's answer is as large.
pub(crate) async fn large_reads_after_a_put(target: Target) -> anyhow::Result<Outcome> {
    let get = RangeRequest { key: format!("{VALUES}{:08}", 0).into(), ..Default::default() };
    read_again(&target, 6, TXN, put_and_read(vec![get; GETS - 1])).await
}

/// Lists in one transaction, of keys that all have an older history.
const OLD_LISTS: usize = 20;

/// B5: two clients list what was there at an older revision many times over, after a put: where the rows are must not be
/// remembered for all of them.
pub(crate) async fn old_lists_after_a_put(target: Target) -> anyhow::Result<Outcome> {
    let old = RangeRequest { revision: target.older_revision, ..list(REMADE) };
    read_again(&target, 2, TXN, put_and_read(vec![old; OLD_LISTS])).await
}

/// Clients that ask, read all of the answer, and ask again. One that is refused tries again; that all are, always, is a fault.
async fn read_again(
    target: &Target,
    clients: u32,
    path: &str,
    ask: impl prost::Message,
) -> anyhow::Result<Outcome> {
    let clients = connections(target, target.count(clients), Windows::WIDE).await?;
    let read = clients.iter().map(async |connection| {
        let (mut answers, mut refused) = (0_u32, None);
        while !target.is_over() {
            let answer = async { connection.call(path, &ask).await?.answer().await?.end().await };
            // The last answer is left where it is when the time is over.
            match tokio::time::timeout_at(target.end, answer).await {
                Ok(Ok(_)) => answers += 1,
                Ok(Err(error)) => {
                    refused = Some(error);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Err(_) => break,
            }
        }
        (answers, refused)
    });
    let (answers, refused): (Vec<_>, Vec<_>) = join_all(read).await.into_iter().unzip();
    Ok(match refused.into_iter().flatten().next() {
        Some(error) if answers.iter().all(|count| *count == 0) => {
            Outcome::fault(format!("all refused: {error:#}"))
        }
        _ => Outcome::quiet(),
    })
}

/// Lists that nobody reads.
const UNREAD: u32 = 40;

/// B15: lists by a client that gives the server no window, and waits.
pub(crate) async fn unread(target: Target) -> anyhow::Result<Outcome> {
    let connections = connections(&target, CONNECTIONS, Windows::of_stream(0)).await?;
    let mut held = Vec::new();
    for connection in connections.iter().cycle().take(target.count(UNREAD) as usize) {
        held.push(connection.call(RANGE, &list(VALUES)).await?);
    }
    target.until_end().await;
    Ok(Outcome::quiet())
}

/// Clients that list as JSON, and what the one beside them puts.
const JSON_LISTS: u32 = 8;
const JSON_PUT_BYTES: usize = 40_000;
const JSON_PUT_EVERY: Duration = Duration::from_millis(100);

/// B13: a JSON put of 40 KB, again and again, while eight clients list 50 MiB as JSON: it must not wait for them.
pub(crate) async fn json_put(target: Target) -> anyhow::Result<Outcome> {
    let address = target.leader();
    let listing = (0..target.count(JSON_LISTS)).map(async |_| {
        while !target.is_over() {
            let list = async { json_list(address).await?.end().await };
            // Whether a list is served or refused is not what is asked here.
            let _ = tokio::time::timeout_at(target.end, list).await;
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    });
    let body =
        format!(r#"{{"key":"{}","value":"{}"}}"#, base64(b"json"), base64(&vec![b'j'; JSON_PUT_BYTES]));
    let mut took = Vec::new();
    let putting = target.every(JSON_PUT_EVERY, async || {
        let begun = Instant::now();
        json::Request::post(address, "/v3/kv/put", &body).await?.end().await.context("the JSON put")?;
        took.push(begun.elapsed());
        Ok(())
    });
    let (_, put) = futures::join!(join_all(listing), putting);
    put?;
    took.sort_unstable();
    Ok(Outcome::waited(took[took.len() / 2]))
}

async fn json_list(address: SocketAddr) -> anyhow::Result<json::Request> {
    let end = harness::end_of_prefix(VALUES.as_bytes());
    let body = format!(
        r#"{{"key":"{}","range_end":"{}","serializable":true}}"#,
        base64(VALUES.as_bytes()),
        base64(&end)
    );
    json::Request::post(address, "/v3/kv/range", &body).await
}

async fn connections(target: &Target, count: u32, windows: Windows) -> anyhow::Result<Vec<Connection>> {
    try_join_all((0..count).map(|_| Connection::open(target.leader(), windows))).await
}
