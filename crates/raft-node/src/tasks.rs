//! The node's three tasks in the runtime, which live as long as the node. One hands over collected requests, once
//! a turn of the runtime; the completer wakes waiters; the sweeper ends those whose deadline passed.

use crate::handle::{Handle, Shared};
use crate::member::{Batch, Done};
use crate::queues::Reply;
use crate::{ProposeError, ReadError};
use machine::{Effect, Outcome, Response};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use types::lock;

pub(crate) fn spawn_tasks(shared: &Arc<Shared>) {
    tokio::spawn(hand_over(Arc::clone(shared)));
    tokio::spawn(complete(Arc::clone(shared)));
    tokio::spawn(sweep(Arc::clone(shared)));
}

/// Hands over collected requests, once all of the same turn of the runtime are there.
async fn hand_over(shared: Arc<Shared>) {
    let mut batch = Batch::default();
    loop {
        shared.gathered.notified().await;
        for _ in 0..shared.options.limits.gather_yields {
            tokio::task::yield_now().await;
        }
        let ended = {
            let mut pending = lock(&shared.pending);
            pending.take(&mut batch);
            pending.has_ended()
        };
        if ended {
            return;
        }
        shared.inbox.hand_over(&mut batch);
    }
}

async fn complete(shared: Arc<Shared>) {
    let mut done = Vec::new();
    loop {
        shared.outbox.take(&mut done).await;
        for done in done.drain(..) {
            match done {
                Done::Outcomes(outcomes) => complete_outcomes(&shared, outcomes),
                Done::Reads(rounds, result) => complete_reads(&shared, &rounds, result),
                Done::Failed(id, error) => {
                    if let Some(reply) = { lock(&shared.pending).take_waiter(id) } {
                        reply.fail(error);
                    }
                }
                Done::Transferred(id, result) => {
                    if let Some(reply) = { lock(&shared.pending).take_transfer(id) } {
                        // If the receiver is gone, nobody waits.
                        let _ = reply.send(result);
                    }
                }
                Done::Ended(error) => return end(&shared, &error),
            }
        }
        shared.applied.send_if_modified(|known| {
            let applied = shared.cells.applied.load(Relaxed);
            std::mem::replace(known, applied) != applied
        });
    }
}

fn complete_outcomes(shared: &Arc<Shared>, outcomes: Vec<Outcome>) {
    let mut ready = Vec::with_capacity(outcomes.len());
    {
        let mut pending = lock(&shared.pending);
        for outcome in outcomes {
            ready.push((pending.take_waiter(outcome.request_id), outcome));
        }
    }
    for (reply, outcome) in ready {
        if outcome.over_quota {
            tokio::spawn(raise_no_space(Handle { shared: Arc::clone(shared) }, reply, outcome));
        } else if let Some(reply) = reply {
            finish(reply, outcome.effect);
        }
    }
}

fn finish(reply: Reply, effect: Effect) {
    // If the receiver is gone, nobody waits.
    match (reply, effect) {
        (Reply::Request(reply), Effect::Answer(answer)) => {
            let _ = reply.send(answer.map_err(ProposeError::Refused));
        }
        (Reply::Change(reply), Effect::Conf { answer, .. }) => {
            let _ = reply.send(answer.map_err(ProposeError::Refused));
        }
        // It was applied, with nothing to report.
        (Reply::Request(reply), Effect::Nothing) => drop(reply.send(Ok(Response::Published))),
        (reply, Effect::Nothing | Effect::Answer(_) | Effect::Conf { .. }) => {
            reply.fail(ProposeError::Fault);
        }
    }
}

/// A request exceeded this member's quota: raises the alarm, then answers the request, as in etcd.
async fn raise_no_space(handle: Handle, reply: Option<Reply>, outcome: Outcome) {
    slog::warn!(handle.shared.log, "the quota is exceeded: raising the NOSPACE alarm"; "index" => outcome.index);
    let alarm = machine::no_space(handle.shared.options.member);
    if let Err(error) = handle.propose(alarm, None).await {
        slog::warn!(handle.shared.log, "could not raise the NOSPACE alarm"; "error" => %error);
    }
    if let Some(reply) = reply {
        finish(reply, outcome.effect);
    }
}

fn complete_reads(shared: &Shared, rounds: &[u64], result: Result<(), ReadError>) {
    let ready: Vec<_> = {
        let mut pending = lock(&shared.pending);
        rounds.iter().filter_map(|round| pending.take_round(*round)).collect()
    };
    for reply in ready.into_iter().flatten() {
        // If the receiver is gone, nobody waits.
        let _ = reply.send(result);
    }
}

/// The node ended: fails all waiters, and any that come later.
fn end(shared: &Shared, error: &ProposeError) {
    let (requests, reads) = lock(&shared.pending).end(error.clone());
    for reply in requests {
        reply.fail(error.clone());
    }
    for reply in reads {
        let _ = reply.send(Err(ReadError::Stopped));
    }
    shared.gathered.notify_one();
    shared.deadlines.notify_one();
    shared.ended.send_replace(true);
}

/// Ends waiters whose deadline passed. Sleeps until the first deadline; most are answered long before theirs.
async fn sweep(shared: Arc<Shared>) {
    loop {
        let (first, ended) = {
            let pending = lock(&shared.pending);
            (pending.first_deadline(), pending.has_ended())
        };
        if ended {
            return;
        }
        match first {
            None => shared.deadlines.notified().await,
            Some(first) => {
                tokio::select! {
                    () = tokio::time::sleep_until(first.into()) => sweep_once(&shared, Instant::now()),
                    () = shared.deadlines.notified() => {}
                }
            }
        }
    }
}

fn sweep_once(shared: &Shared, now: Instant) {
    let expired = { lock(&shared.pending).take_expired(now) };
    for (_, waiter) in expired {
        let error = shared.timeout(waiter.since);
        waiter.reply.fail(error);
    }
}
