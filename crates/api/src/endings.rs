//! What ends a stream from outside: loss of the leader, and shutdown.

use crate::status::EtcdError;
use raft_node::Leadership;
use std::time::Duration;
use tokio::{sync::watch, time::sleep};
use tonic::Status;

/// Election timeouts without a leader that end streams which asked for one (etcd's `maxNoLeaderCnt`). Reopening a
/// stream costs more than repeating a call, so this is longer than an election takes.
const LEADERLESS_ELECTIONS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// New connections and calls are accepted.
    Serving,
    /// Calls in flight may finish.
    Draining,
    /// All connections are closed.
    Cut,
}

/// Resolves at the next loss of the leader.
pub(crate) async fn leader_lost(mut losses: watch::Receiver<u64>) -> Status {
    losses.mark_unchanged();
    if losses.changed().await.is_err() {
        // The node has ended; the server will follow.
        return EtcdError::Stopped.into();
    }
    EtcdError::NoLeader.into()
}

/// Resolves once this member's data was found wrong.
pub(crate) async fn distrusted(mut distrusted: watch::Receiver<bool>) -> Status {
    match distrusted.wait_for(|distrusted| *distrusted).await {
        Ok(_) => EtcdError::Corrupt.into(),
        Err(_) => EtcdError::Stopped.into(),
    }
}

pub(crate) async fn going_down(mut phase: watch::Receiver<Phase>) -> Status {
    // An error means that the listener is already gone.
    let _ = phase.wait_for(|phase| *phase > Phase::Serving).await;
    EtcdError::Stopped.into()
}

/// Counts each time without a leader for [`LEADERLESS_ELECTIONS`] (etcd's `monitorLeader`). Ends with the node.
pub(crate) async fn count_losses(
    mut leadership: watch::Receiver<Leadership>,
    election_timeout: Duration,
    losses: watch::Sender<u64>,
) {
    let patience = election_timeout * LEADERLESS_ELECTIONS;
    loop {
        if leadership.wait_for(|leadership| leadership.leader == 0).await.is_err() {
            return;
        }
        tokio::select! {
            found = leadership.wait_for(|leadership| leadership.leader != 0) => match found {
                Ok(_) => continue,
                Err(_) => return,
            },
            () = sleep(patience) => losses.send_modify(|count| *count += 1),
        }
        if leadership.wait_for(|leadership| leadership.leader != 0).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn a_leader_is_lost_after_three_election_timeouts_without_one() {
        const ELECTION: Duration = Duration::from_millis(40);
        let leader = |leader| Leadership { term: 1, leader, is_leader: false };
        let (leadership, losses) = (watch::Sender::new(leader(1)), watch::Sender::new(0));
        tokio::spawn(count_losses(leadership.subscribe(), ELECTION, losses.clone()));
        leadership.send_replace(leader(0));
        sleep(ELECTION).await;
        leadership.send_replace(leader(2)); // a successful election
        sleep(ELECTION * 4).await;
        assert_eq!(*losses.borrow(), 0);
        let mut lost = losses.subscribe();
        leadership.send_replace(leader(0));
        let since = Instant::now();
        lost.wait_for(|losses| *losses == 1).await.expect("the sender is there");
        assert!(since.elapsed() >= ELECTION * 3);
    }
}
