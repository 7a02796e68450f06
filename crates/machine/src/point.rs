//! Where a state stands in the log: what a raft snapshot says of itself, and its database in the bucket `meta`.

use crate::{Fault, rows};
use engine::{Family, Rows};
use proto::{raftpb, walpb};
use types::{ConfState, Index, Term};

/// A point of the log, and raft's configuration there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The last applied entry.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The voters and learners as of it.
    pub conf: ConfState,
}

impl Point {
    /// Where these rows stand; zero, and nobody, before any entry was applied.
    pub fn of(rows: &dyn Rows) -> Result<Self, Fault> {
        let applied = rows.get(Family::Meta, rows::APPLIED)?;
        let (index, term) = applied.map_or(Ok((0, 0)), |row| rows::decode_applied(&row))?;
        let conf = rows.get(Family::Meta, rows::CONF_STATE)?;
        let conf = conf.map_or_else(|| Ok(ConfState::default()), |row| rows::decode_conf_state(&row))?;
        Ok(Self { index, term, conf })
    }

    /// What a raft snapshot taken here says of itself.
    pub fn metadata(&self) -> raftpb::SnapshotMetadata {
        raftpb::SnapshotMetadata {
            conf_state: Some(self.conf_state()),
            index: Some(self.index),
            term: Some(self.term),
        }
    }

    /// What the log says of such a snapshot.
    pub fn record(&self) -> walpb::Snapshot {
        walpb::Snapshot {
            index: Some(self.index),
            term: Some(self.term),
            conf_state: Some(self.conf_state()),
        }
    }

    fn conf_state(&self) -> raftpb::ConfState {
        let ConfState { voters, learners } = self.conf.clone();
        raftpb::ConfState { voters, learners, ..raftpb::ConfState::default() }
    }
}

/// The same members, in the order of their IDs: a message may have another one.
pub(crate) fn in_order(conf: &ConfState) -> ConfState {
    let in_order = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    ConfState { voters: in_order(&conf.voters), learners: in_order(&conf.learners) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Batch, Engine, MemoryEngine};
    use std::sync::Arc;

    #[test]
    fn a_point_is_read_as_it_was_written_and_is_zero_before() {
        let engine = Arc::new(MemoryEngine::new());
        let point =
            |engine: &Arc<MemoryEngine>| Point::of(&*Arc::clone(engine).snapshot()).expect("readable");
        assert_eq!(point(&engine), Point::default());
        let conf = ConfState { voters: vec![1, 2], learners: vec![3] };
        let mut batch = Batch::default();
        rows::put_applied(&mut batch, 7, 3);
        rows::put_conf_state(&mut batch, &conf);
        engine.write(batch).expect("memory does not fail");
        assert_eq!(point(&engine), Point { index: 7, term: 3, conf });
        let mut batch = Batch::default();
        batch.put(Family::Meta, rows::APPLIED, vec![0; 15]);
        engine.write(batch).expect("memory does not fail");
        let fault = Point::of(&*engine.snapshot()).expect_err("a row that is cut");
        assert_eq!(fault.to_string(), "stored row applied cannot be read: not 16 bytes");
    }
}
