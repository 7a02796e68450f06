//! Checks entries before they are proposed: one that cannot be applied would stop every member, again at each restart.
//! The check depends on the entry alone, never on the state.

use crate::command::{self, Body, Command};
use crate::conf::check_change;
use crate::version::{ClusterVersion, check_cluster_version};
use bytes::Bytes;
use types::EntryKind;

/// Checks that an entry of this kind with this payload can be applied; otherwise returns the reason.
pub fn check(kind: EntryKind, data: &Bytes) -> Result<(), String> {
    match kind {
        EntryKind::ConfChange => check_change(data),
        EntryKind::Normal => {
            let request = command::decode(data)?;
            if request.id == 0 {
                return Err("a request without an ID".to_owned());
            }
            match request.body {
                Body::Command(command) => check_command(&command),
                Body::IdleAuth => Ok(()),
                Body::Auth(field) => {
                    Err(format!("{field} is not supported by this version: it has no authentication"))
                }
                Body::Unknown => Err("a request of no known kind".to_owned()),
            }
        }
    }
}

fn check_command(command: &Command) -> Result<(), String> {
    match command {
        Command::ClusterVersion(set) => check_cluster_version(&set.ver),
        // etcd's members apply it, and the next of them to lead panics on it.
        Command::Downgrade(set) if set.enabled && ClusterVersion::parse(&set.ver).is_none() => {
            Err(format!("downgrade target {:?} is no version", set.ver))
        }
        Command::MemberAttributes(set) if set.member_attributes.is_none() => {
            Err("a member's attributes are missing".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use proto::etcdserverpb as pb;
    use proto::{membershippb, raftpb};

    fn check_normal(request: pb::InternalRaftRequest, expected: Option<&str>) {
        let header = Some(pb::RequestHeader { id: 7, ..Default::default() });
        let data = pb::InternalRaftRequest { header, ..request }.encode_to_vec().into();
        match (check(EntryKind::Normal, &data), expected) {
            (Ok(()), None) => {}
            (Err(reason), Some(part)) if reason.contains(part) => {}
            (found, _) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    fn check_conf(kind: i32, node: u64, context: &'static str, expected: bool) {
        let change = raftpb::ConfChange {
            r#type: Some(kind),
            node_id: Some(node),
            context: Some(context.into()),
            id: Some(1),
        };
        let found = check(EntryKind::ConfChange, &change.encode_to_vec().into());
        assert_eq!(found.is_ok(), expected, "{kind} {context}: {found:?}");
    }

    #[test]
    fn what_would_stop_every_member_is_found_before() {
        let version = |ver: &str| pb::InternalRaftRequest {
            cluster_version_set: Some(membershippb::ClusterVersionSetRequest { ver: ver.to_owned() }),
            ..Default::default()
        };
        check_normal(version("3.7.0"), None);
        check_normal(version("4.0.0"), Some("above this member's"));
        check_normal(pb::InternalRaftRequest::default(), Some("no known kind"));
        let attributes = membershippb::ClusterMemberAttrSetRequest { member_id: 1, member_attributes: None };
        check_normal(
            pb::InternalRaftRequest { cluster_member_attr_set: Some(attributes), ..Default::default() },
            Some("attributes are missing"),
        );
        let auth = pb::InternalRaftRequest {
            auth_user_add: Some(pb::AuthUserAddRequest::default()),
            ..Default::default()
        };
        check_normal(auth, Some("auth_user_add is not supported"));
        let question = pb::InternalRaftRequest {
            auth_status: Some(pb::AuthStatusRequest::default()),
            ..Default::default()
        };
        check_normal(question, None);
        check_normal(
            pb::InternalRaftRequest { put: Some(pb::PutRequest::default()), ..Default::default() },
            None,
        );
    }

    #[test]
    fn a_change_must_describe_whom_it_changes() {
        check_conf(0, 5, r#"{"id":5,"peerURLs":["http://127.0.0.1:1"]}"#, true);
        check_conf(3, 5, r#"{"id":5,"peerURLs":["http://127.0.0.1:1"],"isLearner":true}"#, true);
        check_conf(0, 5, r#"{"id":6,"peerURLs":[]}"#, false);
        check_conf(0, 5, "junk", false);
        check_conf(1, 5, "", true);
        check_conf(1, 0, "", false);
        check_conf(9, 5, "", false);
    }
}
