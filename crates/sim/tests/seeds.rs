//! Short runs of the simulator, and proof that it finds what it is for.

use sim::{Mutation, Options};

/// Seeds run by `cargo test`; `make soak` runs more.
const SEEDS: u64 = 20;
/// Seeds within which every broken member must be found.
const SEEDS_TO_FIND: u64 = 12;
/// The same for leases, which take a rare course of things.
const LEASE_SEEDS_TO_FIND: u64 = 250;

#[test]
fn seeds_hold() {
    let options = Options::default();
    let (mut writes, mut events) = (0, 0);
    let (mut renewed, mut expired) = (0, 0);
    for seed in 0..SEEDS {
        match sim::run(seed, &options) {
            Ok(report) => {
                writes += report.writes;
                events += report.events;
                renewed += report.renewed;
                expired += report.expired;
            }
            Err(failure) => panic!("seed {seed}: {}\n{}", failure.violation, failure.tail.join("\n")),
        }
    }
    assert!(events > 100 * SEEDS, "the watchers were told nearly nothing: {events} events");
    assert!(writes > 10 * SEEDS, "the clusters did nearly nothing: {writes} writes");
    assert!(renewed > SEEDS && expired > SEEDS, "{renewed} keepalives, {expired} leases over");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 100..103 {
        let run = || sim::run(seed, &Options::default()).expect("this seed holds");
        assert_eq!(run(), run());
    }
}

fn check(mutation: Mutation, expected: &str) {
    let options = Options { members: Some(3), mutation: Some(mutation), ..Options::default() };
    let found = (0..SEEDS_TO_FIND).find_map(|seed| sim::run(seed, &options).err());
    let failure = found.unwrap_or_else(|| panic!("{mutation:?} was not found in {SEEDS_TO_FIND} seeds"));
    assert!(failure.violation.contains(expected), "{mutation:?} was found as: {}", failure.violation);
}

/// Leases end and go on under leaders that come, sleep and wake up; a member that is careless with them is found.
#[test]
fn no_lease_ends_early_and_who_breaks_that_is_found() {
    let run = |seed, mutation| {
        sim::run(seed, &Options { members: Some(3), leases: true, mutation, ..Options::default() })
    };
    let mut renewed = 0;
    for seed in 0..SEEDS {
        let report = run(seed, None).unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.violation));
        renewed += report.renewed;
    }
    assert!(renewed > 20 * SEEDS, "{renewed} keepalives");
    for mutation in [Mutation::RenewWithoutQuorum, Mutation::ExpireOnFormerLeader] {
        let found = (0..LEASE_SEEDS_TO_FIND).find_map(|seed| run(seed, Some(mutation)).err());
        let failure =
            found.unwrap_or_else(|| panic!("{mutation:?} was not found in {LEASE_SEEDS_TO_FIND} seeds"));
        assert!(failure.violation.contains("it was promised until"), "{mutation:?}: {}", failure.violation);
    }
}

#[test]
fn every_broken_member_is_found() {
    check(Mutation::SendBeforeSync, "came back");
    check(Mutation::LoseHardState, "came back");
    check(Mutation::SkipEntry, "no answer at index");
    check(Mutation::ReadWithoutQuorum, "began after somebody was told");
    check(Mutation::AnswerBeforeCommit, "is lost");
    check(Mutation::ReleaseBeforeFlush, "cannot start");
    check(Mutation::ForwardTwice, "in the log twice");
    check(Mutation::ResumeTooLate, "is told");
    check(Mutation::PromiseTooEarly, "was promised");
}
