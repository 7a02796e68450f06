//! The two stream formats, pure: bytes in any pieces to messages, messages to bytes. All integers are big-endian.
//!
//! ```text
//! msgapp ("msgappv2")   00                                       link heartbeat
//!                       01  u64 n  n × (u64 len, Entry)  u64 commit   entries that continue the last message
//!                       02  u64 len  Message                     anything else
//! message               u64 len  Message                         link heartbeat = a Message with only type = 8
//! ```
//!
//! A msgapp connection has state on both ends, `(term, index)` from `(0, 0)`: form 01 leaves out sender, addressee, term
//! and index, because they follow from the message before. So an encoder and a decoder live as long as one connection.
//!
//! Source: etcd `rafthttp/{msgappv2_codec,msg_codec,stream}.go`. Unlike etcd's decoder, which trusts lengths and panics
//! on malformed payloads, everything here is bounded and an error.

mod message;
mod msgapp;

use bytes::{BufMut, BytesMut};
use proto::raftpb;

pub use message::{MessageDecoder, MessageEncoder};
pub use msgapp::{MsgAppDecoder, MsgAppEncoder};

/// What a stream may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one message, or of one run of entries.
    pub frame_bytes: u64,
    /// Entries of one message.
    pub entries: u64,
}

impl Default for Bounds {
    /// Those of [`crate::Limits`].
    fn default() -> Self {
        let limits = crate::Limits::default();
        Self { frame_bytes: limits.frame_bytes, entries: limits.frame_entries }
    }
}

/// What a stream carries.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "moved once, and heartbeats are rare")]
pub enum Frame {
    /// The link is alive; not for raft.
    Heartbeat,
    /// A raft message.
    Message(raftpb::Message),
}

/// Why a stream's bytes are refused. The connection must be dropped: its state is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A msgapp frame of no known kind.
    #[error("failed to parse type {0} in msgappv2 stream")]
    UnknownTag(u8),
    /// A length above its limit.
    #[error("{what} of {length} exceeds the limit of {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The announced length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// Bytes that are not the protobuf message they should be.
    #[error("malformed {what}: {cause}")]
    Malformed {
        /// What they should be.
        what: &'static str,
        /// The decoder's complaint.
        cause: String,
    },
    /// Entries beyond the last index there is.
    #[error("entries run past the last index")]
    IndexOverflow,
}

/// The two kinds of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `MsgApp` and heartbeats, compressed by state.
    MsgApp,
    /// All other messages.
    Message,
}

impl Kind {
    /// Both, in the order of their lanes.
    pub const ALL: [Self; 2] = [Self::MsgApp, Self::Message];

    /// The word in the path `/raft/stream/<word>/<id>`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::MsgApp => "msgapp",
            Self::Message => "message",
        }
    }

    /// etcd's name in its logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MsgApp => "stream MsgApp v2",
            Self::Message => "stream Message",
        }
    }
}

/// The encoder of one connection.
#[derive(Debug)]
pub enum Encoder {
    /// Of a msgapp stream.
    MsgApp(MsgAppEncoder),
    /// Of a message stream.
    Message(MessageEncoder),
}

impl Encoder {
    /// An encoder for a connection that has carried nothing.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::MsgApp => Self::MsgApp(MsgAppEncoder::default()),
            Kind::Message => Self::Message(MessageEncoder),
        }
    }

    /// Appends one message.
    pub fn encode(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        match self {
            Self::MsgApp(encoder) => encoder.encode(message, out),
            Self::Message(encoder) => encoder.encode(message, out),
        }
    }

    /// Appends a link heartbeat.
    pub fn heartbeat(&mut self, out: &mut BytesMut) {
        match self {
            Self::MsgApp(_) => out.put_u8(msgapp::TAG_HEARTBEAT),
            Self::Message(_) => out.put_slice(&message::HEARTBEAT),
        }
    }
}

/// The decoder of one connection.
#[derive(Debug)]
pub enum Decoder {
    /// Of a msgapp stream.
    MsgApp(MsgAppDecoder),
    /// Of a message stream.
    Message(MessageDecoder),
}

impl Decoder {
    /// A decoder for a connection that has carried nothing, from member `remote` to member `local`.
    pub fn new(kind: Kind, local: u64, remote: u64, bounds: Bounds) -> Self {
        match kind {
            Kind::MsgApp => Self::MsgApp(MsgAppDecoder::new(local, remote, bounds)),
            Kind::Message => Self::Message(MessageDecoder::new(bounds)),
        }
    }

    /// Takes the next frame from the front of `input`; `None` when more bytes are needed. What was taken is gone from
    /// `input`, which may hold less than a frame. The messages share `input`'s memory.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        match self {
            Self::MsgApp(decoder) => decoder.decode(input),
            Self::Message(decoder) => decoder.decode(input),
        }
    }
}

/// Is it the message that only says "the link is alive"? Raft never sends one without sender and addressee.
pub(crate) fn is_link_heartbeat(message: &raftpb::Message) -> bool {
    message.r#type == Some(raftpb::MessageType::MsgHeartbeat.into())
        && message.from() == 0
        && message.to() == 0
}

/// Reads a big-endian u64 at the front without taking it.
fn peek_u64(input: &[u8]) -> Option<u64> {
    input.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn bounded(what: &'static str, length: u64, limit: u64) -> Result<usize, DecodeError> {
    match usize::try_from(length) {
        Ok(n) if length <= limit => Ok(n),
        _ => Err(DecodeError::TooLong { what, length, limit }),
    }
}

/// Takes `u64 len, bytes` from the front and decodes the bytes; `None` when they are not all there.
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
fn put_sized<M: prost::Message>(message: &M, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(8 + length);
    out.put_u64(length as u64);
    message.encode_raw(out);
}

#[cfg(test)]
mod tests;
