//! The raft log's words, as the log, the machine, the node and the peer wire share them.

use crate::{Index, Term};
use bytes::Bytes;

/// What an entry carries. Numbers are etcd's (`raftpb.EntryType`); its joint changes (2) are never written or accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A request (`InternalRaftRequest`), or nothing: the first entry of a term.
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
    /// What `data` is.
    pub kind: EntryKind,
    /// The payload, exactly as etcd marshals it; empty for a term's first entry.
    pub data: Bytes,
}

/// What a member must remember of its promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Whom this member voted for in it; 0 = nobody.
    pub vote: u64,
    /// The newest index known to be committed.
    pub commit: Index,
}

/// Who takes part: voters decide, learners only follow. Both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Members whose votes and acknowledgements count.
    pub voters: Vec<u64>,
    /// Members that only receive the log.
    pub learners: Vec<u64>,
}
