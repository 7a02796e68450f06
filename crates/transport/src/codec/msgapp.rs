//! The msgapp stream, "msgappv2": an append omits what follows from the append before.

use super::{Bounds, DecodeError, Frame, bounded, is_link_heartbeat, peek_u64, put_sized, take_sized};
use bytes::{Buf, BufMut, BytesMut};
use proto::raftpb;

pub(super) const TAG_HEARTBEAT: u8 = 0;
const TAG_ENTRIES: u8 = 1;
const TAG_MESSAGE: u8 = 2;

/// Entries for which memory is reserved at once, whatever length a frame has.
const ENTRIES_RESERVED_MAX: usize = 1024;

/// The state of both ends: the term and index at which the next append may continue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// After a full message: its term, and the index of its last entry.
    fn after(message: &raftpb::Message) -> Self {
        let index = message.entries.last().map_or(message.index(), raftpb::Entry::index);
        Self { term: message.term(), index }
    }
}

#[derive(Debug, Default)]
pub(crate) struct MsgAppEncoder {
    position: Position,
}

impl MsgAppEncoder {
    pub(super) fn encode(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        if is_link_heartbeat(message) {
            out.put_u8(TAG_HEARTBEAT);
        } else if self.continues(message) {
            out.put_u8(TAG_ENTRIES);
            out.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                put_sized(entry, out);
            }
            out.put_u64(message.commit());
            self.position.index = self.position.index.wrapping_add(message.entries.len() as u64);
        } else {
            out.put_u8(TAG_MESSAGE);
            put_sized(message, out);
            self.position = Position::after(message);
        }
    }

    /// Whether a message continues the one before, by etcd's test.
    fn continues(&self, message: &raftpb::Message) -> bool {
        let Position { term, index } = self.position;
        index == message.index() && term == message.log_term() && message.log_term() == message.term()
    }
}

#[derive(Debug)]
struct Run {
    left: u64,
    bytes: u64,
    entries: Vec<raftpb::Entry>,
}

#[derive(Debug)]
pub(crate) struct MsgAppDecoder {
    local: u64,
    remote: u64,
    bounds: Bounds,
    position: Position,
    /// A frame of entries of which the head was read.
    run: Option<Run>,
}

impl MsgAppDecoder {
    pub(super) fn new(local: u64, remote: u64, bounds: Bounds) -> Self {
        Self { local, remote, bounds, position: Position::default(), run: None }
    }

    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        if self.run.is_some() {
            return self.entries(input);
        }
        match input.first() {
            None => Ok(None),
            Some(&TAG_HEARTBEAT) => {
                input.advance(1);
                Ok(Some(Frame::Heartbeat))
            }
            Some(&TAG_ENTRIES) => self.head(input),
            Some(&TAG_MESSAGE) => self.message(input),
            Some(&tag) => Err(DecodeError::UnknownTag(tag)),
        }
    }

    fn head(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(count) = peek_u64(&input[1..]) else { return Ok(None) };
        let room = bounded("number of entries", count, self.bounds.entries)?.min(ENTRIES_RESERVED_MAX);
        if self.position.index.checked_add(count).is_none() {
            return Err(DecodeError::IndexOverflow);
        }
        input.advance(9);
        self.run = Some(Run { left: count, bytes: 0, entries: Vec::with_capacity(room) });
        self.entries(input)
    }

    fn entries(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let run = self.run.as_mut().expect("called with a run begun");
        while run.left > 0 {
            let limit = self.bounds.frame_bytes - run.bytes;
            let Some((entry, length)) = take_sized::<raftpb::Entry>("entry", limit, input)? else {
                return Ok(None);
            };
            run.entries.push(entry);
            run.bytes += length as u64;
            run.left -= 1;
        }
        let Some(commit) = peek_u64(input) else { return Ok(None) };
        input.advance(8);
        let entries = self.run.take().map(|run| run.entries).unwrap_or_default();
        let Position { term, index } = self.position;
        self.position.index += entries.len() as u64; // head() checked the sum
        Ok(Some(Frame::Message(raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgApp.into()),
            to: Some(self.local),
            from: Some(self.remote),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            entries,
            commit: Some(commit),
            ..Default::default()
        })))
    }

    fn message(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        // Does not take the tag before the message is complete.
        let Some(length) = peek_u64(&input[1..]) else { return Ok(None) };
        let length = bounded("message", length, self.bounds.frame_bytes)?;
        if input.len() < 9 + length {
            return Ok(None);
        }
        input.advance(1);
        let taken = take_sized::<raftpb::Message>("message", self.bounds.frame_bytes, input)?;
        let (message, _) = taken.expect("its length was checked");
        self.position = Position::after(&message);
        Ok(Some(Frame::Message(message)))
    }
}
