//! # The messages on the wire
//!
//! Every message of clients, peers and the disk as a Rust type, generated from the `.proto` files in `proto/` at the
//! repository root: our own text with the packages, names and field numbers of etcd 3.7. A module is a package.
//!
//! Two rules decide whether our bytes equal etcd's:
//! * The client API and the log's requests are proto3: zero values are absent, and fields are written in ascending
//!   order. [`mvccpb::KeyValue`] is hashed across members in that encoding.
//! * [`raftpb`], [`walpb`], [`snappb`] and [`etcdserverpb::Metadata`] are proto2: a field is written when it is
//!   `Some`, zero or not. Read an absent field as zero (prost's accessors do) and set exactly what etcd sets.
//!
//! `bytes` fields are [`bytes::Bytes`], so a decoded value shares the memory of its frame. [`deep`] decodes
//! transactions; [`grpc`] has what surrounds a message.

pub mod deep;
mod errors;
pub mod grpc;

pub use errors::{EtcdError, peer_text};

macro_rules! package {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unused_qualifications,
            unreachable_pub,
            elided_lifetimes_in_paths,
            clippy::all,
            clippy::pedantic,
            reason = "generated code"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

package!(
    /// The client API, and the requests that travel through the log.
    etcdserverpb
);
package!(
    /// Stored key-value records and watch events.
    mvccpb
);
package!(
    /// Stored users, roles and permissions.
    authpb
);
package!(
    /// Membership requests in the log.
    membershippb
);
package!(
    /// Stored leases, and lease questions forwarded to the leader.
    leasepb
);
package!(
    /// The lock service of etcd's concurrency API.
    v3lockpb
);
package!(
    /// The election service of etcd's concurrency API.
    v3electionpb
);
package!(
    /// Raft messages, entries and states.
    raftpb
);
package!(
    /// Records of the write-ahead log.
    walpb
);
package!(
    /// The envelope of `.snap` files.
    snappb
);

/// Every package, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use super::{etcdserverpb as pb, mvccpb, raftpb, walpb};
    use bytes::Bytes;
    use prost::Message;

    /// From the fresh WAL of a three-member etcd 3.7.3 cluster.
    const NODE_B: u64 = 2_282_271_497_369_465_777;

    fn unhex(s: &str) -> Vec<u8> {
        let digits: Vec<u32> = s.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).expect("two hex digits")).collect()
    }

    #[test]
    fn a_fresh_wal_comes_out_as_etcd_writes_it() {
        let crc = walpb::Record { r#type: Some(4), crc: Some(0), data: None };
        assert_eq!(crc.encode_to_vec(), unhex("08 04 10 00"));

        let start = walpb::Record {
            r#type: Some(5),
            crc: Some(0x8777_7673),
            data: Some(
                walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None }.encode_to_vec().into(),
            ),
        };
        assert_eq!(start.encode_to_vec(), unhex("08 05 10 f3ecddbb08 1a 04 08 00 10 00"));

        let metadata = unhex("08 e4dcecc9d1dc86df29 10 dc9bd29cd7a18abc62");
        let record =
            walpb::Record { r#type: Some(1), crc: Some(0x6ad6_23e4), data: Some(metadata.clone().into()) };
        let mut expected = unhex("08 01 10 e4c7d8d606 1a 14");
        expected.extend(&metadata);
        assert_eq!(record.encode_to_vec(), expected);
        let ids = pb::Metadata::decode(&*metadata).expect("etcd's metadata");
        assert_eq!(ids.encode_to_vec(), metadata);

        let change = raftpb::ConfChange {
            id: None,
            r#type: Some(0),
            node_id: Some(NODE_B),
            context: Some(Bytes::from(vec![b'x'; 0x4b])),
        };
        let mut data = unhex("10 00 18 b1e7d2cddbba90d61f 22 4b");
        data.extend([b'x'; 0x4b]);
        assert_eq!(change.encode_to_vec(), data);

        let entry = raftpb::Entry {
            r#type: Some(raftpb::EntryType::EntryConfChange.into()),
            term: Some(1),
            index: Some(1),
            data: Some(data.clone().into()),
        };
        let mut expected = unhex("08 01 10 01 18 01 22 59");
        expected.extend(&data);
        assert_eq!(entry.encode_to_vec(), expected);

        let state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(3) };
        assert_eq!(state.encode_to_vec(), unhex("08 01 10 00 18 03"));

        let voted = raftpb::HardState { term: Some(2), vote: Some(NODE_B), commit: Some(3) };
        assert_eq!(voted.encode_to_vec(), unhex("08 02 10 b1e7d2cddbba90d61f 18 03"));

        let noop = raftpb::Entry { term: Some(2), index: Some(4), ..Default::default() };
        assert_eq!(noop.encode_to_vec(), unhex("10 02 18 04"));
    }

    #[test]
    fn conf_state_lists_are_not_packed() {
        let conf = raftpb::ConfState { voters: vec![1, 2], auto_leave: Some(false), ..Default::default() };
        assert_eq!(conf.encode_to_vec(), unhex("08 01 08 02 28 00"));
    }

    #[test]
    fn a_request_goes_out_before_its_header() {
        let request = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader { id: 7, ..Default::default() }),
            put: Some(pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(request.encode_to_vec(), unhex("22 06 0a016b 120176 a206 02 0807"));
    }

    #[test]
    fn a_key_value_omits_zeros() {
        let tombstone = mvccpb::KeyValue { key: "k".into(), ..Default::default() };
        assert_eq!(tombstone.encode_to_vec(), unhex("0a 01 6b"));
        let full = mvccpb::KeyValue {
            key: "k".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            value: "v".into(),
            lease: 1,
        };
        assert_eq!(full.encode_to_vec(), unhex("0a016b 1002 1803 2002 2a0176 3001"));
    }
}
