//! What `/metrics` shows, under etcd's names.
//!
//! Only what has a subject here today is registered: a series that would always read 0 because nothing counts it would
//! lie to whoever alerts on it. What another part of the server measures (fsyncs, peers), it registers itself through
//! [`crate::Api::registry`]. Counters of calls are created up front, as grpc-go's are, and a call only adds to plain
//! atomics. Gauges of state are read when somebody asks.

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

use crate::{Api, Identity, Shown, lock};
use calls::Calls;
use connections::InFlight;
use durations::Durations;
use http::HeaderValue;
use leases::Leases;
use machine::Quota;
use prefixes::Prefixes;
use probes::Probes;
use process::Process;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector};
use state::State;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

/// Different `client-api-version` labels kept apart. Clients choose the text, so it must be bounded; real ones send
/// `3.5`, `3.6`, `3.7`. What comes later is counted as `other`.
const CLIENT_VERSIONS_MAX: usize = 64;

/// All of this member's own series.
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

/// Registers a collector. A name used twice is a mistake in this file, found by the first test that runs.
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

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels).expect("constant, valid labels"))
}

impl Metrics {
    pub(crate) fn new(identity: &Identity, quota: Quota, options: &Shown) -> Self {
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
            state: State::new(&registry, identity, quota),
            leases: Leases::new(&registry),
            in_flight: InFlight::new(&registry),
            process: Process::new(&registry),
            registry,
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The counters of a client version's unary calls and streams.
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

    /// How many files the process may open.
    pub(crate) fn files_max(&self) -> i64 {
        self.process.files_max()
    }

    /// The page in Prometheus's text format.
    pub(crate) async fn render(&self, api: &Arc<Api>) -> String {
        self.prefixes.refresh(api).await;
        self.state.refresh(api);
        self.watch.refresh(api.watches.counts());
        self.leases.refresh(api.node.lease_counts());
        self.process.refresh();
        api.connections.refresh();
        self.in_flight.refresh([
            ("requests", &api.requests),
            ("answers", &api.answers),
            ("values", &api.values),
        ]);
        let mut page = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut page) {
            slog::warn!(api.log, "cannot render metrics"; "error" => %error);
        }
        self.scrapes.with_label_values(&["200"]).inc();
        page
    }
}

/// Scrapes, as Prometheus's library for Go counts them. None fails, and a page is made in one go: none waits.
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

/// What a client of one `client-api-version` counts into.
pub(crate) struct ClientVersion {
    pub(crate) unary: IntCounter,
    pub(crate) stream: IntCounter,
}

/// The version as the header gives it, and where it counts: looked up once a connection, for a client sends one version.
pub(crate) type SeenVersion = (Option<HeaderValue>, ClientVersion);
