//! `/members/hashkv`: the JSON of both sides, and the asking one (etcd `etcdserver/corrupt.go`, `HashByRev`). Asking for
//! slices is the same on another page.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    context::{HashError, HashKv, hex},
    headers::{CLUSTER_ID, CLUSTER_ID_MISMATCH},
    limits::Limits,
    post::{Call, Client, Reply},
    slices::{self, SliceHash, SliceQuestion},
};

/// Go's JSON of `HashKVRequest`, which omits zero values.
#[derive(Serialize, Deserialize)]
pub(crate) struct HashRequest {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) revision: i64,
}

/// Go's JSON of `HashKVResponse`, which omits zero values.
#[derive(Serialize, Deserialize)]
struct HashResponse {
    #[serde(default)]
    header: HashHeader,
    #[serde(default, skip_serializing_if = "is_zero")]
    hash: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct HashHeader {
    #[serde(default, skip_serializing_if = "is_zero")]
    revision: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

pub(crate) fn hash_json(hash: &HashKv) -> String {
    let response = HashResponse {
        header: HashHeader { revision: hash.revision },
        hash: i64::from(hash.hash),
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    };
    serde_json::to_string(&response).expect("numbers are always JSON")
}

/// Asks the member at this peer URL for its hash of the history up to a revision (0 = its current one), on a connection of
/// its own, within `limit`. The member refuses if it is of another cluster than `cluster`.
pub async fn fetch_hash_kv(
    url: &str,
    cluster: u64,
    revision: i64,
    limit: Duration,
) -> Result<HashKv, HashError> {
    let body = serde_json::to_vec(&HashRequest { revision }).expect("a number is always JSON");
    read(&ask(url, "/members/hashkv", cluster, body.into(), limit).await?)
}

/// Sends JSON with a GET, as etcd does, and the ID of the cluster.
async fn ask(url: &str, path: &str, cluster: u64, body: Bytes, limit: Duration) -> Result<Reply, HashError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CLUSTER_ID, HeaderValue::from_str(&hex(cluster)).expect("hexadecimal digits"));
    let call = Call { method: Method::GET, path, headers, body };
    let reply = Client::new(&Limits::default()).call(url.trim_end_matches('/'), &call, limit).await;
    reply.map_err(|error| HashError::Other(error.to_string()))
}

fn read(reply: &Reply) -> Result<HashKv, HashError> {
    if reply.status != StatusCode::OK {
        return Err(refusal(reply));
    }
    let malformed = |error: &dyn std::fmt::Display| HashError::Other(format!("malformed answer: {error}"));
    let answer: HashResponse = serde_json::from_slice(&reply.body).map_err(|error| malformed(&error))?;
    Ok(HashKv {
        revision: answer.header.revision,
        hash: u32::try_from(answer.hash).map_err(|error| malformed(&error))?,
        compact_revision: answer.compact_revision,
        hash_revision: answer.hash_revision,
    })
}

/// What a member that answers no hash says; etcd looks for these texts, too.
fn refusal(reply: &Reply) -> HashError {
    let text = reply.text();
    let says = |words: &str| text.contains(words);
    match reply.status {
        StatusCode::BAD_REQUEST if says(&HashError::Compacted.to_string()) => HashError::Compacted,
        StatusCode::BAD_REQUEST if says(&HashError::Future.to_string()) => HashError::Future,
        StatusCode::PRECONDITION_FAILED if says(CLUSTER_ID_MISMATCH) => HashError::OtherCluster,
        _ => HashError::Other(format!("unknown error: {text}")),
    }
}

/// Asks the member at this peer URL for the hash of a slice, on a connection of its own, within `limit`. One that has no such
/// page answers [`HashError::NotServed`].
pub async fn fetch_slice_hash(
    url: &str,
    cluster: u64,
    question: &SliceQuestion,
    limit: Duration,
) -> Result<SliceHash, HashError> {
    let body = serde_json::to_vec(question).expect("numbers and texts are always JSON");
    read_slice(&ask(url, slices::PATH, cluster, body.into(), limit).await?)
}

fn read_slice(reply: &Reply) -> Result<SliceHash, HashError> {
    match reply.status {
        StatusCode::OK => serde_json::from_slice(&reply.body)
            .map_err(|error| HashError::Other(format!("malformed answer: {error}"))),
        StatusCode::NOT_FOUND => Err(HashError::NotServed),
        _ => Err(refusal(reply)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: StatusCode, body: &'static str) -> Reply {
        Reply { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn answers_are_read_as_etcd_writes_them() {
        let check = |status: u16, body, expected: Result<(i64, u32, i64, i64), HashError>| {
            let read = read(&reply(StatusCode::from_u16(status).expect("a status"), body));
            let read = read.map(|h| (h.revision, h.hash, h.compact_revision, h.hash_revision));
            assert_eq!(read, expected, "{status} {body}");
        };
        let json = r#"{"header":{"revision":8},"hash":4051299174,"compact_revision":4,"hash_revision":8}"#;
        check(200, json, Ok((8, 4_051_299_174, 4, 8)));
        check(200, r#"{"header":{"revision":1},"hash":7,"compact_revision":-1}"#, Ok((1, 7, -1, 0)));
        check(400, "mvcc: required revision has been compacted\n", Err(HashError::Compacted));
        check(400, "mvcc: required revision is a future revision\n", Err(HashError::Future));
        check(412, "cluster ID mismatch\n", Err(HashError::OtherCluster));
        check(404, "404 page not found\n", Err(HashError::Other("unknown error: 404 page not found".into())));
        assert!(matches!(read(&reply(StatusCode::OK, r#"{"hash":-1}"#)), Err(HashError::Other(_))));
    }

    #[test]
    fn the_current_revision_is_asked_for_without_a_number() {
        let text = |revision| serde_json::to_string(&HashRequest { revision }).expect("JSON");
        assert_eq!((text(0), text(9)), ("{}".to_owned(), r#"{"revision":9}"#.to_owned()));
    }

    #[test]
    fn who_has_no_such_page_is_told_from_who_does_not_answer() {
        let check = |status: StatusCode, body: &'static str, expected: Result<SliceHash, HashError>| {
            let headers = HeaderMap::new();
            assert_eq!(
                read_slice(&Reply { status, headers, body: Bytes::from_static(body.as_bytes()) }),
                expected
            );
        };
        check(StatusCode::OK, r#"{"hash":7,"rows":2}"#, Ok(SliceHash { hash: 7, rows: 2 }));
        check(StatusCode::NOT_FOUND, "404 page not found\n", Err(HashError::NotServed));
        check(
            StatusCode::BAD_REQUEST,
            "mvcc: required revision has been compacted",
            Err(HashError::Compacted),
        );
        let text = "unknown error: the slice is too large";
        check(StatusCode::BAD_REQUEST, "the slice is too large", Err(HashError::Other(text.to_owned())));
    }
}
