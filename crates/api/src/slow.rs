//! Work that a client causes, and where it runs.
//!
//! One thread serves all clients of a member, so nothing may hold it for long. What a request costs is counted while it
//! is done ([`Effort`]): it begins on that thread with a small budget, and where that is spent it is given up there and
//! done on a blocking thread.
//!
//! ```text
//! inline: 512 rows, 64 KiB ─ spent ─▶ short lane: 8,192 rows, 4 MiB ─ spent ─▶ long lane: no budget
//!                                     some ms each, so it moves             values beyond 4 MiB: a piece a turn
//! ```
//!
//! * Each lane is capped, so that lists do not take the cores away from puts; what does not fit waits its turn. What is
//!   short never waits for what is long.
//! * A turn lives with the work, on its thread, and not with who waits for it: who goes away and asks again gets no
//!   second one. Who goes away leaves a mark, and the work ends at its next step, with all it holds.
//! * An answer is encoded where it was made.

use crate::{budget::Room, status};
use machine::Stop;
use mvcc::{Cost, Effort, GivenUp};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// How much work may be where. Fields are defaults of [`WorkLimits::default`] unless a test draws smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// What one request may cost on the thread that serves everybody. 512 rows (a listed key is two, one in the index and
    /// one read; a key that is got is five) and 64 KiB: some 200 µs.
    pub inline: Cost,
    /// What it may cost in the short lane: 8,192 rows and 4 MiB, some milliseconds.
    pub short: Cost,
    /// Short work at one time: 2, of some milliseconds each.
    pub short_max: usize,
    /// Steps of snapshots at one time: 1. Each is short, and a backup waits for no list.
    pub snapshot_max: usize,
    /// Long work at one time: 2. On the smallest machine we budget for (two cores) one more would stop the writes.
    pub long_max: usize,
    /// What the answers of one transaction may remember of where their rows are, in bytes: 16 MiB, a million rows of sorted,
    /// filtered or older lists. What is beyond is found twice: for the answer's length, and when it is its turn.
    pub remembered_bytes: usize,
    /// What of a long answer is read in one turn, in bytes: 256 KiB, below a millisecond. Twice that is held of each.
    pub piece_bytes: usize,
    /// A step on the thread that serves everybody that takes longer than this is counted and logged: 5 ms, after which
    /// clients notice.
    pub step_max: Duration,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self {
            inline: Cost { rows: 512, bytes: 64 << 10 },
            short: Cost { rows: 8_192, bytes: 4 << 20 },
            short_max: 2,
            snapshot_max: 1,
            long_max: 2,
            remembered_bytes: 16 << 20,
            piece_bytes: 256 << 10,
            step_max: Duration::from_millis(5),
        }
    }
}

/// What is short does not wait for what is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Within [`WorkLimits::short`].
    Short,
    /// Anything.
    Long,
    /// Steps of snapshots.
    Snapshot,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Short, Self::Long, Self::Snapshot];

    fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The blocking threads' lanes.
pub struct Pool {
    limits: WorkLimits,
    turns: [Arc<Semaphore>; 3],
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    done: IntCounterVec,
}

/// How a read fared that was tried at once.
pub(crate) enum Inline<T> {
    /// That was all.
    Done(Result<T, Status>),
    /// It is for [`Pool::read`]: it costs at least so much.
    TooMuch(Cost),
}

/// Work that ended without a result.
#[derive(Debug, thiserror::Error)]
#[error("long work ended early: {0}")]
pub struct Lost(String);

impl From<Lost> for Status {
    fn from(lost: Lost) -> Self {
        Status::unknown(lost.to_string())
    }
}

impl Pool {
    /// Lanes of this width.
    pub fn new(limits: WorkLimits) -> Self {
        let opts = Opts::new;
        let gauge = |name, help| {
            IntGaugeVec::new(opts(name, help), &["lane"]).expect("a constant, valid name and label")
        };
        let running = "Long requests that are being worked on, on threads of their own.";
        let waiting = "Long requests that wait for their turn.";
        let done = opts("quorate_work_total", "Long requests that got their turn.");
        Self {
            limits,
            turns: [limits.short_max, limits.long_max, limits.snapshot_max]
                .map(|max| Arc::new(Semaphore::new(max))),
            running: gauge("quorate_work_running", running),
            waiting: gauge("quorate_work_waiting", waiting),
            done: IntCounterVec::new(done, &["lane"]).expect("a constant, valid name and label"),
        }
    }

    /// Shows what is at work.
    pub(crate) fn register(&self, registry: &Registry) {
        for lane in Lane::ALL {
            // A series that nobody has touched yet would be missing.
            self.running.with_label_values(&[lane.name()]);
            self.waiting.with_label_values(&[lane.name()]);
            self.done.with_label_values(&[lane.name()]);
        }
        let known = "metric names are registered once";
        registry.register(Box::new(self.running.clone())).expect(known);
        registry.register(Box::new(self.waiting.clone())).expect(known);
        registry.register(Box::new(self.done.clone())).expect(known);
    }

    /// Tries a read on the thread that serves everybody, as long as it costs no more than a request may there.
    pub(crate) fn inline<T>(&self, read: impl FnOnce(&Effort<'_>) -> Result<T, Stop>) -> Inline<T> {
        let effort = Effort::within(self.limits.inline);
        match read(&effort) {
            Err(Stop::GivenUp(GivenUp::Spent)) => Inline::TooMuch(effort.spent()),
            answer => Inline::Done(answer.map_err(|stop| status::stop(&stop))),
        }
    }

    /// The lane for work that costs at least so much.
    pub(crate) fn lane(&self, cost: Cost) -> Lane {
        if self.is_short(cost) { Lane::Short } else { Lane::Long }
    }

    /// What is made at once, in bytes; of longer answers the values are read as they are sent.
    pub(crate) fn whole_bytes(&self) -> usize {
        usize::try_from(self.limits.short.bytes).unwrap_or(usize::MAX).max(self.limits.piece_bytes)
    }

    /// Whether so much is short.
    pub(crate) fn is_short(&self, cost: Cost) -> bool {
        cost.fits(self.limits.short)
    }

    /// See [`WorkLimits::remembered_bytes`].
    pub(crate) fn remembered_bytes(&self) -> usize {
        self.limits.remembered_bytes
    }

    /// What of those is read in one turn, in bytes.
    pub(crate) fn piece_bytes(&self) -> usize {
        self.limits.piece_bytes
    }

    /// Whether that much may be done, or encoded, on the thread that serves everybody.
    pub(crate) fn is_inline(&self, cost: Cost) -> bool {
        cost.fits(self.limits.inline)
    }

    /// Runs work on a blocking thread when it is its turn. `work` is given the mark that nobody waits for it any more, and
    /// looks at it between its steps.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let turn = self.turn(lane).await;
        Ok(self.run_in(turn, work).await?.0)
    }

    /// The turn comes back with the result: the next one begins once whoever waited has had it, and has counted its bytes.
    /// Where nobody waits any more both are dropped with the work.
    async fn run_in<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<(T, Turn), Lost> {
        let gone = Arc::new(AtomicBool::new(false));
        let waits = Waits(Arc::clone(&gone));
        let result = tokio::task::spawn_blocking(move || {
            let result = (!gone.load(Relaxed)).then(|| work(&gone));
            result.map(|result| (result, turn))
        });
        let result = result.await.map_err(|error| Lost(error.to_string()))?;
        drop(waits);
        result.ok_or_else(|| Lost("nobody waited for it".to_owned()))
    }

    /// Does a read that was given up after it had spent so much, in the lane where it fits.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        spent: Cost,
        mut work: impl FnMut(&Effort<'_>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Status> {
        if self.lane(spent) == Lane::Short {
            match self.short(None, work).await? {
                Ok(result) => return Ok(result),
                Err(again) => work = again,
            }
        }
        self.long(None, work).await
    }

    /// Does a read in the short lane, when there is room for its answer; gives it back where it costs more than that.
    pub(crate) async fn short<T, W>(
        &self,
        room: Option<Room<'_>>,
        mut work: W,
    ) -> Result<Result<T, W>, Status>
    where
        T: Send + 'static,
        W: FnMut(&Effort<'_>) -> Result<T, Stop> + Send + 'static,
    {
        let (turn, budget) = (self.turn_with(room, Lane::Short).await?, self.limits.short);
        let ((again, result), _turn) = self
            .run_in(turn, move |gone| {
                let result = work(&Effort::within(budget).unless(gone));
                (work, result)
            })
            .await?;
        match result {
            Err(Stop::GivenUp(GivenUp::Spent)) => Ok(Err(again)),
            result => result.map(Ok).map_err(|stop| status::stop(&stop)),
        }
    }

    /// Does a read in the long lane, when there is room for its answer.
    pub(crate) async fn long<T: Send + 'static>(
        &self,
        room: Option<Room<'_>>,
        work: impl FnOnce(&Effort<'_>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.turn_with(room, Lane::Long).await?;
        let work = move |gone: &AtomicBool| work(&Effort::within(Cost::MAX).unless(gone));
        let (result, _turn) = self.run_in(turn, work).await?;
        result.map_err(|stop| status::stop(&stop))
    }

    /// A turn, and room. It is waited for without a turn: else those that wait would keep away those that need none.
    async fn turn_with(&self, room: Option<Room<'_>>, lane: Lane) -> Result<Turn, Status> {
        loop {
            if let Some(room) = &room {
                room.wait().await?;
            }
            let turn = self.turn(lane).await;
            if room.as_ref().is_none_or(Room::is_there) {
                return Ok(turn);
            }
        }
    }

    async fn turn(&self, lane: Lane) -> Turn {
        let waiting = Counted::new(self.waiting.with_label_values(&[lane.name()]));
        let permit = Arc::clone(&self.turns[lane as usize]).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        drop(waiting);
        self.done.with_label_values(&[lane.name()]).inc();
        Turn { _running: Counted::new(self.running.with_label_values(&[lane.name()])), _permit: permit }
    }
}

/// The right to do long work, until it is dropped.
struct Turn {
    // In this order: who is let in by the permit counts himself at once, on another thread.
    _running: Counted,
    _permit: OwnedSemaphorePermit,
}

struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Somebody waits for the work, until this is dropped.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[cfg(test)]
#[path = "tests/slow.rs"]
mod tests;
