//! What an entry asks for: one [`Command`], in etcd's envelope `InternalRaftRequest`, which has a field for every kind.

use crate::v2request;
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};
use proto::etcdserverpb as pb;
use proto::membershippb;

/// Field of the envelope's header, which has the request's ID. Fields with a lower number come before it on the wire.
const HEADER: u32 = 100;

macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident($request:ty) = $field:ident $tag:literal $name:literal;)*) => {
        /// A request of the log.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Command {
            $($(#[$doc])* $variant($request),)*
        }

        /// Which kind of request an entry is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
            /// One that this version does not know.
            Unknown,
        }

        impl Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::Unknown];

            /// etcd's word for it, in the labels of its metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Unknown => "Unknown",
                }
            }

            fn at(field: u32) -> Option<Self> {
                match field {
                    $($tag => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl Command {
            /// Which kind it is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$variant(_) => Kind::$variant,)*
                }
            }

            /// The first field that is set, in the order in which etcd looks for them.
            fn take(envelope: &mut pb::InternalRaftRequest) -> Option<Self> {
                $(
                    if let Some(request) = envelope.$field.take() {
                        return Some(Self::$variant(request));
                    }
                )*
                None
            }

            fn encode_field(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$variant(request) => encoding::message::encode($tag, request, out),)*
                }
            }

            /// The number of its field, and how many bytes it has there.
            fn field(&self) -> (u32, usize) {
                match self {
                    $(Self::$variant(request) => ($tag, encoding::message::encoded_len($tag, request)),)*
                }
            }
        }

        $(
            impl From<$request> for Command {
                fn from(request: $request) -> Self {
                    Self::$variant(request)
                }
            }
        )*
    };
}

commands! {
    /// The cluster's version, as its leader decides it.
    ClusterVersion(membershippb::ClusterVersionSetRequest) = cluster_version_set 1300 "ClusterVersionSet";
    /// A member's name and client URLs.
    MemberAttributes(membershippb::ClusterMemberAttrSetRequest) = cluster_member_attr_set 1301 "ClusterMemberAttrSet";
    /// Whether the cluster may go down to a version.
    Downgrade(membershippb::DowngradeInfoSetRequest) = downgrade_info_set 1302 "DowngradeInfoSet";
    /// Nothing: etcd's tests write it.
    DowngradeTest(pb::DowngradeVersionTestRequest) = downgrade_version_test 9900 "DowngradeVersionTest";
    /// A read through the log. Only its proposer executes it, as in etcd.
    Range(pb::RangeRequest) = range 3 "Range";
    /// Sets a key, with or without a lease.
    Put(pb::PutRequest) = put 4 "Put";
    /// Deletes a range of keys.
    DeleteRange(pb::DeleteRangeRequest) = delete_range 5 "DeleteRange";
    /// Compares, then one of two lists of operations.
    Txn(pb::TxnRequest) = txn 6 "Txn";
    /// Forgets versions before a revision (logical compaction).
    Compaction(pb::CompactionRequest) = compaction 7 "Compaction";
    /// Creates a lease with a TTL.
    LeaseGrant(pb::LeaseGrantRequest) = lease_grant 8 "LeaseGrant";
    /// Ends a lease and deletes its keys.
    LeaseRevoke(pb::LeaseRevokeRequest) = lease_revoke 9 "LeaseRevoke";
    /// Records the remaining TTLs of leases.
    LeaseCheckpoint(pb::LeaseCheckpointRequest) = lease_checkpoint 11 "LeaseCheckpoint";
    /// Raises, disarms or lists alarms.
    Alarm(pb::AlarmRequest) = alarm 10 "Alarm";
}

impl Kind {
    /// What an entry's bytes ask for, without decoding them: the first field that names a kind.
    pub fn of(mut data: &[u8]) -> Self {
        while let Ok((field, wire_type)) = encoding::decode_key(&mut data) {
            if let Some(kind) = Self::at(field) {
                return kind;
            }
            if encoding::skip_field(wire_type, field, &mut data, DecodeContext::default()).is_err() {
                break;
            }
        }
        Self::Unknown
    }
}

impl Command {
    /// The command in an envelope, if there is one that this version knows.
    pub fn of(mut envelope: pb::InternalRaftRequest) -> Option<Self> {
        Self::take(&mut envelope)
    }

    /// An entry's bytes: the envelope with this ID, as protobuf writes it, fields in the order of their numbers.
    pub fn encode(&self, id: u64) -> Bytes {
        let header = pb::RequestHeader { id, ..Default::default() };
        let (field, length) = self.field();
        let mut out = BytesMut::with_capacity(length + encoding::message::encoded_len(HEADER, &header));
        if field < HEADER {
            self.encode_field(&mut out);
        }
        encoding::message::encode(HEADER, &header, &mut out);
        if field > HEADER {
            self.encode_field(&mut out);
        }
        out.freeze()
    }
}

#[derive(Debug)]
pub(crate) struct Decoded {
    /// Whose waiter it completes.
    pub(crate) id: u64,
    pub(crate) body: Body,
}

/// What an entry asks for, or why it is no command.
#[derive(Debug)]
pub(crate) enum Body {
    Command(Command),
    /// A question to an auth store, or what it refuses without users and roles. etcd logs even `auth status`.
    IdleAuth,
    /// It needs an auth store: the field's name. Every user and every role begins with one of these.
    Auth(&'static str),
    Unknown,
}

impl Body {
    fn of(mut envelope: pb::InternalRaftRequest) -> Self {
        if let Some(command) = Command::take(&mut envelope) {
            Self::Command(command)
        } else if envelope.auth_user_add.is_some() {
            Self::Auth("auth_user_add")
        } else if envelope.auth_role_add.is_some() {
            Self::Auth("auth_role_add")
        } else if is_idle_auth(&envelope) {
            Self::IdleAuth
        } else {
            Self::Unknown
        }
    }
}

fn is_idle_auth(envelope: &pb::InternalRaftRequest) -> bool {
    envelope.auth_enable.is_some()
        || envelope.auth_disable.is_some()
        || envelope.authenticate.is_some()
        || envelope.auth_status.is_some()
        || envelope.auth_user_delete.is_some()
        || envelope.auth_user_get.is_some()
        || envelope.auth_user_change_password.is_some()
        || envelope.auth_user_grant_role.is_some()
        || envelope.auth_user_revoke_role.is_some()
        || envelope.auth_user_list.is_some()
        || envelope.auth_role_list.is_some()
        || envelope.auth_role_delete.is_some()
        || envelope.auth_role_get.is_some()
        || envelope.auth_role_grant_permission.is_some()
        || envelope.auth_role_revoke_permission.is_some()
}

/// Decodes an entry; the error says why it cannot be one of etcd's.
pub(crate) fn decode(data: &Bytes) -> Result<Decoded, String> {
    if let Some(request) = decode_put(data) {
        return Ok(request);
    }
    let envelope = proto::deep::request(data.clone())
        .or_else(|error| v2request::decode(data).ok_or_else(|| error.to_string()))?;
    // etcd: the legacy ID, else the header's; without both it panics.
    let id = match (&envelope.header, envelope.id) {
        (Some(header), 0) => header.id,
        (None, 0) => return Err("the request has no header".to_owned()),
        (_, id) => id,
    };
    Ok(Decoded { id, body: Body::of(envelope) })
}

/// The put as etcd and we write it: the put, then the header. Nearly every entry is one, and needs no envelope.
fn decode_put(data: &Bytes) -> Option<Decoded> {
    let mut rest = data.clone();
    let put = split_field(4, &mut rest)?;
    let header = split_field(HEADER, &mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let header = pb::RequestHeader::decode(header).ok()?;
    let put = pb::PutRequest::decode(put).ok()?;
    Some(Decoded { id: header.id, body: Body::Command(Command::Put(put)) })
}

/// Cuts a message off the front, if it is this field's.
fn split_field(field: u32, data: &mut Bytes) -> Option<Bytes> {
    if encoding::decode_key(data).ok()? != (field, WireType::LengthDelimited) {
        return None;
    }
    let length = usize::try_from(encoding::decode_varint(data).ok()?).ok()?;
    (length <= data.len()).then(|| data.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> pb::PutRequest {
        pb::PutRequest { key: "k".into(), value: vec![7; 300].into(), lease: 3, ..Default::default() }
    }

    fn header(id: u64) -> pb::RequestHeader {
        pb::RequestHeader { id, ..Default::default() }
    }

    #[test]
    fn a_command_is_written_as_etcd_writes_its_envelope_and_read_again() {
        let check = |command: Command, envelope: pb::InternalRaftRequest| {
            let bytes = command.encode(9);
            assert_eq!(
                bytes,
                pb::InternalRaftRequest { header: Some(header(9)), ..envelope }.encode_to_vec()
            );
            assert_eq!(Kind::of(&bytes), command.kind());
            let Ok(Decoded { id: 9, body: Body::Command(read) }) = decode(&bytes) else {
                panic!("{command:?}")
            };
            assert_eq!(read, command);
        };
        check(put().into(), pb::InternalRaftRequest { put: Some(put()), ..Default::default() });
        let txn = pb::TxnRequest::default();
        check(txn.clone().into(), pb::InternalRaftRequest { txn: Some(txn), ..Default::default() });
        let version = membershippb::ClusterVersionSetRequest { ver: "3.7.0".to_owned() };
        check(
            version.clone().into(),
            pb::InternalRaftRequest { cluster_version_set: Some(version), ..Default::default() },
        );
    }

    #[test]
    fn a_put_in_company_is_read_the_long_way() {
        let envelope = pb::InternalRaftRequest {
            id: 5,
            header: Some(header(9)),
            put: Some(put()),
            ..Default::default()
        };
        let bytes: Bytes = envelope.encode_to_vec().into();
        assert!(decode_put(&bytes).is_none());
        let Ok(Decoded { id: 5, body: Body::Command(Command::Put(read)) }) = decode(&bytes) else { panic!() };
        assert_eq!(read, put());
    }

    #[test]
    fn an_entry_is_named_by_what_it_asks_for() {
        let base = pb::InternalRaftRequest { header: Some(header(7)), ..Default::default() };
        let check = |envelope: &pb::InternalRaftRequest, expected: &str| {
            assert_eq!(Kind::of(&envelope.encode_to_vec()).name(), expected);
        };
        check(&base, "Unknown");
        check(&pb::InternalRaftRequest { id: 5, put: Some(put()), ..base.clone() }, "Put");
        let lease = pb::LeaseRevokeRequest { id: 1 };
        check(&pb::InternalRaftRequest { lease_revoke: Some(lease), ..base }, "LeaseRevoke");
        assert_eq!(Kind::of(&[0xff; 20]), Kind::Unknown);
    }

    #[test]
    fn what_etcd_3_5_logs_as_a_request_of_version_2_is_read() {
        // A request's ID, method, path, value.
        let bytes = b"\x08\x05\x12\x03PUT\x1a\x0a/0/version\x22\x053.5.0\x28\x00";
        let version = membershippb::ClusterVersionSetRequest { ver: "3.5.0".to_owned() };
        match decode(&Bytes::from_static(bytes)) {
            Ok(Decoded { id: 5, body: Body::Command(Command::ClusterVersion(read)) }) => {
                assert_eq!(read, version);
            }
            Ok(Decoded { id, .. }) => panic!("another request, of ID {id}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_makes_an_etcd_member_panic_is_an_error() {
        let headless = pb::InternalRaftRequest { put: Some(put()), ..Default::default() };
        let error = decode(&headless.encode_to_vec().into()).err();
        assert_eq!(error.as_deref(), Some("the request has no header"));
        for garbage in [&[0x22, 0xff][..], b"garbage", &[0x22, 0x05, 0x0a]] {
            assert!(decode(&Bytes::copy_from_slice(garbage)).is_err(), "{garbage:?}");
        }
    }
}
