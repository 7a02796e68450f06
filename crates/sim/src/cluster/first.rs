//! How a run begins: what its seed draws, and the members of a fresh cluster.

use super::{Client, Cluster, Event, Member};
use crate::Options;
use crate::client::Workload;
use crate::faults::Faults;
use crate::member::{Disks, Rules};
use crate::network::{Network, Weather};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::watching::Watchers;
use engine::MemoryEngine;
use raft_node::bootstrap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use wal::{MemDisk, Wal};

/// Members that may join later.
const SPARES: u64 = 2;

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
            limits: crate::limits::draw(seed),
            seed,
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
        let segments = cluster.rules.segment_bytes;
        trace!(cluster.trace, "seed {seed}: {count} members, {weather:?}, segments {segments}");
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
}

/// Members of a fresh cluster, their first log written, and some who may join later, with an empty one.
fn first_members(count: u64, spares: u64, rules: &Rules) -> BTreeMap<u64, Member> {
    let list: Vec<machine::Member> = (1..=count).map(member_of).collect();
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
    let (name, peer_urls) = (format!("m{id}"), vec![format!("http://127.0.0.1:{id}")]);
    machine::Member { id, name, peer_urls, ..machine::Member::default() }
}
