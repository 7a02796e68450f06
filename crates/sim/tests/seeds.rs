//! Short runs of the simulator, and proof that it finds what it is made for.

#![allow(clippy::print_stdout, reason = "tests print their figures")]

use sim::{Drawn, Load, Mutant, Options};

/// Seeds run by `cargo test`; `make soak` runs more.
const SEEDS: u64 = 60;

/// Everything that a seed may draw. Each must occur within [`SEEDS`]; add what the generators learn.
const DRAWN: [&str; 55] = [
    "alarm disarmed",
    "alarm raised",
    "alarms listed",
    "change of members",
    "clock set back",
    "compaction",
    "compare of a range",
    "count",
    "delete",
    "disk that fails for good",
    "disk that is full",
    "filter",
    "grant",
    "keepalive",
    "keys only",
    "leader asleep",
    "limit",
    "linearizable read",
    "log that cannot be read",
    "many leases",
    "many watchers",
    "message without room",
    "old revision",
    "partition",
    "pause",
    "power lost",
    "power lost by all or most",
    "process killed",
    "process killed and power lost soon after",
    "put",
    "put that keeps the lease",
    "put that keeps the value",
    "quota passed",
    "range in the log",
    "request without room",
    "revoke",
    "serializable read",
    "seven members",
    "snapshot ignored as old",
    "snapshot installed",
    "snapshot installed by a new member",
    "snapshot lost",
    "snapshot recorded, and its member crashed",
    "snapshot sent",
    "snapshot sent twice",
    "snapshot staged, and its member crashed",
    "snapshot that is there already",
    "sort",
    "stream broken",
    "sync that fails once",
    "sync that hangs",
    "transaction",
    "transaction in a transaction",
    "transaction that only reads",
    "transfer of leadership",
];

#[test]
fn seeds_hold() {
    let options = Options::default();
    let (mut writes, mut events) = (0, 0);
    let (mut renewed, mut expired) = (0, 0);
    let mut drawn = Drawn::new();
    for seed in 0..SEEDS {
        match sim::run(seed, &options) {
            Ok(report) => {
                writes += report.writes;
                events += report.events;
                renewed += report.renewed;
                expired += report.expired;
                report.drawn.into_iter().for_each(|(what, times)| *drawn.entry(what).or_default() += times);
            }
            Err(failure) => panic!("seed {seed}: {}\n{}", failure.violation, failure.tail.join("\n")),
        }
    }
    println!("{drawn:?}");
    let names: Vec<&str> = drawn.keys().copied().collect();
    assert_eq!(names, DRAWN, "what was drawn is not all that can be");
    assert!(events > 100 * SEEDS, "the watchers were told nearly nothing: {events} events");
    assert!(writes > 10 * SEEDS, "the clusters did nearly nothing: {writes} writes");
    assert!(renewed > SEEDS && expired > SEEDS, "{renewed} keepalives, {expired} leases over");
}

/// Leases under leaders that change, sleep and wake up; reads under leaders that are cut off.
#[test]
fn seeds_with_much_of_leases_and_of_reads_hold() {
    let run = |load, seed| {
        let report = sim::run(seed, &Options { members: Some(3), load, ..Options::default() });
        report.unwrap_or_else(|failure| panic!("{load:?}, seed {seed}: {}", failure.violation))
    };
    let renewed: u64 = (0..SEEDS).map(|seed| run(Load::Leases, seed).renewed).sum();
    assert!(renewed > 5 * SEEDS, "{renewed} keepalives");
    let reads: u64 = (0..SEEDS).map(|seed| run(Load::Reads, seed).reads).sum();
    assert!(reads > 5 * SEEDS, "{reads} reads");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 100..103 {
        let run = || sim::run(seed, &Options::default()).expect("this seed holds");
        assert_eq!(run(), run());
    }
}

/// The number of seeds within which every broken rule is found.
const SEEDS_TO_FIND: u64 = 3_000;

/// Mutants that no oracle can find alone: raft, or other rules, forbid the same. See the table in docs/testing.md.
const REDUNDANT: [Mutant; 2] = [Mutant::KeepReadRound, Mutant::RevokeUnconfirmed];

/// Runs seeds until one fails, which must be for one of these reasons; otherwise says what came instead. `known` found
/// it before and is tried first, because a search may take minutes; print what a search finds, and note it.
fn find(options: &Options, known: u64, reasons: &[&str]) -> Result<(), String> {
    let broken = options.mutants;
    let fails = |seed| {
        let violation = sim::run(seed, options).err()?.violation;
        let is_expected = reasons.iter().any(|reason| violation.contains(reason));
        Some((format!("{broken:?}: seed {seed}: {violation}"), is_expected))
    };
    let known = fails(known).filter(|(_, is_expected)| *is_expected);
    let found = known.or_else(|| (0..SEEDS_TO_FIND).find_map(fails));
    let (line, is_expected) = found.ok_or_else(|| format!("{broken:?} was not found"))?;
    println!("{line}");
    if is_expected { Ok(()) } else { Err(line) }
}

fn all_are_found(all: impl Iterator<Item = Result<(), String>>) {
    let missed: Vec<String> = all.filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_rule_that_is_broken_is_found() {
    /// Something promised is on no disk.
    const FORGOT: &[&str] =
        &["came back", "and durable on", "cannot open its log", "logs another entry of term"];
    const AT_START: &[&str] = &["came back", "and durable on", "has no state that its log goes on from"];
    /// The log that a member needs is gone, at once or after its snapshot.
    const KEPT: &[&str] = &["which was to be kept for it", "does not go on from the snapshot"];
    const OLD: &[&str] = &["began after somebody was told"];
    const EARLY: &[&str] = &["it was promised until"];
    // The first seed that finds it is in docs/testing.md too.
    let expected: [(Mutant, Load, u64, &[&str]); 34] = [
        (Mutant::SendBeforeWrite, Load::Mixed, 3, FORGOT),
        (Mutant::SkipSync, Load::Leases, 0, FORGOT),
        (Mutant::SyncCoversLater, Load::Mixed, 6, FORGOT),
        (Mutant::SkipSyncAtStart, Load::Mixed, 207, AT_START),
        (Mutant::SyncAgain, Load::Mixed, 13, FORGOT),
        (Mutant::ReadWhatIsCached, Load::Mixed, 2, FORGOT),
        (Mutant::ForgetVote, Load::Mixed, 1, FORGOT),
        (Mutant::SendBeforeOwnTerm, Load::Learners, 543, FORGOT),
        (Mutant::SkipFlush, Load::Mixed, 3, &["cannot start"]),
        (Mutant::ForgetWhoLags, Load::Leases, 16, KEPT),
        (Mutant::ForgetSnapshotUnderWay, Load::Mixed, 12, KEPT),
        (Mutant::SwitchBeforeRecord, Load::Mixed, 13, &["has no state that its log goes on from"]),
        (Mutant::KeepOldState, Load::Mixed, 5, &["cannot start"]),
        (Mutant::TakeNewestSnapshot, Load::Mixed, 431, &["cannot start"]),
        (Mutant::InstallUnflushed, Load::Mixed, 5, &["cannot open its state", "cannot start"]),
        (Mutant::HideSkippedChanges, Load::Mixed, 6, &["is told"]),
        (Mutant::SkipEntry, Load::Mixed, 2, &["no answer at index"]),
        (Mutant::ReadWithoutRound, Load::Mixed, 3, OLD),
        (Mutant::ReadBeforeApply, Load::Mixed, 3, OLD),
        (Mutant::TakeReadTwice, Load::Reads, 151, &["twice"]),
        (Mutant::ReuseReadContext, Load::Reads, 0, &["twice"]),
        (Mutant::ForwardTwice, Load::Mixed, 1, &["in the log twice"]),
        (Mutant::RenewUnconfirmed, Load::Leases, 45, EARLY),
        (Mutant::RenewUncleared, Load::Leases, 7, EARLY),
        (Mutant::ForgetCheckpointInFlight, Load::Leases, 2_007, EARLY),
        (Mutant::RenewExpired, Load::Leases, 5, EARLY),
        (Mutant::NoExtension, Load::Leases, 311, EARLY),
        (Mutant::ExpireOnFormerLeader, Load::Leases, 5, EARLY),
        (Mutant::EndLeaseTwice, Load::Leases, 403, EARLY),
        (Mutant::AnswerBeforeCommit, Load::Mixed, 1, &["is lost"]),
        (Mutant::AnnounceLaterIndex, Load::Mixed, 5, &["cannot import"]),
        (Mutant::ForgetLostSnapshot, Load::Mixed, 3, &["no agreement"]),
        (Mutant::ResumeTooLate, Load::Mixed, 0, &["is told"]),
        (Mutant::PromiseTooEarly, Load::Mixed, 0, &["was promised"]),
    ];
    let named: Vec<Mutant> = expected.iter().map(|(mutant, ..)| *mutant).collect();
    for mutant in Mutant::ALL {
        let is_there = named.contains(mutant) || REDUNDANT.contains(mutant);
        assert!(is_there, "{mutant:?} is in no table");
    }
    all_are_found(expected.into_iter().map(|(mutant, load, known, reasons)| {
        let at = Mutant::ALL.iter().position(|other| *other == mutant).expect("it is one of all");
        let members = match load {
            Load::Mixed | Load::Learners => None,
            Load::Leases => Some(3),
            Load::Reads => Some(5),
        };
        find(&Options { members, load, mutants: &Mutant::ALL[at..=at], ..Options::default() }, known, reasons)
    }));
}
