//! Attacks by small questions that are much work: the answer has one key or none, the way to it passes all of them.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use prost::Message;
use proto::etcdserverpb::{
    Compare, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    response_op::Response,
};

use super::{RANGE, TXN, list, put_and_read};
use crate::{
    data::REMADE,
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Clients that ask at the same time, and how often: etcd needs some tenths of a second for each.
const CLIENTS: u32 = 2;
const EVERY: Duration = Duration::from_secs(2);
/// Conditions of one transaction, each over all the remade keys.
const COMPARES: usize = 20;

/// B4: lists with a limit of one at an older revision, whose count goes over every key that was there then. A member that
/// counts where it also answers heartbeats loses its leadership.
pub(crate) async fn old_counts(target: Target) -> anyhow::Result<Outcome> {
    let request = old_count(&target);
    ask_again(&target, RANGE, request, |answer: RangeResponse| is_old(&answer)).await
}

/// B4: the same after a put, so that the log's answer is as much work.
pub(crate) async fn old_counts_after_a_put(target: Target) -> anyhow::Result<Outcome> {
    let request = put_and_read(vec![old_count(&target)]);
    let is_old = |answer: TxnResponse| match answer.responses.last().and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(range)) => is_old(range),
        _ => false,
    };
    ask_again(&target, TXN, request, is_old).await
}

/// B4: a transaction whose conditions all members must look at, key by key, before they know what it does.
pub(crate) async fn wide_compares(target: Target) -> anyhow::Result<Outcome> {
    let RangeRequest { key, range_end, .. } = list(REMADE);
    let all_live = Compare {
        key,
        range_end,
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        target_union: Some(TargetUnion::Version(0)),
    };
    let request = TxnRequest { compare: vec![all_live; COMPARES], ..put_and_read(Vec::new()) };
    ask_again(&target, TXN, request, |answer: TxnResponse| answer.succeeded).await
}

fn old_count(target: &Target) -> RangeRequest {
    RangeRequest { limit: 1, revision: target.older_revision, ..list(REMADE) }
}

fn is_old(answer: &RangeResponse) -> bool {
    answer.kvs.len() == 1 && answer.count > 0
}

async fn ask_again<A: Message + Default>(
    target: &Target,
    path: &str,
    request: impl Message,
    is_right: impl Fn(A) -> bool,
) -> anyhow::Result<Outcome> {
    let opening = (0..CLIENTS).map(|_| Connection::open(target.leader(), Windows::WIDE));
    let connections = try_join_all(opening).await?;
    let answered = target.every(EVERY, async || {
        let asking = connections.iter().map(async |connection| {
            let answer = connection.ask::<A>(path, &request).await.context("much work")?;
            anyhow::ensure!(is_right(answer), "another answer than it should be");
            Ok(())
        });
        try_join_all(asking).await
    });
    answered.await?;
    Ok(Outcome::quiet())
}
