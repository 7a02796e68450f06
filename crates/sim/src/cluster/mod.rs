//! The cluster: members, network, clients and faults, one event after the other.

mod admin;
mod alarms;
mod end;
mod faults;
mod first;
mod snapshots;
mod watchers;

use crate::client::{Ask, NOBODY, Workload, and_then};
use crate::drawn::count_draw;
use crate::member::{
    Around, ClientAnswer, Disks, Inputs, Life, LifeEnd, Parcel, REQUEST_TIMEOUT, Rules, Waiter, describe,
};
use crate::network::{Network, Way};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::{Micros, Report, Violation};
use bytes::Bytes;
use faults::{Fault, Faults};
use prost::Message as _;
use proto::raftpb;
use snapshots::Sending;
use std::collections::BTreeMap;
use std::sync::Arc;
use watchers::Watchers;

/// The number of events after which a run has gone astray: a hundred times the usual.
const EVENTS_MAX: u64 = 10_000_000;

#[derive(Debug)]
pub(crate) enum Event {
    /// A member's turn, if its life and plan are still these.
    Turn {
        member: u64,
        life: u64,
    },
    Arrive {
        from: u64,
        to: u64,
        way: Way,
        message: Bytes,
    },
    Snapshot(Box<Parcel>),
    /// The sender of a snapshot learns whether it arrived, unless it has learned that already.
    SnapshotDone {
        number: u64,
        ok: bool,
    },
    Answer(ClientAnswer),
    Client(usize),
    GiveUp {
        client: usize,
        number: u64,
    },
    Fault,
    Start(u64),
    LosePower(u64),
    Resume(u64),
    Mend(Vec<(u64, u64)>),
    Admin,
    Alarms,
    Watch(usize),
}

pub(crate) struct Member {
    pub(crate) disks: Disks,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u64,
    turn_at: Option<Micros>,
    pub(crate) paused_until: Micros,
    /// It is or was in the cluster, so its process may run.
    pub(crate) joined: bool,
    removed: bool,
    /// Its next start ends in a power loss soon after.
    pub(crate) doomed: bool,
}

struct Client {
    number: u64,
    waits: bool,
}

pub(crate) struct Cluster {
    pub(crate) now: Micros,
    seq: u64,
    events: BTreeMap<(Micros, u64), Event>,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) network: Network,
    clients: Vec<Client>,
    think: Micros,
    workload: Workload,
    pub(crate) watchers: Watchers,
    pub(crate) faults: Faults,
    pub(crate) rules: Rules,
    pub(crate) rng: Rng,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    /// Snapshots under way, by number.
    sendings: BTreeMap<u64, Sending>,
    pub(crate) steps: u64,
    pub(crate) chaos: bool,
    pub(crate) promotes: bool,
}

impl Cluster {
    pub(crate) fn schedule(&mut self, at: Micros, event: Event) {
        self.seq += 1;
        self.events.insert((at.max(self.now), self.seq), event);
    }

    fn step(&mut self) -> Result<(), Violation> {
        let ((at, _), event) = self.events.pop_first().ok_or("nothing can happen any more")?;
        self.now = at;
        self.steps += 1;
        if self.steps > EVENTS_MAX {
            return Err("the run does not end".to_owned());
        }
        self.trace.at(at);
        match event {
            Event::Turn { member, life } => self.turn(member, life),
            Event::Arrive { from, to, way, message } => {
                self.arrive(from, to, way, message);
                Ok(())
            }
            Event::Snapshot(parcel) => {
                self.snapshot_arrives(*parcel);
                Ok(())
            }
            Event::SnapshotDone { number, ok } => {
                self.snapshot_done(number, ok);
                Ok(())
            }
            Event::Answer(answer) => {
                self.answer(&answer);
                Ok(())
            }
            Event::Client(client) => {
                self.ask(client);
                Ok(())
            }
            Event::GiveUp { client, number } => {
                if self.clients[client].waits && self.clients[client].number == number {
                    trace!(self.trace, "client {client} gives up on {number}");
                    self.next_ask(client);
                }
                Ok(())
            }
            Event::Fault => {
                if self.chaos {
                    Fault::draw(self);
                    let pause = self.faults.pause(&mut self.rng);
                    self.schedule(self.now + pause, Event::Fault);
                }
                Ok(())
            }
            Event::Start(member) => self.start(member),
            Event::LosePower(member) => {
                if self.chaos && self.member(member).life.is_some() {
                    self.lose_power(member, "soon after its start");
                }
                Ok(())
            }
            Event::Admin => {
                self.change_members();
                Ok(())
            }
            Event::Alarms => {
                self.check_alarms();
                Ok(())
            }
            Event::Watch(watcher) => self.watch(watcher),
            Event::Resume(member) => {
                self.plan_turn(member);
                Ok(())
            }
            Event::Mend(pairs) => {
                trace!(self.trace, "mended: {pairs:?}");
                self.network.mend(&pairs);
                Ok(())
            }
        }
    }

    fn arrive(&mut self, from: u64, to: u64, way: Way, message: Bytes) {
        let alive = self.network.arrives(from, to, way);
        match self.members.get_mut(&to).and_then(|member| member.life.as_mut()).filter(|_| alive) {
            Some(life) => {
                life.own.inbox.messages.push(message);
                self.plan_turn(to);
            }
            None => self.report_unreachable(from, to),
        }
    }

    fn report_unreachable(&mut self, from: u64, to: u64) {
        if self.rng.one_in(2)
            && let Some(life) = self.member(from).life.as_mut()
        {
            life.own.inbox.unreachable.push(to);
            self.plan_turn(from);
        }
    }

    fn answer(&mut self, answer: &ClientAnswer) {
        let ClientAnswer { client, number, request_id, revision } = *answer;
        if let Some(revision) = revision {
            if request_id == 0 {
                self.oracle.observe_revision(revision);
            } else {
                self.oracle.acknowledge(request_id, revision);
            }
        }
        trace!(self.trace, "client {client} is answered {number}: {revision:?}");
        if client == NOBODY {
            return;
        }
        if self.clients[client].waits && self.clients[client].number == number {
            self.next_ask(client);
        }
    }

    fn next_ask(&mut self, client: usize) {
        self.clients[client].waits = false;
        let pause = self.rng.below(2 * self.think);
        self.schedule(self.now + pause, Event::Client(client));
    }

    fn ask(&mut self, client: usize) {
        if !self.chaos {
            return;
        }
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let member = *self.rng.pick(&ids);
        let floor = self.oracle.floor();
        let ask = self.workload.ask(&mut self.rng, floor);
        let number = self.clients[client].number + 1;
        self.clients[client] = Client { number, waits: true };
        let read = match &ask {
            Ask::Write(_) | Ask::Change(_) | Ask::KeepAlive(_) => None,
            Ask::Read(question) => Some((question.clone(), if question.linearizable { floor } else { 0 })),
        };
        if self.member(member).life.is_none() {
            return self.next_ask(client);
        }
        let then = and_then(&mut self.rng, &ask);
        self.inbox(member, |inbox| inbox.requests.push((ask, Waiter { client, number, read })));
        if let Some(then) = then {
            let waiter = Waiter { client: NOBODY, number: 0, read: None };
            self.inbox(member, |inbox| inbox.requests.push((then, waiter)));
        }
        self.schedule(self.now + REQUEST_TIMEOUT, Event::GiveUp { client, number });
    }

    pub(crate) fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("members are known from the start")
    }

    /// Plans the member's turn, as soon as it is free, because it has inputs.
    pub(crate) fn plan_turn(&mut self, id: u64) {
        let now = self.now;
        let member = self.member(id);
        if let Some(life) = &member.life {
            let at = now.max(life.own.clock).max(member.paused_until);
            self.plan_turn_at(id, at);
        }
    }

    fn plan_turn_at(&mut self, id: u64, at: Micros) {
        let member = self.member(id);
        if member.turn_at.is_none_or(|planned| at < planned) {
            member.turn_at = Some(at);
            let life = member.lives;
            self.schedule(at, Event::Turn { member: id, life });
        }
    }

    fn turn(&mut self, id: u64, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let member = self.member(id);
        if member.lives != life || member.turn_at != Some(now) {
            return Ok(());
        }
        member.turn_at = None;
        if member.paused_until > now {
            self.plan_turn(id);
            return Ok(());
        }
        self.live(id, Life::turn)
    }

    fn start(&mut self, id: u64) -> Result<(), Violation> {
        let member = self.member(id);
        if member.life.is_some() || member.removed || !member.joined {
            return Ok(());
        }
        let disk_fails = self.chaos && self.faults.disk_fails_at_start(&mut self.rng);
        if disk_fails {
            let after = self.rng.between(1, 8);
            self.member(id).disks.log.fail_after(after);
        }
        let member = self.members.get_mut(&id).expect("members are known from the start");
        member.lives += 1;
        member.turn_at = None;
        let mut around = Around::new(self.now, &self.rules, &mut self.rng, &mut self.oracle, &mut self.trace);
        match Life::start(id, &member.disks, disk_fails, &mut around) {
            Ok(life) => {
                member.life = Some(life);
                self.live(id, Life::begin)
            }
            Err(LifeEnd::Removed) => unreachable!("it has not applied anything yet"),
            Err(end) => self.ended(id, end),
        }
    }

    /// Runs a step of a member, and passes its results on.
    fn live(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Life, &mut Around<'_>) -> Result<(), LifeEnd>,
    ) -> Result<(), Violation> {
        let member = self.members.get_mut(&id).expect("members are known from the start");
        let Some(life) = &mut member.life else { return Ok(()) };
        let mut around = Around::new(self.now, &self.rules, &mut self.rng, &mut self.oracle, &mut self.trace);
        let end = act(life, &mut around);
        let Around { sent, answers, parcels, receipts, .. } = around;
        let wake_at = life.wake_at();
        for (at, message) in sent {
            self.send(at, &message);
        }
        for (at, answer) in answers {
            self.schedule(at, Event::Answer(answer));
        }
        for (at, message, file) in parcels {
            self.send_snapshot(at, &message, &file);
        }
        for (at, number, ok) in receipts {
            self.receipt(at, number, ok);
        }
        match end {
            Ok(()) => {
                self.plan_turn_at(id, wake_at);
                Ok(())
            }
            Err(end) => self.ended(id, end),
        }
    }

    fn ended(&mut self, id: u64, end: LifeEnd) -> Result<(), Violation> {
        match end {
            LifeEnd::Crash(place) => self.crash(id, place),
            LifeEnd::Removed => {
                trace!(self.trace, "member {id} ends: it was removed");
                let member = self.member(id);
                member.life = None;
                member.removed = true;
            }
            LifeEnd::Violation(violation) => return Err(violation),
        }
        Ok(())
    }

    fn send(&mut self, at: Micros, message: &raftpb::Message) {
        let arrivals = self.network.send(&mut self.rng, at, message);
        trace!(self.trace, "{} at {arrivals:?}", describe(message));
        let (from, to) = (message.from(), message.to());
        if arrivals.is_empty() {
            self.report_unreachable(from, to);
        }
        let bytes: Bytes = message.encode_to_vec().into();
        for (at, way) in arrivals {
            self.schedule(at, Event::Arrive { from, to, way, message: bytes.clone() });
        }
    }

    /// Ends the process; mostly it loses power too.
    pub(crate) fn crash(&mut self, id: u64, place: &str) {
        if std::mem::take(&mut self.member(id).doomed) {
            count_draw("process killed and power lost soon after");
            trace!(self.trace, "member {id} is killed {place}");
            self.end_life(id);
            self.member(id).disks.log.kill();
            let again = self.now + 10_000;
            self.schedule(again, Event::Start(id));
            let lives = self.rng.between(100, 400_000);
            self.schedule(again + lives, Event::LosePower(id));
        } else if self.rng.one_in(3) {
            count_draw("process killed");
            trace!(self.trace, "member {id} is killed {place}");
            self.end_life(id);
            self.member(id).disks.log.kill();
        } else {
            self.lose_power(id, place);
        }
    }

    /// Loses part of what was not synced.
    pub(crate) fn lose_power(&mut self, id: u64, place: &str) {
        count_draw("power lost");
        trace!(self.trace, "member {id} loses power {place}");
        self.end_life(id);
        let seed = self.rng.next();
        self.member(id).disks.log.crash(seed);
    }

    /// Resets the engine to its last flush, or a little later.
    fn end_life(&mut self, id: u64) {
        self.faults.crashes += 1;
        let pause = self.rng.between(10_000, if self.chaos { self.faults.down_max } else { 10_000 });
        let ahead = self.rng.one_in(2).then(|| self.rng.next());
        let member = self.member(id);
        member.life = None;
        // The engine sometimes flushes by itself too.
        let kept =
            |batches| ahead.map_or(0, |dice| usize::try_from(dice).unwrap_or(usize::MAX) % (batches + 1));
        member.disks.states.crash(kept);
        self.snapshots_break_off(id);
        self.schedule(self.now + pause, Event::Start(id));
    }

    pub(crate) fn membership(&self) -> Option<Arc<machine::Membership>> {
        let lives = self.members.values().filter_map(|member| member.life.as_ref());
        let newest = lives.max_by_key(|life| life.shared().applied_index())?;
        Some(newest.shared().membership())
    }

    pub(crate) fn inbox(&mut self, id: u64, change: impl FnOnce(&mut Inputs)) {
        if let Some(life) = &mut self.member(id).life {
            change(&mut life.own.inbox);
            self.plan_turn(id);
        }
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            members: self.members.values().filter(|member| member.joined).count() as u64,
            steps: self.steps,
            crashes: self.faults.crashes,
            elections: self.oracle.elections() as u64,
            entries: self.oracle.last_index(),
            writes: self.oracle.writes_acknowledged() as u64,
            reads: self.oracle.reads,
            events: self.watchers.events(),
            renewed: self.oracle.promises.renewed,
            expired: self.oracle.promises.expired,
            drawn: crate::drawn::take(),
            trace_hash: self.trace.hash(),
        }
    }
}
