//! Clusters of etcd, of each release from 3.5 on, are taken over: three members are replaced by ours one after the other,
//! and ours by members of that release again, while clients do all that clients do. Nothing that was acknowledged is
//! lost, no watcher misses an event, no lease ends that is renewed, and nobody waits for long.
//!
//! * `IT_TAKEOVERS`: rounds there and back, 1 unless said otherwise.
//! * `IT_TAKEOVER_RATE`: requests a second, 2,000 unless said otherwise.

mod gaps;
mod history;
mod load;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use harness::{Client, end_of_prefix};
use proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
};

use super::{Growing, Kind, SETTLE, promote};
use crate::support::{PATIENT, no_panic, number, run, seed, talk};
use gaps::{Elections, Lookout, longest};
use history::{Keys, Watchers};
use load::{ALL, BRIEF, KEPT, KEPT_ID, KEPT_LEASES, KEPT_TTL, Stage};

/// The longest that no write may be acknowledged, beyond elections.
const GAP_MAX: Duration = Duration::from_millis(500);

#[test]
fn etcd_3_5_is_taken_over_and_comes_back() {
    run(there_and_back("3.5"));
}

#[test]
fn etcd_3_6_is_taken_over_and_comes_back() {
    run(there_and_back("3.6"));
}

#[test]
fn etcd_3_7_is_taken_over_and_comes_back() {
    run(there_and_back("3.7"));
}

/// All rounds with one release of etcd. Ours must not raise the cluster's version above it: etcd joins no cluster of a
/// newer version, and none that is being downgraded to its own either (`allowedVersionRange`).
async fn there_and_back(release: &'static str) -> anyhow::Result<()> {
    let rate = number("IT_TAKEOVER_RATE", 2_000);
    let seed = seed();
    println!("etcd {release}, {rate} requests a second, IT_SEED={seed}");
    let mut growing = Growing::grow(Kind::Etcd(release), 3).await?;
    growing.flags_of_ours = vec![format!("--max-cluster-version={release}")];
    let client = growing.client();
    for number in 0..KEPT_LEASES {
        let id = KEPT_ID + number;
        client.lease(0).lease_grant(LeaseGrantRequest { id, ttl: KEPT_TTL }).await?;
        let key = format!("{KEPT}{number}").into();
        client.put(0, PutRequest { key, lease: id, ..Default::default() }, PATIENT).await?;
    }
    for round in 0..number("IT_TAKEOVERS", 1) {
        let mut round = Round::start(growing, release, rate, seed + round, round).await?;
        round.play().await.with_context(|| format!("round {}", round.number))?;
        growing = round.end().await?;
    }
    Ok(())
}

/// One time there and back.
struct Round {
    growing: Growing,
    release: &'static str,
    number: u64,
    begun: Instant,
    stage: Arc<Stage>,
    /// The revision at the step before: what is older is compacted.
    before: i64,
    watchers: Watchers,
    lookout: Lookout,
    load: tokio::task::JoinHandle<()>,
    renewer: tokio::task::JoinHandle<()>,
}

impl Round {
    async fn start(
        growing: Growing,
        release: &'static str,
        rate: u64,
        seed: u64,
        number: u64,
    ) -> anyhow::Result<Self> {
        let client = growing.client();
        let before = client.revision(SETTLE).await?;
        let keys = everything(&client, before).await?;
        let stage = Stage::new(client);
        Ok(Self {
            watchers: Watchers::start(&stage, before + 1, &keys),
            lookout: Lookout::start(&stage),
            renewer: tokio::spawn(load::renew(Arc::clone(&stage))),
            load: tokio::spawn(load::run(Arc::clone(&stage), rate, seed)),
            begun: Instant::now(),
            growing,
            release,
            number,
            stage,
            before,
        })
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        let etcd = Kind::Etcd(self.release);
        for kind in [Kind::Ours, etcd] {
            for old in self.growing.present() {
                self.replace(old, kind).await.with_context(|| format!("{kind:?} for member {old}"))?;
            }
            println!("  all are {kind:?} after {:.0?}", self.begun.elapsed());
            // Above it no member of the release could join.
            self.cluster_version(&format!("{}.0", self.release)).await?;
        }
        Ok(())
    }

    /// One of the other kind joins, then the old one goes; all hold the same at each step.
    async fn replace(&mut self, old: usize, kind: Kind) -> anyhow::Result<()> {
        let begun = Instant::now();
        let asked = old;
        let new = self.growing.add(kind, true).await?;
        let member = &mut self.growing.at(new).member;
        member.start()?;
        member.wait_ready()?;
        let id = self.growing.at(new).id;
        promote(&self.growing, asked, id).await?;
        // The others may know of it sooner than it does.
        let client = self.growing.client_of(&[new]);
        while client.status(0).await?.is_learner {
            ensure!(begun.elapsed() < SETTLE, "m{new} does not learn that it was promoted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let joined = begun.elapsed();
        self.stage.ask(self.growing.client());
        self.same().await?;
        let rest: Vec<usize> = self.growing.present().into_iter().filter(|at| *at != old).collect();
        let led = self.hand_over(old, new, rest[0]).await?;
        let mut gone = self.growing.remove(rest[0], old).await?;
        self.stage.ask(self.growing.client());
        let process = gone.member.process()?;
        process.wait_end(SETTLE)?;
        no_panic(&process.output());
        self.same().await?;
        let led = if led { ", which led" } else { "" };
        println!("  {kind:?} for m{old}{led}: joined after {joined:.1?}, done after {:.1?}", begun.elapsed());
        ensure!(self.stage.violations().is_empty(), "{:#?}", self.stage.violations());
        ensure!(!self.renewer.is_finished() && !self.load.is_finished(), "a client gave up");
        Ok(())
    }

    /// As an operator would: a leader hands over before it is removed. Returns whether the old one led.
    async fn hand_over(&mut self, old: usize, new: usize, other: usize) -> anyhow::Result<bool> {
        let present = self.growing.present();
        let client = self.growing.client();
        if client.wait_leader(SETTLE).await? != position(&present, old)? {
            return Ok(false);
        }
        let to = if self.number.is_multiple_of(2) { new } else { other };
        client.make_leader(position(&present, to)?, SETTLE).await?;
        // A change sent to the one that led before would be lost, and time out.
        let (leader, begun) = (self.growing.at(to).id, Instant::now());
        for at in 0..client.size() {
            while client.status(at).await?.leader != leader {
                ensure!(begun.elapsed() < SETTLE, "member {at} does not learn who leads");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(true)
    }

    /// All hold the same, at a revision of now and at the compaction of what is older than the step before.
    async fn same(&mut self) -> anyhow::Result<()> {
        self.growing.agree().await?;
        let client = self.growing.client();
        let newest = client.revision(SETTLE).await?;
        let compaction = CompactionRequest { revision: self.before, physical: false };
        let asked = usize::try_from(newest).unwrap_or(0) % client.size();
        client.kv(asked).compact(compaction).await.context("compaction")?;
        let answers = client.hashes(self.before, SETTLE).await?;
        let mut hashes = BTreeMap::new();
        for answer in &answers {
            // Hashes of compactions can be compared where they are of the same history.
            let hash = *hashes.entry(answer.compact_revision).or_insert(answer.hash);
            ensure!(hash == answer.hash, "members differ at the compaction at {}: {answers:#?}", self.before);
        }
        client.same_hash(self.before + 1, SETTLE).await?;
        self.before = newest;
        Ok(())
    }

    /// Waits until all members say that the cluster has this version.
    async fn cluster_version(&self, version: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let wanted = format!("\"etcdcluster\":\"{version}\"");
        for at in self.growing.present() {
            let member = &self.growing.members[at].as_ref().context("it is there")?.member;
            loop {
                let port = member.addresses.client.number();
                let page =
                    talk(port, b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
                let page = String::from_utf8_lossy(&page).into_owned();
                if page.contains(&wanted) {
                    break;
                }
                if begun.elapsed() > SETTLE {
                    bail!("m{at} is not at {version}: {page}");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// The clients stop, and what they saw is compared with what is there. Returns the cluster.
    async fn end(self) -> anyhow::Result<Growing> {
        let took = self.begun.elapsed();
        self.stage.stop();
        self.load.await?;
        let client = self.growing.client();
        // While they are still renewed.
        kept_leases_are_there(&client).await?;
        let newest = brief_leases_end(&client).await?;
        let noted = self.stage.take();
        let keys = self.watchers.judge(newest, &noted.acknowledged, SETTLE).await?;
        let found = everything(&client, newest).await?;
        ensure!(found == keys, "{} keys are there, the watchers know of {}", found.len(), keys.len());
        let (sent, left_out) = self.stage.counts();
        report(&noted, sent, left_out, took);
        self.renewer.abort();
        let elections = self.lookout.stop();
        gap(noted.times, &elections, self.begun)?;
        ensure!(self.stage.violations().is_empty(), "{:#?}", self.stage.violations());
        self.growing.agree().await?;
        Ok(self.growing)
    }
}

fn position(present: &[usize], at: usize) -> anyhow::Result<usize> {
    present.iter().position(|found| *found == at).context("it is not there")
}

fn report(noted: &load::Noted, sent: u64, left_out: u64, took: Duration) {
    println!(
        "  {sent} requests, {} a second, {left_out} left out; {} writes acknowledged, none lost",
        sent / took.as_secs().max(1),
        noted.acknowledged.len()
    );
    for (failed, count) in &noted.failed {
        println!("  {count} failed: {failed}");
    }
}

fn gap(times: Vec<Instant>, elections: &Elections, begun: Instant) -> anyhow::Result<()> {
    let (whole, beyond) = longest(times, elections);
    let after = beyond.from.unwrap_or(begun).duration_since(begun);
    let spans: Vec<Duration> = elections.iter().map(|(from, to)| *to - *from).collect();
    println!(
        "  longest gap between acknowledged writes: {:.0?}, {:.0?} of it without a leader; longest beyond elections: {:.0?}, after {after:.0?}",
        whole.whole,
        whole.election,
        beyond.beyond()
    );
    println!("  changes of leaders took: {spans:.0?}");
    ensure!(
        beyond.beyond() <= GAP_MAX,
        "no write was acknowledged for {:?}, after {after:.1?}",
        beyond.beyond()
    );
    Ok(())
}

async fn kept_leases_are_there(client: &Client) -> anyhow::Result<()> {
    let mut least = i64::MAX;
    for number in 0..KEPT_LEASES {
        let asked = LeaseTimeToLiveRequest { id: KEPT_ID + number, keys: true };
        let left = client.lease(0).lease_time_to_live(asked).await?.into_inner();
        ensure!(left.ttl > 0 && left.keys.len() == 1, "a lease that was renewed: {left:?}");
        least = least.min(left.ttl);
    }
    println!("  of {KEPT_LEASES} leases of {KEPT_TTL} s that were renewed {least} s are left at least");
    Ok(())
}

/// Waits until the last lease that nobody renews has ended. Returns the newest revision.
async fn brief_leases_end(client: &Client) -> anyhow::Result<i64> {
    let begun = Instant::now();
    loop {
        let range = RangeRequest {
            key: BRIEF.into(),
            range_end: end_of_prefix(BRIEF.as_bytes()),
            count_only: true,
            ..Default::default()
        };
        let answer = client.range(0, range, PATIENT).await?;
        if answer.count == 0 {
            return client.revision(SETTLE).await;
        }
        ensure!(begun.elapsed() < SETTLE, "{} leases do not end", answer.count);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Keys with their revisions and values, the same at all members.
async fn everything(client: &Client, revision: i64) -> anyhow::Result<Keys> {
    let range = RangeRequest {
        key: ALL.into(),
        range_end: end_of_prefix(ALL.as_bytes()),
        revision,
        ..Default::default()
    };
    let first = client.range(0, range.clone(), PATIENT).await?.kvs;
    for at in 1..client.size() {
        ensure!(
            client.range(at, range.clone(), PATIENT).await?.kvs == first,
            "member {at} holds something else"
        );
    }
    Ok(first.into_iter().map(|kv| (kv.key, (kv.mod_revision, kv.value))).collect())
}
