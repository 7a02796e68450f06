//! The two stream formats, pure. All integers are big-endian.
//!
//! ```text
//! msgapp ("msgappv2")   00                                       link heartbeat
//!                       01  u64 n  n × (u64 len, Entry)  u64 commit   entries that continue the last message
//!                       02  u64 len  Message                     anything else
//! message               u64 len  Message                         link heartbeat = a Message with only type = 8
//! ```
//!
//! A msgapp connection has state on both ends, `(term, index)` from `(0, 0)`: form 01 omits what follows from the
//! message before. So an encoder and a decoder serve one connection each.
//!
//! Source: etcd `rafthttp/{msgappv2_codec,msg_codec,stream}.go`. etcd's decoder trusts lengths and panics on malformed
//! payloads; here lengths are bounded, and a malformed payload is an error.

mod msgapp;

use crate::limits::Limits;
use bytes::{BufMut, BytesMut};
use msgapp::{MsgAppDecoder, MsgAppEncoder};
use proto::raftpb;

/// The link heartbeat of a message stream: a length of two, and a `Message` with only a type.
const MESSAGE_HEARTBEAT: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 2, 8, 8];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) frame_bytes: u64,
    pub(crate) entries: u64,
}

impl Bounds {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { frame_bytes: limits.frame_bytes, entries: limits.frame_entries }
    }
}

#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "moved once, and heartbeats are rare")]
pub(crate) enum Frame {
    Heartbeat,
    Message(raftpb::Message),
}

/// Why a stream cannot be decoded. The connection must be closed: its state is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("failed to parse type {0} in msgappv2 stream")]
    UnknownTag(u8),
    #[error("{what} of {length} exceeds the limit of {limit}")]
    TooLong { what: &'static str, length: u64, limit: u64 },
    #[error("malformed {what}: {cause}")]
    Malformed { what: &'static str, cause: String },
    #[error("entries run past the last index")]
    IndexOverflow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `MsgApp`, without what follows from the message before.
    MsgApp,
    Message,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::MsgApp, Self::Message];

    /// The `<kind>` in the path `/raft/stream/<kind>/<id>`.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::MsgApp => "msgapp",
            Self::Message => "message",
        }
    }

    /// The name in etcd's logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MsgApp => "stream MsgApp v2",
            Self::Message => "stream Message",
        }
    }
}

#[derive(Debug)]
pub(crate) enum Encoder {
    MsgApp(MsgAppEncoder),
    Message,
}

impl Encoder {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::MsgApp => Self::MsgApp(MsgAppEncoder::default()),
            Kind::Message => Self::Message,
        }
    }

    pub(crate) fn encode(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        match self {
            Self::MsgApp(encoder) => encoder.encode(message, out),
            Self::Message => put_sized(message, out),
        }
    }

    pub(crate) fn heartbeat(&mut self, out: &mut BytesMut) {
        match self {
            Self::MsgApp(_) => out.put_u8(msgapp::TAG_HEARTBEAT),
            Self::Message => out.put_slice(&MESSAGE_HEARTBEAT),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Decoder {
    MsgApp(MsgAppDecoder),
    Message(Bounds),
}

impl Decoder {
    pub(crate) fn new(kind: Kind, local: u64, remote: u64, bounds: Bounds) -> Self {
        match kind {
            Kind::MsgApp => Self::MsgApp(MsgAppDecoder::new(local, remote, bounds)),
            Kind::Message => Self::Message(bounds),
        }
    }

    /// Takes the next frame, sharing the memory of `input`; `None` if more bytes are needed (a part may be taken).
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        match self {
            Self::MsgApp(decoder) => decoder.decode(input),
            Self::Message(bounds) => {
                let taken = take_sized("message", bounds.frame_bytes, input)?;
                let frame = |m| if is_link_heartbeat(&m) { Frame::Heartbeat } else { Frame::Message(m) };
                Ok(taken.map(|(message, _)| frame(message)))
            }
        }
    }
}

/// Whether it is a link heartbeat: raft never sends a message without sender and recipient.
pub(crate) fn is_link_heartbeat(message: &raftpb::Message) -> bool {
    message.r#type == Some(raftpb::MessageType::MsgHeartbeat.into())
        && message.from() == 0
        && message.to() == 0
}

fn peek_u64(input: &[u8]) -> Option<u64> {
    input.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn bounded(what: &'static str, length: u64, limit: u64) -> Result<usize, DecodeError> {
    match usize::try_from(length) {
        Ok(n) if length <= limit => Ok(n),
        _ => Err(DecodeError::TooLong { what, length, limit }),
    }
}

/// Takes `u64 len, bytes` from the front and decodes the bytes; `None` if they are incomplete.
fn take_sized<M: prost::Message + Default>(
    what: &'static str,
    limit: u64,
    input: &mut BytesMut,
) -> Result<Option<(M, usize)>, DecodeError> {
    let Some(length) = peek_u64(input) else { return Ok(None) };
    let length = bounded(what, length, limit)?;
    if input.len() - 8 < length {
        return Ok(None);
    }
    bytes::Buf::advance(input, 8);
    let body = input.split_to(length).freeze();
    let message = M::decode(body).map_err(|e| DecodeError::Malformed { what, cause: e.to_string() })?;
    Ok(Some((message, length)))
}

/// Appends `u64 len, bytes`.
pub(crate) fn put_sized<M: prost::Message>(message: &M, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(8 + length);
    out.put_u64(length as u64);
    message.encode_raw(out);
}

#[cfg(test)]
mod tests;
