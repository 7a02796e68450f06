//! The flag table: every flag of etcd 3.7, its default, and what it means here. *Served* flags do what etcd's do.
//! *Idle* ones are accepted with a warning. *Later* ones are refused unless set to their default: a member must not
//! seem to be protected by a certificate that nobody reads.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// `true` or `false` in any of Go's spellings; bare `--flag` means true.
    Bool,
    Int,
    Uint,
    Uint32,
    /// A Go duration: `300ms`, `1m30s`.
    Duration,
    Gates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Served,
    /// Nothing; the text says what stands for it.
    Idle(&'static str),
    /// Not there yet; the text says what is missing.
    Later(&'static str),
}

#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The value without the flag, in etcd's spelling.
    pub(crate) default: &'static str,
    pub(crate) state: State,
    /// One line for `--help`.
    pub(crate) help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    state: State,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, state, help }
}

use Kind::{Bool, Duration, Gates, Int, Text, Uint, Uint32};
use State::{Idle, Later, Served};

const TLS: State = Later("TLS");
const SNAPSHOTS: State =
    Idle("the state is in RocksDB and the log is cut as it is flushed: see docs/format.md");
const BBOLT: State = Idle("there is no bbolt file: RocksDB's caches are bounded by themselves");
const TRACING: State = Later("distributed tracing");
const DISCOVERY: State = Later("discovery; list the members in --initial-cluster");

/// Every flag, by section, as `--help` prints them.
#[rustfmt::skip]
pub(crate) const SECTIONS: &[(&str, &[Flag])] = &[
    ("Member", &[
        flag("name", Text, "default", Served, "Human-readable name for this member."),
        flag("data-dir", Text, "", Served, "Path to the data directory (default '${name}.etcd')."),
        flag("wal-dir", Text, "", Served, "Path to the directory of the raft log (default: inside the data directory)."),
        flag("snapshot-count", Uint, "10000", Served, "Entries after which rows are flushed and the log is cut (not given: 64 MiB of log, or a minute)."),
        flag("heartbeat-interval", Uint, "100", Served, "Time (in milliseconds) of a heartbeat interval."),
        flag("election-timeout", Uint, "1000", Served, "Time (in milliseconds) for an election to time out."),
        flag("initial-election-tick-advance", Bool, "true", Served, "Whether to fast-forward the first election after a start."),
        flag("listen-peer-urls", Text, "http://localhost:2380", Served, "URLs to listen on for peers."),
        flag("listen-client-urls", Text, "http://localhost:2379", Served, "URLs to listen on for clients (gRPC and HTTP)."),
        flag("listen-client-http-urls", Text, "", Served, "URLs to listen on for HTTP-only clients."),
        flag("max-snapshots", Uint, "5", SNAPSHOTS, "Number of snapshot files to keep."),
        flag("max-wals", Uint, "5", Idle("log segments are removed as soon as no member and no restart needs them"), "Number of log files to keep."),
        flag("memory-mlock", Bool, "false", BBOLT, "Keep the backend's pages in memory."),
        flag("quota-backend-bytes", Int, "0", Served, "Size of the data at which writes are refused (0 = 2 GiB, negative = no limit)."),
        flag("backend-bbolt-freelist-type", Text, "map", BBOLT, "Type of bbolt's free list."),
        flag("backend-batch-interval", Duration, "0s", Idle("one batch a group of committed entries"), "Longest time before the backend commits."),
        flag("backend-batch-limit", Int, "0", Idle("one batch a group of committed entries"), "Most operations before the backend commits."),
        flag("max-txn-ops", Uint, "128", Served, "Most operations in a transaction."),
        flag("max-request-bytes", Uint, "1572864", Served, "Largest client request, in bytes."),
        flag("max-client-connections", Uint, "0", Served, "Most client connections; more are closed at once (0 = what the file descriptors leave; not in etcd)."),
        flag("max-inflight-request-bytes", Uint, "100663296", Served, "Most bytes of requests that are not whole yet, half of them for one connection (not in etcd)."),
        flag("max-inflight-answer-bytes", Uint, "100663296", Served, "Most bytes of answers that are not read yet, half of them for one connection (not in etcd)."),
        flag("max-concurrent-streams", Uint32, "4294967295", Served, "Most streams a client connection may have open."),
        flag("grpc-keepalive-min-time", Duration, "5s", Idle("clients may ping as they like"), "Least time between a client's pings."),
        flag("grpc-keepalive-interval", Duration, "2h0m0s", Served, "Time between the server's pings (0 = none)."),
        flag("grpc-keepalive-timeout", Duration, "20s", Served, "How long a ping may stay unanswered."),
        flag("socket-reuse-port", Bool, "false", Later("SO_REUSEPORT"), "Set SO_REUSEPORT on listeners."),
        flag("socket-reuse-address", Bool, "false", Idle("listeners always set SO_REUSEADDR"), "Set SO_REUSEADDR on listeners."),
        flag("enable-grpc-gateway", Bool, "true", Served, "Serve the JSON gateway."),
        flag("raft-read-timeout", Duration, "5s", Idle("peer connections have etcd's fixed 5 s deadlines"), "Read timeout of peer connections."),
        flag("raft-write-timeout", Duration, "5s", Idle("peer connections have etcd's fixed 5 s deadlines"), "Write timeout of peer connections."),
        flag("feature-gates", Gates, "", Served, "Comma-separated list of gate=true|false; those that have an effect here: InitialCorruptCheck, CompactHashCheck."),
    ]),
    ("Clustering", &[
        flag("initial-advertise-peer-urls", Text, "http://localhost:2380", Served, "This member's peer URLs, as the others reach them."),
        flag("initial-cluster", Text, "default=http://localhost:2380", Served, "The cluster to bootstrap: name=url,name=url."),
        flag("initial-cluster-state", Text, "new", Served, "'new' to bootstrap; 'existing' to join."),
        flag("initial-cluster-token", Text, "etcd-cluster", Served, "Keeps clusters with equal URLs apart."),
        flag("advertise-client-urls", Text, "http://localhost:2379", Served, "This member's client URLs, as clients reach them."),
        flag("discovery-token", Text, "", DISCOVERY, "Token of the cluster to discover."),
        flag("discovery-endpoints", Text, "", DISCOVERY, "Endpoints of the discovery service."),
        flag("discovery-dial-timeout", Duration, "2s", DISCOVERY, "Dial timeout of the discovery client."),
        flag("discovery-request-timeout", Duration, "5s", DISCOVERY, "Request timeout of the discovery client."),
        flag("discovery-keepalive-time", Duration, "2s", DISCOVERY, "Keepalive time of the discovery client."),
        flag("discovery-keepalive-timeout", Duration, "6s", DISCOVERY, "Keepalive timeout of the discovery client."),
        flag("discovery-insecure-transport", Bool, "true", DISCOVERY, "No TLS towards the discovery service."),
        flag("discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY, "Do not verify the discovery service."),
        flag("discovery-cert", Text, "", DISCOVERY, "Certificate of the discovery client."),
        flag("discovery-key", Text, "", DISCOVERY, "Key of the discovery client."),
        flag("discovery-cacert", Text, "", DISCOVERY, "CA of the discovery service."),
        flag("discovery-user", Text, "", DISCOVERY, "User at the discovery service."),
        flag("discovery-password", Text, "", DISCOVERY, "Password at the discovery service."),
        flag("discovery-fallback", Text, "exit", DISCOVERY, "What to do when discovery fails."),
        flag("discovery-srv", Text, "", DISCOVERY, "DNS SRV domain to bootstrap from."),
        flag("discovery-srv-name", Text, "", DISCOVERY, "Suffix of the DNS SRV name."),
        flag("strict-reconfig-check", Bool, "true", Served, "Refuse membership changes that would lose quorum."),
        flag("auto-promote-learners", Bool, "false", Served, "Add every member as a learner, and promote learners by themselves once they have caught up (not in etcd)."),
        flag("max-cluster-version", Text, "", Served, "Raise the cluster's version no further than this, such as 3.5, so that etcd members of that version can join (not in etcd)."),
        flag("pre-vote", Bool, "true", Served, "Ask before an election whether it could be won."),
        flag("auto-compaction-retention", Text, "0", Served, "Retention of auto-compaction (0 = off): hours or a duration, or revisions."),
        flag("auto-compaction-mode", Text, "periodic", Served, "What the retention is: periodic or revision."),
        flag("v2-deprecation", Text, "write-only", Idle("there is no v2 store"), "Phase of the v2 store's removal."),
    ]),
    ("Security", &[
        flag("cert-file", Text, "", TLS, "Certificate for clients."),
        flag("key-file", Text, "", TLS, "Key for clients."),
        flag("client-cert-auth", Bool, "false", TLS, "Demand client certificates."),
        flag("client-cert-file", Text, "", TLS, "Certificate this member uses as a client."),
        flag("client-key-file", Text, "", TLS, "Key this member uses as a client."),
        flag("client-crl-file", Text, "", TLS, "Revoked client certificates."),
        flag("client-cert-allowed-hostname", Text, "", TLS, "Host names allowed in client certificates."),
        flag("trusted-ca-file", Text, "", TLS, "CA of client certificates."),
        flag("auto-tls", Bool, "false", TLS, "Make certificates for clients."),
        flag("peer-cert-file", Text, "", TLS, "Certificate for peers."),
        flag("peer-key-file", Text, "", TLS, "Key for peers."),
        flag("peer-client-cert-auth", Bool, "false", TLS, "Demand peer certificates."),
        flag("peer-client-cert-file", Text, "", TLS, "Certificate this member uses towards peers."),
        flag("peer-client-key-file", Text, "", TLS, "Key this member uses towards peers."),
        flag("peer-trusted-ca-file", Text, "", TLS, "CA of peer certificates."),
        flag("peer-cert-allowed-cn", Text, "", TLS, "Common names allowed in peer certificates."),
        flag("peer-cert-allowed-hostname", Text, "", TLS, "Host names allowed in peer certificates."),
        flag("peer-auto-tls", Bool, "false", TLS, "Make certificates for peers."),
        flag("peer-crl-file", Text, "", TLS, "Revoked peer certificates."),
        flag("peer-skip-client-san-verification", Bool, "false", TLS, "Do not verify names in peer certificates."),
        flag("self-signed-cert-validity", Uint, "1", TLS, "Years that made certificates are valid."),
        flag("cipher-suites", Text, "", TLS, "TLS cipher suites."),
        flag("tls-min-version", Text, "TLS1.2", TLS, "Least TLS version."),
        flag("tls-max-version", Text, "", TLS, "Greatest TLS version."),
        flag("cors", Text, "*", Served, "Origins allowed for browsers."),
        flag("host-whitelist", Text, "*", Served, "Host names allowed in HTTP requests."),
    ]),
    ("Auth", &[
        flag("auth-token", Text, "simple", Later("authentication"), "Kind of auth token."),
        flag("bcrypt-cost", Uint, "10", Later("authentication"), "Cost of password hashes."),
        flag("auth-token-ttl", Uint, "300", Later("authentication"), "Life of a token, in seconds."),
    ]),
    ("Profiling and monitoring", &[
        flag("enable-pprof", Bool, "false", Later("profiling over HTTP; use perf on the process"), "Serve profiles over HTTP."),
        flag("metrics", Text, "basic", Served, "basic or extensive."),
        flag("metrics-prefixes", Text, "", Served, "Comma-separated key prefixes whose keys and bytes /metrics counts (not in etcd)."),
        flag("listen-metrics-urls", Text, "", Served, "URLs to listen on for metrics."),
    ]),
    ("Logging", &[
        flag("logger", Text, "zap", Served, "Only 'zap': JSON in its field names."),
        flag("log-outputs", Text, "default", Served, "'default' or 'stderr', 'stdout', or files, comma-separated."),
        flag("log-level", Text, "info", Served, "debug, info, warn, error, panic or fatal."),
        flag("log-format", Text, "json", Served, "json, or console for people."),
        flag("enable-log-rotation", Bool, "false", Later("log rotation; use logrotate"), "Rotate the log file."),
        flag("log-rotation-config-json", Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Later("log rotation; use logrotate"), "How to rotate."),
        flag("warning-unary-request-duration", Duration, "300ms", Idle("slow requests are counted in the metrics"), "Warn about unary requests slower than this."),
    ]),
    ("Distributed tracing", &[
        flag("enable-distributed-tracing", Bool, "false", TRACING, "Send traces."),
        flag("distributed-tracing-address", Text, "localhost:4317", TRACING, "Where to."),
        flag("distributed-tracing-service-name", Text, "etcd", TRACING, "As which service."),
        flag("distributed-tracing-instance-id", Text, "", TRACING, "As which instance."),
        flag("distributed-tracing-sampling-rate", Int, "0", TRACING, "Samples a million spans."),
    ]),
    ("Features", &[
        flag("corrupt-check-time", Duration, "0s", Served, "Time between the leader's corruption checks of all members (0 = none)."),
        flag("compact-hash-check-time", Duration, "1m0s", Served, "Time between the leader's checks of compaction hashes (gate CompactHashCheck)."),
        flag("divergence-check-time", Duration, "2s", Served, "Time between comparisons of this member with the other ones that are no etcd (0 = none; not in etcd)."),
        flag("compaction-batch-limit", Int, "1000", Idle("compaction runs in small steps of its own"), "Most revisions removed in one compaction step."),
        flag("compaction-sleep-interval", Duration, "10ms", Idle("compaction steps run when nothing else does"), "Pause between compaction steps."),
        flag("watch-progress-notify-interval", Duration, "10m0s", Served, "Time between progress notifications."),
        flag("warning-apply-duration", Duration, "100ms", Idle("slow applies are counted in the metrics"), "Warn about applies slower than this."),
        flag("bootstrap-defrag-threshold-megabytes", Uint, "0", BBOLT, "Defragment at start if this much is won."),
        flag("max-learners", Int, "1", Served, "Most learners in the cluster."),
        flag("downgrade-check-time", Duration, "5s", Served, "Time between downgrade checks."),
        flag("snapshot-catchup-entries", Uint, "5000", Served, "Entries kept for slow followers (not given: more of them where one lags, up to 1 GiB)."),
    ]),
    ("Unsafe", &[
        flag("force-new-cluster", Bool, "false", Served, "Make a cluster of this member alone, of what it has; the revision rises by 10^9."),
        flag("unsafe-no-fsync", Bool, "false", Later("running without fsync: this server never does"), "Do not sync. Loses data."),
    ]),
    ("Other", &[
        flag("config-file", Text, "", Later("configuration files; use flags or ETCD_* variables"), "Path to a YAML configuration file."),
        flag("version", Bool, "false", Served, "Print the version and exit."),
    ]),
];

/// Flags that etcd swallows without a word, from versions long gone.
pub(crate) const FORGOTTEN: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

pub(crate) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

pub(crate) fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|(_, flags)| flags.iter())
}

pub(crate) fn help() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "Usage:\n\n  quorate [flags]\n    Start a member.\n\n  quorate --version\n    Show the version.\n\n  quorate ctl\n    The prompt: etcdctl's commands, flags and output. `quorate ctl --help` lists them.\n",
    );
    for (section, flags) in SECTIONS {
        let _ = writeln!(out, "\n{section}:");
        for flag in *flags {
            let _ =
                writeln!(out, "  --{} '{}'\n    {}{}", flag.name, flag.default, flag.help, note(flag.state));
        }
    }
    out
}

fn note(state: State) -> String {
    match state {
        Served => String::new(),
        Idle(instead) => format!(" (Accepted without effect: {instead}.)"),
        Later(what) => format!(" (Not there yet: {what}.)"),
    }
}
