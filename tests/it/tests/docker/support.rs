//! What the scenarios share.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use harness::{Client, Compose, SERVICES};
use proto::etcdserverpb::PutRequest;

/// Containers start in about a second; CI machines are slow.
const START_LIMIT: Duration = Duration::from_mins(1);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(50);

/// Runs a scenario where an engine answers.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>>>(scenario: impl FnOnce() -> F) {
    if let Err(error) = Compose::engine() {
        let is_required = std::env::var("QUORATE_REQUIRE_ALL").as_deref() == Ok("1");
        assert!(!is_required, "NOT RUN, and all is required: {error:#}");
        println!("NOT RUN: {error:#}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Err(error) = runtime.block_on(scenario()) {
        panic!("{error:#}");
    }
}

/// Puts a key at a member, again until it is acknowledged: its revision.
pub(crate) async fn put(client: &Client, at: usize, key: &str) -> anyhow::Result<i64> {
    let begun = Instant::now();
    loop {
        let put = PutRequest { key: Bytes::from(key.to_owned()), value: "v".into(), ..Default::default() };
        match client.put(at, put, Duration::from_secs(5)).await {
            Ok(answer) => return answer.header.map(|header| header.revision).context("no header"),
            Err(status) => ensure!(
                begun.elapsed() < START_LIMIT,
                "{} takes no write after {START_LIMIT:?}: {}",
                SERVICES[at],
                status.message()
            ),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a member's log has a line with all of `words`: that line.
pub(crate) async fn said(compose: &Compose, member: usize, words: &[&str]) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let log = compose.log(member)?;
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        if let Some(line) = log.lines().find(has_all) {
            return Ok(line.to_owned());
        }
        let name = SERVICES[member];
        ensure!(begun.elapsed() < START_LIMIT, "{name} never says {words:?}:\n{log}");
        tokio::time::sleep(POLL).await;
    }
}

/// No program of ours ever shows a user this.
pub(crate) fn no_panic(compose: &Compose) -> anyhow::Result<()> {
    for member in 0..SERVICES.len() {
        let log = compose.log(member)?;
        ensure!(!log.contains("panicked at") && !log.contains("RUST_BACKTRACE"), "a panic:\n{log}");
    }
    Ok(())
}
