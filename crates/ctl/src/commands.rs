//! The commands and their flags: etcdctl's names, in its groups.

use crate::flags::{Flag, Kind};

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `get`.
    Get,
    /// `put`.
    Put,
    /// `del`.
    Del,
    /// `txn`.
    Txn,
    /// `compaction`.
    Compaction,
    /// `endpoint health`.
    EndpointHealth,
    /// `endpoint status`.
    EndpointStatus,
    /// `endpoint hashkv`.
    EndpointHashKv,
    /// `member list`.
    MemberList,
    /// `snapshot restore`.
    SnapshotRestore,
    /// `snapshot status`.
    SnapshotStatus,
    /// `version`.
    Version,
    /// `options`.
    Options,
    /// `help`.
    Help,
    /// What etcdctl has and this program has not.
    NotThere,
}

/// A command of the tree.
#[derive(Debug)]
pub(crate) struct Command {
    /// Its word.
    pub(crate) name: &'static str,
    /// What follows it, for people.
    pub(crate) arguments: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// More lines, or none.
    pub(crate) details: &'static str,
    /// Where the root's help lists it.
    pub(crate) group: &'static str,
    /// Flags of its own; a command with commands hands them down.
    pub(crate) flags: &'static [Flag],
    /// Its commands.
    pub(crate) commands: &'static [Command],
    /// What it does; `None` for one that only holds others.
    pub(crate) action: Option<Action>,
}

/// The groups of the root's help.
pub(crate) const GROUPS: &[&str] = &[
    "Key-value commands",
    "Cluster maintenance commands",
    "Concurrency commands",
    "Authentication commands",
    "Utility commands",
];

const KV: &str = GROUPS[0];
const CLUSTER: &str = GROUPS[1];
const CONCURRENCY: &str = GROUPS[2];
const AUTH: &str = GROUPS[3];
const UTILITY: &str = GROUPS[4];

const fn flag(name: &'static str, kind: Kind, default: &'static str, usage: &'static str) -> Flag {
    Flag { name, short: None, kind, default, usage }
}

const fn switch(name: &'static str, usage: &'static str) -> Flag {
    flag(name, Kind::Bool, "false", usage)
}

const fn short(flag: Flag, short: u8) -> Flag {
    Flag { short: Some(short), ..flag }
}

const fn command(
    group: &'static str,
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    action: Action,
) -> Command {
    Command { name, arguments, about, details: "", group, flags, commands: &[], action: Some(action) }
}

const fn holder(
    group: &'static str,
    name: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    commands: &'static [Command],
) -> Command {
    Command { name, arguments: "<command>", about, details: "", group, flags, commands, action: None }
}

const fn not_there(group: &'static str, name: &'static str) -> Command {
    command(group, name, "", "Not there yet", &[], Action::NotThere)
}

const CLUSTER_FLAG: Flag = switch("cluster", "use all endpoints from the cluster member list");
const CONSISTENCY: Flag = flag("consistency", Kind::Text, "l", "Linearizable(l) or Serializable(s)");

static RESTORE: &[Flag] = &[
    flag("bump-revision", Kind::Int, "0", "How much to increase the latest revision after restore"),
    flag("data-dir", Kind::Text, "", "Path to the output data directory (default '${name}.etcd')"),
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
    flag("wal-dir", Kind::Text, "", "Path to the WAL directory (use --data-dir if none given)"),
];

/// Flags that stand before or after every command.
pub(crate) static GLOBAL: &[Flag] = &[
    flag("auth-jwt-token", Kind::Text, "", "JWT token used for authentication (not there yet)"),
    flag(
        "cacert",
        Kind::Text,
        "",
        "verify certificates of TLS-enabled secure servers using this CA bundle (not there yet)",
    ),
    flag("cert", Kind::Text, "", "identify secure client using this TLS certificate file (not there yet)"),
    flag(
        "command-timeout",
        Kind::Duration,
        "5s",
        "timeout for short running command (excluding dial timeout)",
    ),
    switch("debug", "show every flag's value, and every try, on stderr"),
    flag("dial-timeout", Kind::Duration, "2s", "dial timeout for client connections"),
    short(
        flag(
            "discovery-srv",
            Kind::Text,
            "",
            "domain name to query for SRV records describing cluster endpoints (not there yet)",
        ),
        b'd',
    ),
    flag(
        "discovery-srv-name",
        Kind::Text,
        "",
        "service name to query when using DNS discovery (not there yet)",
    ),
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
    flag("key", Kind::Text, "", "identify secure client using this TLS key file (not there yet)"),
    flag("max-recv-bytes", Kind::Int, "0", "client-side response receive limit in bytes (0 = none)"),
    flag("max-request-bytes", Kind::Int, "0", "client-side request send limit in bytes (0 = 2 MiB)"),
    flag("password", Kind::Text, "", "password for authentication (not there yet)"),
    flag("user", Kind::Text, "", "username[:password] for authentication (not there yet)"),
    short(
        flag(
            "write-out",
            Kind::Text,
            "simple",
            "set the output format (fields, json, protobuf, simple, table)",
        ),
        b'w',
    ),
];

/// Flags of `get`.
static GET: &[Flag] = &[
    CONSISTENCY,
    switch("count-only", "Get only the count"),
    switch("from-key", "Get keys that are greater than or equal to the given key using byte compare"),
    switch("keys-only", "Get only the keys"),
    flag("limit", Kind::Int, "0", "Maximum number of results"),
    flag("max-create-rev", Kind::Int, "0", "Maximum create revision"),
    flag("max-mod-rev", Kind::Int, "0", "Maximum modification revision"),
    flag("min-create-rev", Kind::Int, "0", "Minimum create revision"),
    flag("min-mod-rev", Kind::Int, "0", "Minimum modification revision"),
    flag("order", Kind::Text, "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
    switch("prefix", "Get keys with matching prefix"),
    switch("print-value-only", "Only write values when using the \"simple\" output format"),
    flag("rev", Kind::Int, "0", "Specify the kv revision"),
    flag("sort-by", Kind::Text, "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
    switch("stream", "Use the RangeStream RPC"),
];

static PUT: &[Flag] = &[
    switch("ignore-lease", "updates the key using its current lease"),
    switch("ignore-value", "updates the key using its current value"),
    flag("lease", Kind::Text, "0", "lease ID (in hexadecimal) to attach to the key"),
    switch("prev-kv", "return the previous key-value pair before modification"),
];

static DEL: &[Flag] = &[
    switch("from-key", "delete keys that are greater than or equal to the given key using byte compare"),
    switch("prefix", "delete keys with matching prefix"),
    switch("prev-kv", "return deleted key-value pairs"),
    switch("range", "delete range of keys"),
];

static TXN: &[Flag] = &[short(switch("interactive", "Input transaction in interactive mode"), b'i')];

static COMPACTION: &[Flag] =
    &[switch("physical", "'true' to wait for compaction to physically remove all old revisions")];

/// The requests that a transaction's lines may hold.
pub(crate) static OPS: Command = Command {
    name: "",
    arguments: "",
    about: "",
    details: "",
    group: "",
    flags: &[],
    commands: &[
        command(KV, "del", "", "", DEL, Action::Del),
        command(KV, "get", "", "", GET, Action::Get),
        command(KV, "put", "", "", PUT, Action::Put),
    ],
    action: None,
};

const PUT_DETAILS: &str = "\
A value that begins with '-' is taken for a flag, unless it stands after '--':

    put <key> -- <value>
    put -- <key> <value>

Without a value, and without --ignore-value, the value is read from standard input:

    cat file | put <key>
";

const TXN_DETAILS: &str = "\
Reads one transaction from standard input: comparisons, then requests for when all of them hold, then requests for
when one does not. Each part ends with an empty line.

    mod(\"key1\") > \"0\"

    put key1 \"overwrote-key1\"

    put key1 \"created-key1\"
    put key2 \"some extra key\"

Comparisons are version, create, mod, value and lease (or ver, c, m, val) with =, !=, < or >; requests are get, put and
del with the flags of these commands.
";

/// etcdctl's commands.
pub(crate) static ROOT: Command = Command {
    name: "",
    arguments: "[command]",
    about: "A command line client for quorate and etcd: etcdctl's commands, flags, output and exit codes.",
    details: "",
    group: "",
    flags: GLOBAL,
    action: None,
    commands: &[
        holder(
            CLUSTER,
            "alarm",
            "Alarm related commands",
            &[],
            &[not_there(CLUSTER, "disarm"), not_there(CLUSTER, "list")],
        ),
        not_there(AUTH, "auth"),
        not_there(UTILITY, "check"),
        command(
            KV,
            "compaction",
            "[options] <revision>",
            "Compacts the event history",
            COMPACTION,
            Action::Compaction,
        ),
        not_there(UTILITY, "completion"),
        not_there(CLUSTER, "defrag"),
        command(
            KV,
            "del",
            "[options] <key> [range_end]",
            "Removes the specified key or range of keys [key, range_end)",
            DEL,
            Action::Del,
        ),
        not_there(CLUSTER, "downgrade"),
        not_there(CONCURRENCY, "elect"),
        holder(
            CLUSTER,
            "endpoint",
            "Endpoint related commands",
            &[CLUSTER_FLAG],
            &[
                command(
                    CLUSTER,
                    "hashkv",
                    "[options]",
                    "Prints the KV history hash for each endpoint in --endpoints",
                    &[flag("rev", Kind::Int, "0", "maximum revision to hash (default: latest revision)")],
                    Action::EndpointHashKv,
                ),
                command(
                    CLUSTER,
                    "health",
                    "[options]",
                    "Checks the healthiness of endpoints specified in `--endpoints` flag",
                    &[],
                    Action::EndpointHealth,
                ),
                command(
                    CLUSTER,
                    "status",
                    "[options]",
                    "Prints out the status of endpoints specified in `--endpoints` flag",
                    &[],
                    Action::EndpointStatus,
                ),
            ],
        ),
        command(
            KV,
            "get",
            "[options] <key> [range_end]",
            "Gets the key or a range of keys",
            GET,
            Action::Get,
        ),
        command(UTILITY, "help", "[command]", "Help about any command", &[], Action::Help),
        not_there(KV, "lease"),
        not_there(CONCURRENCY, "lock"),
        not_there(UTILITY, "make-mirror"),
        holder(
            CLUSTER,
            "member",
            "Membership related commands",
            &[],
            &[
                not_there(CLUSTER, "add"),
                command(
                    CLUSTER,
                    "list",
                    "[options]",
                    "Lists all members in the cluster",
                    &[CONSISTENCY],
                    Action::MemberList,
                ),
                not_there(CLUSTER, "promote"),
                not_there(CLUSTER, "remove"),
                not_there(CLUSTER, "update"),
            ],
        ),
        not_there(CLUSTER, "move-leader"),
        command(UTILITY, "options", "", "Show the global command-line flags", &[], Action::Options),
        Command {
            details: PUT_DETAILS,
            ..command(
                KV,
                "put",
                "[options] <key> <value>",
                "Puts the given key into the store",
                PUT,
                Action::Put,
            )
        },
        not_there(AUTH, "role"),
        holder(
            CLUSTER,
            "snapshot",
            "Manages snapshots of a member's state",
            &[],
            &[
                command(
                    CLUSTER,
                    "restore",
                    "<filename> --data-dir {output dir} [options]",
                    "Makes a new member's data directory of a snapshot",
                    RESTORE,
                    Action::SnapshotRestore,
                ),
                not_there(CLUSTER, "save"),
                command(
                    CLUSTER,
                    "status",
                    "<filename>",
                    "Prints hash, revision, total keys, total size and version of a snapshot",
                    &[],
                    Action::SnapshotStatus,
                ),
            ],
        ),
        Command {
            details: TXN_DETAILS,
            ..command(
                KV,
                "txn",
                "[options]",
                "Processes all the requests in one transaction",
                TXN,
                Action::Txn,
            )
        },
        not_there(AUTH, "user"),
        command(
            UTILITY,
            "version",
            "",
            "Prints the version of etcdctl whose place this takes",
            &[],
            Action::Version,
        ),
        not_there(KV, "watch"),
    ],
};
