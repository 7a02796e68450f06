//! # The demo
//!
//! Three members on this machine, a steady load, and a SIGKILL for the leader:
//!
//! ```text
//!   start ── write ── kill -9 the leader ── who leads now? ── start it again ── same HashKV? ── all there?
//! ```
//!
//! It writes for about ten seconds, then reads back every version of every key and compares it with the answers to its
//! clients (see `harness::history`). The exit code is 0 only if every acknowledged write is there, in order, on all three
//! members.
//!
//! `demo` runs them as processes, `demo docker` as the containers of `deploy/compose.yaml`, killed by `docker kill`.
//!
//! It does not search for faults: `tests/it` and `sim` do.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "showing is its purpose")]

mod screen;
mod stage;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use harness::{Client, Figures, Load, Shape, history};

use crate::{
    screen::{Mood, Role, Screen, grouped},
    stage::{Kind, Stage},
};

/// How long it writes before the kill: enough to see a rate.
const BEFORE: Duration = Duration::from_secs(3);

/// How long it writes after a new leader is elected, and again after the killed member is back.
const AFTER: Duration = Duration::from_millis(2_500);

/// A cluster without a leader for this long is broken.
const ELECTION_LIMIT: Duration = Duration::from_secs(20);

/// How often the display is updated.
const FRAME: Duration = Duration::from_millis(100);

const LEADER_POLL: Duration = Duration::from_millis(25);

/// Stands for "no leader is known".
const NOBODY: usize = usize::MAX;

fn main() -> ExitCode {
    let kind = match std::env::args().nth(1).as_deref() {
        None => Kind::Processes,
        Some("docker") => Kind::Containers,
        Some(other) => {
            eprintln!("demo: {other:?} is neither nothing (processes) nor \"docker\" (containers)");
            return ExitCode::FAILURE;
        }
    };
    // Servers must be started from this thread, which outlives them.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo(kind)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(kind: Kind) -> anyhow::Result<()> {
    // From here on Ctrl-C ends the demo in order, and stops what was started.
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut screen = Screen::new();
    screen.say(
        Mood::Plain,
        &format!("quorate: {}; the leader will be killed ({})", kind.what(), kind.killing()),
    );
    let begun = Instant::now();
    let mut stage = kind.start().await?;
    let started = begun.elapsed().as_secs_f64();
    let names = stage.names();
    screen.say(Mood::Good, &format!("started in {started:.1} s: {}", identities(&stage, &names)?));
    screen.members(names);
    let told = tokio::select! {
        told = story(kind, &mut stage, &mut screen) => told,
        _ = interrupts.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = told {
        screen.finish();
        return Err(match stage.keep() {
            Ok(kept) => error.context(kept),
            Err(lost) => error.context(format!("the logs cannot be kept ({lost:#})")),
        });
    }
    Ok(())
}

fn identities(stage: &Stage, names: &[String]) -> anyhow::Result<String> {
    let all = names.iter().enumerate().map(|(i, name)| Ok(format!("{name} is {}", stage.identity(i)?)));
    Ok(all.collect::<anyhow::Result<Vec<_>>>()?.join(", "))
}

async fn story(kind: Kind, stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    let client = stage.client();
    let names = stage.names();
    client.wait_leader(ELECTION_LIMIT).await?;
    let base = client.revision(ELECTION_LIMIT).await?;
    let watching = Watching::start(&client);
    let load = Load::start(&client, shape(), base);
    show(screen, &load, &watching, BEFORE).await;

    let leader = client.wait_leader(ELECTION_LIMIT).await?;
    let killed = Instant::now();
    let before = load.figures();
    stage.kill(leader)?;
    screen.role(leader, Role::Killed);
    let (killing, name) = (kind.killing(), &names[leader]);
    let revision = grouped(before.revision.unsigned_abs());
    screen.say(Mood::Bad, &format!("{killing} {name}, the leader, at revision {revision}"));

    let successor = takeover(screen, &load, &watching, &client, leader).await?;
    let (successor, elapsed) = (&names[successor], killed.elapsed().as_secs_f64());
    screen.say(Mood::Good, &format!("{successor} leads now, {elapsed:.2} s after the kill"));
    show(screen, &load, &watching, AFTER).await;

    bring_back(stage, screen, &load, &client, leader).await?;
    show(screen, &load, &watching, AFTER).await;
    drop(watching);
    let record = load.stop().await;
    screen.finish();

    let gap = record.longest_gap(killed);
    screen.say(Mood::Plain, &format!("writes stood still for {:.2} s", gap.as_secs_f64()));
    check(screen, &client, &record).await?;
    if let Some(healthy) = stage.health()? {
        screen.say(Mood::Good, healthy);
    }
    Ok(())
}

/// A steady stream of small writes: a few thousand a second, so that checking stays short.
fn shape() -> Shape {
    Shape {
        prefix: "demo/".to_owned(),
        writers: 12,
        readers: 2,
        keys_per_writer: 16,
        value_bytes: 64,
        limit: Duration::from_millis(300),
        pace: Duration::from_millis(4),
        seed: u64::from(std::process::id()),
    }
}

/// Waits until another member leads and acknowledges writes.
async fn takeover(
    screen: &mut Screen,
    load: &Load,
    watching: &Watching,
    client: &Client,
    killed: usize,
) -> anyhow::Result<usize> {
    let begun = Instant::now();
    let acked = load.figures().acked;
    loop {
        // The killed member may have acknowledged the last writes; 50 more prove a new leader.
        if let Some(leader) = watching.leader()
            && leader != killed
            && load.figures().acked > acked + 50
        {
            return Ok(leader);
        }
        ensure!(
            begun.elapsed() < ELECTION_LIMIT,
            "no writes {ELECTION_LIMIT:?} after the kill; leader: {:?}",
            client.leader().await
        );
        show(screen, load, watching, FRAME).await;
    }
}

/// Restarts the killed member on its data and waits until it has caught up, while writes go on.
async fn bring_back(
    stage: &mut Stage,
    screen: &mut Screen,
    load: &Load,
    client: &Client,
    killed: usize,
) -> anyhow::Result<()> {
    let name = stage.names().swap_remove(killed);
    let target = load.figures().revision;
    let begun = Instant::now();
    stage.restart(killed).await.with_context(|| format!("{name} does not come back"))?;
    let ready = begun.elapsed();
    screen.role(killed, Role::Up);
    let there = client.status(killed).await.ok().and_then(|status| status.header).map_or(0, |h| h.revision);
    let missed = load.figures().revision.saturating_sub(there).max(0);
    screen.say(
        Mood::Plain,
        &format!(
            "{name} is back and serves after {:.2} s, at revision {}: {} revisions behind",
            ready.as_secs_f64(),
            grouped(there.unsigned_abs()),
            grouped(missed.unsigned_abs())
        ),
    );
    let shared = client
        .same_hash(target, ELECTION_LIMIT)
        .await
        .with_context(|| format!("{name} does not catch up"))?;
    screen.say(
        Mood::Good,
        &format!(
            "{name} has caught up after {:.2} s: HashKV (a hash of all keys) at revision {} is {shared:08x} on all three",
            begun.elapsed().as_secs_f64(),
            grouped(target.unsigned_abs()),
        ),
    );
    Ok(())
}

/// Reads everything back and compares it with the record.
async fn check(screen: &mut Screen, client: &Client, record: &harness::Record) -> anyhow::Result<()> {
    let revision = client.revision(ELECTION_LIMIT).await?;
    let hash = client.same_hash(revision, ELECTION_LIMIT).await?;
    let begun = Instant::now();
    let first = history::read(client, 0, &shape().prefix, revision).await?;
    let report = history::check(&first, record, true)?;
    if report.acked == 0 {
        bail!("no write was ever acknowledged");
    }
    screen.say(
        Mood::Good,
        &format!(
            "all {} acknowledged writes are there, each at its revision, in order: nothing was lost (read back in {:.1} s)",
            grouped(report.acked as u64),
            begun.elapsed().as_secs_f64()
        ),
    );
    screen.say(
        Mood::Plain,
        &format!(
            "{} writes got no answer, so nobody promised them: {} were applied, {} were not; {} linearizable reads, none stale",
            report.unknown_done + report.unknown_not,
            report.unknown_done,
            report.unknown_not,
            grouped(report.reads as u64)
        ),
    );
    let revision = grouped(revision.unsigned_abs());
    screen.say(Mood::Good, &format!("all three hold the same: HashKV at revision {revision} is {hash:08x}"));
    Ok(())
}

async fn show(screen: &mut Screen, load: &Load, watching: &Watching, time: Duration) {
    let until = Instant::now() + time;
    loop {
        let figures: Figures = load.figures();
        screen.leader(watching.leader());
        screen.draw(&figures);
        let now = Instant::now();
        if now >= until {
            return;
        }
        tokio::time::sleep(FRAME.min(until - now)).await;
    }
}

/// Asks repeatedly for the leader, until dropped.
struct Watching {
    leader: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watching {
    fn start(client: &Client) -> Self {
        let leader = Arc::new(AtomicUsize::new(NOBODY));
        let (client, seen) = (client.clone(), Arc::clone(&leader));
        let task = tokio::spawn(async move {
            loop {
                seen.store(client.leader().await.unwrap_or(NOBODY), Ordering::Relaxed);
                tokio::time::sleep(LEADER_POLL).await;
            }
        });
        Self { leader, task }
    }

    fn leader(&self) -> Option<usize> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|leader| *leader != NOBODY)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}
