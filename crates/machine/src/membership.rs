//! The members of the cluster, and the IDs that may never return. The rules are etcd's (`api/membership/cluster.go`).

use crate::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use types::{Member, MemberId};

/// A downgrade job, serialised as etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// The version to go down to; empty if not enabled.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// Whether a downgrade is in progress.
    #[serde(default)]
    pub enabled: bool,
}

/// The members and the cluster's version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The members, by ID.
    pub members: BTreeMap<u64, Member>,
    /// IDs that were removed and may never return.
    pub removed: BTreeSet<u64>,
    /// The version that all members agreed on; `None` before that.
    pub cluster_version: Option<String>,
    /// The downgrade job; `None` if there never was one.
    pub downgrade: Option<Downgrade>,
}

impl Membership {
    /// etcd's `/members`: a JSON array, ascending by ID.
    pub fn members_json(&self) -> String {
        let members: Vec<&Member> = self.members.values().collect();
        serde_json::to_string(&members).expect("members are plain strings and numbers")
    }

    /// Everybody but this member, with their peer URLs.
    pub fn others(&self, member: MemberId) -> Vec<(MemberId, Vec<String>)> {
        let others = self.members.values().filter(|other| other.id != member);
        others.map(|other| (other.id, other.peer_urls.clone())).collect()
    }

    /// The number of learners.
    pub fn learners(&self) -> usize {
        self.members.values().filter(|member| member.is_learner).count()
    }

    pub(crate) fn check_add(
        &self,
        id: u64,
        urls: &[String],
        learner_limit: Option<usize>,
    ) -> Result<(), Refusal> {
        if self.members.contains_key(&id) {
            return Err(Refusal::MemberExists);
        }
        self.check_urls(id, urls)?;
        match learner_limit {
            Some(limit) if self.learners() + 1 > limit => Err(Refusal::TooManyLearners),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_promote(&self, id: u64) -> Result<(), Refusal> {
        match self.members.get(&id) {
            None => Err(Refusal::MemberNotFound),
            Some(member) if !member.is_learner => Err(Refusal::MemberNotLearner),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn check_remove(&self, id: u64) -> Result<(), Refusal> {
        if self.members.contains_key(&id) { Ok(()) } else { Err(Refusal::MemberNotFound) }
    }

    pub(crate) fn check_update(&self, id: u64, urls: &[String]) -> Result<(), Refusal> {
        self.check_remove(id)?;
        self.check_urls(id, urls)
    }

    fn check_urls(&self, id: u64, urls: &[String]) -> Result<(), Refusal> {
        let others = self.members.values().filter(|member| member.id != id);
        let taken = others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url));
        if taken { Err(Refusal::PeerUrlExists) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_etcd_writes_them() {
        let bare = Member { id: 5, peer_urls: vec!["http://a:2380".into()], ..Member::default() };
        let mut membership = Membership::default();
        membership.members.insert(5, bare);
        assert_eq!(membership.members_json(), r#"[{"id":5,"peerURLs":["http://a:2380"]}]"#);
    }
}
