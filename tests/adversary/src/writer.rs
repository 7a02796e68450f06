//! The one who does nothing wrong: small puts at a steady pace, to all members in turn.
//!
//! A put's time counts from when it was due, not from when it was sent: a server that stops for a second makes 200 puts
//! late, not one. A put that fails was never answered: it counts as [`PUT_LIMIT`].

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use harness::Client;
use proto::etcdserverpb::PutRequest;

/// Between two puts: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// How long a put is waited for. With the pace it bounds how many are under way.
pub(crate) const PUT_LIMIT: Duration = Duration::from_secs(5);
/// Keys that are put in turn, and what they hold.
const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 64;

/// A thread of its own, so that attacks do not stop its clock.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Put>>>,
}

/// A put and its outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Put {
    due: Instant,
    took: Duration,
    answered: bool,
}

/// What the puts of some time took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) failed: usize,
}

impl Writer {
    pub(crate) fn start(urls: Vec<String>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("writer".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async { write(Client::new(urls), &stopped).await }))
        })?;
        Ok(Self { stop, thread })
    }

    /// All that it did, once the last put is answered or given up.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<Put>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

async fn write(client: Client, stop: &AtomicBool) -> Vec<Put> {
    let puts = Arc::new(Mutex::new(Vec::new()));
    let mut under_way = tokio::task::JoinSet::new();
    let mut due = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        due += PACE;
        tokio::time::sleep_until(due.into()).await;
        while under_way.try_join_next().is_some() {}
        let (client, puts) = (client.clone(), Arc::clone(&puts));
        under_way.spawn(async move {
            let put = one(&client, number, due).await;
            puts.lock().expect("nobody panics with it").push(put);
        });
    }
    while under_way.join_next().await.is_some() {}
    let mut puts = puts.lock().expect("all tasks have ended");
    std::mem::take(&mut *puts)
}

async fn one(client: &Client, number: u64, due: Instant) -> Put {
    let key = format!("writer/{:08}", number % KEYS).into();
    let put = PutRequest { key, value: vec![b'w'; VALUE_BYTES].into(), ..Default::default() };
    let members = u64::try_from(client.size()).expect("a few");
    let at = usize::try_from(number % members).expect("a few");
    let answered = client.put(at, put, PUT_LIMIT).await.is_ok();
    let took = due.elapsed();
    Put { due, took: if answered { took } else { took.max(PUT_LIMIT) }, answered }
}

impl Latency {
    /// Of those that were due from `begin` to `end`.
    pub(crate) fn of(puts: &[Put], begin: Instant, end: Instant) -> Self {
        let within: Vec<&Put> = puts.iter().filter(|put| put.due >= begin && put.due < end).collect();
        let mut took: Vec<Duration> = within.iter().map(|put| put.took).collect();
        took.sort_unstable();
        let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        Self {
            p50: at(50),
            p99: at(99),
            max: took.last().copied().unwrap_or_default(),
            failed: within.iter().filter(|put| !put.answered).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_puts_of_the_time_count_and_those_that_failed_count_as_slow() {
        let begin = Instant::now();
        let put = |after: u64, took: u64, answered| Put {
            due: begin + Duration::from_millis(after),
            took: Duration::from_millis(took),
            answered,
        };
        let mut puts: Vec<Put> = (0..100).map(|n| put(n, n, true)).collect();
        puts.push(put(200, 9_000, false));
        let seen = Latency::of(&puts, begin, begin + Duration::from_millis(100));
        assert_eq!((seen.p50.as_millis(), seen.p99.as_millis(), seen.failed), (50, 99, 0));
        let seen = Latency::of(&puts, begin, begin + Duration::from_secs(1));
        assert_eq!((seen.max.as_millis(), seen.failed), (9_000, 1));
    }
}
