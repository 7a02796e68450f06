//! From an entry's bytes to one request.

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;

/// What an entry asks for.
#[derive(Debug)]
pub(crate) struct Request {
    /// Whose waiter it completes.
    pub(crate) id: u64,
    pub(crate) body: Body,
}

/// The request itself. A put, nearly every entry of a busy store, comes without the 40 options of the envelope.
#[derive(Debug)]
pub(crate) enum Body {
    Put(pb::PutRequest),
    Other(Box<pb::InternalRaftRequest>),
}

/// Tag of `put` (field 4) in the envelope.
const TAG_PUT: u8 = 4 << 3 | 2;
/// Tag of `header` (field 100).
const TAG_HEADER: [u8; 2] = [0xa2, 0x06];

/// Decodes an entry; the error says why it cannot be one of etcd's.
pub(crate) fn decode(data: &Bytes) -> Result<Request, String> {
    if let Some(request) = decode_put(data) {
        return Ok(request);
    }
    let envelope = proto::deep::request(data.clone()).map_err(|error| error.to_string())?;
    // etcd: the legacy ID, else the header's; without both it panics.
    let id = match (&envelope.header, envelope.id) {
        (Some(header), 0) => header.id,
        (None, 0) => return Err("the request has no header".to_owned()),
        (_, id) => id,
    };
    Ok(Request { id, body: Body::Other(Box::new(envelope)) })
}

/// The form in which etcd and we write a put: the put, then the header, nothing else. Anything else takes the long way.
fn decode_put(data: &Bytes) -> Option<Request> {
    if *data.first()? != TAG_PUT {
        return None;
    }
    let mut rest = data.slice(1..);
    let put = split_message(&mut rest)?;
    if !rest.starts_with(&TAG_HEADER) {
        return None;
    }
    rest = rest.slice(TAG_HEADER.len()..);
    let header = split_message(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let header = pb::RequestHeader::decode(header).ok()?;
    let put = pb::PutRequest::decode(put).ok()?;
    Some(Request { id: header.id, body: Body::Put(put) })
}

/// Cuts a length-delimited message off the front.
fn split_message(data: &mut Bytes) -> Option<Bytes> {
    let length = prost::decode_length_delimiter(&data[..]).ok()?;
    let start = prost::length_delimiter_len(length);
    let end = start.checked_add(length).filter(|end| *end <= data.len())?;
    let message = data.slice(start..end);
    *data = data.slice(end..);
    Some(message)
}

/// The kinds that need an auth store, by name; `None` for all others. Every user and every role begins with one of them.
pub(crate) fn auth_kind(request: &pb::InternalRaftRequest) -> Option<&'static str> {
    if request.auth_user_add.is_some() {
        Some("auth_user_add")
    } else if request.auth_role_add.is_some() {
        Some("auth_role_add")
    } else {
        None
    }
}

/// Questions to an auth store, and what it refuses while it holds neither users nor roles. etcd sends even
/// `auth status` through the log.
pub(crate) fn is_idle_auth(request: &pb::InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.authenticate.is_some()
        || request.auth_status.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_get.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_list.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_get.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
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

    fn decoded(request: &pb::InternalRaftRequest) -> Request {
        decode(&request.encode_to_vec().into()).expect("a request")
    }

    #[test]
    fn a_put_is_read_the_short_way_and_says_the_same() {
        let request =
            pb::InternalRaftRequest { header: Some(header(9)), put: Some(put()), ..Default::default() };
        let Request { id: 9, body: Body::Put(read) } = decoded(&request) else { panic!("the long way") };
        assert_eq!(read, put());
    }

    #[test]
    fn a_put_in_company_is_read_the_long_way() {
        let request = pb::InternalRaftRequest {
            id: 5,
            header: Some(header(9)),
            put: Some(put()),
            ..Default::default()
        };
        let Request { id: 5, body: Body::Other(read) } = decoded(&request) else { panic!("the short way") };
        assert_eq!(*read, request);
    }

    #[test]
    fn what_makes_an_etcd_member_panic_is_an_error() {
        let headless = pb::InternalRaftRequest { put: Some(put()), ..Default::default() };
        assert_eq!(
            decode(&headless.encode_to_vec().into()).err().as_deref(),
            Some("the request has no header")
        );
        for garbage in [&[0x22, 0xff][..], b"garbage", &[0x22, 0x05, 0x0a]] {
            assert!(decode(&Bytes::copy_from_slice(garbage)).is_err(), "{garbage:?}");
        }
    }
}
