//! The cost of a put in the node: CPU of the whole process, and the share that is not the node's own (log and machine
//! alone, on the same entries). On memory disks, so nothing waits. Usage: `put_cost [clients] [puts]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a measurement")]

use engine::MemoryEngine;
use machine::{Command, Machine, Member, Membership, Settings};
use proto::{etcdserverpb as pb, raftpb};
use raft_node::{Options, Outbound, bootstrap};
use std::sync::Arc;
use types::{Entry, EntryKind, HardState};
use wal::{MemDisk, Wal};

struct Nowhere;

impl Outbound for Nowhere {
    fn send(&self, _messages: Vec<raftpb::Message>) {}
    fn members_changed(&self, _membership: Arc<Membership>) {}
}

/// CPU time of this process, user and system, nanoseconds.
fn cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let all: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .map(|text| own_nanos(&text))
        .sum();
    all as f64
}

fn own_nanos(schedstat: &str) -> u64 {
    schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn put(i: usize) -> pb::PutRequest {
    pb::PutRequest {
        key: format!("key-{:08}", i % 100_000).into(),
        value: vec![b'x'; 256].into(),
        ..Default::default()
    }
}

fn machine() -> Machine {
    let settings = Settings { quota_bytes: -1, ..Settings::new(1, 2) };
    Machine::open(Arc::new(MemoryEngine::default()), settings).unwrap()
}

fn fresh() -> (Wal<MemDisk>, Vec<Entry>) {
    let mut wal = Wal::create(MemDisk::new(), &bootstrap::metadata(1, 7)).unwrap();
    let urls = vec!["http://127.0.0.1:2380".to_owned()];
    let (entries, state) = bootstrap::first_log(&[Member { id: 1, peer_urls: urls, ..Member::default() }]);
    wal.append(&entries, Some(&state)).unwrap();
    (wal, entries)
}

/// Log and machine alone, in groups as large as the clients make them.
fn parts(clients: usize, puts: usize) -> f64 {
    let (mut wal, entries) = fresh();
    let mut machine = machine();
    machine.apply(&entries).unwrap();
    let entries: Vec<Entry> = (0..puts)
        .map(|i| {
            let data = Command::from(put(i)).encode(1 << 48 | i as u64);
            Entry { term: 2, index: 2 + i as u64, kind: EntryKind::Normal, data }
        })
        .collect();
    let begun = cpu();
    for group in entries.chunks(clients) {
        let commit = group[0].index - 1;
        wal.append(group, Some(&HardState { term: 2, vote: 1, commit })).unwrap();
        wal.sync().unwrap();
        drop(machine.apply(group).unwrap());
    }
    (cpu() - begun) / puts as f64
}

fn whole(clients: usize, puts: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (wal, _) = fresh();
        let machine = machine();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let (node, thread) =
            raft_node::start(Options::new(1, 7), wal, machine, Arc::new(Nowhere), log).unwrap();
        node.read_barrier(None).await.ok();
        let begun = cpu();
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let node = node.clone();
                tokio::spawn(async move {
                    for i in (client..puts).step_by(clients) {
                        node.propose(put(i), None).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let cost = (cpu() - begun) / puts as f64;
        node.stop().await;
        thread.join().unwrap().unwrap();
        cost
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().unwrap());
    let clients: usize = arguments.next().unwrap_or(1000);
    let puts: usize = arguments.next().unwrap_or(300_000);
    let begun = cpu();
    (0..puts).for_each(|i| drop(std::hint::black_box(put(i))));
    let making = (cpu() - begun) / puts as f64;
    let (parts, whole) = (parts(clients, puts), whole(clients, puts));
    let own = whole - parts - making;
    println!(
        "{clients} clients: {whole:.0} ns a put; log and machine alone {parts:.0}, making the request {making:.0}, the node's own {own:.0}"
    );
}
