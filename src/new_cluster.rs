//! `--force-new-cluster`: what one member has becomes a cluster of this member alone, when the others are lost for good.
//!
//! It applies its whole log first, also what it does not know to be committed: the lost majority may have told clients of
//! it. Then two steps, each durable:
//!
//! ```text
//! rows: this member alone, the revision raised, at an index one above the log's end, of a later term ─▶
//! log: the record of a snapshot there, which replaces all entries
//! ```
//!
//! A crash between them leaves rows ahead of the log, which nothing else does: the next start goes on with the second step.
//! Whoever joins gets the rows, never the entries that do not lead to them. No client sees a revision twice, although the
//! lost members may have shown higher ones than this one has; watchers from before are told that it was compacted.

use anyhow::{Context as _, ensure};
use machine::{Machine, Point};
use types::{ConfState, HardState, MemberId};
use wal::{FsDisk, Wal};

/// How far the revision is raised: what etcd's guide to disaster recovery names. At 10,000 writes a second it is a day's.
const REVISIONS: u64 = 1_000_000_000;

/// Size of the groups in which the rest of the log is applied, bytes.
const GROUP_BYTES: u64 = 4 << 20;

/// Finishes what a crash has cut short, if it has.
pub(crate) fn finish(wal: &mut Wal<FsDisk>, machine: &Machine, member: MemberId) -> anyhow::Result<()> {
    let ((index, term), conf) = (machine.applied(), machine.conf_state());
    if index != wal.last_index() + 1 || !is_alone(&conf, member) {
        return Ok(());
    }
    wal.save_snapshot(&Point { index, term, conf }.record())?;
    wal.append(&[], Some(&HardState { term, vote: 0, commit: index }))?;
    Ok(wal.sync_all()?)
}

/// Makes the new cluster's rows; [`finish`] does the rest, on a machine that is opened again. Returns whether there was
/// anything to do.
pub(crate) fn force(
    wal: &Wal<FsDisk>,
    machine: &mut Machine,
    engine: &dyn engine::Engine,
    member: MemberId,
    log: &slog::Logger,
) -> anyhow::Result<bool> {
    if !is_alone(&machine.conf_state(), member) {
        apply_rest(wal, machine).context("the rest of the log cannot be applied")?;
    }
    if is_alone(&machine.conf_state(), member) {
        slog::warn!(
            log,
            "--force-new-cluster has nothing to do: this member is alone in its cluster already"
        );
        return Ok(false);
    }
    let membership = machine.shared().membership();
    ensure!(
        membership.members.contains_key(&member),
        "--force-new-cluster: this member was removed from its cluster, which went on without it"
    );
    let (index, term) = (wal.last_index() + 1, wal.hard_state().term + 1);
    let revision = machine::force_new_cluster(engine, member, (index, term), REVISIONS)?;
    slog::warn!(log, "forced a new cluster of this member alone; take the flag away for later starts";
        "lost-members" => membership.members.len() - 1, "index" => index, "term" => term, "revision" => revision);
    Ok(true)
}

fn is_alone(conf: &ConfState, member: MemberId) -> bool {
    conf.voters == [member] && conf.learners.is_empty()
}

fn apply_rest(wal: &Wal<FsDisk>, machine: &mut Machine) -> anyhow::Result<()> {
    loop {
        let next = machine.applied().0 + 1;
        if next > wal.last_index() {
            return Ok(());
        }
        machine.apply(&wal.entries(next, wal.last_index() + 1, GROUP_BYTES)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Engine, MemoryEngine};
    use machine::{Member, Settings};
    use raft_node::bootstrap;
    use std::path::Path;
    use std::sync::Arc;

    const OWN: MemberId = 2;

    fn silent() -> slog::Logger {
        slog::Logger::root(slog::Discard, slog::o!())
    }

    fn open(engine: &Arc<MemoryEngine>) -> Machine {
        Machine::open(Arc::clone(engine) as Arc<dyn Engine>, Settings::new(OWN, 2)).expect("it opens")
    }

    fn reopen(dir: &Path) -> Wal<FsDisk> {
        Wal::open(FsDisk::open(dir).expect("a directory")).expect("it opens").0
    }

    /// The log of a member of three, of which these first entries are applied.
    fn member(dir: &Path, applied: usize) -> (Wal<FsDisk>, Arc<MemoryEngine>) {
        let disk = FsDisk::open(dir).expect("a directory");
        let mut wal = Wal::create(disk, &bootstrap::metadata(OWN, 9)).expect("it is created");
        let members: Vec<Member> = (1..=3).map(|id| Member { id, ..Member::default() }).collect();
        let (entries, state) = bootstrap::first_log(&members);
        wal.append(&entries, Some(&state)).expect("it is written");
        let engine = Arc::new(MemoryEngine::default());
        open(&engine).apply(&entries[..applied]).expect("it applies");
        (wal, engine)
    }

    #[test]
    fn one_member_goes_on_alone_and_a_crash_in_between_changes_nothing() {
        for crash in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            let (mut wal, engine) = member(dir.path(), 1);
            let mut machine = open(&engine);
            finish(&mut wal, &machine, OWN).expect("nothing was begun");
            assert_eq!(wal.last_index(), 3);
            assert!(force(&wal, &mut machine, &*engine, OWN, &silent()).expect("it is forced"));
            if crash {
                // The process ends here; the flag is still there at the next start, or not.
                drop(wal);
                wal = reopen(dir.path());
                let mut again = open(&engine);
                assert!(!force(&wal, &mut again, &*engine, OWN, &silent()).expect("it is done already"));
            }
            let machine = open(&engine);
            finish(&mut wal, &machine, OWN).expect("it is finished");
            drop(wal);
            let mut wal = reopen(dir.path());
            assert_eq!(
                (wal.first_index(), wal.last_index(), wal.term(4)),
                (5, 4, Some(2)),
                "nothing to send"
            );
            assert_eq!(wal.hard_state(), HardState { term: 2, vote: 0, commit: 4 });
            let shared = machine.shared();
            assert_eq!((machine.applied(), machine.conf_state().voters), ((4, 2), vec![OWN]));
            assert_eq!(shared.membership().removed.iter().copied().collect::<Vec<_>>(), [1, 3]);
            assert_eq!(shared.view().revision(), 1 + i64::try_from(REVISIONS).expect("it fits"));
            assert_eq!(shared.view().compact_revision(), shared.view().revision());
            finish(&mut wal, &machine, OWN).expect("nothing is left to do");
            assert_eq!(wal.last_index(), 4);
        }
    }

    #[test]
    fn who_was_removed_does_not_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let (wal, engine) = member(dir.path(), 3);
        let error = force(&wal, &mut open(&engine), &*engine, 7, &silent()).expect_err("it is no member");
        assert!(error.to_string().contains("was removed"), "{error}");
    }
}
