//! `grpc_server_*`: calls by method and status code, as go-grpc-prometheus counts them.

use super::{counter, counters, register};
use crate::methods::Method;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry};
use std::{sync::Arc, time::Instant};
use tonic::Code;

/// gRPC's codes by number, in go-grpc-prometheus's spelling.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

pub(crate) struct Calls {
    methods: Vec<Arc<MethodCounters>>,
}

struct MethodCounters {
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    handled: Vec<IntCounter>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    /// Only with `--metrics=extensive`, as in etcd.
    handling: Option<Histogram>,
}

impl Calls {
    pub(super) fn new(registry: &Registry, extensive: bool) -> Self {
        const METHOD: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
        let vec = |name, help| counters(registry, name, help, &METHOD);
        let started = vec("grpc_server_started_total", "Total number of RPCs started on the server.");
        let received = vec(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
        );
        let sent =
            vec("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.");
        let handled = counters(
            registry,
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        );
        let handling = extensive.then(|| {
            let name = "grpc_server_handling_seconds";
            let help = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";
            let vec = HistogramVec::new(HistogramOpts::new(name, help), &METHOD);
            register(registry, vec.expect("constant, valid labels"))
        });
        let bytes = |name, help| counter(registry, name, help);
        let received_bytes = bytes(
            "etcd_network_client_grpc_received_bytes_total",
            "The total number of bytes received from grpc clients.",
        );
        let sent_bytes = bytes(
            "etcd_network_client_grpc_sent_bytes_total",
            "The total number of bytes sent to grpc clients.",
        );
        let method = |method: &Method| {
            let labels = [method.label(), method.service(), method.name()];
            let of = |vec: &IntCounterVec| vec.with_label_values(&labels);
            let code = |code: &&str| handled.with_label_values(&[labels[0], labels[1], labels[2], *code]);
            Arc::new(MethodCounters {
                started: of(&started),
                received: of(&received),
                sent: of(&sent),
                handled: CODES.iter().map(code).collect(),
                received_bytes: received_bytes.clone(),
                sent_bytes: sent_bytes.clone(),
                handling: handling.as_ref().map(|vec| vec.with_label_values(&labels)),
            })
        };
        Self { methods: Method::ALL.iter().map(method).collect() }
    }

    pub(crate) fn start(&self, method: Method) -> Call {
        let counters = self.methods[method as usize].clone();
        counters.started.inc();
        let since = counters.handling.is_some().then(Instant::now);
        Call { counters, since, ended: false }
    }
}

/// A call in flight. If dropped before [`Call::end`], its client has disconnected, which counts as `Canceled`.
pub(crate) struct Call {
    counters: Arc<MethodCounters>,
    since: Option<Instant>,
    ended: bool,
}

impl Call {
    pub(crate) fn received(&self, bytes: usize) {
        self.counters.received.inc();
        self.counters.received_bytes.inc_by(bytes as u64);
    }

    /// A counter for streams that receive messages elsewhere.
    pub(crate) fn receiver(&self) -> Received {
        Received(Arc::clone(&self.counters))
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.counters.sent.inc();
        self.counters.sent_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn end(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            self.counters.handled[code as usize].inc();
            if let (Some(handling), Some(since)) = (&self.counters.handling, self.since) {
                handling.observe(since.elapsed().as_secs_f64());
            }
        }
    }
}

pub(crate) struct Received(Arc<MethodCounters>);

impl Received {
    pub(crate) fn message(&self, bytes: usize) {
        self.0.received.inc();
        self.0.received_bytes.inc_by(bytes as u64);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}
