//! Snapshots of a life, as the process around a member makes and takes them.
//!
//! ```text
//! raft asks for one ─ later ─▶ the rows, as they are then, say where they stand ─▶ a file with this head ─▶ network
//! network ─▶ the head is checked ─ later ─▶ a state of its own, on the disk ─ later ─▶ the member is told, the sender too
//! ```

use super::{Around, JOB_MAX, JOB_USUAL, LifeEnd, Own, PendingJob, open_machine};
use crate::Violation;
use crate::drawn::count_draw;
use crate::oracle::{history_hash, rows_hash};
use crate::trace::trace;
use bytes::Bytes;
use engine::MemoryEngine;
use machine::{Machine, Point};
use proto::raftpb;
use raft_node::SnapshotHead;
use raft_node::member::{Control, Install};
use snapshot::{Export, Measure};
use std::sync::Arc;
use types::Index;
use types::mutant::{Mutant, is};

/// A snapshot on its way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// Names this sending to its sender.
    pub(crate) number: u64,
    pub(crate) message: raftpb::Message,
    pub(crate) file: Bytes,
}

/// A snapshot whose head was checked.
pub(super) struct Received {
    head: SnapshotHead,
    file: Bytes,
    /// What it is to become.
    engine: Arc<MemoryEngine>,
    number: u64,
}

/// A snapshot whose state is on the disk.
pub(super) struct Staged {
    head: SnapshotHead,
    state: Machine,
    number: u64,
}

impl Own {
    /// When a job that begins now is done: mostly soon, sometimes later than an election takes.
    fn done_at(&self, around: &mut Around<'_>) -> crate::Micros {
        let longest = if around.rng.one_in(4) { JOB_MAX } else { JOB_USUAL };
        self.clock + around.rng.below(longest)
    }

    /// raft asks for a snapshot to be sent.
    pub(super) fn asked_for_snapshot(&mut self, message: raftpb::Message, around: &mut Around<'_>) {
        let at = self.done_at(around);
        self.jobs.push(PendingJob::Export(at, Box::new(message)));
    }

    /// Makes a snapshot of the rows as they are now, and sends it.
    pub(super) fn export(
        &mut self,
        message: raftpb::Message,
        around: &mut Around<'_>,
    ) -> Result<(), LifeEnd> {
        let fail = |error: &dyn std::fmt::Display| format!("member {} cannot export: {error}", self.id);
        let (id, to, term) = (self.id, message.to(), message.term());
        let asked = message.snapshot.and_then(|snapshot| snapshot.metadata).unwrap_or_default();
        let rows = self.shared.snapshot();
        let mut point = Point::of(&*rows).map_err(|error| fail(&error))?;
        if point.index < asked.index() {
            return Err(fail(&format!("raft says {}, the rows {}", asked.index(), point.index)).into());
        }
        let knows = point.conf.voters.contains(&to) || point.conf.learners.contains(&to);
        if point.term > term || !knows {
            trace!(around.trace, "member {id} makes no snapshot for {to} at {point:?}, asked in term {term}");
            self.pending.control(Control::SnapshotDone { member: to, ok: false });
            return Ok(());
        }
        let state = (rows_hash(&self.engine), history_hash(&self.shared)?);
        around.oracle.exported(id, point.index, state)?;
        trace!(around.trace, "member {id} sends a snapshot to {to}: {point:?} {state:x?}");
        let file = database(&*rows).map_err(|error| fail(&error))?;
        if is(Mutant::AnnounceLaterIndex) {
            point.index += 1;
        }
        let message = raftpb::Message { snapshot: Some(head(point)), ..message };
        around.parcels.push((self.clock, message, file));
        Ok(())
    }

    /// A snapshot arrives whole.
    pub(super) fn snapshot_arrives(&mut self, parcel: Parcel, around: &mut Around<'_>) {
        let Parcel { number, message, file } = parcel;
        let is_removed = self.shared.membership().removed.contains(&message.from());
        let head = match SnapshotHead::of(&message, self.id) {
            Ok(head) if !is_removed => head,
            checked => {
                trace!(around.trace, "member {} refuses a snapshot: {:?}", self.id, checked.err());
                return around.receipts.push((self.clock, number, false));
            }
        };
        let (index, _) = head.point();
        // Some are left to raft.
        if index <= self.status.commit && around.rng.one_in(2) {
            count_draw("snapshot ignored as old");
            return around.receipts.push((self.clock, number, true));
        }
        let Some(engine) = self.states.begin(index) else {
            count_draw("snapshot that is there already");
            return around.receipts.push((self.clock, number, false));
        };
        let at = self.done_at(around);
        self.jobs.push(PendingJob::Import(at, Box::new(Received { head, file, engine, number })));
    }

    /// Reads a snapshot into a state of its own, beside the one in use.
    pub(super) fn import(&mut self, received: Received, around: &mut Around<'_>) -> Result<(), LifeEnd> {
        let Received { head, file, engine, number } = received;
        let fail = |error: &dyn std::fmt::Display| format!("member {} cannot import: {error}", self.id);
        let (index, term) = head.point();
        let announced = Point { index, term, conf: head.conf_state() };
        snapshot::load_member(&file[..], &*engine, &announced, self.id, &mut |_, _| {})
            .map_err(|error| fail(&error))?;
        let state = open_machine(around.rules, self.id, engine).map_err(|error| fail(&error))?;
        trace!(around.trace, "member {} has the state of a snapshot: {announced:?}", self.id);
        self.crash_soon(around);
        let at = self.done_at(around);
        self.jobs.push(PendingJob::Install(at, Box::new(Staged { head, state, number })));
        Ok(())
    }

    /// Tells the member of a state, and the sender that it arrived.
    pub(super) fn tell(&mut self, staged: Staged, around: &mut Around<'_>) {
        let Staged { head, state, number } = staged;
        self.pending.control(Control::Install(Box::new(Install::new(head, state))));
        around.receipts.push((self.clock, number, true));
        self.crash_soon(around);
    }

    /// The log goes on from this snapshot, and the member has its state.
    pub(super) fn installed(&mut self, index: Index, around: &mut Around<'_>) -> Result<(), Violation> {
        let engine = self.states.switch(index);
        self.engine = engine.ok_or_else(|| format!("member {} has no state of index {index}", self.id))?;
        let state = (rows_hash(&self.engine), history_hash(&self.shared)?);
        around.oracle.installed(self.id, index, &self.shared, state)?;
        count_draw("snapshot installed");
        if self.checked == 0 {
            count_draw("snapshot installed by a new member");
        }
        trace!(
            around.trace,
            "member {} goes on from the snapshot at {index}, after {}", self.id, self.checked
        );
        self.checked = index;
        self.watching.applied();
        if around.rng.one_in(2) {
            self.states.tidy(index);
        }
        Ok(())
    }

    /// In some runs members often crash around an installation, at any step or write.
    fn crash_soon(&mut self, around: &mut Around<'_>) {
        if !around.rng.per_mille(around.rules.install_crashes_per_mille) {
            return;
        }
        if around.rng.one_in(2) {
            self.crash_in = Some(around.rng.below(8));
        } else {
            self.disk_fails = true;
            self.disk.fail_after(around.rng.between(1, 8));
        }
    }
}

/// What a snapshot of the rows at this point says of them.
fn head(point: Point) -> raftpb::Snapshot {
    let Point { index, term, conf } = point;
    let conf_state =
        raftpb::ConfState { voters: conf.voters, learners: conf.learners, ..raftpb::ConfState::default() };
    let metadata =
        raftpb::SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(term) };
    raftpb::Snapshot { data: None, metadata: Some(metadata) }
}

fn database(rows: &engine::Snapshot) -> Result<Bytes, snapshot::ExportError> {
    let mut measure = Measure::begin();
    while !measure.step(rows, u64::MAX)? {}
    let mut export = Export::begin_for_peer(&measure.finish()?)?;
    let mut file = Vec::new();
    loop {
        let exported = export.step(rows, u64::MAX)?;
        file.extend(exported.pieces.into_iter().flatten());
        if exported.is_done {
            return Ok(file.into());
        }
    }
}
