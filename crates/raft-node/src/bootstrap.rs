//! Bootstrap of a cluster: identities and first entries, exactly as etcd makes them. Every member writes the same ones
//! by itself, and raft matches them by index and term alone: order and number must be exact, also for mixed clusters.

use bytes::Bytes;
use machine::Member;
use prost::Message as _;
use proto::etcdserverpb::Metadata;
use proto::{raftpb, walpb};
use sha1::{Digest as _, Sha1};
use types::mutant::{Mutant, is};
use types::{Entry, EntryKind, HardState, Index};

/// A member's ID (etcd `membership.NewMember`): SHA-1 over its normalised peer URLs, sorted and joined, then the token
/// (empty for members added later), then for those the time in seconds, in decimal.
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string());
    }
    first_8_bytes(hash)
}

/// A cluster's ID (etcd `RaftCluster.genID`): SHA-1 over the first members' IDs, ascending, 8 bytes each.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = members.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_8_bytes(hash)
}

fn first_8_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

/// The metadata at the head of every log segment: the owner's identities.
pub fn metadata(member: u64, cluster: u64) -> Vec<u8> {
    whose(member, cluster).encode_to_vec()
}

/// The same of a member that joins a running cluster: its log begins empty, since the others have the first entries. The
/// mark is ours; etcd skips it.
pub fn joined_metadata(member: u64, cluster: u64) -> Vec<u8> {
    Metadata { joined: Some(true), ..whose(member, cluster) }.encode_to_vec()
}

fn whose(member: u64, cluster: u64) -> Metadata {
    Metadata { node_id: Some(member), cluster_id: Some(cluster), joined: None }
}

/// Whose a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The ID of the member.
    pub member: u64,
    /// The ID of its cluster.
    pub cluster: u64,
    /// Whether it joined a running cluster: an empty log is then waiting for the others' entries.
    pub has_joined: bool,
}

/// Decodes [`metadata`] and [`joined_metadata`]; `None` if malformed.
pub fn read_metadata(bytes: &[u8]) -> Option<Owner> {
    let Metadata { node_id, cluster_id, joined } = Metadata::decode(bytes).ok()?;
    Some(Owner { member: node_id?, cluster: cluster_id?, has_joined: joined.unwrap_or(false) })
}

/// The initial log of a new cluster, before any election: one committed `AddNode` per member, by ascending ID, at term 1.
/// Its context holds ID, peer URLs and name, in this order; client URLs are published later.
pub fn first_log(members: &[Member]) -> (Vec<Entry>, HardState) {
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_unstable_by_key(|member| member.id);
    let entries: Vec<Entry> = (1..)
        .zip(members)
        .map(|(index, member)| Entry { term: 1, index, kind: EntryKind::ConfChange, data: addition(member) })
        .collect();
    let commit = entries.len() as u64;
    (entries, HardState { term: 1, vote: 0, commit })
}

/// The term of a restored state, above [`first_log`]'s: a member wrongly started without data has another entry at the
/// same index, so it is detected instead of followed or elected.
const RESTORED_TERM: u64 = 2;

/// The log after a restore: the state includes everything up to its index, so entries alone do not lead there.
pub fn restored_log(members: &[Member]) -> (walpb::Snapshot, HardState) {
    let mut voters: Vec<u64> = members.iter().map(|member| member.id).collect();
    voters.sort_unstable();
    let (index, term) = (members.len() as u64, RESTORED_TERM);
    let conf_state = Some(raftpb::ConfState { voters, ..raftpb::ConfState::default() });
    let snapshot = walpb::Snapshot { index: Some(index), term: Some(term), conf_state };
    (snapshot, HardState { term, vote: 0, commit: index })
}

/// Which of the states on its disks a member goes on from, given the first index in its log. Each state is named by the
/// index of the snapshot that it came with (0 = none, the first one); its second index is what it has applied, 0 if it is
/// not whole. `None` if none counts.
///
/// A state that came with a snapshot is made durable before the log records the snapshot, and the record resets the log
/// to begin after it: until then the log says that the state does not count. But a log also begins later as it is
/// released, behind the state in use, and so passes a snapshot that came too late to be recorded. So the one that has
/// applied most is in use: what the log has passed was in it.
pub fn current_state(log_first: Index, states: impl IntoIterator<Item = (Index, Index)>) -> Option<Index> {
    let passed = states.into_iter().filter(|(snapshot, _)| *snapshot < log_first);
    let newest = if is(Mutant::KeepOldState) {
        passed.min_by_key(|(snapshot, _)| *snapshot)
    } else if is(Mutant::TakeNewestSnapshot) {
        passed.max_by_key(|(snapshot, _)| *snapshot)
    } else {
        passed.max_by_key(|(snapshot, applied)| (*applied, *snapshot))
    };
    newest.map(|(snapshot, _)| snapshot)
}

fn addition(member: &Member) -> Bytes {
    let context = Member { is_learner: false, client_urls: Vec::new(), ..member.clone() };
    let change = raftpb::ConfChange {
        id: None,
        // Set although zero, as etcd does.
        r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode.into()),
        node_id: Some(member.id),
        context: Some(as_go_writes(&context).into()),
    };
    change.encode_to_vec().into()
}

/// Go's encoder escapes these for HTML. It matters only to readers of bytes: raft does not compare them.
pub(crate) fn as_go_writes(member: &Member) -> String {
    let json = serde_json::to_string(member).expect("members are plain strings and numbers");
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(port: u16) -> Vec<String> {
        vec![format!("http://127.0.0.1:{port}")]
    }

    /// Taken from running etcd members.
    #[test]
    fn ids_are_etcds() {
        let ids: Vec<u64> = [41380, 41480, 41580].map(|port| member_id(&url(port), "tok-1", None)).into();
        assert_eq!(ids[0], 0x29be_1ae5_193b_2e64);
        assert_eq!(cluster_id(ids), 0x6278_290d_7394_8ddc);
    }

    #[test]
    fn the_order_of_urls_does_not_matter_and_the_time_does() {
        let urls = |a: u16, b: u16| [url(a), url(b)].concat();
        assert_eq!(member_id(&urls(1, 2), "t", None), member_id(&urls(2, 1), "t", None));
        assert_ne!(member_id(&url(1), "", Some(1)), member_id(&url(1), "", Some(2)));
    }

    #[test]
    fn the_first_entries_are_etcds_bytes() {
        let member = |id, name: &str| Member {
            id,
            name: name.to_owned(),
            peer_urls: url(2380),
            client_urls: url(2379),
            ..Member::default()
        };
        let (entries, state) = first_log(&[member(300, "b\"<"), member(2, "a")]);
        assert_eq!(state, HardState { term: 1, vote: 0, commit: 2 });
        assert_eq!(entries.iter().map(|e| (e.term, e.index)).collect::<Vec<_>>(), [(1, 1), (1, 2)]);
        let json = br#"{"id":2,"peerURLs":["http://127.0.0.1:2380"],"name":"a"}"#;
        let expected = [&[0x10, 0, 0x18, 2, 0x22, u8::try_from(json.len()).unwrap()], &json[..]].concat();
        assert_eq!(entries[0].data, expected);
        let second = raftpb::ConfChange::decode(&entries[1].data[..]).unwrap();
        assert!(second.context().ends_with(br#""name":"b\"\u003c"}"#));
    }

    #[test]
    fn the_log_says_which_state_is_in_use() {
        assert_eq!(current_state(1, [(0, 0)]), Some(0), "a new member");
        assert_eq!(current_state(1, [(0, 7), (20, 20)]), Some(0), "the snapshot was not recorded");
        assert_eq!(current_state(21, [(0, 7), (20, 20)]), Some(20), "it was");
        assert_eq!(current_state(26, [(0, 7), (20, 30), (40, 40)]), Some(20), "the next one was not");
        assert_eq!(current_state(41, [(0, 7), (20, 30), (40, 40)]), Some(40));
        assert_eq!(
            current_state(26, [(0, 50), (20, 20)]),
            Some(0),
            "it came too late, and the log was released"
        );
        assert_eq!(current_state(21, [(0, 20), (20, 20)]), Some(20), "both are the same");
        assert_eq!(current_state(26, [(0, 50), (20, 0)]), Some(0), "a part, given up long ago");
        assert_eq!(current_state(20, [(20, 20), (40, 40)]), None);
    }

    #[test]
    fn metadata_comes_back() {
        let owner = |has_joined| Some(Owner { member: 1, cluster: 2, has_joined });
        assert_eq!(read_metadata(&metadata(1, 2)), owner(false));
        assert_eq!(read_metadata(&joined_metadata(1, 2)), owner(true));
        assert_eq!(metadata(1, 2), [0x08, 1, 0x10, 2], "etcd's bytes");
        assert_eq!(read_metadata(b"\xff"), None);
    }
}
