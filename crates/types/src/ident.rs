//! Counters and identities as types of their own, so that a term is never taken for an index.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

number!(
    /// A member's identity; printed in lower-case hex without leading zeros, as etcd's headers and logs do.
    MemberId
);
number!(
    /// A cluster's identity, fixed for life; printed as a member's.
    ClusterId
);

/// A position in the raft log, from 1 up; 0 is "before the log".
pub type Index = u64;
/// A raft term, from 1 up.
pub type Term = u64;
/// A lease's identity, positive; 0 is "no lease".
pub type LeaseId = i64;
