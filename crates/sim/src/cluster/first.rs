//! The start of a run: what its seed draws, and the members of the new cluster.

use super::faults::Faults;
use super::watchers::Watchers;
use super::{Client, Cluster, Event, Member};
use crate::client::Workload;
use crate::drawn::count_draw;
use crate::member::{Disks, Rules, States};
use crate::network::{Conditions, Network};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::{Trace, trace};
use crate::{Load, Options};
use raft_node::bootstrap;
use std::collections::BTreeMap;
use std::time::Instant;
use types::{Entry, HardState};
use wal::{MemDisk, Wal};

/// Members that may join later.
const SPARES: u64 = 2;

impl Cluster {
    pub(crate) fn new(seed: u64, options: &Options, start: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let count = options.members.unwrap_or_else(|| *rng.pick(&[1, 3, 3, 3, 3, 3, 3, 5, 7]));
        if count == 7 {
            count_draw("seven members");
        }
        let has_learners = options.load == Load::Learners;
        let count = if has_learners { 1 } else { count };
        let rules = Rules {
            start,
            log: crate::limits::draw_log(seed),
            clock_steps: *rng.pick(&[0, 0, 30_000]),
            sync_micros: *rng.pick(&[100, 1_000, 20_000]),
            hangs_per_mille: *rng.pick(&[0, 0, 1, 10]),
            group_split_per_mille: *rng.pick(&[0, 100, 500, 1000]),
            checkpoints: rng.one_in(2),
            install_crashes_per_mille: *rng.pick(&[0, 200, 600]),
            tidies_one_in: *rng.pick(&[10, 10_000]),
            founders: count,
            limits: crate::limits::draw(seed, &mut rng),
            seed,
        };
        let grows = options.members.is_none() && rng.one_in(3);
        let spares = if grows || has_learners { SPARES } else { 0 };
        let conditions = Conditions::draw(&mut rng);
        let list: Vec<machine::Member> = (1..=count).map(member_of).collect();
        let (entries, state) = bootstrap::first_log(&list);
        let mut cluster = Self {
            now: 0,
            seq: 0,
            events: BTreeMap::new(),
            members: first_members(count, spares, (&entries, &state), &rules),
            network: Network::new(conditions),
            clients: (0..rng.between(1, 6)).map(|_| Client { number: 0, waits: false }).collect(),
            think: *rng.pick(&[20_000, 100_000, 300_000]),
            workload: Workload::draw(&mut rng),
            watchers: Watchers::new(seed),
            faults: Faults::draw(&mut rng),
            rules,
            oracle: Oracle::new(count, spares, &entries),
            trace: Trace::new(options.print),
            sendings: BTreeMap::new(),
            steps: 0,
            chaos: true,
            promotes: true,
            rng,
        };
        cluster.shape(options.load);
        let segments = cluster.rules.log.segment_bytes;
        let conditions = cluster.network.conditions;
        trace!(cluster.trace, "seed {seed}: {count} members, {conditions:?}, segments {segments}");
        cluster.schedule_first(count + spares, spares > 0);
        cluster
    }

    /// Adapts what was drawn to a load.
    fn shape(&mut self, load: Load) {
        match load {
            Load::Mixed => {}
            Load::Learners => self.promotes = false,
            Load::Leases => {
                self.workload.focus_on_leases();
                self.faults.sleeps_per_mille = 400;
                self.faults.abdications_per_mille = 400;
                self.rules.checkpoints = true;
            }
            Load::Reads => {
                self.workload.focus_on_reads();
                self.network.conditions = Conditions::ROUGH;
                self.faults.lonely_pairs_per_mille = 400;
            }
        }
    }

    fn schedule_first(&mut self, members: u64, has_spares: bool) {
        for id in 1..=members {
            self.schedule(0, Event::Start(id));
        }
        for client in 0..self.clients.len() {
            self.schedule(1_000_000, Event::Client(client));
        }
        for watcher in 0..self.watchers.len() {
            self.schedule(1_200_000, Event::Watch(watcher));
        }
        self.schedule(2_000_000, Event::Fault);
        if has_spares {
            self.schedule(3_000_000, Event::Admin);
        }
        if self.rng.one_in(3) {
            self.schedule(2_500_000, Event::Alarms);
        }
    }
}

/// The members of a new cluster, with their first log, and spares with an empty one.
fn first_members(
    count: u64,
    spares: u64,
    (entries, state): (&[Entry], &HardState),
    rules: &Rules,
) -> BTreeMap<u64, Member> {
    let member = |id| {
        let log = MemDisk::new();
        let made = Wal::create_with(log.clone(), &bootstrap::metadata(id, 7), rules.log);
        let mut wal = made.expect("a disk without faults");
        if id <= count {
            wal.append(entries, Some(state)).expect("a disk without faults");
        }
        wal.sync().expect("a disk without faults");
        let disks = Disks { log, states: States::new() };
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
                doomed: false,
            },
        )
    };
    (1..=count + spares).map(member).collect()
}

fn member_of(id: u64) -> machine::Member {
    let (name, peer_urls) = (format!("m{id}"), vec![format!("http://127.0.0.1:{id}")]);
    machine::Member { id, name, peer_urls, ..machine::Member::default() }
}
