//! State shared by all handlers: the node, its state machine, limits, metrics and permits.

use crate::{
    access::Access,
    budget::Budget,
    connections::Connections,
    limits::Limits,
    metrics::{self, Metrics},
    slow::Pool,
    steps::Steps,
    turns::Turns,
    watches::{PROGRESS_INTERVAL_MIN, Watches},
    zip::Zip,
};
use gateway::Gateway;
use machine::Shared;
use proto::etcdserverpb::ResponseHeader;
use raft_node::{Handle, publish};
use std::sync::{Arc, atomic::AtomicBool};

/// This member's identity, in headers and `/version`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The ID of this member.
    pub member: u64,
    /// The ID of the cluster.
    pub cluster: u64,
    /// The server version reported to clients: `3.7.3`.
    pub version: String,
}

/// The client port's state: one for a member, shared by all its listeners.
pub struct Api {
    pub(crate) node: Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) slow: Pool,
    pub(crate) steps: Steps,
    pub(crate) zip: Arc<Zip>,
    pub(crate) turns: Turns,
    pub(crate) watches: Watches,
    /// Counts losses of the leader; each ends the streams that require one.
    pub(crate) leader_losses: tokio::sync::watch::Sender<u64>,
    /// Whether what this member holds was found wrong: see [`Api::distrust`].
    pub(crate) distrusted: tokio::sync::watch::Sender<bool>,
    pub(crate) access: Access,
    pub(crate) connections: Connections,
    pub(crate) requests: Arc<Budget>,
    pub(crate) answers: Arc<Budget>,
    pub(crate) values: Arc<Budget>,
    /// `None` if it is switched off.
    pub(crate) gateway: Option<Gateway>,
    /// Whether the tasks that count leader changes are running.
    pub(crate) watching: AtomicBool,
    pub(crate) log: slog::Logger,
}

impl Api {
    /// The client port of a running node and its state machine.
    pub fn new(
        node: Handle,
        shared: Arc<Shared>,
        identity: Identity,
        limits: Limits,
        log: slog::Logger,
    ) -> Arc<Self> {
        let metrics = Metrics::new(identity.member, &identity.version, shared.quota(), &limits.shown);
        let access = Access::new(&limits.http.origins, &limits.http.hosts);
        let zip = Arc::new(Zip::new(limits.compression.clone()));
        let gateway = {
            let message_bytes_max = limits.message_bytes_max();
            limits.http.gateway.then(|| Gateway::new(message_bytes_max, limits.json))
        };
        if limits.watch_progress_interval < PROGRESS_INTERVAL_MIN {
            slog::warn!(log, "adjusting watch progress notify interval to minimum period";
                "min-watch-progress-notify-interval" => format!("{:?}", PROGRESS_INTERVAL_MIN));
        }
        let connections = Connections::new(
            limits.connections_max,
            limits.monitors_max,
            metrics::Connections::new(metrics.registry()),
        );
        let (requests, answers, values) =
            (limits.requests.clone(), limits.answers.clone(), limits.values.clone());
        let requests = Budget::new(requests);
        let answers = Budget::beside(&requests, answers);
        let slow = Pool::new(limits.work);
        slow.register(metrics.registry());
        let steps = Steps::new(limits.work.step_max, metrics.registry(), log.clone());
        Arc::new(Self {
            node,
            shared,
            identity,
            turns: Turns::new(limits.snapshots.sent_max),
            watches: Watches::new(limits.watching),
            limits,
            metrics,
            slow,
            steps,
            zip,
            leader_losses: tokio::sync::watch::Sender::new(0),
            distrusted: tokio::sync::watch::Sender::new(false),
            access,
            connections,
            requests,
            answers,
            values: Budget::new(values),
            gateway,
            watching: AtomicBool::new(false),
            log,
        })
    }

    /// Whether partly received requests take more than half of their budget.
    pub fn holds_much(&self) -> bool {
        self.requests.is_crowded()
    }

    /// From now on nothing is served from this member's data, which was found wrong: requests of keys, leases, watches, locks
    /// and elections end with `etcdserver: corrupt cluster`, those under way too. Maintenance and members stay.
    pub fn distrust(&self) {
        self.distrusted.send_replace(true);
    }

    /// Whether [`Api::distrust`] was called.
    pub fn is_distrusted(&self) -> bool {
        *self.distrusted.borrow()
    }

    /// The registry behind `/metrics`, for other parts of the server.
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics.registry()
    }

    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision,
            raft_term: self.node.status().term,
        }
    }

    /// Completes a header in which the machine set only the revision; 0 becomes the newest revision, as in etcd.
    pub(crate) fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = match header.as_ref().map_or(0, |h| h.revision) {
            0 => self.shared.view().revision(),
            known => known,
        };
        *header = Some(self.header(revision));
    }

    /// The cluster version once it is decided, which is when etcd marks its database with it. Here it needs no mark.
    pub(crate) fn storage_version(&self) -> Option<String> {
        let version = self.shared.membership().cluster_version.clone();
        version.filter(|version| version != publish::CLUSTER_VERSION_MIN)
    }
}
