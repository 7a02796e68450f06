//! The commands and their flags: etcdctl's names, in its groups.

mod tables;
mod tree;

use crate::flags::Flag;
use crate::print::Downgrade;
pub(crate) use tables::{GLOBAL, WATCH};
pub(crate) use tree::{OPS, ROOT};

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
    /// `member add`.
    MemberAdd,
    /// `member list`.
    MemberList,
    /// `member promote`.
    MemberPromote,
    /// `member remove`.
    MemberRemove,
    /// `member update`.
    MemberUpdate,
    /// `watch`.
    Watch,
    /// `lease grant`.
    LeaseGrant,
    /// `lease revoke`.
    LeaseRevoke,
    /// `lease timetolive`.
    LeaseTimeToLive,
    /// `lease list`.
    LeaseList,
    /// `lease keep-alive`.
    LeaseKeepAlive,
    /// `lock`.
    Lock,
    /// `elect`.
    Elect,
    /// `alarm list`.
    AlarmList,
    /// `alarm disarm`.
    AlarmDisarm,
    /// `defrag`.
    Defrag,
    /// `move-leader`.
    MoveLeader,
    /// `downgrade validate`, `enable`, `cancel`.
    Downgrade(Downgrade),
    /// `snapshot restore`.
    SnapshotRestore,
    /// `snapshot save`.
    SnapshotSave,
    /// `snapshot status`.
    SnapshotStatus,
    /// `check perf`.
    CheckPerf,
    /// `check datascale`.
    CheckDatascale,
    /// `make-mirror`.
    MakeMirror,
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
