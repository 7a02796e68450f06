//! A network of cores in one thread, with its own clock: messages are delivered when the test says so.

use engine::{Batch, Engine as _, Family, MemoryEngine};
use machine::{Command, Machine, Member, Outcome, Settings as MachineSettings};
use prost::Message as _;
use proto::raftpb::MessageType;
use proto::{etcdserverpb as pb, raftpb, walpb};
use raft_node::convert::{Forwarded, Incoming, incoming};
use raft_node::core::{Core, CoreSettings, Dropped, Input, Log, Proposal, ReadsDone};
use raft_node::{Limits, ProposeError, SnapshotHead, bootstrap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use types::{Entry, EntryKind, HardState, Index, Term};
use wal::{MemDisk, Wal, WalError};

pub(crate) const ELECTION_TICKS: usize = 10;
/// Small segments, because a test has many logs.
const LOG: wal::Options = wal::Options { segment_bytes: 1 << 20, ..wal::Options::DEFAULT };
const TICK: Duration = Duration::from_millis(100);

struct Counted {
    wal: Wal<MemDisk>,
    reads: Arc<AtomicUsize>,
}

impl Log for Counted {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), WalError> {
        self.wal.append(entries, hard_state)
    }
    fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), WalError> {
        self.wal.save_snapshot(snapshot)
    }
    fn sync(&mut self) -> Result<(), WalError> {
        self.wal.sync()
    }
    fn first_index(&self) -> Index {
        self.wal.first_index()
    }
    fn last_index(&self) -> Index {
        self.wal.last_index()
    }
    fn term(&self, index: Index) -> Option<Term> {
        self.wal.term(index)
    }
    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, WalError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.wal.entries(low, high, max_bytes)
    }
    fn hard_state(&self) -> HardState {
        self.wal.hard_state()
    }
    fn release(&mut self, index: Index) -> Result<(), WalError> {
        self.wal.release(index)
    }
}

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) core: Core,
    pub(crate) machine: Machine,
    pub(crate) disk: MemDisk,
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) waiting: VecDeque<Proposal>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) reads: Vec<ReadsDone>,
    pub(crate) refused: Vec<(u64, ProposeError)>,
    pub(crate) dropped: Vec<Dropped>,
    /// The sizes of the groups that were applied.
    pub(crate) groups: Vec<usize>,
    /// The state of a snapshot that was stepped, and the engine it is on.
    staged: Option<(Machine, Arc<MemoryEngine>)>,
    /// The indexes of the snapshots that were installed.
    pub(crate) installed: Vec<Index>,
    log_reads: Arc<AtomicUsize>,
    limits: Limits,
}

impl Node {
    pub(crate) fn start(
        id: u64,
        disk: MemDisk,
        engine: Arc<MemoryEngine>,
        life: u64,
        limits: &Limits,
    ) -> Self {
        let machine = Machine::open(engine.clone(), MachineSettings::new(id, 2)).unwrap();
        let (wal, _) = Wal::open_with(disk.clone(), LOG).unwrap();
        let settings = CoreSettings {
            member: id,
            election_ticks: ELECTION_TICKS,
            pre_vote: true,
            request_timeout: Duration::from_secs(7),
            unix_millis: life,
            applied: machine.applied().0,
            conf: machine.conf_state(),
            limits: limits.clone(),
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let log_reads = Arc::default();
        let log = Counted { wal, reads: Arc::clone(&log_reads) };
        let core = Core::new(&settings, Box::new(log), logger).unwrap();
        Self {
            id,
            core,
            machine,
            disk,
            engine,
            waiting: VecDeque::new(),
            outcomes: Vec::new(),
            reads: Vec::new(),
            refused: Vec::new(),
            dropped: Vec::new(),
            groups: Vec::new(),
            staged: None,
            installed: Vec::new(),
            log_reads,
            limits: limits.clone(),
        }
    }

    pub(crate) fn propose(&mut self, now: Instant, kind: EntryKind, id: u64, data: Vec<u8>) {
        self.waiting.push_back(Proposal::new(id, kind, data.into(), now + Duration::from_secs(7)));
    }

    /// Takes a snapshot of another member's, which is there at once.
    pub(crate) fn receive(&mut self, now: Instant, message: &raftpb::Message, rows: &MemoryEngine) {
        let head = SnapshotHead::of(message, self.id).unwrap();
        let engine = Arc::new(copy(rows));
        let machine = Machine::open(engine.clone(), MachineSettings::new(self.id, 2)).unwrap();
        assert_eq!(machine.applied(), head.point());
        self.core.step(now, Input::Snapshot(head));
        self.staged = self.core.is_restoring().then_some((machine, engine));
    }

    pub(crate) fn log_reads(&self) -> usize {
        self.log_reads.load(Ordering::Relaxed)
    }

    /// A member's turn, in short.
    fn run(&mut self, now: Instant) -> Vec<raftpb::Message> {
        let mut sent = Vec::new();
        if self.core.takes_proposals() && !self.waiting.is_empty() {
            let batch = self.waiting.drain(..).collect();
            self.core.step(now, Input::Propose(batch));
        }
        loop {
            let effects = self.core.effects();
            self.waiting.extend(effects.returned);
            self.refused.extend(effects.refused);
            self.reads.extend(effects.reads);
            self.dropped.extend(effects.dropped);
            let Some(mut work) = self.core.work().unwrap() else { break };
            sent.append(&mut work.messages);
            let mut persisted = self.core.persist(work).unwrap();
            if let Some(index) = persisted.installed {
                let (machine, engine) = self.staged.take().unwrap();
                assert_eq!(machine.applied().0, index);
                drop(self.machine.replace(machine).unwrap());
                self.engine = engine;
                self.installed.push(index);
                self.core.applied(now, index, &[]).unwrap();
            }
            sent.append(&mut persisted.messages);
            if let Some(last) = persisted.committed.last().map(|entry| entry.index) {
                self.groups.push(persisted.committed.len());
                let outcomes = self.machine.apply(&persisted.committed).unwrap();
                self.core.applied(now, last, &outcomes).unwrap();
                self.outcomes.extend(outcomes);
            }
        }
        sent
    }
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// Pairs (from, to) whose messages are all lost.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    pub(crate) lose: Option<MessageType>,
    pub(crate) sent: Vec<raftpb::Message>,
    limits: Limits,
    next_id: u64,
}

impl Net {
    pub(crate) fn new(members: u64) -> Self {
        Self::with(members, &Limits::default())
    }

    pub(crate) fn with(members: u64, limits: &Limits) -> Self {
        let list: Vec<Member> = (1..=members).map(member).collect();
        let nodes = (1..=members)
            .map(|id| {
                let disk = MemDisk::new();
                let mut wal = create_log(&disk, id);
                let (entries, state) = bootstrap::first_log(&list);
                wal.append(&entries, Some(&state)).unwrap();
                wal.sync().unwrap();
                (id, Node::start(id, disk, Arc::new(MemoryEngine::default()), 1, limits))
            })
            .collect();
        let mut net = Self {
            now: Instant::now(),
            nodes,
            cut: BTreeSet::new(),
            lose: None,
            sent: Vec::new(),
            limits: limits.clone(),
            next_id: 100,
        };
        net.settle();
        net
    }

    pub(crate) fn led_by(members: u64, leader: u64) -> Self {
        Self::led_with(members, leader, &Limits::default())
    }

    /// A network of members with these limits, that has elected this leader.
    pub(crate) fn led_with(members: u64, leader: u64, limits: &Limits) -> Self {
        let mut net = Self::with(members, limits);
        net.campaign(leader);
        assert_eq!(net.leader(), leader);
        net
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn step(&mut self, id: u64, input: Input) {
        let now = self.now;
        self.node(id).core.step(now, input);
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        self.step(id, Input::Campaign);
        self.settle();
    }

    /// The leader that all connected members agree on.
    pub(crate) fn leader(&self) -> u64 {
        self.nodes.values().find(|node| node.core.leadership().is_leader).map_or(0, |node| node.id)
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let now = self.now;
            let sent: Vec<_> = self.nodes.values_mut().flat_map(|node| node.run(now)).collect();
            if sent.is_empty() {
                return;
            }
            for message in sent {
                self.deliver(&message);
                self.sent.push(message);
            }
        }
    }

    /// Delivers one message, encoded as on the wire.
    pub(crate) fn deliver(&mut self, message: &raftpb::Message) {
        let (from, to, now) = (message.from(), message.to(), self.now);
        if self.cut.contains(&(from, to)) || self.lose == Some(message.r#type()) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let message = raftpb::Message::decode(&message.encode_to_vec()[..]).unwrap();
        if message.r#type() == MessageType::MsgSnap {
            return self.send_snapshot(&message);
        }
        match incoming(message, to, &node.limits).unwrap() {
            Incoming::Step(checked) => node.core.step(now, Input::Message(checked)),
            Incoming::Proposals(Forwarded { hops, left, entries }) => {
                let deadline = now + left.unwrap_or(Duration::from_secs(7));
                let proposals = entries.into_iter();
                node.waiting
                    .extend(proposals.map(|(kind, data)| Proposal::forwarded(kind, data, deadline, hops)));
            }
        }
    }

    /// Sends what the sender has applied by now; it is told that it arrived.
    fn send_snapshot(&mut self, message: &raftpb::Message) {
        let (from, to, now) = (message.from(), message.to(), self.now);
        let sender = &self.nodes[&from];
        let message = describing(message, &sender.machine);
        let rows = Arc::clone(&sender.engine);
        self.node(to).receive(now, &message, &rows);
        self.step(from, Input::SnapshotDone { member: to, ok: true });
    }

    pub(crate) fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.now += TICK;
            let now = self.now;
            for node in self.nodes.values_mut() {
                if !node.core.is_removed() {
                    let offset = usize::try_from(node.id).unwrap() % ELECTION_TICKS;
                    node.core.fix_election_timeout(ELECTION_TICKS + offset);
                }
                node.core.step(now, Input::Tick);
            }
            self.settle();
        }
    }

    /// Cuts a member off from everybody, or reconnects it.
    pub(crate) fn isolate(&mut self, id: u64, cut: bool) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            for pair in [(id, other), (other, id)] {
                if cut {
                    self.cut.insert(pair)
                } else {
                    self.cut.remove(&pair)
                };
            }
        }
    }

    pub(crate) fn put(&mut self, at: u64, key: &str) -> u64 {
        let id = self.request_id();
        let now = self.now;
        let put = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
        self.node(at).propose(now, EntryKind::Normal, id, Command::from(put).encode(id).into());
        id
    }

    pub(crate) fn change(&mut self, at: u64, change: raftpb::ConfChange) -> u64 {
        let id = self.request_id();
        let now = self.now;
        let change = raftpb::ConfChange { id: Some(id), ..change };
        self.node(at).propose(now, EntryKind::ConfChange, id, change.encode_to_vec());
        id
    }

    fn request_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn has(&self, at: u64, key: &str) -> bool {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        self.nodes[&at].machine.shared().range(&request).unwrap().count == 1
    }

    pub(crate) fn restart(&mut self, id: u64, life: u64) {
        let node = self.nodes.remove(&id).unwrap();
        let (disk, engine) = (node.disk.clone(), node.engine.clone());
        drop(node);
        self.nodes.insert(id, Node::start(id, disk, engine, life, &self.limits));
    }
}

pub(crate) fn create_log(disk: &MemDisk, id: u64) -> Wal<MemDisk> {
    Wal::create_with(disk.clone(), &bootstrap::metadata(id, 7), LOG).unwrap()
}

pub(crate) fn member(id: u64) -> Member {
    Member {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        ..Member::default()
    }
}

/// A change as etcd makes it at run time.
pub(crate) fn change(kind: raftpb::ConfChangeType, node: u64, context: Option<String>) -> raftpb::ConfChange {
    raftpb::ConfChange {
        id: None,
        r#type: Some(kind.into()),
        node_id: Some(node),
        context: context.map(Into::into),
    }
}

/// The message, with what this machine has applied as its snapshot.
pub(crate) fn describing(message: &raftpb::Message, machine: &Machine) -> raftpb::Message {
    let ((index, term), conf) = (machine.applied(), machine.conf_state());
    let conf_state =
        Some(raftpb::ConfState { voters: conf.voters, learners: conf.learners, ..Default::default() });
    let metadata = raftpb::SnapshotMetadata { conf_state, index: Some(index), term: Some(term) };
    let snapshot = Some(raftpb::Snapshot { data: None, metadata: Some(metadata) });
    raftpb::Message { snapshot, ..message.clone() }
}

pub(crate) fn copy(rows: &MemoryEngine) -> MemoryEngine {
    let (engine, mut batch) = (MemoryEngine::default(), Batch::default());
    for family in Family::ALL {
        let mut row = |key: &[u8], value: &[u8]| {
            batch.put(family, key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        };
        rows.scan(family, &[], None, &mut row).unwrap();
    }
    engine.write(batch).unwrap();
    engine.flush().unwrap();
    engine
}
