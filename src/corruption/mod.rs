//! Whether the members hold the same: etcd's checks of `HashKV`, with its flags, words and alarms
//! (`server/etcdserver/corrupt.go`), in clusters of etcd's members and ours.
//!
//! ```text
//! before it serves    gate InitialCorruptCheck   own hash against the peers' ─▶ it does not start
//! the leader, every   --corrupt-check-time       own hash, the peers', own again ─▶ alarm CORRUPT, one a round
//! the leader, every   --compact-hash-check-time  hashes of compactions, gate CompactHashCheck ─▶ alarm CORRUPT for
//!                                                whoever is not of the majority, for member 0 without one
//! ```
//!
//! The alarm is in the log: while it is raised, writes are refused on all members.

mod compactions;
mod hashes;
mod initial;
mod periodic;

pub(crate) use hashes::{Asker, own_hash};
pub(crate) use initial::check as check_initially;

use compactions::Compactions;
use gotext::duration;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use raft_node::Handle;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// When which check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether the member compares itself with its peers before it serves.
    pub(crate) is_initial: bool,
    /// Time between the leader's checks of the whole history; zero = none.
    pub(crate) every: Duration,
    /// Whether the leader compares the hashes of compactions.
    pub(crate) of_compactions: bool,
    /// Time between such comparisons; never zero.
    pub(crate) compactions_every: Duration,
}

/// Starts the checks of a leader. They end with the node.
pub(crate) fn start(options: Options, asker: &Arc<Asker>, node: &Handle, log: &slog::Logger) {
    if !options.every.is_zero() {
        slog::info!(log, "enabled corruption checking"; "local-member-id" => asker.me(),
            "interval" => duration::show(options.every));
        tokio::spawn(check_periodically(options.every, Arc::clone(asker), node.clone(), log.clone()));
    }
    if options.of_compactions {
        let every = options.compactions_every;
        tokio::spawn(check_compactions(every, Arc::clone(asker), node.clone(), log.clone()));
    }
}

async fn check_periodically(every: Duration, asker: Arc<Asker>, node: Handle, log: slog::Logger) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = node.watch_ended();
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            _ = ticks.tick() => {}
        }
        if !node.status().is_leader {
            continue;
        }
        match check_once(&asker, &node, &log).await {
            Ok(Some(member)) => raise(&node, member, &log),
            Ok(None) => {}
            Err(error) => {
                slog::warn!(log, "failed to check hash KV"; "error" => format!("{error:#}"));
            }
        }
    }
}

/// etcd's `PeriodicCheck`: the member for which the alarm is due.
async fn check_once(asker: &Asker, node: &Handle, log: &slog::Logger) -> anyhow::Result<Option<u64>> {
    let before = asker.own(0).await?;
    let peers = asker.peers(before.hash_revision).await;
    // From here on this member has applied whatever a peer had when it answered.
    node.read_barrier(Some(Instant::now() + asker.limit())).await?;
    let after = asker.own(0).await?;
    Ok(periodic::judge(asker.member(), &before, &after, &peers, log))
}

async fn check_compactions(every: Duration, asker: Arc<Asker>, node: Handle, log: slog::Logger) {
    let mut ended = node.watch_ended();
    let mut compactions = Compactions::default();
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(every) => {}
        }
        if node.status().is_leader {
            for member in compactions.check(&asker, &log).await {
                raise(&node, member, &log);
            }
        }
    }
}

/// [`raise`], unless that very alarm is raised.
pub(crate) fn raise_unless_raised(node: &Handle, member: u64, log: &slog::Logger) {
    if !node.machine().alarms().has(AlarmType::Corrupt, member) {
        raise(node, member, log);
    }
}

/// Raises CORRUPT for a member, 0 = for nobody in particular. Nobody waits for it, as in etcd: without a quorum it would
/// take for ever.
fn raise(node: &Handle, member: u64, log: &slog::Logger) {
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: member,
        alarm: AlarmType::Corrupt.into(),
    };
    let (node, log) = (node.clone(), log.clone());
    tokio::spawn(async move {
        if let Err(error) = node.propose(request, None).await {
            slog::warn!(log, "could not raise the CORRUPT alarm"; "member" => format!("{member:x}"),
                "error" => %error);
        }
    });
}
