//! Identities and counters that all layers share.

/// A member's identity; etcd's headers and logs print it in lower-case hex without leading zeros.
pub type MemberId = u64;
/// A position in the raft log, from 1 up; 0 is "before the log".
pub type Index = u64;
/// A raft term, from 1 up.
pub type Term = u64;
/// A lease's identity, positive; 0 is "no lease".
pub type LeaseId = i64;
