//! The oracle of snapshots: a member that goes on from one has the state that its sender had applied.

use super::{Oracle, must};
use crate::Violation;
use machine::Shared;
use types::Index;

impl Oracle {
    /// A member makes a snapshot of this index, with these hashes of rows and history.
    pub(crate) fn exported(&mut self, id: u64, index: Index, state: (u64, u64)) -> Result<(), Violation> {
        let known = self.record(index).and_then(|record| record.state).map(|(rows, _)| rows);
        must!(
            known.is_none_or(|rows| rows == state.0),
            "member {id}: its snapshot of index {index} differs from another's state"
        );
        let other = *self.snapshots.entry(index).or_insert(state);
        must!(other == state, "member {id}: its snapshot of index {index} differs from another's");
        Ok(())
    }

    /// A member goes on from a snapshot of this index, with these hashes of rows and history.
    pub(crate) fn installed(
        &mut self,
        id: u64,
        index: Index,
        shared: &Shared,
        state: (u64, u64),
    ) -> Result<(), Violation> {
        let applied = shared.applied_index();
        must!(applied == index, "member {id} installed a snapshot of {index}, and says {applied}");
        let sent = self.snapshots.get(&index);
        must!(
            sent == Some(&state),
            "member {id}: its state {state:x?} from the snapshot of index {index} is not its sender's, {sent:x?}"
        );
        let Some(record) = self.record(index) else {
            return Err(format!("member {id} installed a snapshot of {index}, which nobody has applied"));
        };
        let view = shared.view();
        let (revision, compact) = (view.revision(), view.compact_revision());
        must!(
            (revision, compact) == (record.revision, record.compact),
            "member {id} is at revision {revision}, compaction {compact} after the snapshot of index {index}; \
             expected {} and {}",
            record.revision,
            record.compact
        );
        let term = shared.applied_term();
        must!(term == record.entry.term, "member {id} says that index {index} is of term {term}");
        Ok(())
    }
}
