//! A cluster member in etcd's JSON form, as stored in rows, in membership changes and in `/members` of the peer port.

use serde::{Deserialize, Deserializer, Serialize};

/// One member, in etcd's JSON; `name`, `clientURLs` and a false `isLearner` are left out when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member's ID, unique in the cluster.
    #[serde(default)]
    pub id: u64,
    /// URLs at which its peers reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it is a learner: it follows without a vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has started and published it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// URLs at which clients reach it; empty until it has published them.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_etcds_json() {
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
        let json = r#"{"id":5,"peerURLs":["http://a:2380"]}"#;
        assert_eq!(serde_json::to_string(&bare).expect("json"), json);
    }

    #[test]
    fn absent_and_null_lists_are_empty() {
        let member: Member =
            serde_json::from_str(r#"{"id":7,"peerURLs":null,"isPromote":true}"#).expect("json");
        assert_eq!(member, Member { id: 7, ..Member::default() });
    }
}
