//! The head of a leader's snapshot, checked, because raft-rs panics on a configuration that cannot be.

use crate::conf::raft_conf;
use crate::convert::{Checked, Rejected};
use proto::raftpb;
use raft::eraftpb;
use std::collections::HashSet;
use types::{ConfState, Index, Term};

/// The head of a leader's snapshot, checked, whose database is still to come.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotHead(Checked);

impl SnapshotHead {
    /// Checks a leader's `MsgSnap` for the member `me`. What it says of the state is compared with the database later.
    pub fn of(message: &raftpb::Message, me: u64) -> Result<Self, Rejected> {
        if message.to() != me {
            return Err(Rejected::OtherReceiver(message.to()));
        }
        if message.from() == 0 || message.from() == me {
            return Err(Rejected::NoSender);
        }
        if message.r#type() != raftpb::MessageType::MsgSnap {
            return Err(Rejected::LocalKind(message.r#type.unwrap_or_default()));
        }
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let metadata = metadata.ok_or(Rejected::Snapshot("it does not say of what"))?;
        if metadata.index() == 0 || metadata.term() == 0 || metadata.term() > message.term() {
            return Err(Rejected::Term(metadata.term()));
        }
        let conf = metadata.conf_state.as_ref().ok_or(Rejected::Snapshot("it has no members"))?;
        if !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty() {
            return Err(Rejected::Snapshot("joint changes of members are not supported"));
        }
        // raft-rs panics on a configuration that cannot be, and ignores one without this member.
        let (voters, learners) = (&conf.voters, &conf.learners);
        let all: HashSet<u64> = voters.iter().chain(learners).copied().collect();
        if voters.is_empty() || all.len() != voters.len() + learners.len() || all.contains(&0) {
            return Err(Rejected::Snapshot("its members are no configuration"));
        }
        if !all.contains(&me) {
            return Err(Rejected::Snapshot("this member is not one of its members"));
        }
        let mut snapshot = eraftpb::Snapshot::default();
        let point = snapshot.mut_metadata();
        (point.index, point.term) = (metadata.index(), metadata.term());
        point.set_conf_state(raft_conf(voters.clone(), learners.clone()));
        let mut out = eraftpb::Message::default();
        out.set_msg_type(eraftpb::MessageType::MsgSnapshot);
        (out.to, out.from, out.term) = (message.to(), message.from(), message.term());
        out.set_snapshot(snapshot);
        Ok(Self(Checked(out)))
    }

    /// The index and term of the last entry in the snapshot.
    pub fn point(&self) -> (Index, Term) {
        let metadata = self.0.0.get_snapshot().get_metadata();
        (metadata.index, metadata.term)
    }

    /// The members as of that entry.
    pub fn conf_state(&self) -> ConfState {
        let conf = self.0.0.get_snapshot().get_metadata().get_conf_state();
        ConfState { voters: conf.voters.clone(), learners: conf.learners.clone() }
    }

    /// The message as the leader of this term sends it. What was committed is in the log of every later leader too, so a
    /// snapshot that took longer to arrive than its leader led is as good as one of the present leader's.
    pub(crate) fn sent_by(mut self, leader: u64, term: Term) -> Checked {
        (self.0.0.from, self.0.0.term) = (leader, term);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64]) -> raftpb::ConfState {
        raftpb::ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() }
    }

    fn message(index: u64, term: u64, conf: raftpb::ConfState) -> raftpb::Message {
        let metadata =
            raftpb::SnapshotMetadata { index: Some(index), term: Some(term), conf_state: Some(conf) };
        raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgSnap.into()),
            to: Some(1),
            from: Some(2),
            term: Some(7),
            snapshot: Some(raftpb::Snapshot { data: None, metadata: Some(metadata) }),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_snapshot_that_raft_can_go_on_from_is_taken() {
        let good = message(9, 3, conf(&[2, 3], &[1]));
        let head = SnapshotHead::of(&good, 1).unwrap();
        assert_eq!(head.point(), (9, 3));
        assert_eq!(head.conf_state(), ConfState { voters: vec![2, 3], learners: vec![1] });
        let refused = |message: raftpb::Message| SnapshotHead::of(&message, 1).unwrap_err();
        let joint = raftpb::ConfState { voters_outgoing: vec![4], ..conf(&[1], &[]) };
        for (conf, why) in [
            (conf(&[], &[1]), "its members are no configuration"),
            (conf(&[1, 1], &[]), "its members are no configuration"),
            (conf(&[1], &[1]), "its members are no configuration"),
            (conf(&[1, 0], &[]), "its members are no configuration"),
            (conf(&[2, 3], &[]), "this member is not one of its members"),
            (joint, "joint changes of members are not supported"),
        ] {
            assert_eq!(refused(message(9, 3, conf)), Rejected::Snapshot(why));
        }
        let ours = || conf(&[1, 2], &[]);
        assert_eq!(refused(message(9, 8, ours())), Rejected::Term(8), "later than its leader's term");
        assert_eq!(refused(message(0, 3, ours())), Rejected::Term(3), "of nothing");
        assert_eq!(refused(message(9, 0, ours())), Rejected::Term(0));
        assert_eq!(
            refused(raftpb::Message { snapshot: None, ..good.clone() }),
            Rejected::Snapshot("it does not say of what")
        );
        assert_eq!(refused(raftpb::Message { to: Some(3), ..good.clone() }), Rejected::OtherReceiver(3));
        assert_eq!(refused(raftpb::Message { from: Some(1), ..good.clone() }), Rejected::NoSender);
        let other = raftpb::MessageType::MsgApp.into();
        assert_eq!(refused(raftpb::Message { r#type: Some(other), ..good }), Rejected::LocalKind(3));
    }
}
