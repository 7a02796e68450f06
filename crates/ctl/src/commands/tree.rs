//! The tree of commands, in the order of the root's help.

use super::tables::{
    CHECK_DATASCALE, CHECK_PERF, CLUSTER_FLAG, COMPACTION, CONSISTENCY, DEL, ELECT, GET, GLOBAL,
    LEASE_KEEP_ALIVE, LEASE_TIME_TO_LIVE, LOCK, MAKE_MIRROR, MEMBER_ADD, MEMBER_UPDATE, PUT, RESTORE, TXN,
    WATCH, flag,
};
use super::{AUTH, Action, CLUSTER, CONCURRENCY, Command, KV, UTILITY, command, holder, not_there};
use crate::flags::Kind;
use crate::print::Downgrade;

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

const WATCH_DETAILS: &str = "\
What follows -- is run for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and
ETCD_WATCH_VALUE in its environment. Keys may also stand in ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END. With -i, each
line of standard input is a watch, or the word progress.
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
        ALARM,
        not_there(AUTH, "auth"),
        CHECK,
        command(
            KV,
            "compaction",
            "[options] <revision>",
            "Compacts the event history",
            COMPACTION,
            Action::Compaction,
        ),
        not_there(UTILITY, "completion"),
        command(
            CLUSTER,
            "defrag",
            "[options]",
            "Defragments the storage of the members with given endpoints",
            &[CLUSTER_FLAG],
            Action::Defrag,
        ),
        command(
            KV,
            "del",
            "[options] <key> [range_end]",
            "Removes the specified key or range of keys [key, range_end)",
            DEL,
            Action::Del,
        ),
        DOWNGRADE,
        command(
            CONCURRENCY,
            "elect",
            "[options] <election-name> [proposal]",
            "Observes and participates in leader election",
            ELECT,
            Action::Elect,
        ),
        ENDPOINT,
        command(
            KV,
            "get",
            "[options] <key> [range_end]",
            "Gets the key or a range of keys",
            GET,
            Action::Get,
        ),
        command(UTILITY, "help", "[command]", "Help about any command", &[], Action::Help),
        LEASE,
        command(
            CONCURRENCY,
            "lock",
            "[options] <lockname> [exec-command arg1 arg2 ...]",
            "Acquires a named lock",
            LOCK,
            Action::Lock,
        ),
        command(
            UTILITY,
            "make-mirror",
            "[options] <destination>",
            "Makes a mirror at the destination cluster",
            MAKE_MIRROR,
            Action::MakeMirror,
        ),
        MEMBER,
        command(
            CLUSTER,
            "move-leader",
            "<transferee-member-id>",
            "Transfers leadership to another member",
            &[],
            Action::MoveLeader,
        ),
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
        SNAPSHOT,
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
        Command {
            details: WATCH_DETAILS,
            ..command(
                KV,
                "watch",
                "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
                "Watches events stream on keys or prefixes",
                WATCH,
                Action::Watch,
            )
        },
    ],
};

const ALARM: Command = holder(
    CLUSTER,
    "alarm",
    "Alarm related commands",
    &[],
    &[
        command(CLUSTER, "disarm", "", "Disarms all alarms", &[], Action::AlarmDisarm),
        command(CLUSTER, "list", "", "Lists all alarms", &[], Action::AlarmList),
    ],
);

const CHECK: Command = holder(
    UTILITY,
    "check",
    "Checks properties of the cluster",
    &[],
    &[
        command(
            UTILITY,
            "datascale",
            "[options]",
            "Check the memory usage of holding data for different workloads on a given server endpoint",
            CHECK_DATASCALE,
            Action::CheckDatascale,
        ),
        command(
            UTILITY,
            "perf",
            "[options]",
            "Check the performance of the cluster",
            CHECK_PERF,
            Action::CheckPerf,
        ),
    ],
);

const DOWNGRADE: Command = holder(
    CLUSTER,
    "downgrade",
    "Downgrade related commands",
    &[],
    &[
        command(
            CLUSTER,
            "cancel",
            "",
            "Cancel the ongoing downgrade action to cluster",
            &[],
            Action::Downgrade(Downgrade::Cancel),
        ),
        command(
            CLUSTER,
            "enable",
            "<TARGET_VERSION>",
            "Start a downgrade action to cluster",
            &[],
            Action::Downgrade(Downgrade::Enable),
        ),
        command(
            CLUSTER,
            "validate",
            "<TARGET_VERSION>",
            "Validate downgrade capability before starting downgrade",
            &[],
            Action::Downgrade(Downgrade::Validate),
        ),
    ],
);

const ENDPOINT: Command = holder(
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
);

const LEASE: Command = holder(
    KV,
    "lease",
    "Lease related commands",
    &[],
    &[
        command(KV, "grant", "<ttl>", "Creates leases", &[], Action::LeaseGrant),
        command(
            KV,
            "keep-alive",
            "[options] <leaseID>",
            "Keeps leases alive (renew)",
            LEASE_KEEP_ALIVE,
            Action::LeaseKeepAlive,
        ),
        command(KV, "list", "", "List all active leases", &[], Action::LeaseList),
        command(KV, "revoke", "<leaseID>", "Revokes leases", &[], Action::LeaseRevoke),
        command(
            KV,
            "timetolive",
            "<leaseID> [options]",
            "Get lease information",
            LEASE_TIME_TO_LIVE,
            Action::LeaseTimeToLive,
        ),
    ],
);

const MEMBER: Command = holder(
    CLUSTER,
    "member",
    "Membership related commands",
    &[],
    &[
        command(
            CLUSTER,
            "add",
            "<memberName> [options]",
            "Adds a member into the cluster",
            MEMBER_ADD,
            Action::MemberAdd,
        ),
        command(
            CLUSTER,
            "list",
            "[options]",
            "Lists all members in the cluster",
            &[CONSISTENCY],
            Action::MemberList,
        ),
        command(
            CLUSTER,
            "promote",
            "<memberID>",
            "Promotes a non-voting member in the cluster",
            &[],
            Action::MemberPromote,
        ),
        command(
            CLUSTER,
            "remove",
            "<memberID>",
            "Removes a member from the cluster",
            &[],
            Action::MemberRemove,
        ),
        command(
            CLUSTER,
            "update",
            "<memberID> [options]",
            "Updates a member in the cluster",
            MEMBER_UPDATE,
            Action::MemberUpdate,
        ),
    ],
);

const SNAPSHOT: Command = holder(
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
        command(
            CLUSTER,
            "save",
            "<filename>",
            "Stores a member's state in a file",
            &[],
            Action::SnapshotSave,
        ),
        command(
            CLUSTER,
            "status",
            "<filename>",
            "Prints hash, revision, total keys, total size and version of a snapshot",
            &[],
            Action::SnapshotStatus,
        ),
    ],
);
