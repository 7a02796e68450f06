//! Attacks by many small messages. Half of them are clients that behave: they must not be taken for attackers.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::try_join_all;
use prost::Message;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutResponse, RangeRequest, WatchCreateRequest,
    WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::{KEEP_ALIVE, PUT, RANGE, WATCH, put};
use crate::{
    raw::{Answer, Call, Connection, Windows, framed},
    target::{Outcome, Target},
};

/// After the last question, for the answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leases kept alive, and how often: faster than clientv3, which asks every third of a lease's time.
const KEPT: u32 = 10_000;
const KEPT_EVERY: Duration = Duration::from_secs(2);

/// B6: one client keeps 10,000 leases alive on one stream, through a follower. It sends a frame a lease, all at once, as
/// clientv3 does, and counts the answers.
pub(crate) async fn keepalives(target: Target) -> anyhow::Result<Outcome> {
    let connection = Connection::open(target.members[target.follower()], Windows::WIDE).await?;
    let (response, mut send) = connection.open_call(KEEP_ALIVE, None).await?.split();
    let leases = i64::from(target.count(KEPT));
    let mut asked = 0;
    while !target.is_over() {
        for id in 1..=leases {
            let sent = send.send_data(framed(&LeaseKeepAliveRequest { id }), false);
            sent.with_context(|| format!("the connection ended: {:?}", connection.ended()))?;
        }
        asked += leases;
        sleep(KEPT_EVERY).await;
    }
    send.send_data(Bytes::new(), true)?;
    let counting = async {
        let body = response.await?;
        answers(Answer::new(body, send), |_: LeaseKeepAliveResponse| true).await
    };
    all_answered(&connection, asked, counting).await
}

/// Watches that one client has.
const WATCHES: i64 = 20_000;

/// B6: one client creates 20,000 watches on one stream, as a program that starts again does, and waits for the answers.
pub(crate) async fn watch_creates(target: Target) -> anyhow::Result<Outcome> {
    let connection = Connection::open(target.leader(), Windows::WIDE).await?;
    let mut call = connection.open_call(WATCH, None).await?;
    for number in 0..WATCHES {
        call.send(framed(&watch(format!("watched/{number}"))), false)?;
    }
    let mut seen = 0;
    let counting = async {
        let mut answer = call.answer().await?;
        let mut read = BytesMut::new();
        while seen < WATCHES {
            let message = answer.message::<WatchResponse>(&mut read).await?.context("the stream is over")?;
            seen += i64::from(message.created);
        }
        // The watches stay until the end.
        target.until_end().await;
        drop(answer);
        Ok(seen)
    };
    all_answered(&connection, WATCHES, counting).await
}

/// Whether as many answers came as questions were asked, and the connection is still there.
async fn all_answered(
    connection: &Connection,
    asked: i64,
    counting: impl Future<Output = anyhow::Result<i64>>,
) -> anyhow::Result<Outcome> {
    let Ok(answered) = timeout(PATIENCE, counting).await else {
        return Ok(Outcome::fault(format!("not all of {asked} answers within {PATIENCE:?}")));
    };
    let answered = answered.with_context(|| format!("the connection ended: {:?}", connection.ended()))?;
    ensure!(answered == asked, "{answered} answers to {asked} questions");
    Ok(Outcome::quiet())
}

/// How many messages come until the end of a stream.
async fn answers<A: Message + Default>(mut answer: Answer, counts: fn(A) -> bool) -> anyhow::Result<i64> {
    let (mut read, mut count) = (BytesMut::new(), 0);
    while let Some(message) = answer.message(&mut read).await? {
        count += i64::from(counts(message));
    }
    Ok(count)
}

fn watch(key: String) -> WatchRequest {
    let create = WatchCreateRequest { key: key.into(), ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Calls that time out together, how soon, and how long the server stands.
const TIMED_OUT: u32 = 3_000;
const TIME_OUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(2);

/// B12: a server stands for 2 s, as a paused machine does, and 3,000 calls of one connection reach their deadlines of 1 s:
/// their client resets them. A watch and a put of the same connection must not be lost with them.
pub(crate) async fn paused(target: Target) -> anyhow::Result<Outcome> {
    let member = target.follower();
    let connection = Connection::open(target.members[member], Windows::WIDE).await?;
    let mut watching = connection.open_call(WATCH, None).await?;
    watching.send(framed(&watch("paused".to_owned())), false)?;
    let mut events = watching.answer().await?;
    let mut read = BytesMut::new();
    events.message::<WatchResponse>(&mut read).await?.context("no watch")?;

    target.signal(member, Signal::STOP)?;
    let stopped = Instant::now();
    let calls = time_out(&connection, target.count(TIMED_OUT)).await;
    tokio::time::sleep_until(stopped + PAUSE).await;
    target.signal(member, Signal::CONT)?;
    calls?;

    let used = async {
        connection.ask::<PutResponse>(PUT, &put("paused")).await.context("the put")?;
        let event = events.message::<WatchResponse>(&mut read).await.context("the watch")?;
        ensure!(event.is_some_and(|answer| answer.events.len() == 1), "the watch is over");
        Ok(())
    };
    let used = timeout(PATIENCE, used).await.context("nothing comes over the connection any more")?;
    used.with_context(|| format!("the connection ended: {:?}", connection.ended()))?;
    target.until_end().await;
    Ok(Outcome::quiet())
}

/// Calls with a deadline, each reset when that is over.
async fn time_out(connection: &Connection, count: u32) -> anyhow::Result<()> {
    let get = framed(&RangeRequest { key: "paused".into(), ..Default::default() });
    let mut calls: Vec<Call> = Vec::new();
    for _ in 0..count {
        let mut call = connection.open_call(RANGE, Some(TIME_OUT)).await?;
        call.send(get.clone(), true)?;
        calls.push(call);
    }
    sleep(TIME_OUT).await;
    Ok(())
}

/// Streams that have a deadline, and on how many connections; the deadline, and how late it may be.
const MORTAL: u32 = 5_000;
const MORTAL_CONNECTIONS: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(4);

/// B10: watch streams that say how long they are wanted and then are silent. The server must end them itself: a client whose
/// network is gone does not.
pub(crate) async fn deadlines(target: Target) -> anyhow::Result<Outcome> {
    let count = target.count(MORTAL);
    let opening =
        (0..MORTAL_CONNECTIONS.min(count)).map(|_| Connection::open(target.leader(), Windows::WIDE));
    let connections = try_join_all(opening).await?;
    let mut calls = Vec::new();
    for connection in connections.iter().cycle().take(count as usize) {
        calls.push(connection.open_call(WATCH, Some(DEADLINE)).await?);
    }
    let ending = calls.into_iter().map(async |call| {
        // The status is DeadlineExceeded, which this client takes for an error.
        timeout(DEADLINE + LATE, async { call.answer().await?.end().await }).await.is_ok()
    });
    let open = futures::future::join_all(ending).await.into_iter().filter(|ended| !ended).count();
    target.until_end().await;
    Ok(if open == 0 {
        Outcome::quiet()
    } else {
        Outcome::fault(format!("{open} of {count} streams stay open"))
    })
}

/// Empty requests a second, on how many streams, in how many pieces each.
const EMPTY_A_SECOND: u32 = 40_000;
const EMPTY_STREAMS: u32 = 4;
const EMPTY_PIECES: u32 = 20;

/// B14: watch requests in which nothing is set. A server that writes a line for each has its disk filled by a client.
pub(crate) async fn empty_requests(target: Target) -> anyhow::Result<Outcome> {
    let piece = empty_messages(target.count(EMPTY_A_SECOND) / EMPTY_STREAMS / EMPTY_PIECES);
    let pause = Duration::from_secs(1) / EMPTY_PIECES;
    let sending = (0..EMPTY_STREAMS).map(async |_| {
        let connection = Connection::open(target.leader(), Windows::WIDE).await?;
        let mut call = connection.open_call(WATCH, None).await?;
        target.every(pause, async || call.send_in_turn(piece.clone()).await).await
    });
    // A stream that is ended for it is an answer.
    let _ = try_join_all(sending).await;
    target.until_end().await;
    Ok(Outcome::quiet())
}

fn empty_messages(count: u32) -> Bytes {
    let empty = framed(&WatchRequest::default());
    let mut bytes = BytesMut::new();
    for _ in 0..count.max(1) {
        bytes.put_slice(&empty);
    }
    bytes.freeze()
}
