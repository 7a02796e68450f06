//! The expirer against a naive model, under random events.

use super::tests::PACE;
use super::*;
use crate::Info;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Grant(LeaseId, i64),
    Revoke(LeaseId),
    Renew(LeaseId),
    Confirm(u64),
    Lead,
    Demote,
    Take,
    Apply,
    ApplyOne,
    Log,
    Refused,
    /// The waiter for a clearing gives up; its entry stays in the log.
    Lost(LeaseId),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..4_000).prop_map(Step::Pass),
        2 => (1i64..6, 1i64..200).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (1i64..6).prop_map(Step::Revoke),
        4 => (1i64..6).prop_map(Step::Renew),
        4 => (0u64..300).prop_map(Step::Confirm),
        1 => Just(Step::Lead),
        1 => Just(Step::Demote),
        4 => Just(Step::Take),
        2 => Just(Step::Apply),
        6 => Just(Step::ApplyOne),
        3 => Just(Step::Log),
        1 => Just(Step::Refused),
        1 => (1i64..6).prop_map(Step::Lost),
    ]
}

/// The naive model: the table, the promises to clients, and when leadership was confirmed.
#[derive(Default)]
struct Naive {
    table: BTreeMap<LeaseId, Info>,
    promised: BTreeMap<LeaseId, Instant>,
    confirmed: Option<Instant>,
    /// Entries logged but not applied, in order, and whether the expirer asked for them. Cleared when a term ends.
    log: VecDeque<(Change, bool)>,
    clearing: BTreeSet<LeaseId>,
}

impl Naive {
    fn promise(&mut self, id: LeaseId, until: Instant) {
        let promised = self.promised.entry(id).or_insert(until);
        *promised = (*promised).max(until);
    }

    fn apply(&mut self, expirer: &mut Expirer, now: Instant) {
        while !self.log.is_empty() {
            self.apply_one(expirer, now);
        }
    }

    fn revoking(&self) -> HashSet<LeaseId> {
        let revoked = |(change, _): &(Change, bool)| match *change {
            Change::Revoked { id } => Some(id),
            _ => None,
        };
        self.log.iter().filter_map(revoked).collect()
    }

    fn apply_one(&mut self, expirer: &mut Expirer, now: Instant) {
        let Some((change, is_own)) = self.log.pop_front() else { return };
        match change {
            Change::Granted { id, ttl } => {
                if self.table.contains_key(&id) {
                    return;
                }
                self.table.insert(id, Info { id, ttl, remaining_ttl: 0 });
                self.promised.insert(id, now + seconds(ttl));
            }
            Change::Revoked { id } => {
                if self.table.remove(&id).is_none() {
                    return;
                }
                assert!(!is_own || self.promised[&id] <= now, "{id} ends early");
                self.clearing.remove(&id);
            }
            Change::Checkpointed { id, remaining_ttl } => {
                let Some(info) = self.table.get_mut(&id) else { return };
                info.remaining_ttl = remaining_ttl;
                if remaining_ttl == 0 {
                    self.clearing.remove(&id);
                }
            }
        }
        expirer.applied(now, &change);
    }
}

proptest! {
    /// No lease is revoked before its promised end or without a confirmation after it; a new leader's deadlines cover
    /// its predecessor's promises; in the end all leases are gone.
    #[test]
    fn no_lease_ends_early_and_every_lease_ends(steps in prop::collection::vec(steps(), 1..120)) {
        let (mut now, mut term, mut leads) = (Instant::now(), 0, false);
        let (mut expirer, mut naive) = (Expirer::new(PACE), Naive::default());
        expirer.set_checkpoints(Checkpoints::Allowed);
        for step in steps {
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Grant(id, ttl) => naive.log.push_back((Change::Granted { id, ttl }, false)),
                Step::Revoke(id) => naive.log.push_back((Change::Revoked { id }, false)),
                Step::Confirm(ago) if leads => {
                    let began = now.checked_sub(Duration::from_millis(ago)).expect("not that long ago");
                    naive.confirmed = naive.confirmed.max(Some(began));
                    expirer.confirm(term, began);
                }
                Step::Renew(id) => match expirer.renew(now, id) {
                    Renewal::Renewed(ttl) => {
                        prop_assert_eq!(naive.table[&id].ttl, ttl);
                        prop_assert_eq!(naive.table[&id].remaining_ttl, 0);
                        let fresh = naive.confirmed.is_some_and(|began| began + PACE.confirmed_for >= now);
                        prop_assert!(leads && fresh);
                        naive.promise(id, now + seconds(ttl));
                    }
                    Renewal::Checkpointed(of) => {
                        prop_assert_eq!(of, term);
                        if naive.clearing.insert(id) {
                            naive.log.push_back((Change::Checkpointed { id, remaining_ttl: 0 }, false));
                        }
                    }
                    Renewal::Unknown => prop_assert!(!naive.table.contains_key(&id)),
                    Renewal::Expired => prop_assert!(naive.promised[&id] <= now),
                    Renewal::Unconfirmed(_) | Renewal::NotPrimary => {}
                },
                Step::Lead => {
                    naive.apply(&mut expirer, now);
                    (term, leads) = (term + 1, true);
                    (naive.confirmed, naive.clearing) = (None, BTreeSet::new());
                    drop(expirer.promote(Deadlines::new(PACE, now, term, naive.table.values().copied())));
                    for (id, promised) in &naive.promised {
                        let deadline = expirer.deadline(*id);
                        prop_assert!(deadline.is_none_or(|at| at >= *promised), "{} ends early", id);
                    }
                }
                Step::Demote => {
                    naive.apply(&mut expirer, now);
                    leads = false;
                    drop(expirer.demote());
                }
                Step::Take => {
                    expirer.tick(now);
                    for id in expirer.take_revokes(now, &naive.revoking()) {
                        let promised = naive.promised[&id];
                        prop_assert!(promised <= now, "{} is revoked early", id);
                        prop_assert!(naive.confirmed.is_some_and(|began| began >= promised));
                        naive.log.push_back((Change::Revoked { id }, true));
                    }
                }
                Step::Apply => naive.apply(&mut expirer, now),
                Step::ApplyOne => naive.apply_one(&mut expirer, now),
                Step::Refused => {
                    let checkpoints = expirer.take_checkpoints(now, &naive.revoking());
                    expirer.not_logged(term, &checkpoints);
                }
                Step::Lost(id) => {
                    if naive.clearing.remove(&id) {
                        expirer.not_cleared(term, id);
                    }
                }
                Step::Log => {
                    for Checkpoint { id, remaining_ttl } in expirer.take_checkpoints(now, &naive.revoking()) {
                        prop_assert!(!naive.clearing.contains(&id), "a checkpoint overtakes a clearing");
                        naive.log.push_back((Change::Checkpointed { id, remaining_ttl }, true));
                    }
                }
                Step::Confirm(_) => {}
            }
        }
        naive.apply(&mut expirer, now);
        drop(expirer.promote(Deadlines::new(PACE, now, term + 1, naive.table.values().copied())));
        for _ in 0..220 {
            now += Duration::from_secs(1);
            expirer.confirm(term + 1, now);
            expirer.tick(now);
            let revokes = expirer.take_revokes(now, &naive.revoking());
            naive.log.extend(revokes.into_iter().map(|id| (Change::Revoked { id }, true)));
            naive.apply(&mut expirer, now);
        }
        prop_assert!(naive.table.is_empty() && expirer.is_empty());
    }
}
