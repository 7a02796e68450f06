//! Types of the raft log, shared by `wal`, `machine`, `raft-node` and `transport`.

use crate::{Index, Term};
use bytes::Bytes;

/// What an entry carries. The numbers are etcd's (`raftpb.EntryType`); joint changes (2) are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A request (`InternalRaftRequest`), or empty: the first entry of a term.
    Normal,
    /// A change of members (`raftpb.ConfChange`).
    ConfChange,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term it was proposed in.
    pub term: Term,
    /// Its position, from 1 up.
    pub index: Index,
    /// How to read `data`.
    pub kind: EntryKind,
    /// The payload, exactly as etcd marshals it; empty for a term's first entry.
    pub data: Bytes,
}

/// What a member must not forget across a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// The member this one voted for in that term; 0 = none.
    pub vote: u64,
    /// The newest index known to be committed.
    pub commit: Index,
}

/// The members by role, each list ascending. Voters decide; learners only follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Members whose votes and acknowledgements count.
    pub voters: Vec<u64>,
    /// Members that only receive the log.
    pub learners: Vec<u64>,
}
