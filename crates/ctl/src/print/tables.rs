//! The rows that `simple` and `table` share.

use super::Health;
use crate::text::words;
use proto::etcdserverpb as pb;

/// Headings of `member list`.
pub(super) const MEMBERS: &[&str] = &["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"];
/// Headings of `endpoint health`.
pub(super) const HEALTH: &[&str] = &["ENDPOINT", "HEALTH", "TOOK", "ERROR"];
/// Headings of `endpoint hashkv`.
pub(super) const HASHES: &[&str] = &["ENDPOINT", "HASH", "HASH REVISION"];
/// Headings of `endpoint status`.
pub(super) const STATUS: &[&str] = &[
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
];

/// Rows of `member list`.
pub(super) fn members(list: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        vec![
            format!("{:x}", member.id),
            if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    list.members.iter().map(row).collect()
}

/// Rows of `endpoint health`.
pub(super) fn health(list: &[Health]) -> Vec<Vec<String>> {
    list.iter()
        .map(|h| vec![h.endpoint.clone(), h.healthy.to_string(), h.took.clone(), h.error.clone()])
        .collect()
}

/// Rows of `endpoint hashkv`.
pub(super) fn hashes(list: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    list.iter()
        .map(|(endpoint, answer)| {
            vec![endpoint.clone(), answer.hash.to_string(), answer.hash_revision.to_string()]
        })
        .collect()
}

/// Rows of `endpoint status`.
pub(super) fn status(list: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    let size = |bytes: i64| words::bytes(u64::try_from(bytes).unwrap_or(0));
    let row = |(endpoint, status): &(String, pb::StatusResponse)| {
        let id = status.header.as_ref().map_or(0, |header| header.member_id);
        let used = (status.db_size_in_use * 100).checked_div(status.db_size).unwrap_or(100);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        vec![
            endpoint.clone(),
            format!("{id:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            size(status.db_size),
            size(status.db_size_in_use),
            format!("{}%", 100 - used),
            size(status.db_size_quota),
            (status.leader == id).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    list.iter().map(row).collect()
}
