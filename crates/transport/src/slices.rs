//! `/quorate/slice`, which etcd does not have: members of ours compare hashes of small parts of what they hold. etcd's
//! members answer 404.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    context::HashError,
    hashes::{ask, refusal},
    post::Reply,
};

/// The path of the page.
pub(crate) const PATH: &str = "/quorate/slice";

/// A part of what members hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slice {
    /// What the revisions after the first one changed, up to and including the second one.
    Changes(i64, i64),
    /// Keys at a revision.
    Keys {
        /// The revision at which they are read.
        revision: i64,
        /// The first key, inclusive.
        #[serde(with = "hexadecimal")]
        from: Bytes,
        /// The key after the last one; `None` = all that follow.
        #[serde(with = "hexadecimal_if_any", default, skip_serializing_if = "Option::is_none")]
        to: Option<Bytes>,
        /// How many keys the asking member found there: nobody need look at more than one beyond.
        rows: u64,
    },
}

/// The hash of a slice, and of how many rows it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SliceHash {
    /// The hash of its rows.
    pub hash: u32,
    /// The number of its rows.
    pub rows: u64,
}

/// A question for a slice's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceQuestion {
    /// The slice to hash.
    pub slice: Slice,
    /// Whether it must be hashed anew, whatever is remembered.
    pub anew: bool,
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
    read(&ask(url, PATH, cluster, body.into(), limit).await?)
}

fn read(reply: &Reply) -> Result<SliceHash, HashError> {
    match reply.status {
        StatusCode::OK => serde_json::from_slice(&reply.body)
            .map_err(|error| HashError::Other(format!("malformed answer: {error}"))),
        StatusCode::NOT_FOUND => Err(HashError::NotServed),
        _ => Err(refusal(reply)),
    }
}

/// Keys as hexadecimal digits: they need not be text.
mod hexadecimal {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::fmt::Write as _;

    pub(super) fn serialize<S: Serializer>(key: &Bytes, out: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * key.len());
        for byte in key {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        out.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| {
            let digit = |at: u8| char::from(at).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            Some(digit(pair[0])? << 4 | digit(pair[1])?)
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes
            .filter(|_| rest.is_empty())
            .map(Bytes::from)
            .ok_or_else(|| D::Error::custom("no pairs of hexadecimal digits"))
    }
}

/// [`hexadecimal`] for what may be absent.
mod hexadecimal_if_any {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer};

    #[allow(clippy::ref_option, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(key: &Option<Bytes>, out: S) -> Result<S::Ok, S::Error> {
        super::hexadecimal::serialize(key.as_ref().unwrap_or(&Bytes::new()), out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        super::hexadecimal::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_back() {
        let check = |slice: Slice, text: &str| {
            let question = SliceQuestion { slice, anew: false };
            assert_eq!(serde_json::to_string(&question).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<SliceQuestion>(text).expect("JSON"), question);
        };
        check(Slice::Changes(4, 9), r#"{"slice":{"changes":[4,9]},"anew":false}"#);
        let keys = |to| Slice::Keys { revision: 9, from: Bytes::from_static(b"a\xff"), to, rows: 3 };
        let text = r#"{"slice":{"keys":{"revision":9,"from":"61ff","rows":3}},"anew":false}"#;
        check(keys(None), text);
        let text = r#"{"slice":{"keys":{"revision":9,"from":"61ff","to":"6200","rows":3}},"anew":false}"#;
        check(keys(Some(Bytes::from_static(b"b\0"))), text);
        for text in [
            r#"{"slice":{"keys":{"revision":9,"from":"6","rows":3}},"anew":false}"#,
            r#"{"slice":{"keys":{"revision":9,"from":"6x","rows":3}},"anew":false}"#,
            r#"{"slice":{"all":0},"anew":false}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<SliceQuestion>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_has_no_such_page_is_told_from_who_does_not_answer() {
        let check = |status: StatusCode, body: &'static str, expected: Result<SliceHash, HashError>| {
            let headers = http::HeaderMap::new();
            assert_eq!(read(&Reply { status, headers, body: Bytes::from_static(body.as_bytes()) }), expected);
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
