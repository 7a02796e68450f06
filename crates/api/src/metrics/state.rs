//! Gauges of the member's state, read at each scrape.

use super::{counter, gauge, gauges, raise};
use machine::{Quota, Shared};
use mvcc::Tally;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry};
use proto::etcdserverpb::AlarmType;
use raft_node::Handle;

pub(super) struct State {
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    committed: IntGauge,
    applied: IntGauge,
    revision: IntGauge,
    compact_revision: IntGauge,
    keys: IntGauge,
    work: Work,
    size: IntGauge,
    size_in_use: IntGauge,
    cluster_version: IntGaugeVec,
    alarms: IntGaugeVec,
}

impl State {
    pub(super) fn new(registry: &Registry, member: u64, version: &str, quota: Quota) -> Self {
        let plain = |name, help| gauge(registry, name, help);
        plain("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.")
            .set(quota.limit_bytes().unwrap_or(0));
        gauges(
            registry,
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            &["server_version"],
        )
        .with_label_values(&[version])
        .set(1);
        gauges(
            registry,
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            &["server_id"],
        )
        .with_label_values(&[&format!("{member:x}")])
        .set(1);
        Self {
            has_leader: plain(
                "etcd_server_has_leader",
                "Whether or not a leader exists. 1 is existence, 0 is not.",
            ),
            is_leader: plain(
                "etcd_server_is_leader",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            ),
            is_learner: plain(
                "etcd_server_is_learner",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            ),
            committed: plain(
                "etcd_server_proposals_committed_total",
                "The total number of consensus proposals committed.",
            ),
            applied: plain(
                "etcd_server_proposals_applied_total",
                "The total number of consensus proposals applied.",
            ),
            revision: plain("etcd_debugging_mvcc_current_revision", "The current revision of store."),
            compact_revision: plain(
                "etcd_debugging_mvcc_compact_revision",
                "The revision of the last compaction in store.",
            ),
            keys: plain("etcd_debugging_mvcc_keys_total", "Total number of keys."),
            work: Work::new(registry),
            size: plain(
                "etcd_mvcc_db_total_size_in_bytes",
                "Total size of the underlying database physically allocated in bytes.",
            ),
            size_in_use: plain(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the underlying database logically in use in bytes.",
            ),
            cluster_version: gauges(
                registry,
                "etcd_cluster_version",
                "Which version is running. 1 for 'cluster_version' label with current cluster version",
                &["cluster_version"],
            ),
            alarms: gauges(
                registry,
                "etcd_debugging_server_alarms",
                "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm",
                &["server_id", "alarm_type"],
            ),
        }
    }

    pub(super) fn refresh(&self, node: &Handle, shared: &Shared) {
        let status = node.status();
        self.has_leader.set(i64::from(status.leader != 0));
        self.is_leader.set(i64::from(status.is_leader));
        self.is_learner.set(i64::from(status.is_learner));
        self.committed.set(status.commit.cast_signed());
        self.applied.set(status.applied.cast_signed());
        let view = shared.view();
        self.revision.set(view.revision());
        self.compact_revision.set(view.compact_revision());
        let sizes = view.sizes();
        self.keys.set(sizes.keys);
        self.work.refresh(view.tally());
        self.size.set(sizes.total_bytes);
        self.size_in_use.set(sizes.in_use_bytes);
        self.cluster_version.reset();
        if let Some(version) = &shared.membership().cluster_version {
            self.cluster_version.with_label_values(&[major_minor(version)]).set(1);
        }
        self.alarms.reset();
        for alarm in shared.alarms().list(AlarmType::None as i32) {
            let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
            self.alarms.with_label_values(&[&format!("{:x}", alarm.member_id), kind]).set(1);
        }
    }
}

struct Work {
    puts: IntCounter,
    deletes: IntCounter,
    put_bytes: IntGauge,
    compacted: IntCounter,
}

impl Work {
    fn new(registry: &Registry) -> Self {
        Self {
            puts: counter(registry, "etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: counter(
                registry,
                "etcd_mvcc_delete_total",
                "Total number of deletes seen by this member.",
            ),
            put_bytes: gauge(
                registry,
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "The total size of put kv pairs seen by this member.",
            ),
            compacted: counter(
                registry,
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Total number of db keys compacted.",
            ),
        }
    }

    fn refresh(&self, tally: Tally) {
        raise(&self.puts, tally.puts);
        raise(&self.deletes, tally.deletes);
        raise(&self.compacted, tally.compacted_rows);
        self.put_bytes.set(tally.put_bytes.cast_signed());
    }
}

/// `3.7` of `3.7.0`, as etcd labels cluster versions.
fn major_minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(front, _)| front)
}
