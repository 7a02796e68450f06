//! Deliberate bugs in the shipped code, to prove that the tests find them: each [`Mutant`] breaks a rule, and the
//! simulator must catch it. [`is`] guards the place; without the feature `mutants`, which only the simulator enables,
//! it is a constant `false`. (Cargo unites features within one build: `cargo build --workspace` enables it everywhere.)

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A rule, broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// Every mutant, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutants! {
    /// Messages that promise something are sent before it is in the log.
    SendBeforeWrite,
    /// The log is written but not synced.
    SkipSync,
    /// A sync counts for data written after it began.
    SyncCoversLater,
    /// Entries read at start, perhaps unsynced by a killed process, are acknowledged without a sync.
    SkipSyncAtStart,
    /// A failed sync is retried.
    SyncAgain,
    /// After a failed sync the page cache is read and trusted.
    ReadWhatIsCached,
    /// Term and vote are never written.
    ForgetVote,
    /// A cluster's only voter sends to its learners before its own term is in the log.
    SendBeforeOwnTerm,
    /// The log is truncated without flushing the engine first.
    SkipFlush,
    /// The log is truncated although a member still needs it.
    ForgetWhoLags,
    /// The log is truncated although a member needs it after a snapshot on its way.
    ForgetSnapshotUnderWay,
    /// A snapshot's state replaces the old one before the log goes on from it.
    SwitchBeforeRecord,
    /// A member goes on from its oldest state, whatever its log says.
    KeepOldState,
    /// A member goes on from the newest snapshot that its log has passed, though it came further without.
    TakeNewestSnapshot,
    /// A member is told of a snapshot's state before that is durable.
    InstallUnflushed,
    /// Watchers are not told of what a snapshot skipped.
    HideSkippedChanges,
    /// One member skips an entry that it should apply.
    SkipEntry,
    /// A read is answered without confirming leadership.
    ReadWithoutRound,
    /// A read is answered once its round is confirmed, without waiting until the round's index is applied.
    ReadBeforeApply,
    /// A leader accepts the same read context twice.
    TakeReadTwice,
    /// A read without an answer is retried under the same context.
    ReuseReadContext,
    /// A ReadIndex round survives a change of leader.
    KeepReadRound,
    /// A request that was forwarded to the leader is forwarded again.
    ForwardTwice,
    /// Any member that believes it leads renews leases.
    RenewUnconfirmed,
    /// A lease with a logged remaining TTL is renewed before that is cleared.
    RenewUncleared,
    /// A lease is renewed while a remaining TTL is on its way into the log.
    ForgetCheckpointInFlight,
    /// A lease past its deadline is renewed.
    RenewExpired,
    /// A new leader does not add an election timeout to the remaining TTL of leases.
    NoExtension,
    /// Leases are revoked without confirming leadership.
    RevokeUnconfirmed,
    /// Any member that believes it leads proposes revokes, which may be forwarded.
    ExpireOnFormerLeader,
    /// A lease that a client revoked is revoked again when it expires, though it may have been granted anew.
    EndLeaseTwice,
    /// In the simulator's process around a member: a write is acknowledged when it is proposed.
    AnswerBeforeCommit,
    /// Around a member: a snapshot says that it is of a later index than its rows.
    AnnounceLaterIndex,
    /// Around a member: raft is not told that a snapshot was lost.
    ForgetLostSnapshot,
    /// Around a member: a resumed watcher starts one revision too late.
    ResumeTooLate,
    /// Around a member: progress is announced to watchers that have not seen everything.
    PromiseTooEarly,
}

/// Whether this build can break rules at all.
pub const ARE_COMPILED: bool = cfg!(feature = "mutants");

/// Whether this rule is broken in the current thread.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use broken::{is, set};

#[cfg(feature = "mutants")]
mod broken {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<&'static [Mutant]> = const { Cell::new(&[]) };
    }

    /// Whether this rule is broken in the current thread.
    pub fn is(mutant: Mutant) -> bool {
        BROKEN.get().contains(&mutant)
    }

    /// Breaks exactly these rules in the current thread.
    pub fn set(mutants: &'static [Mutant]) {
        BROKEN.set(mutants);
    }
}
