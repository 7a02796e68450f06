//! Scripted tests of the expirer: one step a line, each with its time.

use super::*;
use crate::{CHECKPOINT_FIRST, Info};
use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

pub(super) const PACE: Pace =
    Pace { extension: Duration::from_secs(1), confirmed_for: Duration::from_millis(750) };

static NONE: LazyLock<HashSet<LeaseId>> = LazyLock::new(HashSet::new);

/// Runs `seconds command -> expected` lines:
///
/// `lead TERM [ID:TTL[/REMAINDER]]…`, `demote`, `undecide`, `allow`, `forbid`, `grant ID TTL`, `revoked ID`, `logged
/// ID REMAINDER`, `confirm [SECONDS]` (when it began), `renew ID`, `lost ID`, `left ID`, `look`, `tick [ID]…` (prints
/// what is handed out and waited for, while the revokes of these IDs are in the log).
fn check(script: &str) {
    let start = Instant::now();
    let mut expirer = Expirer::new(PACE);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (command, expected) = line.split_once(" -> ").unwrap_or((line, ""));
        let mut words = command.split_whitespace();
        let at: f64 = words.next().and_then(|word| word.parse().ok()).expect("a time");
        let found = step(&mut expirer, start, at, &words.collect::<Vec<_>>());
        assert_eq!(found, expected, "{line}");
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "scripts are short")]
fn from_seconds(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1_000.0).round() as u64)
}

fn step(expirer: &mut Expirer, start: Instant, at: f64, words: &[&str]) -> String {
    let now = start + from_seconds(at);
    let number = |at: usize| words[at].parse::<i64>().expect("a number");
    match words[0] {
        "lead" => {
            let leases = words[2..].iter().map(|word| {
                let (id, rest) = word.split_once(':').expect("id:ttl");
                let (ttl, remaining) = rest.split_once('/').unwrap_or((rest, "0"));
                let number = |word: &str| word.parse().expect("a number");
                Info { id: number(id), ttl: number(ttl), remaining_ttl: number(remaining) }
            });
            let term = words[1].parse().expect("a term");
            drop(expirer.promote(Deadlines::new(PACE, now, term, leases)));
        }
        "demote" => drop(expirer.demote()),
        "undecide" => assert!(expirer.set_checkpoints(Checkpoints::Undecided)),
        "allow" => assert!(expirer.set_checkpoints(Checkpoints::Allowed)),
        "forbid" => assert!(expirer.set_checkpoints(Checkpoints::Forbidden)),
        "grant" => {
            expirer.applied(now, &Change::Granted { id: number(1), ttl: number(2) });
        }
        "revoked" => {
            return format!("expired={}", expirer.applied(now, &Change::Revoked { id: number(1) }));
        }
        "logged" => {
            let change = Change::Checkpointed { id: number(1), remaining_ttl: number(2) };
            expirer.applied(now, &change);
        }
        "confirm" => {
            let began = words.get(1).map_or(at, |word| word.parse().expect("a time"));
            expirer.confirm(expirer.term().unwrap_or(0), start + from_seconds(began));
        }
        "renew" => return format!("{:?}", expirer.renew(now, number(1))),
        "lost" => expirer.not_cleared(expirer.term().unwrap_or(0), number(1)),
        "left" => return format!("{:?}", expirer.remaining(now, number(1))),
        "look" => expirer.tick(now),
        "tick" => {
            expirer.tick(now);
            let revoking: HashSet<LeaseId> = (1..words.len()).map(number).collect();
            let revokes = expirer.take_revokes(now, &revoking);
            let checkpoints: Vec<_> = expirer
                .take_checkpoints(now, &revoking)
                .into_iter()
                .map(|c| (c.id, c.remaining_ttl))
                .collect();
            let asks = if expirer.wants_confirmation() { " confirm?" } else { "" };
            return format!("revoke {revokes:?} log {checkpoints:?}{asks}");
        }
        other => panic!("no command {other}"),
    }
    String::new()
}

#[test]
fn a_lease_is_revoked_after_its_time_and_a_confirmation_that_began_later() {
    check(
        "
        0 lead 1
        0 grant 7 10
        9.9 tick -> revoke [] log []
        10 tick -> revoke [] log [] confirm?
        10.1 confirm 9.9
        10.1 tick -> revoke [] log [] confirm?
        10.2 confirm
        10.3 renew 7 -> Expired
        10.3 tick -> revoke [7] log []
        10.4 tick -> revoke [] log []
        10.5 left 7 -> Some(0)
        11.5 left 7 -> Some(-1)
        11.6 revoked 7 -> expired=true
        11.7 confirm
        11.7 renew 7 -> Unknown
        11.7 left 7 -> None
        ",
    );
}

#[test]
fn a_renewal_needs_a_leader_confirmed_lately_and_moves_the_end() {
    check(
        "
        0 renew 7 -> NotPrimary
        0 lead 3 7:10
        0 renew 7 -> Unconfirmed(3)
        0.1 confirm 0
        0.75 renew 7 -> Renewed(10)
        0.76 renew 7 -> Unconfirmed(3)
        5 confirm
        5 renew 7 -> Renewed(10)
        12 tick -> revoke [] log []
        14.9 left 7 -> Some(0)
        15 tick -> revoke [] log [] confirm?
        15 demote
        15 renew 7 -> NotPrimary
        15 tick -> revoke [] log []
        ",
    );
}

#[test]
fn a_new_leader_gives_an_election_timeout_more_and_what_was_left() {
    check(
        "
        0 lead 1 7:10 8:600/30
        0 left 7 -> Some(11)
        0 left 8 -> Some(31)
        11 confirm
        11 tick -> revoke [7] log []
        20 lead 2 7:10 8:600/30
        20 left 7 -> Some(11)
        20 confirm
        20 tick -> revoke [] log []
        ",
    );
}

#[test]
fn a_revoke_that_is_not_applied_is_proposed_again_with_a_new_confirmation() {
    check(
        "
        0 lead 1
        0 grant 7 2
        2 confirm
        2 tick -> revoke [7] log []
        4.9 tick -> revoke [] log []
        5 tick -> revoke [] log [] confirm?
        5.1 confirm
        5.1 tick -> revoke [7] log []
        5.2 revoked 7 -> expired=true
        9 tick -> revoke [] log []
        ",
    );
}

#[test]
fn a_lease_left_alone_is_checkpointed_and_cleared_before_it_is_renewed() {
    check(
        "
        0 allow
        0 lead 1
        0 grant 7 600
        59.9 tick -> revoke [] log []
        60 tick -> revoke [] log [(7, 540)]
        60.1 confirm
        60.1 renew 7 -> Checkpointed(1)
        60.2 lost 7
        60.3 renew 7 -> Checkpointed(1)
        60.4 logged 7 540
        60.4 renew 7 -> Checkpointed(1)
        60.5 logged 7 0
        60.6 renew 7 -> Renewed(600)
        120 tick -> revoke [] log []
        120.6 tick -> revoke [] log [(7, 540)]
        390.5 tick -> revoke [] log []
        390.6 tick -> revoke [] log [(7, 270)]
        525.6 tick -> revoke [] log [(7, 135)]
        ",
    );
}

#[test]
fn a_clearing_that_comes_late_does_not_hide_the_remainder_behind_it() {
    check(
        "0 allow
        0 lead 1
        0 grant 7 100
        60 tick -> revoke [] log [(7, 40)]
        60.1 logged 7 40
        61 confirm
        61 renew 7 -> Checkpointed(1)
        66 lost 7
        80 tick -> revoke [] log [(7, 20)]
        80.1 logged 7 0
        80.2 confirm
        80.2 renew 7 -> Checkpointed(1)
        80.3 logged 7 20
        80.3 renew 7 -> Checkpointed(1)
        80.4 logged 7 0
        80.4 renew 7 -> Renewed(100)",
    );
}

#[test]
fn a_lease_granted_again_waits_for_a_confirmation_after_its_own_end() {
    check(
        "0 lead 1
        0 grant 7 2
        2 tick -> revoke [] log [] confirm?
        2.1 revoked 7 -> expired=false
        2.2 grant 7 2
        3 tick -> revoke [] log [] confirm?
        4.2 tick -> revoke [] log [] confirm?
        4.2 confirm 3
        4.3 tick -> revoke [] log [] confirm?
        4.4 confirm
        4.4 tick -> revoke [7] log []",
    );
}

#[test]
fn a_remainder_that_a_client_failed_to_clear_is_cleared_where_it_is_forbidden() {
    check(
        "0 forbid
        0 lead 1 7:600/100
        0.1 confirm 0
        0.1 renew 7 -> Checkpointed(1)
        0.1 tick -> revoke [] log []
        7.1 lost 7
        7.1 tick -> revoke [] log [(7, 0)]
        7.2 logged 7 0
        7.2 lost 7
        7.2 tick -> revoke [] log []",
    );
}

#[test]
fn what_was_due_waits_while_nobody_knows_who_might_lead_next() {
    check(
        "0 allow
        0 lead 1
        0 grant 7 600
        0 grant 8 600
        60 look
        60 undecide
        60 tick -> revoke [] log []
        61 revoked 8 -> expired=false
        70 allow
        70 tick -> revoke [] log [(7, 530)]
        70 tick -> revoke [] log []",
    );
}

#[test]
fn nothing_is_logged_behind_a_revoke_for_it_would_meet_a_lease_with_the_same_id() {
    check(
        "0 allow
        0 lead 1 7:10 8:10
        4.5 tick 7 -> revoke [] log [(8, 7)]
        8 tick 7 -> revoke [] log [(8, 3)]
        11.1 confirm
        11.1 tick 7 8 -> revoke [] log []
        11.2 revoked 7 -> expired=true
        11.2 grant 7 10
        14.2 confirm
        14.2 tick 8 -> revoke [] log []
        17.3 confirm
        17.3 tick -> revoke [8] log []",
    );
}

/// Leases end although leaders keep changing: the remaining TTL is logged before a living client could be late.
#[test]
fn a_lease_ends_however_often_leaders_change() {
    let (mut now, mut table) = (Instant::now(), Info { id: 7, ttl: 10, remaining_ttl: 0 });
    let mut expirer = Expirer::new(PACE);
    expirer.set_checkpoints(Checkpoints::Allowed);
    for term in 1..=20 {
        drop(expirer.promote(Deadlines::new(PACE, now, term, [table])));
        for _ in 0..50 {
            now += Duration::from_millis(100);
            expirer.confirm(term, now);
            expirer.tick(now);
            if expirer.take_revokes(now, &NONE) == [7] {
                // Five seconds a term: the longest lifetime is the sum of the terms' extensions.
                assert!((3..=6).contains(&term), "gone in term {term}");
                return;
            }
            for checkpoint in expirer.take_checkpoints(now, &NONE) {
                table.remaining_ttl = checkpoint.remaining_ttl;
            }
        }
    }
    panic!("the lease never ends");
}

#[test]
fn nothing_is_logged_while_a_member_may_lead_that_would_not_clear_it() {
    check(
        "
        0 lead 1 7:600/100
        0 grant 8 600
        70 tick -> revoke [] log []
        70 allow
        71 forbid
        71 tick -> revoke [] log [(7, 0)]
        71 tick -> revoke [] log []
        71.1 logged 7 0
        71.1 confirm
        71.1 renew 7 -> Renewed(600)
        ",
    );
}

#[test]
fn a_hundred_thousand_that_end_together_go_in_seconds_and_never_too_many_at_once() {
    let start = Instant::now();
    let mut expirer = Expirer::new(PACE);
    drop(expirer.promote(Deadlines::new(PACE, start, 1, [])));
    for id in 1..=100_000 {
        expirer.applied(start, &Change::Granted { id, ttl: 10 });
    }
    let (mut now, mut in_flight, mut gone) = (start + Duration::from_secs(10), BTreeSet::new(), 0);
    while gone < 100_000 {
        expirer.confirm(1, now);
        expirer.tick(now);
        let taken = expirer.take_revokes(now, &NONE);
        assert!(taken.len() <= REVOKE_BATCH_MAX);
        in_flight.extend(taken);
        assert!(in_flight.len() <= REVOKES_IN_FLIGHT_MAX);
        now += Duration::from_millis(3);
        if in_flight.len() > REVOKES_IN_FLIGHT_MAX / 2 {
            gone += in_flight.len();
            for id in std::mem::take(&mut in_flight) {
                expirer.applied(now, &Change::Revoked { id });
            }
        } else if gone + in_flight.len() == 100_000 {
            break;
        }
    }
    let took = now.duration_since(start).as_secs_f64() - 10.0;
    assert!((9.0..12.0).contains(&took), "{took} s");
}

#[test]
fn leases_are_looked_at_and_checkpointed_in_pieces() {
    const LEASES: usize = 2_500;
    let start = Instant::now();
    let mut expirer = Expirer::new(PACE);
    drop(expirer.promote(Deadlines::new(PACE, start, 1, [])));
    expirer.set_checkpoints(Checkpoints::Allowed);
    for id in 1..=LEASES as i64 {
        expirer.applied(start, &Change::Granted { id, ttl: 600 });
    }
    let now = start + CHECKPOINT_FIRST;
    expirer.tick(now);
    assert_eq!(expirer.take_checkpoints(now, &NONE).len(), LOOKS_MAX, "one tick's");
    for _ in 0..LEASES / LOOKS_MAX {
        expirer.tick(now);
    }
    let taken = [(); 3].map(|()| expirer.take_checkpoints(now, &NONE).len());
    assert_eq!(taken, [CHECKPOINTS_MAX, LEASES - LOOKS_MAX - CHECKPOINTS_MAX, 0], "an entry's each");
}

#[test]
fn what_would_end_together_under_a_new_leader_is_set_apart() {
    let start = Instant::now();
    let mut expirer = Expirer::new(PACE);
    let leases = (1..=30_000).map(|id| Info { id, ttl: 10, remaining_ttl: 0 });
    drop(expirer.promote(Deadlines::new(PACE, start, 1, leases)));
    let mut ends: Vec<f64> = (1..=30_000)
        .map(|id| expirer.deadline(id).expect("promoted").duration_since(start).as_secs_f64())
        .collect();
    ends.sort_unstable_by(f64::total_cmp);
    assert!(ends[0] >= 11.0 && (14.5..15.5).contains(&ends[29_999]), "{} to {}", ends[0], ends[29_999]);
    assert!(ends.windows(7_502).all(|window| window[7_501] - window[0] > 0.999));
}
