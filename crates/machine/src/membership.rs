//! Who is in the cluster, and who may never come back. The rules are etcd's (`api/membership/cluster.go`).

use crate::Refusal;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One member. Serialised as etcd's JSON: `{"id":…,"peerURLs":[…],"isLearner":true,"name":"…","clientURLs":[…]}`, the
/// last three left out when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its ID.
    #[serde(default)]
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it only follows.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has published itself.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

/// A downgrade job. Serialised as etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// The version to go down to; empty when not enabled.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// Whether one is running.
    #[serde(default)]
    pub enabled: bool,
}

/// Who is in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The members, by ID.
    pub members: BTreeMap<u64, Member>,
    /// IDs that were removed and never come back.
    pub removed: BTreeSet<u64>,
    /// The version all members agreed on; `None` until they did.
    pub cluster_version: Option<String>,
    /// The downgrade job; `None` until there was one.
    pub downgrade: Option<Downgrade>,
}

impl Membership {
    /// etcd's `/members`: a JSON array in ascending order of ID.
    pub fn members_json(&self) -> String {
        let members: Vec<&Member> = self.members.values().collect();
        serde_json::to_string(&members).expect("members are plain strings and numbers")
    }

    /// How many members only follow.
    pub fn learners(&self) -> usize {
        self.members.values().filter(|member| member.is_learner).count()
    }

    /// May a member of this ID join at these peer URLs?
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

    /// May the learner vote from now on?
    pub(crate) fn check_promote(&self, id: u64) -> Result<(), Refusal> {
        match self.members.get(&id) {
            None => Err(Refusal::MemberNotFound),
            Some(member) if !member.is_learner => Err(Refusal::MemberNotLearner),
            Some(_) => Ok(()),
        }
    }

    /// May the member leave?
    pub(crate) fn check_remove(&self, id: u64) -> Result<(), Refusal> {
        if self.members.contains_key(&id) { Ok(()) } else { Err(Refusal::MemberNotFound) }
    }

    /// May the member move to these peer URLs?
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

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_etcd_writes_them() {
        let member = Member {
            id: 2_282_271_497_369_465_777,
            peer_urls: vec!["http://a:2380".into()],
            is_learner: true,
            name: "b".into(),
            client_urls: vec!["http://a:2379".into()],
        };
        let json = r#"{"id":2282271497369465777,"peerURLs":["http://a:2380"],"isLearner":true,"name":"b","clientURLs":["http://a:2379"]}"#;
        assert_eq!(serde_json::to_string(&member).expect("json"), json);
        assert_eq!(serde_json::from_str::<Member>(json).expect("json"), member);

        let bare = Member { id: 5, peer_urls: vec!["http://a:2380".into()], ..Member::default() };
        let mut membership = Membership::default();
        membership.members.insert(5, bare);
        assert_eq!(membership.members_json(), r#"[{"id":5,"peerURLs":["http://a:2380"]}]"#);
    }

    #[test]
    fn absent_and_null_lists_are_empty() {
        let member: Member =
            serde_json::from_str(r#"{"id":7,"peerURLs":null,"isPromote":true}"#).expect("json");
        assert_eq!(member, Member { id: 7, ..Member::default() });
    }
}
