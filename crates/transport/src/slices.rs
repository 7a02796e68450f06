//! `/quorate/slice`, which etcd does not have: members of ours compare hashes of small parts of what they hold. etcd's
//! members answer 404. This is what goes over the wire; `hashes.rs` asks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
}
