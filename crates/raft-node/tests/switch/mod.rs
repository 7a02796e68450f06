//! Nodes with their threads in one process: what one sends is delivered to another's handle.

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, MemoryEngine, Snapshot, Visit};
use machine::{Machine, Member, Membership, Settings};
use proto::{etcdserverpb as pb, raftpb};
use raft_node::{Handle, Limits, NodeFault, Options, Outbound, bootstrap};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wal::{MemDisk, Wal};

pub(crate) const TICK: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Switch {
    handles: Mutex<HashMap<u64, Handle>>,
    pub(crate) cut: Mutex<BTreeSet<u64>>,
    /// How many forwarded proposals are still to be lost.
    pub(crate) losses: Mutex<usize>,
    machine_limits: machine::Limits,
    /// How long an engine takes to write a batch of more than [`LARGE`] operations.
    large_write: Duration,
    /// Members whose engines take that long.
    pub(crate) slow: Mutex<BTreeSet<u64>>,
    runtime: Mutex<Option<tokio::runtime::Handle>>,
}

impl Switch {
    /// A network of members that apply at most `group_keys` keys at once, and take `large_write` for a large batch.
    pub(crate) fn slow(group_keys: u64, large_write: Duration) -> Arc<Self> {
        let machine_limits = machine::Limits { group_keys, ..machine::Limits::default() };
        let slow = Mutex::new((1..=3).collect());
        Arc::new(Self { machine_limits, large_write, slow, ..Self::default() })
    }
}

struct Port {
    me: u64,
    switch: Arc<Switch>,
}

impl Outbound for Port {
    fn send(&self, messages: Vec<raftpb::Message>) {
        let (me, switch) = (self.me, Arc::clone(&self.switch));
        let runtime = switch.runtime.lock().unwrap().clone().unwrap();
        runtime.spawn(async move {
            for message in messages {
                let cut = switch.cut.lock().unwrap().clone();
                let handle = switch.handles.lock().unwrap().get(&message.to()).cloned();
                if message.r#type() == raftpb::MessageType::MsgProp {
                    let mut losses = switch.losses.lock().unwrap();
                    if *losses > 0 {
                        *losses -= 1;
                        continue;
                    }
                }
                if let Some(handle) = handle.filter(|_| !cut.contains(&me) && !cut.contains(&message.to())) {
                    handle.deliver(message);
                }
            }
        });
    }
    fn members_changed(&self, _membership: Arc<Membership>) {}
    fn active_since(&self, member: u64) -> Option<Instant> {
        let cut = self.switch.cut.lock().unwrap();
        let reached = !cut.contains(&member) && !cut.contains(&self.me);
        reached.then(|| Instant::now().checked_sub(Duration::from_mins(1)).unwrap())
    }
}

pub(crate) struct Node {
    pub(crate) handle: Handle,
    thread: JoinHandle<Result<(), NodeFault>>,
    pub(crate) disk: MemDisk,
}

impl Node {
    pub(crate) async fn stop(self) -> MemDisk {
        self.handle.stop().await;
        self.thread.join().unwrap().unwrap();
        self.disk
    }
}

/// Starts this many members with these limits and log options.
pub(crate) fn start(
    switch: &Arc<Switch>,
    members: u64,
    limits: &Limits,
    layout: wal::Options,
    log: &slog::Logger,
) -> Vec<Node> {
    *switch.runtime.lock().unwrap() = Some(tokio::runtime::Handle::current());
    let url = |id| vec![format!("http://127.0.0.1:{id}")];
    let list: Vec<_> = (1..=members)
        .map(|id| Member { id, peer_urls: url(id), name: format!("m{id}"), ..Member::default() })
        .collect();
    let start = |id| {
        let disk = MemDisk::new();
        let mut wal = Wal::create_with(disk.clone(), &bootstrap::metadata(id, 7), layout).unwrap();
        let (entries, state) = bootstrap::first_log(&list);
        wal.append(&entries, Some(&state)).unwrap();
        wal.sync().unwrap();
        let memory = Arc::new(MemoryEngine::default());
        let engine = Arc::new(SlowEngine { id, memory, switch: Arc::clone(switch) });
        let settings = Settings { limits: switch.machine_limits, ..Settings::new(id, 2) };
        let machine = Machine::open(engine, settings).unwrap();
        let request_timeout = Duration::from_secs(5);
        let options = Options { tick: TICK, request_timeout, limits: limits.clone(), ..Options::new(id, 7) };
        let port = Arc::new(Port { me: id, switch: Arc::clone(switch) });
        let (handle, thread) = raft_node::start(options, wal, machine, port, log.clone()).unwrap();
        switch.handles.lock().unwrap().insert(id, handle.clone());
        Node { handle, thread, disk }
    };
    (1..=members).map(start).collect()
}

/// The size of a large batch: see [`Switch::slow`].
pub(crate) const LARGE: usize = 100;

struct SlowEngine {
    id: u64,
    memory: Arc<MemoryEngine>,
    switch: Arc<Switch>,
}

impl Engine for SlowEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.memory.get(family, key)
    }
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.memory.scan(family, from, to, visit)
    }
    fn snapshot(self: Arc<Self>) -> Box<Snapshot> {
        Arc::clone(&self.memory).snapshot()
    }
    fn write(&self, batch: Batch) -> Result<(), Fault> {
        if batch.ops.len() > LARGE && self.switch.slow.lock().unwrap().contains(&self.id) {
            std::thread::sleep(self.switch.large_write);
        }
        self.memory.write(batch)
    }
    fn flush(&self) -> Result<(), Fault> {
        Engine::flush(&*self.memory)
    }
    fn compact(&self) -> Result<(), Fault> {
        self.memory.compact()
    }
}

pub(crate) fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

/// Of all keys that begin with a k.
pub(crate) fn delete_all() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

pub(crate) fn has(handle: &Handle, key: &str) -> bool {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    handle.machine().range(&request).unwrap().count == 1
}
