//! The `/metrics` page, under etcd's names.
//!
//! Only series that something here counts are registered: one that always reads 0 would mislead an alert. Other parts
//! of the server register theirs through [`crate::Api::registry`]. Call counters are created up front, as
//! grpc-go's are, so a call only adds to atomics. Gauges of state are read at each scrape.

mod calls;
mod connections;
mod durations;
mod leases;
mod prefixes;
mod probes;
mod process;
mod state;
mod watch;

pub(crate) use calls::{Call, Received};
pub(crate) use connections::Connections;

use crate::{budget::Budget, slow::Pool};
use ::watch::Counts;
use calls::Calls;
use connections::InFlight;
use durations::Durations;
use http::HeaderValue;
use leases::Leases;
use machine::{Quota, Shared};
use prefixes::Prefixes;
use probes::Probes;
use process::Process;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, exponential_buckets,
};
use raft_node::Handle;
use state::State;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};
use types::lock;

/// Distinct `client-api-version` labels, whose text clients choose (really `3.5` to `3.7`); later ones are `other`.
const CLIENT_VERSIONS_MAX: usize = 64;

/// What `/metrics` shows beyond the basic series.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// `--metrics=extensive`: latency histograms of calls, by method.
    pub extensive: bool,
    /// `--metrics-prefixes`: prefixes whose keys and bytes are counted.
    pub prefixes: Vec<String>,
}

pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) calls: Calls,
    client_requests: IntCounterVec,
    client_versions: Mutex<HashSet<String>>,
    pub(crate) durations: Durations,
    pub(crate) proposals_failed: IntCounter,
    pub(crate) proposals_pending: IntGauge,
    pub(crate) reads_failed: IntCounter,
    pub(crate) reads_slow: IntCounter,
    pub(crate) health_success: IntCounter,
    pub(crate) health_failures: IntCounter,
    pub(crate) leader_changes: IntCounter,
    pub(crate) watch: watch::Watch,
    pub(crate) probes: Probes,
    prefixes: Prefixes,
    scrapes: IntCounterVec,
    state: State,
    leases: Leases,
    in_flight: InFlight,
    process: Process,
}

/// Registers a collector. Panics on a duplicate name, which the first test finds.
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("metric names are registered once");
    collector
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect("a constant, valid metric name"))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help).expect("a constant, valid metric name"))
}

pub(crate) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels).expect("constant, valid labels"))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels).expect("constant, valid labels"))
}

/// `count` buckets from `start` seconds on, each twice the last.
fn buckets(name: &str, help: &str, start: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, 2.0, count).expect("constant, valid buckets");
    HistogramOpts::new(name, help).buckets(buckets)
}

fn histogram(registry: &Registry, name: &str, help: &str, start: f64, count: usize) -> Histogram {
    let histogram = Histogram::with_opts(buckets(name, help, start, count));
    register(registry, histogram.expect("a constant, valid metric name"))
}

/// Raises a counter to what was counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

impl Metrics {
    pub(crate) fn new(member: u64, version: &str, quota: Quota, options: &Shown) -> Self {
        let registry = Registry::new();
        Self {
            calls: Calls::new(&registry, options.extensive),
            client_requests: counters(
                &registry,
                "etcd_server_client_requests_total",
                "The total number of client requests per client version.",
                &["type", "client_api_version"],
            ),
            client_versions: Mutex::default(),
            durations: Durations::new(&registry),
            proposals_failed: counter(
                &registry,
                "etcd_server_proposals_failed_total",
                "The total number of failed proposals seen.",
            ),
            proposals_pending: gauge(
                &registry,
                "etcd_server_proposals_pending",
                "The current number of pending proposals to commit.",
            ),
            reads_failed: counter(
                &registry,
                "etcd_server_read_indexes_failed_total",
                "The total number of failed read indexes seen.",
            ),
            reads_slow: counter(
                &registry,
                "etcd_server_slow_read_indexes_total",
                "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            ),
            health_success: counter(
                &registry,
                "etcd_server_health_success",
                "The total number of successful health checks",
            ),
            health_failures: counter(
                &registry,
                "etcd_server_health_failures",
                "The total number of failed health checks",
            ),
            leader_changes: counter(
                &registry,
                "etcd_server_leader_changes_seen_total",
                "The number of leader changes seen.",
            ),
            watch: watch::Watch::new(&registry),
            probes: Probes::new(&registry),
            prefixes: Prefixes::new(&registry, &options.prefixes),
            scrapes: scrapes(&registry),
            state: State::new(&registry, member, version, quota),
            leases: Leases::new(&registry),
            in_flight: InFlight::new(&registry),
            process: Process::new(&registry),
            registry,
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn client_version(&self, version: &str) -> ClientVersion {
        let mut known = lock(&self.client_versions);
        let label = if known.contains(version) {
            version
        } else if known.len() < CLIENT_VERSIONS_MAX {
            known.insert(version.to_owned());
            version
        } else {
            "other"
        };
        ClientVersion {
            unary: self.client_requests.with_label_values(&["unary", label]),
            stream: self.client_requests.with_label_values(&["stream", label]),
        }
    }

    pub(crate) fn files_max(&self) -> i64 {
        self.process.files_max()
    }

    pub(crate) async fn render(&self, sources: Sources<'_>) -> String {
        let Sources { node, shared, slow, watching, in_flight, log } = sources;
        self.prefixes.refresh(slow, shared).await;
        self.state.refresh(node, shared);
        self.watch.refresh(watching);
        self.leases.refresh(node.lease_counts());
        self.process.refresh();
        self.in_flight.refresh(in_flight);
        let mut page = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut page) {
            slog::warn!(log, "cannot render metrics"; "error" => %error);
        }
        self.scrapes.with_label_values(&["200"]).inc();
        page
    }
}

pub(crate) struct Sources<'a> {
    pub(crate) node: &'a Handle,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) slow: &'a Pool,
    pub(crate) watching: Counts,
    pub(crate) in_flight: [(&'static str, &'a Budget); 3],
    pub(crate) log: &'a slog::Logger,
}

/// Scrapes, as Prometheus's Go library counts them. None fails; each sees only itself in flight.
fn scrapes(registry: &Registry) -> IntCounterVec {
    let (total, in_flight) =
        ("promhttp_metric_handler_requests_total", "promhttp_metric_handler_requests_in_flight");
    gauge(registry, in_flight, "Current number of scrapes being served.").set(1);
    let scrapes = counters(registry, total, "Total number of scrapes by HTTP status code.", &["code"]);
    for code in ["200", "500", "503"] {
        scrapes.with_label_values(&[code]);
    }
    scrapes
}

pub(crate) struct ClientVersion {
    pub(crate) unary: IntCounter,
    pub(crate) stream: IntCounter,
}

/// The version header and its counters. Looked up once for each connection, since a client sends one version.
pub(crate) type SeenVersion = (Option<HeaderValue>, ClientVersion);
