//! The engine as the member uses it: its writes are timed, and a failed read ends the member, whoever read.

use bytes::Bytes;
use engine::{Batch, Engine, Family, Fault, Rows, Snapshot, Visit};
use prometheus::{Histogram, HistogramOpts, exponential_buckets};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// An engine whose writes are timed: a group of entries each, which is what etcd calls a commit of its backend. What
/// fails in the consensus thread ends that; what fails elsewhere, for a client or a peer, would else only be their answer.
pub(crate) struct Observed {
    engine: Arc<dyn Engine>,
    commits: Histogram,
    failure: Failure,
}

/// The first failed read of this member's engines.
#[derive(Clone)]
struct Failure(Arc<watch::Sender<Option<String>>>);

impl Failure {
    fn of<T>(&self, read: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &read {
            self.0.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| fault.to_string());
                is_first
            });
        }
        read
    }
}

impl Observed {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        let name = "etcd_disk_backend_commit_duration_seconds";
        let options = HistogramOpts::new(name, "The latency distributions of commit called by backend.")
            .buckets(exponential_buckets(0.001, 2.0, 14).expect("constant, valid buckets"));
        let commits = Histogram::with_opts(options).expect("a constant, valid metric name");
        Self { engine, commits, failure: Failure(Arc::new(watch::Sender::new(None))) }
    }

    /// Another engine of this member, whose writes and failures count here too.
    pub(crate) fn beside(&self, engine: Arc<dyn Engine>) -> Self {
        Self { engine, commits: self.commits.clone(), failure: self.failure.clone() }
    }

    /// How long writes took, to be registered.
    pub(crate) fn commits(&self) -> Histogram {
        self.commits.clone()
    }

    /// Completes when a read has failed, with what was wrong.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.0.subscribe();
        match failure.wait_for(Option::is_some).await.map(|text| text.clone()) {
            Ok(Some(text)) => text,
            // The sender is this engine's own.
            _ => std::future::pending().await,
        }
    }
}

impl Engine for Observed {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.failure.of(self.engine.get(family, key))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.failure.of(self.engine.scan(family, from, to, visit))
    }

    fn snapshot(self: Arc<Self>) -> Box<Snapshot> {
        let rows = Arc::clone(&self.engine).snapshot();
        Box::new(ObservedRows { rows, failure: self.failure.clone() })
    }

    fn write(&self, batch: Batch) -> Result<(), Fault> {
        let start = Instant::now();
        let result = self.engine.write(batch);
        self.commits.observe(start.elapsed().as_secs_f64());
        result
    }

    fn flush(&self) -> Result<(), Fault> {
        self.engine.flush()
    }

    fn compact(&self) -> Result<(), Fault> {
        self.engine.compact()
    }
}

struct ObservedRows {
    rows: Box<Snapshot>,
    failure: Failure,
}

impl Rows for ObservedRows {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.failure.of(self.rows.get(family, key))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.failure.of(self.rows.scan(family, from, to, visit))
    }
}
