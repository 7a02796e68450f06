//! Power cuts: what was acknowledged is there after the disks have gone back to what was synced.
//!
//! A round starts or goes on with a cluster, writes, and ends all members or one of them by SIGKILL or SIGTERM. Then the
//! disks lose what was not synced, all of it or, by a seed, some of it. Of three members two are started first, which
//! are a quorum: they must hold every acknowledged write between them, whoever acknowledged it. Every few rounds a new
//! cluster begins, so that first starts are cut short too.

mod faults;
mod lies;
mod load;
mod restored;
mod saved;
mod snapshots;
mod taken_over;
mod wal_dir;

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use harness::{Client, Cluster, Options, power::Survives};
use load::{Shape, Witness};
use proto::etcdserverpb::{CompactionRequest, DefragmentRequest};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use crate::support::{copy_all, number, run, seed};

/// Rounds on one cluster before the next begins: bounds what is checked after each.
const ROUNDS: u64 = 6;

/// What one round writes, in bytes: more than a segment of the log (64 MB) in two of them, and the largest burst in one.
const ROUND_BYTES_MAX: u64 = 45 << 20;

/// For a cluster to lead and serve again.
const SERVE_LIMIT: Duration = Duration::from_mins(1);

#[test]
fn one_member_keeps_what_it_acknowledged_over_power_cuts() {
    run(cuts(1, number("IT_POWER_CUTS", 30)));
}

#[test]
fn three_members_keep_what_they_acknowledged_over_power_cuts() {
    run(cuts(3, number("IT_POWER_CUTS", 30)));
}

/// A follower whose disk is busy takes many entries in one turn, and acknowledges them all. How many depends on the
/// machine: that more than the log leaves unsynced is durable to its end is shown in `crates/wal`.
#[test]
fn followers_with_slow_disks_keep_what_they_acknowledged_in_one_turn() {
    const PUTS: usize = 56;
    run(async {
        // Time for a disk that slow, and no election meanwhile.
        let flags = ["--heartbeat-interval=1000", "--election-timeout=15000"].map(str::to_owned);
        let mut rig = Rig::with(&Options { power: true, flags: flags.into(), ..Options::new(3) }, 1, &[])?;
        rig.start(&all(3))?;
        let leader = rig.client.wait_leader(SERVE_LIMIT).await?;
        for follower in all(3).into_iter().filter(|member| *member != leader) {
            rig.cluster.disk(follower).command("delay file *.wal 3000\n")?;
        }
        let witness = Arc::clone(&rig.witness);
        // All at the leader: what a follower forwards waits for its disk too.
        let at_leader = Client::new([rig.cluster.members()[leader].addresses.client_url()]);
        let mut writers = witness.begin(&at_leader, Shape::Burst(PUTS), 1, PUTS as u64 * 1_050_000);
        while let Some(ended) = writers.join_next().await {
            ended?;
        }
        ensure!(witness.acked() > 40, "only {} writes were acknowledged", witness.acked());
        for member in all(3) {
            rig.cluster.kill(member)?;
            rig.cluster.disk(member).command("")?;
            rig.cluster.disk(member).cut(Survives::Nothing)?;
        }
        // The two of them were a quorum.
        rig.start(&all(3).into_iter().filter(|member| *member != leader).collect::<Vec<_>>())?;
        rig.check((leader + 1) % 3).await?;
        println!("{} writes of a megabyte, all there", witness.acked());
        Ok(())
    });
}

/// Whether a sync that was left out was noticed; without a lie, whether nothing was wrong.
fn noticed(lie: &str, ended: anyhow::Result<()>) -> anyhow::Result<()> {
    match ended {
        ended if lie.is_empty() => ended,
        Ok(()) => bail!("{lie}: nobody noticed"),
        Err(error) => {
            println!("{lie}: {}", format!("{error:#}").lines().next().unwrap_or_default());
            Ok(())
        }
    }
}

/// A cluster whose disks can be cut, and what it was told.
struct Rig {
    cluster: Cluster,
    client: Client,
    witness: Arc<Witness>,
    random: SmallRng,
    /// The newest term in which somebody led.
    term: u64,
}

async fn cuts(size: usize, count: u64) -> anyhow::Result<()> {
    let seed = seed();
    println!("{size} member(s), {count} power cuts, IT_SEED={seed}");
    let (mut done, mut acked) = (0, 0);
    let begun = Instant::now();
    for run in 0.. {
        if done >= count {
            break;
        }
        let mut rig = Rig::new(size, seed.wrapping_add(run), &[])?;
        let ended = rig.run(&mut done, count).await;
        acked += rig.witness.acked();
        if ended.is_err() {
            println!("data and logs are kept in {}", rig.cluster.keep().display());
        }
        ended.with_context(|| format!("after {done} cuts, run {run}"))?;
    }
    println!(
        "{size} member(s): {done} power cuts in {:.0?}, {acked} acknowledged writes all there",
        begun.elapsed()
    );
    Ok(())
}

fn all(size: usize) -> Vec<usize> {
    (0..size).collect()
}

impl Rig {
    /// Members that are not started yet.
    fn new(size: usize, seed: u64, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::with(&Options { power: true, ..Options::new(size) }, seed, variables)
    }

    fn with(options: &Options, seed: u64, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut cluster = Cluster::prepare(options)?;
        for member in 0..options.size {
            for (name, value) in variables {
                cluster.member(member).set_variable(name, value);
            }
        }
        let client = cluster.client();
        let random = SmallRng::seed_from_u64(seed);
        Ok(Self { cluster, client, witness: Arc::default(), random, term: 0 })
    }

    fn start(&mut self, members: &[usize]) -> anyhow::Result<()> {
        for member in members {
            self.cluster.member(*member).start()?;
        }
        for member in members {
            self.cluster.member(*member).wait_ready()?;
        }
        Ok(())
    }

    /// The rounds of one cluster.
    async fn run(&mut self, done: &mut u64, count: u64) -> anyhow::Result<()> {
        // Sometimes the first start itself is cut short.
        if self.random.random_bool(0.5) {
            self.first_start_cut_short().await?;
            *done += 1;
        }
        self.start(&all(self.cluster.size()))?;
        for _ in 0..ROUNDS {
            if *done < count {
                self.round().await?;
                *done += 1;
            }
        }
        self.end().await
    }

    /// Writes, ends members, cuts, starts again, asks for everything.
    async fn round(&mut self) -> anyhow::Result<()> {
        let size = self.cluster.size();
        let shape = match self.random.random_range(0..6) {
            0 | 1 => Shape::Small,
            2 | 3 => Shape::Mixed,
            4 => Shape::Burst(20),
            _ => Shape::Burst(40),
        };
        self.slow_disks(matches!(shape, Shape::Burst(_)))?;
        let witness = Arc::clone(&self.witness);
        let mut writers = witness.begin(&self.client, shape, self.random.random(), ROUND_BYTES_MAX);
        self.wait_acked(&witness).await?;
        self.note_term().await;
        let work = self.background();
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..200))).await;
        let orderly = self.random.random_ratio(1, 4);
        let alone = size > 1 && self.random.random_ratio(1, 4);
        let victims = if alone { vec![self.random.random_range(0..size)] } else { all(size) };
        println!("  {shape:?}, members {victims:?} {}", if orderly { "stopped" } else { "killed" });
        for victim in &victims {
            if orderly {
                let status = self.cluster.stop(*victim)?;
                // A signal is raised again once all is closed, as in etcd.
                ensure!(
                    status.success() || status.signal() == Some(15),
                    "member {victim} ended with {status}"
                );
            } else {
                self.cluster.kill(*victim)?;
            }
        }
        if !alone {
            witness.end(&mut writers).await?;
        }
        work.abort();
        self.cut(&victims)?;
        if alone {
            self.start(&victims)?;
            witness.end(&mut writers).await?;
        } else {
            self.start_by_quorum().await?;
        }
        let at = self.random.random_range(0..size);
        self.check(at).await
    }

    /// A pair must do: whoever is missing may have been the only one that synced.
    async fn start_by_quorum(&mut self) -> anyhow::Result<()> {
        let mut members = all(self.cluster.size());
        members.shuffle(&mut self.random);
        let late = members.split_off(members.len() / 2 + 1);
        self.check_terms(&members)?;
        self.start(&members)?;
        self.check(members[0]).await?;
        self.start(&late)
    }

    async fn check(&self, at: usize) -> anyhow::Result<()> {
        self.client.wait_leader(SERVE_LIMIT).await?;
        self.witness.check(&self.client, at).await?;
        Ok(())
    }

    /// Disks of different speed, or equal ones: where a sync takes long, more waits for the next.
    fn slow_disks(&mut self, often: bool) -> anyhow::Result<()> {
        let size = self.cluster.size();
        let spared = self.random.random_range(0..=size);
        let slow = self.random.random_ratio(1 + u32::from(often), 3);
        for member in 0..size {
            let delay = self.random.random_range(50..400);
            let lines =
                if slow && member != spared { format!("delay file *.wal {delay}\n") } else { String::new() };
            self.cluster.disk(member).command(&lines)?;
        }
        Ok(())
    }

    /// Some writes, more of them now and then: enough for another segment, or a flush.
    async fn wait_acked(&mut self, witness: &Witness) -> anyhow::Result<()> {
        let wanted = witness.acked() + self.random.random_range(1..30);
        let deadline = Instant::now() + SERVE_LIMIT;
        while witness.acked() < wanted {
            ensure!(Instant::now() < deadline, "no more than {} writes are acknowledged", witness.acked());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Who led when power was cut: a quorum had voted for it.
    async fn note_term(&mut self) {
        for member in 0..self.cluster.size() {
            if let Ok(status) = self.client.status(member).await
                && status.leader != 0
            {
                self.term = self.term.max(status.raft_term);
            }
        }
        if self.witness.grant(&self.client, 0).await.is_err() {
            println!("  no lease this time");
        }
    }

    /// Compaction and defragmentation beside the writes, half the time.
    fn background(&mut self) -> tokio::task::JoinHandle<()> {
        let (client, busy) = (self.client.clone(), self.random.random_bool(0.5));
        let at = self.random.random_range(0..self.cluster.size());
        tokio::spawn(async move {
            let Ok(status) = client.status(at).await else { return };
            let revision = status.header.map_or(0, |header| header.revision);
            if busy && revision > 1 {
                // Whether they end well is not asked: the power is about to go.
                let request = CompactionRequest { revision: revision - 1, physical: false };
                let _ = client.kv(at).compact(request).await;
                let _ = client.maintenance(at).defragment(DefragmentRequest {}).await;
            }
        })
    }

    fn cut(&mut self, members: &[usize]) -> anyhow::Result<()> {
        for member in members {
            let some = self.random.random_bool(0.5);
            let survives = if some { Survives::Some(self.random.random()) } else { Survives::Nothing };
            let disk = self.cluster.disk(*member);
            disk.command("")?;
            disk.cut(survives)?;
        }
        Ok(())
    }

    /// Nobody forgets a term in which it voted: of a quorum that comes back, somebody voted in the newest.
    fn check_terms(&self, members: &[usize]) -> anyhow::Result<()> {
        let mut newest = 0;
        for member in members {
            let wal_dir = self.cluster.members()[*member].data.join("member/wal");
            if wal_dir.exists() {
                // A copy, for what is open here is locked, and stays so in a child that a test beside this one starts,
                // until the child has become another program: the member would find its log in use.
                let folder = tempfile::tempdir()?;
                let copied = folder.path().join("wal");
                copy_all(&wal_dir, &copied)?;
                let found = wal::Wal::inspect(&wal::FsDisk::open(&copied)?)?;
                newest = newest.max(found.replayed.hard_state.term);
            }
        }
        ensure!(newest >= self.term, "LOST: votes of term {}, the logs are of term {newest}", self.term);
        Ok(())
    }

    /// Some moment of the very first start.
    async fn first_start_cut_short(&mut self) -> anyhow::Result<()> {
        let members = all(self.cluster.size());
        for member in &members {
            self.cluster.member(*member).start()?;
        }
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..300))).await;
        for member in &members {
            self.cluster.kill(*member)?;
        }
        self.cut(&members)
    }

    /// All members hold the same, and stop as they should.
    async fn end(&mut self) -> anyhow::Result<()> {
        let revision = self.client.revision(SERVE_LIMIT).await?;
        self.client.same_hash(revision, SERVE_LIMIT).await?;
        for member in all(self.cluster.size()) {
            self.cluster.stop(member)?;
        }
        Ok(())
    }
}
