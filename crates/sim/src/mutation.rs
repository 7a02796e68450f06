//! Deliberate bugs around the members; [`types::mutant`] has those within them. The oracles must find each of them,
//! or they prove nothing.

/// A bug around a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A write is acknowledged when it is proposed.
    AnswerBeforeCommit,
    /// A resumed watcher starts one revision too late.
    ResumeTooLate,
    /// Progress is announced to watchers that have not seen everything.
    PromiseTooEarly,
}
