//! The tree of commands, in the order of the root's help.

use super::tables::{
    CHECK_DATASCALE, CHECK_PERF, CLUSTER_FLAG, COMPACTION, CONSISTENCY, DEL, DIRECTORY, ELECT, GET, GLOBAL,
    LEASE_KEEP_ALIVE, LEASE_TIME_TO_LIVE, LOCK, MAKE_MIRROR, MEMBER_ADD, MEMBER_UPDATE, PUT, RESTORE, TXN,
    WATCH, int,
};
use super::{AUTH, Action, CLUSTER, CONCURRENCY, Command, KV, UTILITY, command, parent};
use proto::etcdserverpb::downgrade_request::DowngradeAction;

/// The requests in the lines of a transaction.
pub(crate) static OPS: Command = parent("", "").commands(&[
    command("del", "", Action::Del).flags(DEL),
    command("get", "", Action::Get).flags(GET),
    command("put", "", Action::Put).flags(PUT),
]);

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

const ABOUT: &str =
    "A command line client for quorate and etcd: etcdctl's commands, flags, output and exit codes.";

pub(crate) static ROOT: Command = parent("", ABOUT).takes("[command]").flags(GLOBAL).commands(&[
    ALARM,
    command("auth", "Not there yet", Action::Unsupported).group(AUTH),
    CHECK,
    command("compaction", "Compacts the event history", Action::Compaction)
        .takes("[options] <revision>")
        .group(KV)
        .flags(COMPACTION),
    command("completion", "Not there yet", Action::Unsupported).group(UTILITY),
    DATA_DIR,
    command("defrag", "Defragments the storage of the members with given endpoints", Action::Defrag)
        .takes("[options]")
        .group(CLUSTER)
        .flags(&[CLUSTER_FLAG]),
    command("del", "Removes the specified key or range of keys [key, range_end)", Action::Del)
        .takes("[options] <key> [range_end]")
        .group(KV)
        .flags(DEL),
    DOWNGRADE,
    command("elect", "Observes and participates in leader election", Action::Elect)
        .takes("[options] <election-name> [proposal]")
        .group(CONCURRENCY)
        .flags(ELECT),
    ENDPOINT,
    command("get", "Gets the key or a range of keys", Action::Get)
        .takes("[options] <key> [range_end]")
        .group(KV)
        .flags(GET),
    command("help", "Help about any command", Action::Help).takes("[command]").group(UTILITY),
    LEASE,
    command("lock", "Acquires a named lock", Action::Lock)
        .takes("[options] <lockname> [exec-command arg1 arg2 ...]")
        .group(CONCURRENCY)
        .flags(LOCK),
    command("make-mirror", "Makes a mirror at the destination cluster", Action::MakeMirror)
        .takes("[options] <destination>")
        .group(UTILITY)
        .flags(MAKE_MIRROR),
    MEMBER,
    command("move-leader", "Transfers leadership to another member", Action::MoveLeader)
        .takes("<transferee-member-id>")
        .group(CLUSTER),
    command("options", "Show the global command-line flags", Action::Options).group(UTILITY),
    command("put", "Puts the given key into the store", Action::Put)
        .takes("[options] <key> <value>")
        .group(KV)
        .flags(PUT)
        .details(PUT_DETAILS),
    command("role", "Not there yet", Action::Unsupported).group(AUTH),
    SNAPSHOT,
    command("txn", "Processes all the requests in one transaction", Action::Txn)
        .takes("[options]")
        .group(KV)
        .flags(TXN)
        .details(TXN_DETAILS),
    command("user", "Not there yet", Action::Unsupported).group(AUTH),
    command("version", "Prints the version of etcdctl whose place this takes", Action::Version)
        .group(UTILITY),
    command("watch", "Watches events stream on keys or prefixes", Action::Watch)
        .takes("[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]")
        .group(KV)
        .flags(WATCH)
        .details(WATCH_DETAILS),
]);

const ALARM: Command = parent("alarm", "Alarm related commands").group(CLUSTER).commands(&[
    command("disarm", "Disarms all alarms", Action::AlarmDisarm),
    command("list", "Lists all alarms", Action::AlarmList),
]);

const CHECK: Command = parent("check", "Checks properties of the cluster").group(UTILITY).commands(&[
    command(
        "datascale",
        "Check the memory usage of holding data for different workloads on a given server endpoint",
        Action::CheckDatascale,
    )
    .takes("[options]")
    .flags(CHECK_DATASCALE),
    command("perf", "Check the performance of the cluster", Action::CheckPerf)
        .takes("[options]")
        .flags(CHECK_PERF),
    command(
        "takeover",
        "Names what keeps members of quorate from taking the places of an etcd cluster's members",
        Action::CheckTakeover,
    ),
]);

const DATA_DIR: Command =
    parent("data-dir", "Works on the data directory of a member that is stopped").group(CLUSTER).commands(&[
        command(
            "check",
            "Names what keeps quorate from going on from an etcd member's directory; changes nothing",
            Action::DataDirCheck,
        )
        .takes("--data-dir {directory} [options]")
        .flags(DIRECTORY),
        command(
            "to-etcd",
            "Makes a directory on which etcd goes on as the same member",
            Action::DataDirToEtcd,
        )
        .takes("<output dir> --data-dir {directory} [options]")
        .flags(DIRECTORY),
    ]);

const DOWNGRADE: Command = parent("downgrade", "Downgrade related commands").group(CLUSTER).commands(&[
    command(
        "cancel",
        "Cancel the ongoing downgrade action to cluster",
        Action::Downgrade(DowngradeAction::Cancel),
    ),
    command("enable", "Start a downgrade action to cluster", Action::Downgrade(DowngradeAction::Enable))
        .takes("<TARGET_VERSION>"),
    command(
        "validate",
        "Validate downgrade capability before starting downgrade",
        Action::Downgrade(DowngradeAction::Validate),
    )
    .takes("<TARGET_VERSION>"),
]);

const ENDPOINT: Command =
    parent("endpoint", "Endpoint related commands").group(CLUSTER).flags(&[CLUSTER_FLAG]).commands(&[
        command(
            "hashkv",
            "Prints the KV history hash for each endpoint in --endpoints",
            Action::EndpointHashKv,
        )
        .takes("[options]")
        .flags(&[int("rev", "maximum revision to hash (default: latest revision)")]),
        command(
            "health",
            "Checks the healthiness of endpoints specified in `--endpoints` flag",
            Action::EndpointHealth,
        )
        .takes("[options]"),
        command(
            "status",
            "Prints out the status of endpoints specified in `--endpoints` flag",
            Action::EndpointStatus,
        )
        .takes("[options]"),
    ]);

const LEASE: Command = parent("lease", "Lease related commands").group(KV).commands(&[
    command("grant", "Creates leases", Action::LeaseGrant).takes("<ttl>"),
    command("keep-alive", "Keeps leases alive (renew)", Action::LeaseKeepAlive)
        .takes("[options] <leaseID>")
        .flags(LEASE_KEEP_ALIVE),
    command("list", "List all active leases", Action::LeaseList),
    command("revoke", "Revokes leases", Action::LeaseRevoke).takes("<leaseID>"),
    command("timetolive", "Get lease information", Action::LeaseTimeToLive)
        .takes("<leaseID> [options]")
        .flags(LEASE_TIME_TO_LIVE),
]);

const MEMBER: Command = parent("member", "Membership related commands").group(CLUSTER).commands(&[
    command("add", "Adds a member into the cluster", Action::MemberAdd)
        .takes("<memberName> [options]")
        .flags(MEMBER_ADD),
    command("list", "Lists all members in the cluster", Action::MemberList)
        .takes("[options]")
        .flags(&[CONSISTENCY]),
    command("promote", "Promotes a non-voting member in the cluster", Action::MemberPromote)
        .takes("<memberID>"),
    command("remove", "Removes a member from the cluster", Action::MemberRemove).takes("<memberID>"),
    command("update", "Updates a member in the cluster", Action::MemberUpdate)
        .takes("<memberID> [options]")
        .flags(MEMBER_UPDATE),
]);

const SNAPSHOT: Command =
    parent("snapshot", "Manages snapshots of a member's state").group(CLUSTER).commands(&[
        command("restore", "Makes a new member's data directory of a snapshot", Action::SnapshotRestore)
            .takes("<filename> --data-dir {output dir} [options]")
            .flags(RESTORE),
        command("save", "Stores a member's state in a file", Action::SnapshotSave).takes("<filename>"),
        command(
            "status",
            "Prints hash, revision, total keys, total size and version of a snapshot",
            Action::SnapshotStatus,
        )
        .takes("<filename>"),
    ]);
