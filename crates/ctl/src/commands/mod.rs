//! The commands and their flags, with etcdctl's names and groups.

mod tables;
mod tree;

use crate::flags::Flag;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
pub(crate) use tables::{GLOBAL, WATCH};
pub(crate) use tree::{OPS, ROOT};

/// What a command does; `run` has a function for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    Put,
    Del,
    Txn,
    Compaction,
    EndpointHealth,
    EndpointStatus,
    EndpointHashKv,
    MemberAdd,
    MemberList,
    MemberPromote,
    MemberRemove,
    MemberUpdate,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseList,
    LeaseKeepAlive,
    Lock,
    Elect,
    AlarmList,
    AlarmDisarm,
    Defrag,
    MoveLeader,
    Downgrade(DowngradeAction),
    DataDirCheck,
    DataDirToEtcd,
    SnapshotRestore,
    SnapshotSave,
    SnapshotStatus,
    CheckPerf,
    CheckDatascale,
    CheckTakeover,
    MakeMirror,
    Version,
    Options,
    Help,
    /// A command of etcdctl's that this program does not have yet.
    Unsupported,
}

#[derive(Debug)]
pub(crate) struct Command {
    /// The word that calls it.
    pub(crate) name: &'static str,
    /// Its arguments, for the help.
    pub(crate) arguments: &'static str,
    /// One line of help.
    pub(crate) about: &'static str,
    /// More help, or nothing.
    pub(crate) details: &'static str,
    /// Its group in the root's help; nothing for a subcommand.
    pub(crate) group: &'static str,
    /// Its own flags; its subcommands have them too.
    pub(crate) flags: &'static [Flag],
    pub(crate) commands: &'static [Command],
    /// `None` for one that only has subcommands.
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

const fn command(name: &'static str, about: &'static str, action: Action) -> Command {
    Command { arguments: "", action: Some(action), ..parent(name, about) }
}

const fn parent(name: &'static str, about: &'static str) -> Command {
    Command {
        name,
        arguments: "<command>",
        about,
        details: "",
        group: "",
        flags: &[],
        commands: &[],
        action: None,
    }
}

impl Command {
    const fn takes(self, arguments: &'static str) -> Self {
        Self { arguments, ..self }
    }

    const fn details(self, details: &'static str) -> Self {
        Self { details, ..self }
    }

    const fn group(self, group: &'static str) -> Self {
        Self { group, ..self }
    }

    const fn flags(self, flags: &'static [Flag]) -> Self {
        Self { flags, ..self }
    }

    const fn commands(self, commands: &'static [Command]) -> Self {
        Self { commands, ..self }
    }
}
