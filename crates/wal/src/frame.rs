//! Frames and records in etcd's format, encoded and decoded by hand: every entry passes here.
//!
//! ```text
//! frame  = length word (8 bytes, little-endian) · record · zeros to a multiple of 8
//! word   = low 56 bits: length of the record; top byte: 0x80 | number of zeros, or 0 when there are none
//! record = protobuf { 1: type, 2: crc, 3: data }       walpb.Record
//! ```
//!
//! The crc is CRC-32C over the data of all records so far, across segments; each record stores the value after itself.
//! Source: etcd 3.7.3 `storage/wal/{encoder,decoder}.go`. The reader is as lenient as protobuf.

use bytes::Bytes;
use types::{Entry, EntryKind, HardState, varint};

pub(crate) const WORD_BYTES: usize = 8;

/// The largest entry or metadata, bytes: far above any request, low enough for the lengths in the offset index.
pub(crate) const RECORD_BYTES_MAX: usize = 1 << 30;

/// Upper bound for the frame of a hard state, bytes: three tags with ten bytes each, and the frame around a record.
pub(crate) const STATE_FRAME_BYTES_MAX: usize = WORD_BYTES + 3 + 10 + 5 + 1 + 33 + 7;

/// The record types of etcd's log.
pub(crate) mod kind {
    pub(crate) const METADATA: u64 = 1;
    pub(crate) const ENTRY: u64 = 2;
    pub(crate) const STATE: u64 = 3;
    pub(crate) const CRC: u64 = 4;
    pub(crate) const SNAPSHOT: u64 = 5;
}

const TAG_TYPE: u8 = 0x08;
const TAG_CRC: u8 = 0x10;
const TAG_DATA: u8 = 0x1a;

/// Upper bound for an entry's fields before its payload: three tags with ten bytes each, one with five.
const ENTRY_HEAD_BYTES_MAX: usize = 4 + 10 + 10 + 10 + 5;

pub(crate) fn split_word(word: u64) -> (u64, u64) {
    let length = word & !(0xff << 56);
    // As etcd: padding counts only if the sign bit is set.
    let padding = if word >> 63 == 1 { (word >> 56) & 7 } else { 0 };
    (length, padding)
}

fn word_for(length: usize) -> (u64, usize) {
    let padding = (8 - length % 8) % 8;
    let flag = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
    (length as u64 | flag, padding)
}

/// A few bytes on the stack, for the head of a record.
struct Head<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Head<N> {
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn field(&mut self, tag: u8, value: u64) {
        self.push(tag);
        let mut rest = &mut self.bytes[self.len..];
        varint::put(&mut rest, value);
        self.len = N - rest.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Appends a record whose data has two parts; returns the running crc after it.
fn push_record(out: &mut Vec<u8>, record_type: u64, seed: u32, head: &[u8], tail: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, head), tail);
    let data = head.len() + tail.len();
    let mut fields = Head::<32>::new();
    fields.field(TAG_TYPE, record_type);
    fields.field(TAG_CRC, u64::from(crc));
    fields.field(TAG_DATA, data as u64);
    push_frame(out, &[fields.as_slice(), head, tail]);
    crc
}

fn push_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum();
    let (word, padding) = word_for(length);
    out.reserve(WORD_BYTES + length + padding);
    out.extend_from_slice(&word.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&[0; 7][..padding]);
}

/// Appends the record that opens a segment: the previous segment's running crc.
pub(crate) fn push_crc(out: &mut Vec<u8>, crc: u32) {
    let mut fields = Head::<16>::new();
    fields.field(TAG_TYPE, kind::CRC);
    fields.field(TAG_CRC, u64::from(crc));
    push_frame(out, &[fields.as_slice()]);
}

/// Appends the metadata: the owner of the log. As in etcd, empty metadata has no data field.
pub(crate) fn push_metadata(out: &mut Vec<u8>, seed: u32, metadata: &[u8]) -> u32 {
    if metadata.is_empty() {
        let mut fields = Head::<16>::new();
        fields.field(TAG_TYPE, kind::METADATA);
        fields.field(TAG_CRC, u64::from(seed));
        push_frame(out, &[fields.as_slice()]);
        return seed;
    }
    push_record(out, kind::METADATA, seed, metadata, &[])
}

pub(crate) fn push_snapshot(out: &mut Vec<u8>, seed: u32, snapshot: &[u8]) -> u32 {
    push_record(out, kind::SNAPSHOT, seed, snapshot, &[])
}

/// Appends a `raftpb.HardState`: all three fields, zero or not.
pub(crate) fn push_state(out: &mut Vec<u8>, seed: u32, state: &HardState) -> u32 {
    let mut data = Head::<33>::new();
    data.field(0x08, state.term);
    data.field(0x10, state.vote);
    data.field(0x18, state.commit);
    push_record(out, kind::STATE, seed, data.as_slice(), &[])
}

/// Appends a `raftpb.Entry`: a normal entry has no type field, an empty one no data field.
pub(crate) fn push_entry(out: &mut Vec<u8>, seed: u32, entry: &Entry) -> u32 {
    let mut head = Head::<ENTRY_HEAD_BYTES_MAX>::new();
    match entry.kind {
        EntryKind::Normal => {}
        EntryKind::ConfChange => head.field(0x08, 1),
    }
    head.field(0x10, entry.term);
    head.field(0x18, entry.index);
    if !entry.data.is_empty() {
        head.field(0x22, entry.data.len() as u64);
    }
    push_record(out, kind::ENTRY, seed, head.as_slice(), &entry.data)
}

pub(crate) fn entry_frame_bytes_max(payload: usize) -> usize {
    let data = ENTRY_HEAD_BYTES_MAX + payload;
    WORD_BYTES + 3 + 10 + 5 + varint::len(data as u64) + data + 7
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: u64,
    pub(crate) crc: u32,
    pub(crate) data: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut record = Self::default();
        let mut fields = Fields(bytes);
        while !fields.0.is_empty() {
            match fields.next()? {
                (1, Value::Varint(value)) => record.kind = value,
                // Protobuf takes a uint32 from the low half of any varint.
                (2, Value::Varint(value)) => record.crc = low_half(value),
                (3, Value::Bytes(data)) => record.data = data,
                (1..=3, _) => return None,
                _ => {}
            }
        }
        Some(record)
    }

    /// The running crc after this record, if it matches the stored one.
    pub(crate) fn verify(&self, seed: u32) -> Option<u32> {
        (crc32c::crc32c_append(seed, self.data) == self.crc).then_some(self.crc)
    }
}

fn low_half(value: u64) -> u32 {
    let bytes = value.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryView<'a> {
    pub(crate) kind: u64,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) data: &'a [u8],
}

impl<'a> EntryView<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut entry = Self::default();
        let mut fields = Fields(bytes);
        while !fields.0.is_empty() {
            match fields.next()? {
                (1, Value::Varint(value)) => entry.kind = value,
                (2, Value::Varint(value)) => entry.term = value,
                (3, Value::Varint(value)) => entry.index = value,
                (4, Value::Bytes(data)) => entry.data = data,
                (1..=4, _) => return None,
                _ => {}
            }
        }
        Some(entry)
    }

    /// The entry, sharing its payload with `whole`; `None` for a type that etcd's log never holds.
    pub(crate) fn to_entry(self, whole: &Bytes) -> Option<Entry> {
        let kind = match self.kind {
            0 => EntryKind::Normal,
            1 => EntryKind::ConfChange,
            _ => return None,
        };
        let data = if self.data.is_empty() { Bytes::new() } else { whole.slice_ref(self.data) };
        Some(Entry { term: self.term, index: self.index, kind, data })
    }
}

pub(crate) fn parse_state(bytes: &[u8]) -> Option<HardState> {
    let mut state = HardState::default();
    let mut fields = Fields(bytes);
    while !fields.0.is_empty() {
        match fields.next()? {
            (1, Value::Varint(value)) => state.term = value,
            (2, Value::Varint(value)) => state.vote = value,
            (3, Value::Varint(value)) => state.commit = value,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    Some(state)
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = varint::take(&mut self.0)?;
        let number = tag >> 3;
        if number == 0 || number > (1 << 29) - 1 {
            return None;
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint::take(&mut self.0)?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = varint::take(&mut self.0)?;
                Value::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups: these messages have never had any.
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;
    use proto::{raftpb, walpb};

    fn entry(kind: EntryKind, term: u64, index: u64, data: Vec<u8>) -> Entry {
        Entry { term, index, kind, data: data.into() }
    }

    fn reference(seed: u32, entry: &Entry) -> Vec<u8> {
        let message = raftpb::Entry {
            r#type: (entry.kind == EntryKind::ConfChange).then_some(1),
            term: Some(entry.term),
            index: Some(entry.index),
            data: (!entry.data.is_empty()).then(|| entry.data.clone()),
        };
        let data = message.encode_to_vec();
        let crc = crc32c::crc32c_append(seed, &data);
        walpb::Record { r#type: Some(2), crc: Some(crc), data: Some(data.into()) }.encode_to_vec()
    }

    proptest! {
        #[test]
        fn an_entry_is_encoded_as_the_generated_code_does_it_and_comes_back(
            change in any::<bool>(), term in any::<u64>(), index in any::<u64>(), seed in any::<u32>(),
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let kind = if change { EntryKind::ConfChange } else { EntryKind::Normal };
            let entry = entry(kind, term, index, data);
            let mut out = Vec::new();
            let crc = push_entry(&mut out, seed, &entry);
            prop_assert!(out.len() <= entry_frame_bytes_max(entry.data.len()));
            prop_assert_eq!(out.len() % 8, 0);
            let (length, padding) = split_word(u64::from_le_bytes(out[..8].try_into().unwrap()));
            let length = usize::try_from(length).unwrap();
            prop_assert_eq!(out.len(), 8 + length + usize::try_from(padding).unwrap());
            prop_assert_eq!(&out[8..8 + length], &reference(seed, &entry)[..]);
            let record = Record::parse(&out[8..8 + length]).unwrap();
            prop_assert_eq!(record.verify(seed), Some(crc));
            let whole = Bytes::copy_from_slice(record.data);
            prop_assert_eq!(EntryView::parse(&whole).unwrap().to_entry(&whole), Some(entry));
        }

        #[test]
        fn a_state_is_encoded_as_the_generated_code_does_it(
            term in any::<u64>(), vote in any::<u64>(), commit in any::<u64>(),
        ) {
            let mut out = Vec::new();
            push_state(&mut out, 0, &HardState { term, vote, commit });
            let (length, _) = split_word(u64::from_le_bytes(out[..8].try_into().unwrap()));
            let record = Record::parse(&out[8..8 + usize::try_from(length).unwrap()]).unwrap();
            let message = raftpb::HardState { term: Some(term), vote: Some(vote), commit: Some(commit) };
            prop_assert_eq!(record.data, &message.encode_to_vec()[..]);
            prop_assert_eq!(parse_state(record.data), Some(HardState { term, vote, commit }));
        }

        #[test]
        fn any_bytes_are_read_as_the_generated_code_reads_them(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0_u8..0x30], 0..40),
        ) {
            // prost skips unknown groups; this parser refuses them.
            if let (Some(ours), Ok(theirs)) = (Record::parse(&bytes), walpb::Record::decode(&bytes[..])) {
                prop_assert_eq!(ours.kind, theirs.r#type().cast_unsigned());
                prop_assert_eq!(ours.crc, theirs.crc());
                prop_assert_eq!(ours.data, theirs.data());
            }
            if let Some(ours) = EntryView::parse(&bytes) {
                let theirs = raftpb::Entry::decode(&bytes[..]).unwrap();
                prop_assert_eq!((ours.term, ours.index, ours.data), (theirs.term(), theirs.index(), theirs.data()));
            }
            prop_assert!(Record::parse(&bytes).is_none() || walpb::Record::decode(&bytes[..]).is_ok());
        }
    }

    #[test]
    fn the_length_word_keeps_length_and_padding_apart() {
        for length in 1..40 {
            let (word, padding) = word_for(length);
            assert_eq!(split_word(word), (length as u64, padding as u64));
            assert_eq!((length + padding) % 8, 0);
        }
    }
}
