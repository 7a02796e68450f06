//! The cluster: members, network, clients and faults, one event after the other.

use crate::admin::NOBODY;
use crate::client::{Ask, Workload, and_then};
use crate::faults::{Fault, Faults};
use crate::member::{Answer, Around, Disks, End, Inbox, Life, REQUEST_TIMEOUT, Rules, Waiter, describe};
use crate::network::{Network, Way, Weather};
use crate::oracle::{Oracle, Violation, history_hash};
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::watching::Watchers;
use crate::{Micros, Options, Report};
use bytes::Bytes;
use engine::MemoryEngine;
use prost::Message as _;
use proto::raftpb;
use raft_node::bootstrap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use wal::{MemDisk, Wal};

/// How long the faults go on, in microseconds of virtual time.
const CHAOS: Micros = 40_000_000;
/// How long a cluster may take to agree once everything is healed: several elections, each with a few rounds.
const CONVERGE: Micros = 60_000_000;
/// How long the longest lease may last once nobody renews it: its time, an election timeout, and a few rounds.
const LAST_LEASE: Micros = 40_000_000;
/// Events after which a run has gone astray: a hundred times the usual.
const EVENTS_MAX: u64 = 10_000_000;

/// Members that may join later.
const SPARES: u64 = 2;

/// Something that happens at a time.
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
    Answer(Answer),
    /// A client asks the next thing.
    Client(usize),
    /// A client gives up.
    GiveUp {
        client: usize,
        number: u64,
    },
    Fault,
    Start(u64),
    Resume(u64),
    Mend(Vec<(u64, u64)>),
    /// A member flushes its engine.
    Flush(u64),
    /// Somebody changes the members.
    Admin,
    /// A watcher looks what it was told.
    Watch(usize),
}

pub(crate) struct Member {
    pub(crate) disks: Disks,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u64,
    turn_at: Option<Micros>,
    pub(crate) paused_until: Micros,
    /// It is or was in the cluster: its process may run.
    pub(crate) joined: bool,
    /// It has applied its own removal.
    removed: bool,
}

struct Client {
    /// What it waits for.
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
    pub(crate) steps: u64,
    pub(crate) chaos: bool,
}

impl Cluster {
    pub(crate) fn new(seed: u64, options: &Options, start: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let count = options.members.unwrap_or_else(|| *rng.pick(&[1, 3, 3, 3, 3, 3, 5]));
        let rules = Rules {
            start,
            segment_bytes: *rng.pick(&[4 << 10, 16 << 10, 64 << 10, 1 << 20]),
            sync_micros: *rng.pick(&[100, 1_000, 20_000]),
            keep_entries: *rng.pick(&[0, 5, 50]),
            group_split_per_mille: *rng.pick(&[0, 100, 500, 1000]),
            checkpoints: rng.one_in(2),
            mutation: options.mutation,
        };
        let spares = if options.members.is_none() && rng.one_in(3) { SPARES } else { 0 };
        // Without snapshots who joins needs the whole log.
        let rules = if spares > 0 { Rules { keep_entries: u64::MAX, ..rules } } else { rules };
        let weather = Weather::draw(&mut rng);
        let mut cluster = Self {
            now: 0,
            seq: 0,
            events: BTreeMap::new(),
            members: first_members(count, spares, &rules),
            network: Network::new(weather),
            clients: (0..rng.between(1, 6)).map(|_| Client { number: 0, waits: false }).collect(),
            think: *rng.pick(&[20_000, 100_000, 300_000]),
            workload: Workload::draw(&mut rng),
            watchers: Watchers::new(seed),
            faults: Faults::draw(&mut rng),
            rules,
            oracle: Oracle::new(count + spares),
            trace: Trace::new(options.print),
            steps: 0,
            chaos: true,
            rng,
        };
        if options.leases {
            cluster.workload = cluster.workload.of_leases();
            cluster.faults.sleeps_per_mille = 600;
        }
        trace!(cluster.trace, "seed {seed}: {count} members, {weather:?}, segments {}", rules.segment_bytes);
        for id in 1..=count + spares {
            cluster.schedule(0, Event::Start(id));
            cluster.schedule(1_500_000, Event::Flush(id));
        }
        for client in 0..cluster.clients.len() {
            cluster.schedule(1_000_000, Event::Client(client));
        }
        for watcher in 0..cluster.watchers.len() {
            cluster.schedule(1_200_000, Event::Watch(watcher));
        }
        cluster.schedule(2_000_000, Event::Fault);
        if spares > 0 {
            cluster.schedule(3_000_000, Event::Admin);
        }
        cluster
    }

    pub(crate) fn schedule(&mut self, at: Micros, event: Event) {
        self.seq += 1;
        self.events.insert((at.max(self.now), self.seq), event);
    }

    /// Faults, then peace, then the last judgement.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while self.now < CHAOS {
            self.step()?;
        }
        self.heal();
        while !self.has_converged() {
            if self.now > CHAOS + CONVERGE {
                return Err(self.how_far());
            }
            self.step()?;
        }
        // Nobody keeps a lease alive any more, and one member stays away: all of them end.
        let absent = self.someone_goes();
        let until = self.now + LAST_LEASE;
        while self.holds_leases() {
            if self.now > until {
                return Err(format!(
                    "leases are left {} s after the last was renewed",
                    LAST_LEASE / 1_000_000
                ));
            }
            self.step()?;
        }
        if let Some(id) = absent {
            self.start(id)?;
        }
        let until = self.now + CONVERGE;
        while !self.has_converged() {
            if self.now > until {
                return Err(self.how_far());
            }
            self.step()?;
        }
        self.judge()
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
            Event::Flush(member) => {
                self.inbox(member, |inbox| inbox.flush = true);
                let pause = self.faults.flush_pause(&mut self.rng);
                self.schedule(self.now + pause, Event::Flush(member));
                Ok(())
            }
            Event::Admin => {
                self.administer();
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
                life.inbox.messages.push(message);
                self.plan_turn(to);
            }
            None => self.report_unreachable(from, to),
        }
    }

    fn report_unreachable(&mut self, from: u64, to: u64) {
        if self.rng.one_in(2)
            && let Some(life) = self.member(from).life.as_mut()
        {
            life.inbox.unreachable.push(to);
            self.plan_turn(from);
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let Answer { client, number, request_id, revision } = *answer;
        if let Some(revision) = revision {
            if request_id == 0 {
                self.oracle.told(revision);
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
            Ask::Read(range) => Some((range.clone(), floor)),
            Ask::Serializable(range) => Some((range.clone(), 0)),
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

    /// Something waits for the member: its turn comes as soon as it is free.
    pub(crate) fn plan_turn(&mut self, id: u64) {
        let now = self.now;
        let member = self.member(id);
        if let Some(life) = &member.life {
            let at = now.max(life.clock).max(member.paused_until);
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
        let mut around = Around {
            now: self.now,
            rules: &self.rules,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            sent: Vec::new(),
            answers: Vec::new(),
        };
        match Life::start(id, &member.disks, disk_fails, &mut around) {
            Ok(life) => {
                member.life = Some(life);
                self.live(id, Life::begin)
            }
            Err(End::Crash(place)) => {
                self.crash(id, place);
                Ok(())
            }
            Err(End::Removed) => unreachable!("it has not applied anything yet"),
            Err(End::Violation(violation)) => Err(violation),
        }
    }

    /// Lets a member do something, and the world take notice of it.
    fn live(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Life, &mut Around<'_>) -> Result<(), End>,
    ) -> Result<(), Violation> {
        let member = self.members.get_mut(&id).expect("members are known from the start");
        let Some(life) = &mut member.life else { return Ok(()) };
        let mut around = Around {
            now: self.now,
            rules: &self.rules,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            sent: Vec::new(),
            answers: Vec::new(),
        };
        let end = act(life, &mut around);
        let Around { sent, answers, .. } = around;
        let wake_at = life.wake_at(&self.rules);
        for (at, message) in sent {
            self.send(at, &message);
        }
        for (at, answer) in answers {
            self.schedule(at, Event::Answer(answer));
        }
        match end {
            Ok(()) => {
                self.plan_turn_at(id, wake_at);
                Ok(())
            }
            Err(End::Crash(place)) => {
                self.crash(id, place);
                Ok(())
            }
            Err(End::Removed) => {
                trace!(self.trace, "member {id} ends: it was removed");
                let member = self.member(id);
                member.life = None;
                member.removed = true;
                Ok(())
            }
            Err(End::Violation(violation)) => Err(violation),
        }
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

    /// Power goes: what was not synced is lost in part, the engine is what it was at its last flush.
    pub(crate) fn crash(&mut self, id: u64, place: &str) {
        self.faults.crashes += 1;
        trace!(self.trace, "member {id} crashes {place}");
        let seed = self.rng.next();
        let pause = self.rng.between(10_000, if self.chaos { self.faults.down_max } else { 10_000 });
        let member = self.member(id);
        member.life = None;
        member.disks.log.crash(seed);
        member.disks.engine = Arc::new(member.disks.engine.crash());
        self.schedule(self.now + pause, Event::Start(id));
    }

    /// Takes a member away without whom the others can go on, if there is one.
    fn someone_goes(&mut self) -> Option<u64> {
        let membership = self.membership()?;
        let voters = membership.members.len() - membership.learners();
        let ids: Vec<u64> = membership.members.keys().copied().collect();
        if voters < 3 {
            return None;
        }
        let id = *self.rng.pick(&ids);
        self.crash(id, "and stays away");
        self.events.retain(|_, event| !matches!(event, Event::Start(member) if *member == id));
        Some(id)
    }

    fn heal(&mut self) {
        trace!(self.trace, "everything is healed");
        self.chaos = false;
        self.network.mend_all();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            let member = self.member(id);
            member.paused_until = 0;
            member.disks.log.heal();
            if let Some(life) = &mut member.life {
                life.crash_in = None;
                life.disk_fails = false;
                self.plan_turn(id);
            } else {
                self.schedule(self.now + 1, Event::Start(id));
            }
        }
    }

    /// The members as whoever has applied most knows them.
    pub(crate) fn membership(&self) -> Option<Arc<machine::Membership>> {
        let lives = self.members.values().filter_map(|member| member.life.as_ref());
        let newest = lives.max_by_key(|life| life.machine.applied().0)?;
        Some(newest.machine.shared().membership())
    }

    fn has_converged(&self) -> bool {
        let Some(membership) = self.membership() else { return false };
        let is_current = |id: &u64| membership.members.contains_key(id);
        let current = self.members.iter().filter(|(id, _)| is_current(id));
        let lives: Option<Vec<&Life>> = current.map(|(_, member)| member.life.as_ref()).collect();
        let applied = self.oracle.last_index();
        lives.is_some_and(|lives| {
            lives.iter().filter(|life| life.core.leadership().is_leader).count() == 1
                && lives.iter().all(|life| life.is_quiet() && life.machine.applied().0 == applied)
        }) && !self.events.values().any(|event| matches!(event, Event::Answer(_)))
    }

    fn holds_leases(&self) -> bool {
        let membership = self.membership();
        let is_current = |id: &u64| membership.as_ref().is_some_and(|known| known.members.contains_key(id));
        let current = self.members.iter().filter(|(id, _)| is_current(id));
        let mut lives = current.filter_map(|(_, member)| member.life.as_ref());
        lives.any(|life| !life.machine.shared().leases().is_empty())
    }

    fn how_far(&self) -> Violation {
        let seconds = CONVERGE / 1_000_000;
        let members = self.members.iter().map(|(id, member)| {
            let Some(life) = &member.life else { return format!("member {id} is down") };
            let (first, indexes) = (life.core.log().first_index(), life.core.indexes());
            let leads = life.core.leadership();
            format!("member {id}: {leads:?}, (commit, applied, last) {indexes:?}, log from {first}")
        });
        let members: Vec<String> = members.collect();
        format!("no agreement {seconds} s after everything was healed: {}", members.join("; "))
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.watch_to_the_end()?;
        let mut hashes = Vec::new();
        let membership = self.membership().ok_or("nobody is there at the end")?;
        for (id, member) in self.members.iter_mut().filter(|(id, _)| membership.members.contains_key(id)) {
            let life = member.life.as_mut().expect("every member has converged");
            let shared = life.machine.shared();
            self.oracle.all_is_there(*id, &shared)?;
            let before = history_hash(&shared)?;
            life.idle_to_the_end()?;
            let view = shared.view();
            let after = history_hash(&shared)?;
            let rows = view.hash().map_err(|error| format!("member {id}: {error}"))?;
            hashes.push((before, after, rows, view.sizes().total_bytes, view.sizes().keys));
        }
        trace!(self.trace, "at the end: {hashes:x?}");
        if hashes.iter().any(|(before, after, ..)| before != after) {
            return Err(format!("HashKV moves while compaction is under way: {hashes:x?}"));
        }
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("members differ after their compactions: {hashes:x?}"));
        }
        Ok(())
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
            trace_hash: self.trace.hash(),
        }
    }
}

/// Members of a fresh cluster, their first log written, and some who may join later, with an empty one.
fn first_members(count: u64, spares: u64, rules: &Rules) -> BTreeMap<u64, Member> {
    let list: Vec<machine::Member> =
        (1..=count).map(|id| machine::Member { name: format!("m{id}"), ..member_of(id) }).collect();
    let (entries, state) = bootstrap::first_log(&list);
    let member = |id| {
        let log = MemDisk::new();
        let made = Wal::create_with(log.clone(), &bootstrap::metadata(id, 7), rules.log_options());
        let mut wal = made.expect("a disk without faults");
        if id <= count {
            wal.append(&entries, Some(&state)).expect("a disk without faults");
        }
        wal.sync().expect("a disk without faults");
        let disks = Disks { log, engine: Arc::new(MemoryEngine::new()) };
        (
            id,
            Member {
                disks,
                life: None,
                lives: 0,
                turn_at: None,
                paused_until: 0,
                joined: id <= count,
                removed: false,
            },
        )
    };
    (1..=count + spares).map(member).collect()
}

fn member_of(id: u64) -> machine::Member {
    let peer_urls = vec![format!("http://127.0.0.1:{id}")];
    machine::Member { id, peer_urls, ..machine::Member::default() }
}

impl Cluster {
    /// Lets a member's inbox be changed, if it lives.
    pub(crate) fn inbox(&mut self, id: u64, change: impl FnOnce(&mut Inbox)) {
        if let Some(life) = &mut self.member(id).life {
            change(&mut life.inbox);
            self.plan_turn(id);
        }
    }
}
