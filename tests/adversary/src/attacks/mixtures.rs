//! Several attacks at once, each weaker than alone: what one of them leaves free, another takes.

use futures::future::{LocalBoxFuture, join_all};

use super::{connections, history, lists, locks, snapshots, streams};
use crate::target::{Outcome, Target};

type Attacking = LocalBoxFuture<'static, anyhow::Result<Outcome>>;

/// What is held: connections, unread answers, unfinished requests, snapshots.
pub(crate) async fn memory(target: Target) -> anyhow::Result<Outcome> {
    let t = target.weakened(0.5);
    together([
        Box::pin(connections::idle(t.clone())) as Attacking,
        Box::pin(snapshots::slow_readers(t.clone())),
        Box::pin(lists::unread(t.clone())),
        Box::pin(connections::half_sent(t)),
    ])
    .await
}

/// What is to be computed: lists, reads of history, transactions, JSON.
pub(crate) async fn work(target: Target) -> anyhow::Result<Outcome> {
    let t = target.weakened(0.5);
    together([
        Box::pin(lists::cancelled(t.clone())) as Attacking,
        Box::pin(history::old_counts(t.clone())),
        Box::pin(lists::large_reads(t.clone())),
        Box::pin(lists::json_put(t)),
    ])
    .await
}

/// What is sent in small pieces: keepalives, watches, locks, and nothing at all.
pub(crate) async fn streams(target: Target) -> anyhow::Result<Outcome> {
    let t = target.weakened(0.5);
    together([
        Box::pin(streams::keepalives(t.clone())) as Attacking,
        Box::pin(streams::watch_creates(t.clone())),
        Box::pin(locks::storm(t.clone())),
        Box::pin(streams::empty_requests(t)),
    ])
    .await
}

/// All three mixtures at once.
pub(crate) async fn everything(target: Target) -> anyhow::Result<Outcome> {
    let t = target.weakened(0.5);
    together([Box::pin(memory(t.clone())) as Attacking, Box::pin(work(t.clone())), Box::pin(streams(t))])
        .await
}

/// All of them until the last has ended; what any of their clients saw.
async fn together(attacks: impl IntoIterator<Item = Attacking>) -> anyhow::Result<Outcome> {
    let seen = join_all(attacks).await.into_iter().map(|seen| {
        // One that is refused does not end the others.
        seen.unwrap_or_else(|error| Outcome::fault(format!("{error:#}")))
    });
    Ok(seen.fold(Outcome::quiet(), Outcome::and))
}
