//! The flags of the commands: etcdctl's and etcdutl's names, defaults and, mostly, words.

use crate::flags::{Flag, Kind};

const fn flag(name: &'static str, kind: Kind, default: &'static str, usage: &'static str) -> Flag {
    Flag { name, short: None, kind, default, usage }
}

const fn text(name: &'static str, usage: &'static str) -> Flag {
    flag(name, Kind::Text, "", usage)
}

/// A number that is 0 unless it is given.
pub(super) const fn int(name: &'static str, usage: &'static str) -> Flag {
    flag(name, Kind::Int, "0", usage)
}

const fn switch(name: &'static str, usage: &'static str) -> Flag {
    flag(name, Kind::Bool, "false", usage)
}

impl Flag {
    const fn short(self, short: u8) -> Self {
        Self { short: Some(short), ..self }
    }
}

pub(crate) const CLUSTER_FLAG: Flag = switch("cluster", "use all endpoints from the cluster member list");
pub(crate) const CONSISTENCY: Flag =
    flag("consistency", Kind::Text, "l", "Linearizable(l) or Serializable(s)");

pub(crate) const DIRECTORY: &[Flag] = &[
    text("data-dir", "Path to the member's data directory"),
    text("wal-dir", "Path to its WAL directory (use --data-dir if none given)"),
];

pub(crate) const RESTORE: &[Flag] = &[
    int("bump-revision", "How much to increase the latest revision after restore"),
    text("data-dir", "Path to the output data directory (default '${name}.etcd')"),
    flag(
        "initial-advertise-peer-urls",
        Kind::Text,
        "http://localhost:2380",
        "List of this member's peer URLs to advertise to the rest of the cluster",
    ),
    flag(
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        "Initial cluster configuration for restore bootstrap",
    ),
    flag(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "Initial cluster token for the new cluster during restore bootstrap",
    ),
    switch(
        "mark-compacted",
        "Mark the latest revision after restore as compacted (required if --bump-revision > 0, disallowed otherwise)",
    ),
    flag("name", Kind::Text, "default", "Human-readable name for this member"),
    switch("skip-hash-check", "Ignore the snapshot's integrity hash value"),
    text("wal-dir", "Path to the WAL directory (use --data-dir if none given)"),
];

/// Flags that every command has.
pub(crate) const GLOBAL: &[Flag] = &[
    text("auth-jwt-token", "JWT token used for authentication (not there yet)"),
    text("cacert", "verify certificates of TLS-enabled secure servers using this CA bundle (not there yet)"),
    text("cert", "identify secure client using this TLS certificate file (not there yet)"),
    flag(
        "command-timeout",
        Kind::Duration,
        "5s",
        "timeout for short running command (excluding dial timeout)",
    ),
    switch("debug", "show every flag's value, and every try, on stderr"),
    flag("dial-timeout", Kind::Duration, "2s", "dial timeout for client connections"),
    text(
        "discovery-srv",
        "domain name to query for SRV records describing cluster endpoints (not there yet)",
    )
    .short(b'd'),
    text("discovery-srv-name", "service name to query when using DNS discovery (not there yet)"),
    flag("endpoints", Kind::List, "127.0.0.1:2379", "gRPC endpoints"),
    switch("hex", "print byte strings as hex encoded strings"),
    flag(
        "insecure-discovery",
        Kind::Bool,
        "true",
        "accept insecure SRV records describing cluster endpoints",
    ),
    switch("insecure-skip-tls-verify", "skip server certificate verification (not there yet)"),
    flag("insecure-transport", Kind::Bool, "true", "disable transport security for client connections"),
    flag("keepalive-time", Kind::Duration, "2s", "keepalive time for client connections"),
    flag("keepalive-timeout", Kind::Duration, "6s", "keepalive timeout for client connections"),
    text("key", "identify secure client using this TLS key file (not there yet)"),
    int("max-recv-bytes", "client-side response receive limit in bytes (0 = none)"),
    int("max-request-bytes", "client-side request send limit in bytes (0 = 2 MiB)"),
    text("password", "password for authentication (not there yet)"),
    text("user", "username[:password] for authentication (not there yet)"),
    flag("write-out", Kind::Text, "simple", "set the output format (fields, json, protobuf, simple, table)")
        .short(b'w'),
];

pub(crate) const GET: &[Flag] = &[
    CONSISTENCY,
    switch("count-only", "Get only the count"),
    switch("from-key", "Get keys that are greater than or equal to the given key using byte compare"),
    switch("keys-only", "Get only the keys"),
    int("limit", "Maximum number of results"),
    int("max-create-rev", "Maximum create revision"),
    int("max-mod-rev", "Maximum modification revision"),
    int("min-create-rev", "Minimum create revision"),
    int("min-mod-rev", "Minimum modification revision"),
    text("order", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
    switch("prefix", "Get keys with matching prefix"),
    switch("print-value-only", "Only write values when using the \"simple\" output format"),
    int("rev", "Specify the kv revision"),
    text("sort-by", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
    switch("stream", "Use the RangeStream RPC"),
];

pub(crate) const PUT: &[Flag] = &[
    switch("ignore-lease", "updates the key using its current lease"),
    switch("ignore-value", "updates the key using its current value"),
    flag("lease", Kind::Text, "0", "lease ID (in hexadecimal) to attach to the key"),
    switch("prev-kv", "return the previous key-value pair before modification"),
];

pub(crate) const DEL: &[Flag] = &[
    switch("from-key", "delete keys that are greater than or equal to the given key using byte compare"),
    switch("prefix", "delete keys with matching prefix"),
    switch("prev-kv", "return deleted key-value pairs"),
    switch("range", "delete range of keys"),
];

pub(crate) const TXN: &[Flag] = &[switch("interactive", "Input transaction in interactive mode").short(b'i')];

pub(crate) const COMPACTION: &[Flag] =
    &[switch("physical", "'true' to wait for compaction to physically remove all old revisions")];

/// Flags of `watch`, and of each line of `watch -i`.
pub(crate) const WATCH: &[Flag] = &[
    switch("interactive", "Interactive mode").short(b'i'),
    switch("prefix", "Watch on a prefix if prefix is set"),
    switch("prev-kv", "get the previous key-value pair before the event happens"),
    switch("progress-notify", "get periodic watch progress notification from server"),
    int("rev", "Revision to start watching"),
];

pub(crate) const LEASE_KEEP_ALIVE: &[Flag] =
    &[switch("once", "Resets the keep-alive time to its original value and exits immediately")];
pub(crate) const LEASE_TIME_TO_LIVE: &[Flag] = &[switch("keys", "Get keys attached to this lease")];
pub(crate) const ELECT: &[Flag] = &[switch("listen", "observation mode").short(b'l')];
pub(crate) const LOCK: &[Flag] = &[flag("ttl", Kind::Int, "10", "timeout for session, in seconds")];

pub(crate) const MEMBER_ADD: &[Flag] = &[
    switch("learner", "indicates if the new member is raft learner"),
    text("peer-urls", "comma separated peer URLs for the new member"),
];
pub(crate) const MEMBER_UPDATE: &[Flag] =
    &[text("peer-urls", "comma separated peer URLs for the updated member")];

pub(crate) const AUTO_COMPACT: Flag =
    switch("auto-compact", "Compact storage with last revision after test is finished");
pub(crate) const AUTO_DEFRAG: Flag = switch("auto-defrag", "Defragment storage after test is finished");
pub(crate) const LOAD: Flag =
    flag("load", Kind::Text, "s", "The workload model: s(small), m(medium), l(large), xl(xLarge)");

pub(crate) const CHECK_PERF: &[Flag] = &[
    AUTO_COMPACT,
    AUTO_DEFRAG,
    LOAD,
    flag("prefix", Kind::Text, "/etcdctl-check-perf/", "The prefix for writing the check's keys"),
];
pub(crate) const CHECK_DATASCALE: &[Flag] = &[
    AUTO_COMPACT,
    AUTO_DEFRAG,
    LOAD,
    flag("prefix", Kind::Text, "/etcdctl-check-datascale/", "The prefix for writing the check's keys"),
];

pub(crate) const MAKE_MIRROR: &[Flag] = &[
    text(
        "dest-cacert",
        "Verify certificates of TLS enabled secure servers using this CA bundle (not there yet)",
    ),
    text(
        "dest-cert",
        "Identify secure client using this TLS certificate file for the destination cluster (not there yet)",
    ),
    flag("dest-insecure-transport", Kind::Bool, "true", "Disable transport security for client connections"),
    text("dest-key", "Identify secure client using this TLS key file (not there yet)"),
    text("dest-password", "Destination password for authentication (not there yet)"),
    text(
        "dest-prefix",
        "destination prefix to mirror a prefix to a different prefix in the destination cluster",
    ),
    text("dest-user", "Destination username[:password] for authentication (not there yet)"),
    flag(
        "max-txn-ops",
        Kind::Uint,
        "128",
        "Maximum number of operations permitted in a transaction during syncing updates",
    ),
    switch("no-dest-prefix", "mirror key-values to the root of the destination cluster"),
    text("prefix", "Key-value prefix to mirror"),
    int("rev", "Specify the kv revision to start to mirror"),
];
