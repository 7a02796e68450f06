//! Snapshots on their way: each is one POST, which takes long, breaks off, and is perhaps repeated by what is between the
//! members. Its sender learns how it ended, once, unless it has ended itself.

use super::{Cluster, Event};
use crate::Micros;
use crate::drawn::count_draw;
use crate::member::Parcel;
use crate::trace::trace;
use bytes::Bytes;
use proto::raftpb;
use types::mutant::{Mutant, is};

/// The longest until a sender notices that a snapshot was lost, microseconds: as long as an election, or longer.
const NOTICE_MAX: Micros = 3_000_000;

/// A snapshot under way, as its sender knows it.
#[derive(Debug)]
pub(crate) struct Sending {
    from: u64,
    /// The sender's life that waits.
    life: u64,
    to: u64,
}

impl Cluster {
    pub(super) fn send_snapshot(&mut self, at: Micros, message: &raftpb::Message, file: &Bytes) {
        let (from, to) = (message.from(), message.to());
        self.seq += 1;
        let number = self.seq;
        let life = self.member(from).lives;
        self.sendings.insert(number, Sending { from, life, to });
        count_draw("snapshot sent");
        let arrivals = self.network.send_snapshot(&mut self.rng, at, from, to);
        trace!(self.trace, "snapshot {number} {from}->{to}, {} bytes at {arrivals:?}", file.len());
        if arrivals.is_empty() {
            self.snapshot_lost(at, number);
        }
        if arrivals.len() > 1 {
            count_draw("snapshot sent twice");
        }
        for at in arrivals {
            let parcel = Parcel { number, message: message.clone(), file: file.clone() };
            self.schedule(at, Event::Snapshot(Box::new(parcel)));
        }
    }

    pub(super) fn snapshot_arrives(&mut self, parcel: Parcel) {
        let (from, to, number) = (parcel.message.from(), parcel.message.to(), parcel.number);
        if self.member(to).life.is_none() || self.network.is_cut(from, to) {
            return self.snapshot_lost(self.now, number);
        }
        self.inbox(to, |inbox| inbox.snapshots.push(parcel));
    }

    /// It broke off somewhere: the sender notices later.
    fn snapshot_lost(&mut self, at: Micros, number: u64) {
        count_draw("snapshot lost");
        let notices = at + self.rng.below(NOTICE_MAX);
        self.schedule(notices, Event::SnapshotDone { number, ok: false });
    }

    /// A member crashed: what was on its way to it, or arriving, breaks off.
    pub(super) fn snapshots_break_off(&mut self, to: u64) {
        let all: Vec<u64> =
            self.sendings.iter().filter(|(_, sending)| sending.to == to).map(|(number, _)| *number).collect();
        for number in all {
            self.snapshot_lost(self.now, number);
        }
    }

    /// The receiver answers, and its sender tells raft.
    pub(super) fn receipt(&mut self, at: Micros, number: u64, ok: bool) {
        let Some(sending) = self.sendings.get(&number) else { return };
        if self.network.is_cut(sending.to, sending.from) {
            return self.snapshot_lost(at, number);
        }
        let arrives = at + self.rng.between(1, 2 * self.network.conditions.delay);
        self.schedule(arrives, Event::SnapshotDone { number, ok });
    }

    pub(super) fn snapshot_done(&mut self, number: u64, ok: bool) {
        let Some(Sending { from, life, to }) = self.sendings.remove(&number) else { return };
        let is_there = self.member(from).lives == life && self.member(from).life.is_some();
        trace!(self.trace, "snapshot {number} {from}->{to} has ended: {ok}");
        if is_there && (ok || !is(Mutant::ForgetLostSnapshot)) {
            self.inbox(from, |inbox| inbox.snapshots_done.push((to, ok)));
        }
    }
}
