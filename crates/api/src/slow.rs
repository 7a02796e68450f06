//! Where the work of a request runs. One thread serves all clients of a member, so nothing may hold it for long: a
//! request starts there with a small budget ([`Effort`]), and is redone on a blocking thread if that is exceeded.
//!
//! ```text
//! inline: 512 rows, 64 KiB ─ exceeded ─▶ short lane: 8,192 rows, 4 MiB ─ exceeded ─▶ long lane: no budget
//!                                        some ms each, so it moves                   values beyond 4 MiB: a piece a turn
//! ```
//!
//! * Each lane is capped, so that lists leave the cores to puts. Short work never waits for long work.
//! * A permit belongs to the work, not to its caller: a client that disconnects and asks again gets no second one. A
//!   disconnect sets a flag, and the work ends at its next step and frees its memory.
//! * A response is encoded by the thread that made it.

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

/// How much work runs where. Tests may draw smaller values than the defaults.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// Budget on the runtime's thread. Default 512 rows (a listed key: two, a single get: five), 64 KiB: 200 µs.
    pub inline: Cost,
    /// Budget of a request in the short lane. Default 8,192 rows and 4 MiB: some milliseconds.
    pub short: Cost,
    /// Work in the short lane at one time. Default 2, of some milliseconds each.
    pub short_max: usize,
    /// Steps of snapshots at one time. Default 1: each is short, and a backup need not wait for lists.
    pub snapshot_max: usize,
    /// Work in the long lane at one time. Default 2: on two cores a third would stall writes.
    pub long_max: usize,
    /// Memory for the places of a transaction's rows, in bytes; further rows are found twice, for the length and for
    /// sending. Default 16 MiB: a million rows of sorted, filtered or older lists.
    pub remembered_bytes: usize,
    /// Bytes of a long response read in one turn; each holds twice that. Default 256 KiB: less than a millisecond.
    pub piece_bytes: usize,
    /// A longer step on the runtime's thread is counted and logged. Default 5 ms, which clients notice.
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

/// Lanes of the slow pool. Short work does not wait for long work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Work that fits [`WorkLimits::short`].
    Short,
    /// Work of any length.
    Long,
    /// Steps of a snapshot transfer.
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

/// The slow pool: blocking threads in capped lanes.
pub struct Pool {
    limits: WorkLimits,
    turns: [Arc<Semaphore>; 3],
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    done: IntCounterVec,
}

pub(crate) enum Inline<T> {
    Done(Result<T, Status>),
    /// It costs at least this much: continue with [`Pool::read`].
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
    /// A pool with lanes of these widths.
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

    pub(crate) fn register(&self, registry: &Registry) {
        for lane in Lane::ALL {
            // A series appears only once it is touched.
            self.running.with_label_values(&[lane.name()]);
            self.waiting.with_label_values(&[lane.name()]);
            self.done.with_label_values(&[lane.name()]);
        }
        let known = "metric names are registered once";
        registry.register(Box::new(self.running.clone())).expect(known);
        registry.register(Box::new(self.waiting.clone())).expect(known);
        registry.register(Box::new(self.done.clone())).expect(known);
    }

    /// Tries a read on the runtime's thread, within [`WorkLimits::inline`].
    pub(crate) fn inline<T>(&self, read: impl FnOnce(&Effort<'_>) -> Result<T, Stop>) -> Inline<T> {
        let effort = Effort::within(self.limits.inline);
        match read(&effort) {
            Err(Stop::GivenUp(GivenUp::Spent)) => Inline::TooMuch(effort.spent()),
            answer => Inline::Done(answer.map_err(|stop| status::stop(&stop))),
        }
    }

    /// The lane for work that costs at least `cost`.
    pub(crate) fn lane(&self, cost: Cost) -> Lane {
        if self.is_short(cost) { Lane::Short } else { Lane::Long }
    }

    /// Responses up to this size are made at once, in bytes; longer ones are read while they are sent.
    pub(crate) fn whole_bytes(&self) -> usize {
        usize::try_from(self.limits.short.bytes).unwrap_or(usize::MAX).max(self.limits.piece_bytes)
    }

    pub(crate) fn is_short(&self, cost: Cost) -> bool {
        cost.fits(self.limits.short)
    }

    pub(crate) fn remembered_bytes(&self) -> usize {
        self.limits.remembered_bytes
    }

    pub(crate) fn piece_bytes(&self) -> usize {
        self.limits.piece_bytes
    }

    /// Whether the runtime's thread may do or encode this much.
    pub(crate) fn is_inline(&self, cost: Cost) -> bool {
        cost.fits(self.limits.inline)
    }

    /// Runs `work` on a blocking thread once the lane has room. Its flag is set when its caller is gone.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let turn = self.turn(lane).await;
        Ok(self.run_in(turn, work).await?.0)
    }

    /// Returns the permit with the result: the next work starts only after the caller has taken the result and counted
    /// its bytes. If the caller is gone, both are dropped with the work.
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

    /// Runs a read on the runtime's thread, or in the lane that it fits.
    pub(crate) async fn anywhere<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Effort<'_>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Status> {
        match self.inline(&mut work) {
            Inline::Done(answer) => answer,
            Inline::TooMuch(spent) => self.read(spent, work).await,
        }
    }

    /// Redoes a read in the lane that it fits, given what the first attempt cost.
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

    /// Runs a read in the short lane after there is room for its response; returns `work` if it exceeds the budget.
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

    /// Runs a read in the long lane after there is room for its response.
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

    /// Waits for room, then for a permit: in the other order it would block work that needs no room.
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

/// A permit for slow work, given back on drop.
struct Turn {
    // Dropped first: the next owner of the permit counts itself at once, on another thread.
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

/// Marks the work as unwanted when its caller drops this.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[cfg(test)]
#[path = "tests/slow.rs"]
mod tests;
