//! Attacks by small questions that are much work: the answer has one key, the way to it passes all of them.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::{RANGE, list};
use crate::{
    data::REMADE,
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Clients that ask at the same time, and how often: etcd needs some tenths of a second for each.
const CLIENTS: u32 = 2;
const EVERY: Duration = Duration::from_secs(2);

/// B4: lists with a limit of one at an older revision, whose count goes over every key that was there then. A member that
/// counts where it also answers heartbeats loses its leadership.
pub(crate) async fn old_counts(target: Target) -> anyhow::Result<Outcome> {
    let ask = &RangeRequest { limit: 1, revision: target.older_revision, ..list(REMADE) };
    let opening = (0..CLIENTS).map(|_| Connection::open(target.leader(), Windows::WIDE));
    let connections = try_join_all(opening).await?;
    let answered = target.every(EVERY, async || {
        let asking = connections.iter().map(async |connection| {
            let answer = connection.ask::<RangeResponse>(RANGE, ask).await.context("an older revision")?;
            anyhow::ensure!(answer.kvs.len() == 1 && answer.count > 0, "the older keys are not there");
            Ok(())
        });
        try_join_all(asking).await
    });
    answered.await?;
    Ok(Outcome::quiet())
}
