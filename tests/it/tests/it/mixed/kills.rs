//! kill -9 of whoever leads, and of anybody: an etcd member's log and ours keep the same promises.

use harness::Options;

use super::{ONE_ETCD, TWO_ETCD};
use crate::{
    kill::{Victim, kills, pauses},
    support::{number, run},
};

fn rounds() -> u64 {
    number("IT_MIXED_KILLS", 3)
}

#[test]
fn two_etcd_and_one_of_ours_keep_all_when_each_is_killed_while_it_leads() {
    run(kills(&Options::mixed(TWO_ETCD), Victim::EachAsLeader, rounds()));
}

#[test]
fn two_of_ours_and_one_etcd_keep_all_when_each_is_killed_while_it_leads() {
    run(kills(&Options::mixed(ONE_ETCD), Victim::EachAsLeader, rounds()));
}

#[test]
fn two_etcd_and_one_of_ours_keep_all_when_whoever_leads_is_killed_again_and_again() {
    run(kills(&Options::mixed(TWO_ETCD), Victim::Leader, rounds()));
}

#[test]
fn two_of_ours_and_one_etcd_keep_all_when_members_are_killed_at_random() {
    // The fifth kill is of all.
    run(kills(&Options::mixed(ONE_ETCD), Victim::Any, rounds() + 2));
}

#[test]
fn a_leader_that_sleeps_through_an_election_serves_nothing_stale() {
    run(pauses(&Options::mixed(ONE_ETCD), rounds().div_ceil(3)));
    run(pauses(&Options::mixed(TWO_ETCD), rounds().div_ceil(3)));
}
