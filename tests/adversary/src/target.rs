//! What an attack is given, and what it tells.

use std::{net::SocketAddr, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

/// A running cluster, from the attacker's side.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Client addresses of all members.
    pub(crate) members: Vec<SocketAddr>,
    /// Where they listen for each other, in the same order.
    pub(crate) peers: Vec<SocketAddr>,
    /// Their processes, in the same order.
    pub(crate) pids: Vec<u32>,
    /// The member that leads when the attack begins.
    pub(crate) leader: usize,
    /// A revision at which the remade keys of [`crate::data::Data`] were there the first time.
    pub(crate) older_revision: i64,
    /// What numbers are multiplied with.
    pub(crate) scale: f64,
    /// When the attack is over.
    pub(crate) end: Instant,
}

impl Target {
    /// Where most attacks go: the leader.
    pub(crate) fn leader(&self) -> SocketAddr {
        self.members[self.leader]
    }

    /// Another member, or the only one.
    pub(crate) fn follower(&self) -> usize {
        (self.leader + 1) % self.members.len()
    }

    /// `full` at full strength, at least one.
    pub(crate) fn count(&self, full: u32) -> u32 {
        scaled(full, self.scale)
    }

    /// The same target, for an attack that is one of several at once.
    pub(crate) fn weakened(&self, share: f64) -> Self {
        Self { scale: self.scale * share, ..self.clone() }
    }

    /// Whether the attack is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Until the attack is over.
    pub(crate) async fn until_end(&self) {
        tokio::time::sleep_until(self.end).await;
    }

    /// Calls `again` until the attack is over, at least once. What it returns is dropped at the end of each pause.
    pub(crate) async fn every<T>(
        &self,
        pause: Duration,
        mut again: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<()> {
        loop {
            let _held = again().await?;
            tokio::time::sleep_until(self.end.min(Instant::now() + pause)).await;
            if self.is_over() {
                return Ok(());
            }
        }
    }

    /// Sends one member's process a signal.
    pub(crate) fn signal(&self, member: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pids[member]).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.ok_or_else(|| anyhow::anyhow!("no such process"))?, signal)?;
        Ok(())
    }
}

/// `full` times `scale`, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number below u32's end"
)]
pub(crate) fn scaled(full: u32, scale: f64) -> u32 {
    ((f64::from(full) * scale).round() as u32).max(1)
}

/// What the clients of an attack saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// What no client should see; the row fails where etcd's clients saw less of the kind.
    pub(crate) faults: Vec<String>,
    /// How long a client that did nothing wrong had to wait, where the attack is aimed at one.
    pub(crate) bystander: Option<Duration>,
    /// How long it may wait whatever etcd's took, where that is longer than usual.
    pub(crate) bystander_free: Duration,
}

impl Outcome {
    /// No client saw a fault.
    pub(crate) fn quiet() -> Self {
        Self::default()
    }

    /// A client that did nothing wrong waited this long.
    pub(crate) fn waited(time: Duration) -> Self {
        Self { bystander: Some(time), ..Self::default() }
    }

    /// It may wait so long.
    pub(crate) fn allowed(self, time: Duration) -> Self {
        Self { bystander_free: time, ..self }
    }

    /// A client saw what it should not see.
    pub(crate) fn fault(what: impl Into<String>) -> Self {
        Self { faults: vec![what.into()], ..Self::default() }
    }

    /// Joins two outcomes: all faults, and the longer times.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.faults.extend(other.faults);
        self.bystander = self.bystander.max(other.bystander);
        self.bystander_free = self.bystander_free.max(other.bystander_free);
        self
    }
}
