//! gRPC message framing: a flag byte, a four-byte length, the message. A response is encoded at its exact size.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
pub(crate) use proto::grpc::{PREFIX_BYTES, put_prefix};
use std::cell::RefCell;
use tonic::Status;

/// Responses up to this size share a block of [`BLOCK_BYTES`]; a list must not pin a block of small ones.
const SHARED_ANSWER_BYTES_MAX: usize = 2 << 10;

/// Size of a block for small responses: one allocation for about a hundred puts, freed when the last of them was sent.
const BLOCK_BYTES: usize = 16 << 10;

/// Bytes of a message that must have come before the rest is reserved, and the free space that the next frames need.
pub(crate) const RESERVED_BYTES_MIN: usize = 64 << 10;

/// Most memory reserved at once for one message, in bytes: any put of the default size. Untouched pages are free.
const RESERVED_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Encodes a message with its prefix. One that is too long for the prefix is refused before sending: see [`sendable`].
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let fill = |out: &mut BytesMut| {
        put_prefix(out, length as u64);
        message.encode_raw(out);
    };
    if length > SHARED_ANSWER_BYTES_MAX {
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
        fill(&mut out);
        return out.freeze();
    }
    BLOCK.with_borrow_mut(|block| {
        if block.capacity() < PREFIX_BYTES + length {
            *block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        fill(block);
        block.split().freeze()
    })
}

/// Refuses a response longer than `max_bytes`. `framed` includes the prefix.
pub(crate) fn sendable(framed: Bytes, max_bytes: usize) -> Result<Bytes, Status> {
    sendable_length(framed.len().saturating_sub(PREFIX_BYTES) as u64, max_bytes)?;
    Ok(framed)
}

pub(crate) fn sendable_length(length: u64, max_bytes: usize) -> Result<(), Status> {
    if length <= max_bytes as u64 {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({length} vs. {max_bytes})");
    Err(Status::resource_exhausted(text))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    flag: u8,
    length: usize,
}

impl Prefix {
    /// Parses the prefix; `None` until it is complete. Fails if the announced length exceeds `max_bytes`.
    pub(crate) fn of(data: &[u8], max_bytes: usize) -> Result<Option<Self>, Status> {
        let Some((prefix, _)) = data.split_at_checked(PREFIX_BYTES) else {
            return Ok(None);
        };
        let length = (&prefix[1..]).get_u32() as usize;
        if length > max_bytes {
            let text = format!("grpc: received message larger than max ({length} vs. {max_bytes})");
            return Err(Status::resource_exhausted(text));
        }
        Ok(Some(Self { flag: prefix[0], length }))
    }

    /// Whether the message is compressed. Fails if it must not be, or if the flag is unknown.
    pub(crate) fn is_packed(self, may_be: bool) -> Result<bool, Status> {
        match self.flag {
            0 => Ok(false),
            1 if may_be => Ok(true),
            1 => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
            flag => Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        }
    }

    /// Reserves memory for the rest of a message, once enough has come, so that a large one is not copied at each
    /// doubling; returns the whole length.
    pub(crate) fn reserve(self, pieces: &mut BytesMut) -> usize {
        let (here, whole) = (pieces.len(), PREFIX_BYTES + self.length);
        let room = pieces.capacity();
        if here > RESERVED_BYTES_MIN && room < whole.min(here + RESERVED_BYTES_MIN) {
            // `BytesMut::reserve` would at least double the capacity.
            let mut larger = BytesMut::with_capacity(whole.min(here + RESERVED_BYTES_MAX.max(here)));
            larger.extend_from_slice(pieces);
            *pieces = larger;
        }
        whole
    }

    /// The message, if `data` starts with this prefix and contains all of it.
    pub(crate) fn message_in(self, data: &[u8]) -> Option<&[u8]> {
        data.get(PREFIX_BYTES..PREFIX_BYTES + self.length)
    }

    pub(crate) fn take(self, pieces: &mut BytesMut) -> Option<Bytes> {
        if pieces.len() < PREFIX_BYTES + self.length {
            return None;
        }
        pieces.advance(PREFIX_BYTES);
        Some(pieces.split_to(self.length).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn an_answer_above_the_limit_is_refused() {
        let answer = encode(&prost_bytes(20));
        let length = answer.len() - PREFIX_BYTES;
        assert_eq!(sendable(answer.clone(), length).map_err(|s| s.code()), Ok(answer.clone()));
        let status = sendable(answer, length - 1).expect_err("too long");
        let text = format!("grpc: trying to send message larger than max ({length} vs. {})", length - 1);
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, &*text));
    }

    #[test]
    fn answers_carry_their_length() {
        let small = prost_bytes(3);
        let large = prost_bytes(SHARED_ANSWER_BYTES_MAX + 1);
        for message in [&small, &large, &small] {
            let frame = encode(message);
            let length = u32::try_from(message.encoded_len()).expect("a short message");
            assert_eq!(frame[..PREFIX_BYTES], [&[0][..], &length.to_be_bytes()].concat());
            assert_eq!(frame[PREFIX_BYTES..], message.encode_to_vec());
        }
    }

    fn prost_bytes(length: usize) -> proto::mvccpb::KeyValue {
        proto::mvccpb::KeyValue { value: vec![7; length].into(), ..Default::default() }
    }
}
