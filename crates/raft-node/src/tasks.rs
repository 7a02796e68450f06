//! The node's three tasks in the runtime. They live as long as the node does.
//!
//! * The flusher hands over what was gathered, once a turn of the runtime.
//! * The completer wakes waiters, inside the runtime: another thread would pay a system call for each.
//! * The sweeper ends those whose deadline passed.

use crate::front::{Batch, Done, Waiter, lock};
use crate::handle::{Handle, Shared};
use crate::{ProposeError, ReadError};
use machine::{Effect, Outcome, Response};
use proto::etcdserverpb as pb;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Starts the node's tasks in the runtime of the caller.
pub(crate) fn spawn_tasks(shared: &Arc<Shared>) {
    tokio::spawn(flush(Arc::clone(shared)));
    tokio::spawn(complete(Arc::clone(shared)));
    tokio::spawn(sweep(Arc::clone(shared)));
}

/// Hands over what was gathered, once what came in the same turn of the runtime is there too.
async fn flush(shared: Arc<Shared>) {
    let mut batch = Batch::default();
    loop {
        shared.flush.notified().await;
        for _ in 0..shared.options.limits.flush_yields {
            tokio::task::yield_now().await;
        }
        let ended = {
            let mut front = lock(&shared.front);
            front.take_gathered(&mut batch);
            front.ended.is_some()
        };
        if ended {
            return;
        }
        shared.inbox.hand_over(&mut batch);
    }
}

/// Completes waiters inside the runtime.
async fn complete(shared: Arc<Shared>) {
    let mut done = Vec::new();
    loop {
        shared.outbox.take(&mut done).await;
        for done in done.drain(..) {
            match done {
                Done::Outcomes(outcomes) => complete_outcomes(&shared, outcomes),
                Done::Reads(rounds, result) => complete_reads(&shared, &rounds, result),
                Done::Failed(id, error) => {
                    if let Some(waiter) = { lock(&shared.front).waiters.remove(&id) } {
                        waiter.fail(error);
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
        let mut front = lock(&shared.front);
        for outcome in outcomes {
            let waiter = front.waiters.remove(&outcome.request_id);
            ready.push((waiter, outcome));
        }
    }
    for (waiter, outcome) in ready {
        if outcome.over_quota {
            tokio::spawn(raise_no_space(Handle { shared: Arc::clone(shared) }, waiter, outcome));
        } else if let Some(waiter) = waiter {
            finish(waiter, outcome.effect);
        }
    }
}

fn finish(waiter: Waiter, effect: Effect) {
    // The other end may have gone away: then nobody waits.
    match (waiter, effect) {
        (Waiter::Request { reply, .. }, Effect::Answer(answer)) => {
            let _ = reply.send(answer.map_err(ProposeError::Refused));
        }
        (Waiter::Change { reply, .. }, Effect::Conf { answer, .. }) => {
            let _ = reply.send(answer.map_err(ProposeError::Refused));
        }
        // Applied, with nothing to tell.
        (Waiter::Request { reply, .. }, Effect::Nothing) => drop(reply.send(Ok(Response::Published))),
        (waiter, Effect::Nothing | Effect::Answer(_) | Effect::Conf { .. }) => {
            waiter.fail(ProposeError::Fault);
        }
    }
}

/// A request passed this member's quota: the alarm is raised, then the request answered, as in etcd.
async fn raise_no_space(handle: Handle, waiter: Option<Waiter>, outcome: Outcome) {
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: handle.shared.options.member,
        alarm: pb::AlarmType::Nospace.into(),
    };
    slog::warn!(handle.shared.log, "the quota is exceeded: raising the NOSPACE alarm"; "index" => outcome.index);
    let request = pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
    if let Err(error) = handle.propose(request, None).await {
        slog::warn!(handle.shared.log, "could not raise the NOSPACE alarm"; "error" => %error);
    }
    if let Some(waiter) = waiter {
        finish(waiter, outcome.effect);
    }
}

fn complete_reads(shared: &Shared, rounds: &[u64], result: Result<(), ReadError>) {
    let mut ready = Vec::new();
    {
        let mut front = lock(&shared.front);
        for round in rounds {
            if let Some(at) = front.rounds.iter().position(|(known, _)| known == round)
                && let Some((_, waiters)) = front.rounds.remove(at)
            {
                front.reads_waiting -= waiters.len();
                ready.push(waiters);
            }
        }
    }
    for waiter in ready.into_iter().flatten() {
        let _ = waiter.send(result);
    }
}

/// The node is over: nobody waits any more, and nobody begins to.
fn end(shared: &Shared, error: &ProposeError) {
    let (waiters, reads) = {
        let mut front = lock(&shared.front);
        front.ended = Some(error.clone());
        front.gathered = Batch::default();
        let rounds = std::mem::take(&mut front.rounds).into_iter().flat_map(|(_, waiters)| waiters);
        let reads: Vec<_> = rounds.chain(std::mem::take(&mut front.reads)).collect();
        front.reads_waiting = 0;
        (std::mem::take(&mut front.waiters), reads)
    };
    for waiter in waiters.into_values() {
        waiter.fail(error.clone());
    }
    for read in reads {
        let _ = read.send(Err(ReadError::Stopped));
    }
    shared.flush.notify_one();
    shared.deadlines.notify_one();
    shared.ended.send_replace(true);
}

/// Ends waiters whose deadline passed. Sleeps until the first one, which is mostly long answered by then.
async fn sweep(shared: Arc<Shared>) {
    loop {
        let (first, ended) = {
            let front = lock(&shared.front);
            (front.first_deadline, front.ended.is_some())
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
    let expired: Vec<Waiter> = {
        let mut front = lock(&shared.front);
        let expired = front
            .waiters
            .extract_if(|_, waiter| waiter.deadline() <= now)
            .map(|(_, waiter)| waiter)
            .collect();
        front.first_deadline = front.waiters.values().map(Waiter::deadline).min();
        expired
    };
    for waiter in expired {
        let error = shared.timeout(waiter.since());
        waiter.fail(error);
    }
}
