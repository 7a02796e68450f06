//! The message stream: length, message, length, message. No state.

use super::{Bounds, DecodeError, Frame, is_link_heartbeat, put_sized, take_sized};
use bytes::BytesMut;
use proto::raftpb;

/// Eight bytes of length and a `Message` with only `type = MsgHeartbeat`.
pub(super) const HEARTBEAT: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 2, 8, 8];

/// Writes a message stream.
#[derive(Debug, Default)]
pub struct MessageEncoder;

impl MessageEncoder {
    /// Appends one message.
    #[allow(clippy::unused_self, reason = "one face with the other encoder")]
    pub fn encode(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        put_sized(message, out);
    }
}

/// Reads a message stream.
#[derive(Debug, Default)]
pub struct MessageDecoder {
    bounds: Bounds,
}

impl MessageDecoder {
    /// A decoder for a new connection.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds }
    }

    /// Takes the next frame from the front of `input`; `None` when more bytes are needed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let taken = take_sized::<raftpb::Message>("message", self.bounds.frame_bytes, input)?;
        let frame = |m| if is_link_heartbeat(&m) { Frame::Heartbeat } else { Frame::Message(m) };
        Ok(taken.map(|(message, _)| frame(message)))
    }
}
