//! The consensus thread: the world of a member in a real process. It parks, takes the inbox, runs the member's turn,
//! and returns the results. Other threads flush the engine, apply groups of many keys, and build deadlines.

use crate::handle::Shared;
use crate::lessor::Lessor;
use crate::member::{Batch, Done, Job, Member, MemberStatus, Rest, SharedParts, Stop, World};
use crate::meters::TimedLog;
use crate::pending::PendingRequests;
use crate::queues::{Inbox, Outbox};
use crate::status::StatusCells;
use crate::tasks::spawn_tasks;
use crate::{
    Handle, Leadership, Meters, NodeFault, Options, Outbound, PeerProgress, ProposeError, RequestIds,
    StartError,
};
use machine::{Machine, Membership};
use proto::raftpb;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use types::{Index, lock};
use wal::{Disk, Wal};

/// Starts a node, inside a tokio runtime. `wal` is the opened log (of a new cluster: with
/// [`crate::bootstrap::first_log`] appended and synced). The thread ends after [`Handle::stop`], after this member's
/// removal, or with a fault, upon which the process must end.
pub fn start<D: Disk>(
    options: Options,
    wal: Wal<D>,
    machine: Machine,
    outbound: Arc<dyn Outbound>,
    log: slog::Logger,
) -> Result<(Handle, JoinHandle<Result<(), NodeFault>>), StartError>
where
    Wal<D>: Send,
{
    let limits = &options.limits;
    // Peers can cause most lines of the node and of raft-rs.
    let log = crate::log_limit::limited(log, limits);
    let unix_millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or_default());
    let (meters, now) = (Meters::default(), Instant::now());
    let parts = SharedParts {
        ids: Arc::new(RequestIds::new(options.member, unix_millis)),
        lessor: Arc::new(Lessor::new(options.election_timeout(), limits)),
        meters: meters.clone(),
        log: log.clone(),
    };
    let pending = PendingRequests::new(&options);
    let shared = Arc::new(Shared {
        ids: Arc::clone(&parts.ids),
        proposals: Arc::clone(pending.proposal_room()),
        pending: Mutex::new(pending),
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        lessor: Arc::clone(&parts.lessor),
        cells: StatusCells::default(),
        gathered: Notify::new(),
        deadlines: Notify::new(),
        leadership: watch::Sender::new(Leadership::default()),
        applied: watch::Sender::new(machine.applied().0),
        ended: watch::Sender::new(false),
        machine: machine.shared(),
        outbound,
        meters: meters.clone(),
        log,
        options: options.clone(),
    });
    let wal = Box::new(TimedLog::new(wal, meters));
    let member = Member::new(options, now, unix_millis, wal, machine, parts)?;
    let helpers = Helpers::start(&shared).map_err(StartError::Thread)?;
    let process = Process { shared: Arc::clone(&shared), helpers };
    let thread = std::thread::Builder::new()
        .name("consensus".to_owned())
        .spawn(move || process.main(member))
        .map_err(StartError::Thread)?;
    spawn_tasks(&shared);
    Ok((Handle { shared }, thread))
}

struct Helpers {
    flush: SyncSender<Job>,
    apply: SyncSender<Job>,
    applying: JoinHandle<()>,
}

impl Helpers {
    fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (flush, _flushing) = helper("engine-flush", shared)?;
        let (apply, applying) = helper("apply", shared)?;
        Ok(Self { flush, apply, applying })
    }

    /// Waits for the group being applied: nobody may write when the engine closes.
    fn finish(self) {
        drop(self.apply);
        // It cannot panic: a job's panic becomes a control.
        let _ = self.applying.join();
    }
}

fn helper(name: &str, shared: &Arc<Shared>) -> std::io::Result<(SyncSender<Job>, JoinHandle<()>)> {
    let (jobs, todo) = sync_channel(1);
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(name.to_owned());
    Ok((jobs, thread.spawn(move || work(&todo, &shared))?))
}

fn work(todo: &Receiver<Job>, shared: &Shared) {
    while let Ok(job) = todo.recv() {
        // Not through the runtime, which may be busy.
        let controls = vec![job.run(Instant::now)];
        shared.inbox.hand_over(&mut Batch { controls, ..Batch::default() });
    }
}

struct Process {
    shared: Arc<Shared>,
    helpers: Helpers,
}

impl Process {
    /// The body of the thread: however it ends, no waiter is left.
    fn main(self, member: Member) -> Result<(), NodeFault> {
        let shared = Arc::clone(&self.shared);
        shared.inbox.set_thread(std::thread::current());
        let result =
            catch_unwind(AssertUnwindSafe(move || self.run(member))).unwrap_or(Err(NodeFault::Panicked));
        let reason = match &result {
            Ok(()) => ProposeError::Stopped,
            Err(fault) => {
                slog::crit!(shared.log, "the node failed"; "error" => %fault);
                ProposeError::Fault
            }
        };
        shared.outbox.hand_back(&mut vec![Done::Ended(reason)]);
        result
    }

    fn run(mut self, mut member: Member) -> Result<(), NodeFault> {
        let mut batch = Batch::default();
        member.begin(&mut self).map_err(fault)?;
        while !member.has_ended() {
            member.turn(&mut batch, &mut self).map_err(fault)?;
            let more = self.shared.inbox.take(&mut batch, false);
            if let Rest::Until(at) = member.rest(more, &mut self).map_err(fault)? {
                self.park_until(at, &mut batch);
            }
        }
        member.finish(&mut self).map_err(fault)?;
        self.helpers.finish();
        // Nothing more will be applied: after a last flush, the next start has nothing to replay.
        Ok(self.shared.machine.flush()?)
    }

    fn park_until(&self, at: Instant, batch: &mut Batch) {
        /// A sleep that ends at once costs more than a short one.
        const SLEEP_MIN: Duration = Duration::from_micros(50);
        if !self.shared.inbox.take(batch, true) {
            std::thread::park_timeout(at.saturating_duration_since(Instant::now()).max(SLEEP_MIN));
            self.shared.inbox.take(batch, false);
        }
    }
}

fn fault(stop: Stop<Infallible>) -> NodeFault {
    match stop {
        Stop::Fault(fault) => fault,
        Stop::Halt(never) => match never {},
    }
}

impl World for Process {
    type Halt = Infallible;

    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn installed(&mut self, index: Index, former: Machine) -> Result<(), Infallible> {
        self.shared.outbound.installed(index, former);
        Ok(())
    }

    fn send(&mut self, messages: Vec<raftpb::Message>) -> Result<(), Infallible> {
        self.shared.outbound.send(messages);
        Ok(())
    }

    fn hand_back(&mut self, done: &mut Vec<Done>) -> Result<(), Infallible> {
        self.shared.outbox.hand_back(done);
        Ok(())
    }

    fn start(&mut self, job: Job) -> Result<(), Job> {
        let helper = match job {
            Job::Flush(..) => &self.helpers.flush,
            Job::Apply(_) => &self.helpers.apply,
            Job::Deadlines(_) => return self.start_alone(job),
        };
        helper.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    fn status_changed(&mut self, status: &MemberStatus) {
        self.shared.cells.publish(status);
    }

    fn leadership_changed(&mut self, status: &MemberStatus) {
        let (now, before) = (status.leadership, *self.shared.leadership.borrow());
        // Publish "since" before "who": a timeout is classified by both.
        if now.leader != before.leader {
            self.shared.cells.leader_changed(now.leader, Instant::now());
        }
        self.shared.cells.publish(status);
        self.shared.leadership.send_replace(now);
    }

    fn peers(&mut self, peers: Vec<PeerProgress>) {
        *lock(&self.shared.cells.peers) = peers;
    }

    fn members_changed(&mut self, membership: Arc<Membership>, is_learner: bool) {
        self.shared.cells.is_learner.store(is_learner, Relaxed);
        self.shared.outbound.members_changed(membership);
    }
}

impl Process {
    /// Runs a job on a thread of its own, which is rare: only a new leader needs it.
    fn start_alone(&self, job: Job) -> Result<(), Job> {
        let job = Arc::new(Mutex::new(Some(job)));
        let (own, shared) = (Arc::clone(&job), Arc::clone(&self.shared));
        let run = move || {
            if let Some(job) = lock(&own).take() {
                shared.control(job.run(Instant::now));
            }
        };
        let thread = std::thread::Builder::new().name("lease-deadlines".to_owned()).spawn(run);
        match thread.err().and_then(|_| lock(&job).take()) {
            Some(job) => Err(job),
            None => Ok(()),
        }
    }
}
