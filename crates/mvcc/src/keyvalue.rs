//! `mvccpb.KeyValue`, encoded exactly as etcd does: hashes depend on it.

use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;
use types::varint;

const KEY: u8 = 1 << 3 | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

/// One version of a key. A tombstone has a key and, in events, a mod revision; all else is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key's bytes, as the client sent them.
    pub key: Bytes,
    /// The value's bytes; empty for a tombstone.
    pub value: Bytes,
    /// The main revision that last created the key.
    pub create_revision: i64,
    /// The main revision of this version.
    pub mod_revision: i64,
    /// 1 for a newly created key, plus one with every put.
    pub version: i64,
    /// The lease the key is attached to; 0 = none.
    pub lease: i64,
}

impl KeyValue {
    /// Encodes `mvccpb.KeyValue`: fields ascending, zeros omitted.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode_to(&mut out);
        out.freeze()
    }

    /// Appends the bytes of [`KeyValue::encode`].
    pub fn encode_to(&self, out: &mut impl BufMut) {
        put_bytes(out, KEY, &self.key);
        put_number(out, CREATE_REVISION, self.create_revision);
        put_number(out, MOD_REVISION, self.mod_revision);
        put_number(out, VERSION, self.version);
        put_bytes(out, VALUE, &self.value);
        put_number(out, LEASE, self.lease);
    }

    /// The length of [`KeyValue::encode`], bytes.
    pub fn encoded_len(&self) -> usize {
        let numbers = [self.create_revision, self.mod_revision, self.version, self.lease];
        bytes_len(&self.key) + bytes_len(&self.value) + numbers.into_iter().map(number_len).sum::<usize>()
    }

    /// Its length as an element of a repeated field with a one-byte tag, bytes.
    pub fn framed_len(&self) -> usize {
        framed_len(self.encoded_len())
    }

    /// The inverse of [`KeyValue::encode`], sharing its bytes; `None` if malformed or with unknown fields.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        Some(Fields::parse(bytes)?.of(bytes))
    }
}

/// A `KeyValue` as positions in its encoding: nothing is copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Fields {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Self::default();
        let mut rest = bytes;
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            let number = varint::take_i64(&mut rest)?;
            match tag {
                KEY => fields.key = take_range(bytes, &mut rest, number)?,
                VALUE => fields.value = take_range(bytes, &mut rest, number)?,
                CREATE_REVISION => fields.create_revision = number,
                MOD_REVISION => fields.mod_revision = number,
                VERSION => fields.version = number,
                LEASE => fields.lease = number,
                _ => return None,
            }
        }
        Some(fields)
    }

    /// The `KeyValue`, which shares the bytes that were parsed.
    #[inline]
    pub(crate) fn of(self, bytes: &Bytes) -> KeyValue {
        let Self { key, value, create_revision, mod_revision, version, lease } = self;
        let (key, value) = (bytes.slice(key), bytes.slice(value));
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    }
}

fn take_range(all: &[u8], rest: &mut &[u8], length: i64) -> Option<Range<usize>> {
    let length = usize::try_from(length).ok()?;
    let start = all.len() - rest.len();
    *rest = rest.get(length..)?;
    Some(start..start + length)
}

fn put_number(out: &mut impl BufMut, tag: u8, number: i64) {
    if number != 0 {
        out.put_u8(tag);
        varint::put(out, number.cast_unsigned());
    }
}

fn put_bytes(out: &mut impl BufMut, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.put_u8(tag);
        varint::put(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

pub(crate) fn framed_len(length: usize) -> usize {
    1 + varint::len(length as u64) + length
}

fn number_len(number: i64) -> usize {
    if number == 0 { 0 } else { 1 + varint::len(number.cast_unsigned()) }
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + varint::len(bytes.len() as u64) + bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kv: &KeyValue) {
        let bytes = kv.encode();
        assert_eq!(bytes.len(), kv.encoded_len());
        assert_eq!(KeyValue::decode(&bytes).as_ref(), Some(kv));
        for cut in 1..bytes.len() {
            assert_ne!(KeyValue::decode(&bytes.slice(..cut)).as_ref(), Some(kv), "cut at {cut}");
        }
    }

    #[test]
    fn the_bytes_are_etcds() {
        let kv = KeyValue {
            key: Bytes::from_static(b"foo"),
            value: Bytes::from_static(b"bar"),
            create_revision: 2,
            mod_revision: 300,
            version: 2,
            lease: -1,
        };
        check(&kv);
        let expected =
            b"\x0a\x03foo\x10\x02\x18\xac\x02\x20\x02\x2a\x03bar\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(&kv.encode()[..], expected);
        let tombstone = KeyValue { key: Bytes::from_static(b"foo"), ..KeyValue::default() };
        check(&tombstone);
        assert_eq!(&tombstone.encode()[..], b"\x0a\x03foo");
    }
}
