//! Auto-compaction, as etcd does it (`server/etcdserver/api/v3compactor`): every member keeps the time, the leader
//! compacts.

use crate::config::Retention;
use machine::{Refusal, Shared};
use proto::etcdserverpb::CompactionRequest;
use raft_node::{Handle, ProposeError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// In the mode `revision`, the time between two compactions.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);
/// In the mode `periodic`, the longest time between two compactions.
const PERIOD_MAX: Duration = Duration::from_hours(1);
/// Samples in each of those times.
const SAMPLES: u32 = 10;
/// The shortest time between two samples: etcd has none, and spins with a retention of nanoseconds.
const SAMPLE_MIN: Duration = Duration::from_millis(10);

/// Which revision to compact at, and when.
#[derive(Debug)]
enum Schedule {
    Periodic(Periodic),
    Revision { retention: i64, last: i64 },
}

/// Compacts at the revision of one period ago: not before a period has passed, then each period, or each hour.
#[derive(Debug)]
struct Periodic {
    period: Duration,
    /// The newest samples, of which the first is a period old.
    revisions: VecDeque<i64>,
    /// The last compaction, or the start.
    last: Instant,
    last_revision: i64,
    has_waited: bool,
}

impl Schedule {
    fn new(retention: Retention, now: Instant) -> Self {
        match retention {
            Retention::Period(period) => Self::Periodic(Periodic {
                period,
                revisions: VecDeque::new(),
                last: now,
                last_revision: 0,
                has_waited: false,
            }),
            Retention::Revisions(retention) => Self::Revision { retention, last: 0 },
        }
    }

    /// The time between two calls of [`Schedule::due`].
    fn interval(&self) -> Duration {
        match self {
            Self::Periodic(periodic) => periodic.interval(),
            Self::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// To be called before each interval.
    fn sample(&mut self, revision: i64) {
        if let Self::Periodic(periodic) = self {
            periodic.revisions.push_back(revision);
            if periodic.revisions.len() > periodic.samples_max() {
                periodic.revisions.pop_front();
            }
        }
    }

    /// After each interval, on the leader: the revision to compact at, if it is time.
    fn due(&mut self, now: Instant, revision: i64) -> Option<i64> {
        match self {
            Self::Periodic(periodic) => periodic.due(now),
            Self::Revision { retention, last } => {
                Some(revision.saturating_sub(*retention)).filter(|at| *at > 0 && at != last)
            }
        }
    }

    fn compacted(&mut self, now: Instant, at: i64) {
        match self {
            Self::Periodic(periodic) => (periodic.last, periodic.last_revision) = (now, at),
            Self::Revision { last, .. } => *last = at,
        }
    }
}

impl Periodic {
    fn interval(&self) -> Duration {
        (self.period.min(PERIOD_MAX) / SAMPLES).max(SAMPLE_MIN)
    }

    fn samples_max(&self) -> usize {
        usize::try_from(self.period.as_nanos() / self.interval().as_nanos())
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }

    fn due(&mut self, now: Instant) -> Option<i64> {
        let wait = if self.has_waited { self.period.min(PERIOD_MAX) } else { self.period };
        let at = self.revisions.front().copied().filter(|at| *at != self.last_revision)?;
        if now.duration_since(self.last) < wait {
            return None;
        }
        self.has_waited = true;
        Some(at)
    }
}

/// Compacts while this member leads. Ends with the node.
pub(crate) async fn run(retention: Retention, node: Handle, shared: Arc<Shared>, log: slog::Logger) {
    let mode = match retention {
        Retention::Period(_) => "periodic",
        Retention::Revisions(_) => "revision",
    };
    let (mut schedule, mut ended) = (Schedule::new(retention, Instant::now()), node.watch_ended());
    loop {
        schedule.sample(shared.view().revision());
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            () = tokio::time::sleep(schedule.interval()) => {}
        }
        if !node.status().is_leader {
            continue;
        }
        let begun = Instant::now();
        let Some(revision) = schedule.due(begun, shared.view().revision()) else { continue };
        slog::info!(log, "starting auto {mode} compaction"; "revision" => revision);
        match node.propose(CompactionRequest { revision, physical: false }, None).await {
            Ok(_) | Err(ProposeError::Refused(Refusal::Compacted)) => {
                schedule.compacted(Instant::now(), revision);
                slog::info!(log, "completed auto {mode} compaction"; "revision" => revision,
                    "took" => format!("{:.1?}", begun.elapsed()));
            }
            Err(error) => slog::warn!(log, "failed auto {mode} compaction"; "revision" => revision,
                "retry-interval" => format!("{:?}", schedule.interval()), "error" => %error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// What is compacted when, in intervals, if the revision grows by ten in each.
    fn compactions(retention: Retention, intervals: u32) -> Vec<(u32, i64)> {
        let start = Instant::now();
        let mut schedule = Schedule::new(retention, start);
        let mut compactions = Vec::new();
        for n in 0..intervals {
            let revision = 1 + 10 * i64::from(n);
            schedule.sample(revision);
            let now = start + schedule.interval() * (n + 1);
            if let Some(at) = schedule.due(now, revision + 10) {
                schedule.compacted(now, at);
                compactions.push((n + 1, at));
            }
        }
        compactions
    }

    #[test]
    fn a_period_compacts_at_what_was_a_period_ago() {
        let hour = compactions(Retention::Period(60 * MINUTE), 35);
        assert_eq!(hour, [(10, 1), (20, 91), (30, 191)]);
        // Of a longer period only the first is waited for; then each hour.
        let three = compactions(Retention::Period(180 * MINUTE), 55);
        assert_eq!(three, [(30, 1), (40, 91), (50, 191)]);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        assert_eq!(compactions(Retention::Revisions(25), 4), [(3, 6), (4, 16)]);
        let mut schedule = Schedule::new(Retention::Revisions(5), Instant::now());
        schedule.compacted(Instant::now(), 10);
        assert_eq!(schedule.due(Instant::now(), 15), None, "nothing has changed");
    }

    #[test]
    fn nothing_is_compacted_twice_and_a_failure_is_tried_again() {
        let (start, hour) = (Instant::now(), 60 * MINUTE);
        let mut schedule = Schedule::new(Retention::Period(hour), start);
        for _ in 0..20 {
            schedule.sample(7);
        }
        assert_eq!(schedule.due(start + hour, 7), Some(7));
        assert_eq!(schedule.due(start + hour + 6 * MINUTE, 7), Some(7), "it failed");
        schedule.compacted(start + hour, 7);
        assert_eq!(schedule.due(start + 3 * hour, 7), None);
    }

    #[test]
    fn the_shortest_period_does_not_spin() {
        let schedule = Schedule::new(Retention::Period(Duration::from_nanos(1)), Instant::now());
        assert_eq!(schedule.interval(), SAMPLE_MIN);
    }
}
