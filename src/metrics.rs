//! What `/metrics` shows of the parts that the front end does not know: the engine, the node, the peers.

use crate::logging::Lost;
use crate::observed::Observed;
use machine::Shared;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use transport::Transport;

struct Peers {
    transport: Arc<Transport>,
    shared: Arc<Shared>,
    local: String,
    known: IntGaugeVec,
    active: IntGaugeVec,
    disconnected: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
}

impl Peers {
    fn new(transport: Arc<Transport>, shared: Arc<Shared>, member: u64) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("constant, valid labels")
        };
        let gauges = |name: &str, help: &str| {
            IntGaugeVec::new(Opts::new(name, help), &["Local", "Remote"]).expect("constant, valid labels")
        };
        Self {
            transport,
            shared,
            local: format!("{member:x}"),
            known: gauges("etcd_network_known_peers", "The current number of known peers."),
            active: gauges("etcd_network_active_peers", "The current number of active peer connections."),
            disconnected: counters(
                "etcd_network_disconnected_peers_total",
                "The total number of disconnected peers.",
                &["Local", "Remote"],
            ),
            sent: counters(
                "etcd_network_peer_sent_bytes_total",
                "The total number of bytes sent to peers.",
                &["To"],
            ),
            received: counters(
                "etcd_network_peer_received_bytes_total",
                "The total number of bytes received from peers.",
                &["From"],
            ),
            sent_failures: counters(
                "etcd_network_peer_sent_failures_total",
                "The total number of send failures from peers.",
                &["To"],
            ),
            received_failures: counters(
                "etcd_network_peer_received_failures_total",
                "The total number of receive failures from peers.",
                &["From"],
            ),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.known,
            &self.active,
            &self.disconnected,
            &self.sent,
            &self.received,
            &self.sent_failures,
            &self.received_failures,
        ]
    }

    fn refresh(&self) {
        let membership = self.shared.membership();
        self.known.reset();
        let known = membership.members.keys().map(|id| (id, 1));
        for (id, value) in known.chain(membership.removed.iter().map(|id| (id, 0))) {
            self.known.with_label_values(&[&*self.local, &format!("{id:x}")]).set(value);
        }
        self.active.reset();
        for peer in self.transport.stats() {
            let remote = format!("{:x}", peer.member);
            let pair = [&*self.local, &*remote];
            self.active.with_label_values(&pair).set(i64::from(peer.is_active));
            raise(&self.disconnected, &pair, peer.disconnects);
            raise(&self.sent, &[&remote], peer.sent_bytes);
            raise(&self.received, &[&remote], peer.received_bytes);
            raise(&self.sent_failures, &[&remote], peer.sent_failures);
            raise(&self.received_failures, &[&remote], peer.received_failures);
        }
    }
}

/// Brings a counter up to a total, which may have started anew: a peer that was removed and added again.
fn raise(counters: &IntCounterVec, labels: &[&str], total: u64) {
    // As in etcd there is no series before there was something to count.
    if total > 0 {
        let counter = counters.with_label_values(labels);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}

impl Collector for Peers {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Adds everything to what is shown. Panics if a name is taken, which the first start would show.
pub(crate) fn register(
    registry: &Registry,
    engine: &Observed,
    node: &raft_node::Meters,
    transport: &Arc<Transport>,
    shared: &Arc<Shared>,
    member: u64,
) {
    node.register(registry);
    let peers = Peers::new(Arc::clone(transport), Arc::clone(shared), member);
    let mut collectors: Vec<Box<dyn Collector>> = vec![
        Box::new(engine.commits()),
        Box::new(transport.round_trips()),
        Box::new(transport.faults()),
        Box::new(peers),
    ];
    collectors.extend(transport.snapshot_metrics());
    for collector in collectors {
        registry.register(collector).expect("metric names are registered once");
    }
}

struct LogLines {
    lost: Arc<Lost>,
    lines: IntCounterVec,
}

impl Collector for LogLines {
    fn desc(&self) -> Vec<&Desc> {
        self.lines.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (reason, lost) in [("sampled", &self.lost.sampled), ("full", &self.lost.dropped)] {
            let counter = self.lines.with_label_values(&[reason]);
            counter.inc_by(lost.load(Relaxed).saturating_sub(counter.get()));
        }
        self.lines.collect()
    }
}

/// Adds what the log left out. Panics if the name is taken, which the first start would show.
pub(crate) fn register_log(registry: &Registry, lost: &Arc<Lost>) {
    let help =
        "The total number of lines left out of the log, by reason: sampled, or the output did not keep up.";
    let options = Opts::new("quorate_log_lines_lost_total", help);
    let lines = IntCounterVec::new(options, &["reason"]).expect("constant, valid labels");
    let collector = LogLines { lost: Arc::clone(lost), lines };
    registry.register(Box::new(collector)).expect("metric names are registered once");
}
