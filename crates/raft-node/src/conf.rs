//! Configurations, which is raft's word for the members by role: in etcd's type and in raft-rs's.

use proto::raftpb;
use raft::eraftpb;

/// A configuration in raft-rs's type.
pub(crate) fn raft_conf(voters: Vec<u64>, learners: Vec<u64>) -> eraftpb::ConfState {
    let mut conf = eraftpb::ConfState::default();
    conf.set_voters(voters);
    conf.set_learners(learners);
    conf
}

/// A configuration in etcd's type.
pub(crate) fn wire_conf(conf: &eraftpb::ConfState) -> raftpb::ConfState {
    raftpb::ConfState {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        ..raftpb::ConfState::default()
    }
}
