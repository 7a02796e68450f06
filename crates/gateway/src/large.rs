//! Converts large messages to JSON while they arrive.
//!
//! The library builds a tree of a message before it writes anything, ten times the size of a list of short values. So a
//! large message is parsed along its wire format: messages in it that are larger than a part are entered, and fields
//! are written when they are complete. Only one part has a tree at a time. The output is the same.
//!
//! ```text
//! pieces ─▶ head of a field ─┬─ message larger than a part ─▶ entered: one more is open
//!                            ├─ shorter message, or scalar ──▶ held until it is complete ─▶ json::write
//!                            └─ unknown field ───────────────▶ skipped
//! ```
//!
//! Invariants:
//! * Memory holds one part, or one scalar (such as a value), and a few words for each open message.
//! * Fields must come in the order of their numbers, repeated ones in a row, and one field of a oneof, as our encoders
//!   write them. Other messages would have to be held whole, so they are refused.
//! * [`Writer::finish`] writes the last bracket: a message that breaks off is not valid JSON.

use crate::{json, misfit::fits, scan::DEPTH_MAX, status::Status};
use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use std::{
    borrow::Cow,
    io::{self, Write as _},
};

const VARINT_BYTES_MAX: usize = 10;

/// The length of the longest head: a key, and the field's number or length.
const HEAD_BYTES_MAX: usize = 2 * VARINT_BYTES_MAX;

const GATHERED_BYTES_MAX: usize = 4 << 10;

pub(crate) fn write(
    message: &MessageDescriptor,
    bytes: Bytes,
    part_bytes: usize,
    out: &mut dyn io::Write,
) -> Result<(), Status> {
    if bytes.len() <= part_bytes {
        return json::write(message, bytes, out);
    }
    let mut writer = Writer::new(message.clone(), bytes.len(), part_bytes);
    writer.push(bytes, out)?;
    writer.finish(out)
}

#[derive(Debug)]
pub(crate) struct Writer {
    part_bytes: usize,
    /// The innermost open message, and those around it.
    top: Open,
    outer: Vec<Open>,
    next: Next,
    /// The bytes that have come of the next item.
    held: Vec<u8>,
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Head,
    /// The content of an unknown field, of this many bytes.
    Skip(usize),
    /// A message of this many bytes, to be entered.
    Enter(usize),
    /// A message without its head, or a scalar with it, of which this many bytes are missing.
    Show(usize),
}

#[derive(Debug)]
struct Open {
    message: MessageDescriptor,
    /// Bytes after the last field whose head has been read.
    rest: usize,
    last: Option<Field>,
    oneofs: Vec<OneofDescriptor>,
    /// No field has been written yet.
    is_empty: bool,
}

#[derive(Debug)]
struct Field {
    descriptor: FieldDescriptor,
    /// The type of its values, if they are messages.
    inner: Option<MessageDescriptor>,
    wire: WireType,
    is_list: bool,
    list_open: bool,
}

impl Writer {
    /// For a message of `length` bytes. Messages in it of up to `part_bytes` are converted at once.
    pub(crate) fn new(message: MessageDescriptor, length: usize, part_bytes: usize) -> Self {
        let top = Open::new(message, length);
        Self { part_bytes, top, outer: Vec::new(), next: Next::Head, held: Vec::new(), begun: false }
    }

    /// How many bytes are converted when the next piece has `piece_bytes`.
    pub(crate) fn work(&self, piece_bytes: usize) -> usize {
        match self.next {
            Next::Show(missing) if missing > piece_bytes => piece_bytes,
            _ => self.held.len() + piece_bytes,
        }
    }

    /// Writes what these bytes complete. Ignores bytes after the message.
    pub(crate) fn push(&mut self, mut piece: Bytes, out: &mut dyn io::Write) -> Result<(), Status> {
        self.begin(out)?;
        loop {
            if self.next == Next::Head && (piece.is_empty() || !self.head(&mut piece, out)?) {
                return Ok(());
            }
            if !self.content(&mut piece, out)? {
                return Ok(());
            }
            self.next = Next::Head;
            self.close(out)?;
        }
    }

    /// Writes the end. Fails if the message is not complete.
    pub(crate) fn finish(mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        self.begin(out)?;
        if self.next != Next::Head || self.top.rest > 0 || !self.outer.is_empty() {
            return Err(Status::unshown("it broke off"));
        }
        self.top.end(out)
    }

    fn begin(&mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        if std::mem::replace(&mut self.begun, true) { Ok(()) } else { put(out, b"{") }
    }

    /// Reads a field's head. Returns false if it is not complete, or the message has ended.
    fn head(&mut self, piece: &mut Bytes, out: &mut dyn io::Write) -> Result<bool, Status> {
        if self.top.rest == 0 {
            return Ok(false);
        }
        let held = self.held.len();
        let fresh = piece.len().min(self.top.rest.min(HEAD_BYTES_MAX).saturating_sub(held));
        let mut window = [0; HEAD_BYTES_MAX];
        window[..held].copy_from_slice(&self.held);
        window[held..held + fresh].copy_from_slice(&piece[..fresh]);
        let Some(head) = Head::of(&window[..held + fresh])? else {
            if held + fresh == self.top.rest {
                return Err(cut_off());
            }
            self.held.extend_from_slice(&piece[..fresh]);
            piece.advance(fresh);
            return Ok(false);
        };
        let length = head.bytes.saturating_add(head.content);
        self.top.rest = self.top.rest.checked_sub(length).ok_or_else(cut_off)?;
        let is_known = self.top.admit(&head, out)?;
        if is_known && !self.top.has_messages() {
            let row = if held == 0 { self.row(&head, length, piece) } else { 0 };
            self.next = Next::Show(length + row - held);
            return Ok(true);
        }
        self.held.clear();
        piece.advance(head.bytes - held);
        self.next = match head.content {
            content if !is_known => Next::Skip(content),
            content if content > self.part_bytes => Next::Enter(content),
            content => Next::Show(content),
        };
        Ok(true)
    }

    /// The length of the scalars of the same list that follow completely in `piece`, up to a part: they are written at
    /// once.
    fn row(&mut self, head: &Head, length: usize, piece: &Bytes) -> usize {
        let is_list = self.top.last.as_ref().is_some_and(|field| field.is_list);
        let most = if is_list { self.part_bytes.min(piece.len()) } else { 0 };
        let (mut row, mut rest) = (0, piece.get(length..most).unwrap_or_default());
        rest = &rest[..rest.len().min(self.top.rest)];
        while let Ok(Some(next)) = Head::of(rest)
            && (next.number, next.wire) == (head.number, head.wire)
            && let Some(behind) = rest.get(next.bytes.saturating_add(next.content)..)
        {
            row += rest.len() - behind.len();
            rest = behind;
        }
        self.top.rest -= row;
        row
    }

    /// Reads the content after a head. Returns false if more of it has to come.
    fn content(&mut self, piece: &mut Bytes, out: &mut dyn io::Write) -> Result<bool, Status> {
        match self.next {
            Next::Head => Ok(true),
            Next::Skip(missing) => {
                let here = missing.min(piece.len());
                piece.advance(here);
                self.next = Next::Skip(missing - here);
                Ok(here == missing)
            }
            Next::Enter(length) => {
                self.enter(length, out)?;
                Ok(true)
            }
            Next::Show(missing) if self.held.is_empty() && missing <= piece.len() => {
                let bytes = piece.split_to(missing);
                self.top.show(bytes, out)?;
                Ok(true)
            }
            Next::Show(missing) => {
                let here = missing.min(piece.len());
                if self.held.capacity() < self.held.len() + here {
                    // Not more than twice what has come, nor more than is missing: a length may be a lie.
                    self.held.reserve_exact(missing.min(here.max(self.held.len())));
                }
                self.held.extend_from_slice(&piece[..here]);
                piece.advance(here);
                self.next = Next::Show(missing - here);
                if here == missing {
                    self.top.show(std::mem::take(&mut self.held).into(), out)?;
                }
                Ok(here == missing)
            }
        }
    }

    fn enter(&mut self, length: usize, out: &mut dyn io::Write) -> Result<(), Status> {
        if self.outer.len() == DEPTH_MAX {
            return Err(Status::unshown("it is too deep"));
        }
        let Some(inner) = self.top.introduce(out)? else { return Ok(()) };
        put(out, b"{")?;
        self.outer.push(std::mem::replace(&mut self.top, Open::new(inner, length)));
        Ok(())
    }

    fn close(&mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        while self.top.rest == 0
            && let Some(outer) = self.outer.pop()
        {
            std::mem::replace(&mut self.top, outer).end(out)?;
        }
        Ok(())
    }
}

impl Open {
    fn new(message: MessageDescriptor, length: usize) -> Self {
        Self { message, rest: length, last: None, oneofs: Vec::new(), is_empty: true }
    }

    fn has_messages(&self) -> bool {
        self.last.as_ref().is_some_and(|field| field.inner.is_some())
    }

    /// Begins a field. Returns false if it is unknown; fails if it is out of order.
    fn admit(&mut self, head: &Head, out: &mut dyn io::Write) -> Result<bool, Status> {
        if let Some(last) = &self.last
            && last.is_list
            && last.descriptor.number() == head.number
            && last.wire == head.wire
        {
            return Ok(true);
        }
        let Some(descriptor) = self.message.get_field(head.number) else { return Ok(false) };
        let refuse = |what: &str| Err(Status::unshown(format_args!("{} {what}", descriptor.full_name())));
        if descriptor.is_map() {
            return refuse("is a map");
        }
        if !fits(&descriptor, head.wire) {
            return refuse("has a wrong type");
        }
        let is_list = descriptor.is_list();
        if let Some(last) = &mut self.last {
            if is_list && last.descriptor.number() == head.number {
                last.wire = head.wire;
                return Ok(true);
            }
            if last.descriptor.number() >= head.number {
                return refuse("comes out of order");
            }
            last.end(out)?;
        }
        if let Some(oneof) = descriptor.containing_oneof() {
            if self.oneofs.contains(&oneof) {
                return refuse("is set beside another of its kind");
            }
            self.oneofs.push(oneof);
        }
        let inner = if let Kind::Message(inner) = descriptor.kind() { Some(inner) } else { None };
        self.last = Some(Field { descriptor, inner, wire: head.wire, is_list, list_open: false });
        Ok(true)
    }

    /// Writes a value of the last field: a complete message, or scalars with their heads.
    fn show(&mut self, bytes: Bytes, out: &mut dyn io::Write) -> Result<(), Status> {
        if let Some(inner) = self.introduce(out)? {
            return json::write(&inner, bytes, out);
        }
        let Some(field) = &mut self.last else { return Ok(()) };
        // The library writes `{"name":…}` or `{"name":[…]}`; for a zero or an empty list only `{}`.
        let (front, back) = if field.is_list { (field.descriptor.name().len() + 5, 2) } else { (1, 1) };
        let lead = field.lead(self.is_empty);
        let mut inside = Inside { out, lead: Some(&lead), front, back, kept: Vec::new() };
        // The library writes brackets, commas and strings one by one.
        let mut gathered = io::BufWriter::with_capacity(bytes.len().min(GATHERED_BYTES_MAX), &mut inside);
        json::write(&self.message, bytes, &mut gathered)?;
        gathered.flush().map_err(Status::unshown)?;
        drop(gathered);
        if inside.lead.is_none() {
            (self.is_empty, field.list_open) = (false, field.is_list);
        }
        Ok(())
    }

    /// Writes what precedes a message of the last field, and returns its type; `None` for a field of scalars.
    fn introduce(&mut self, out: &mut dyn io::Write) -> Result<Option<MessageDescriptor>, Status> {
        let Some(field) = &mut self.last else { return Ok(None) };
        if field.inner.is_some() {
            put(out, field.lead(self.is_empty).as_bytes())?;
            (self.is_empty, field.list_open) = (false, field.is_list);
        }
        Ok(field.inner.clone())
    }

    fn end(mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        if let Some(last) = &mut self.last {
            last.end(out)?;
        }
        put(out, b"}")
    }
}

impl Field {
    /// The text before a value. The library writes the names of single scalars.
    fn lead(&self, is_first_field: bool) -> Cow<'static, str> {
        if self.list_open {
            return Cow::Borrowed(",");
        }
        let comma = if is_first_field { "" } else { "," };
        match (self.is_list, self.inner.is_some()) {
            (true, _) => format!("{comma}\"{}\":[", self.descriptor.name()).into(),
            (false, true) => format!("{comma}\"{}\":", self.descriptor.name()).into(),
            (false, false) => Cow::Borrowed(comma),
        }
    }

    fn end(&mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        if std::mem::take(&mut self.list_open) { put(out, b"]") } else { Ok(()) }
    }
}

/// Passes on what the library writes, without the outer brackets.
struct Inside<'a> {
    out: &'a mut dyn io::Write,
    lead: Option<&'a str>,
    front: usize,
    /// Bytes to skip at the end, and those of them that have come.
    back: usize,
    kept: Vec<u8>,
}

impl io::Write for Inside<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left_out = self.front.min(bytes.len());
        self.front -= left_out;
        let fresh = &bytes[left_out..];
        let passes = (self.kept.len() + fresh.len()).saturating_sub(self.back);
        if passes > 0 {
            if let Some(lead) = self.lead.take() {
                self.out.write_all(lead.as_bytes())?;
            }
            let old = passes.min(self.kept.len());
            self.out.write_all(&self.kept[..old])?;
            self.kept.drain(..old);
            self.out.write_all(&fresh[..passes - old])?;
            self.kept.extend_from_slice(&fresh[passes - old..]);
        } else {
            self.kept.extend_from_slice(fresh);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What precedes a field's content on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    number: u32,
    wire: WireType,
    /// Its own length. For a varint this includes the value.
    bytes: usize,
    content: usize,
}

impl Head {
    fn of(bytes: &[u8]) -> Result<Option<Self>, Status> {
        let Some(key_bytes) = varint_bytes(bytes)? else { return Ok(None) };
        let (number, wire) = decode_key(&mut &bytes[..key_bytes]).map_err(Status::unshown)?;
        let (more, content) = match wire {
            WireType::SixtyFourBit => (0, 8),
            WireType::ThirtyTwoBit => (0, 4),
            WireType::Varint | WireType::LengthDelimited => {
                let Some(more) = varint_bytes(&bytes[key_bytes..])? else { return Ok(None) };
                let number = decode_varint(&mut &bytes[key_bytes..]).map_err(Status::unshown)?;
                let length = if wire == WireType::Varint { 0 } else { number };
                (more, usize::try_from(length).unwrap_or(usize::MAX))
            }
            WireType::StartGroup | WireType::EndGroup => return Err(Status::unshown("it has groups")),
        };
        Ok(Some(Self { number, wire, bytes: key_bytes + more, content }))
    }
}

/// The length of the varint at the front, once it is complete.
fn varint_bytes(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let more = bytes.iter().take_while(|byte| **byte >= 0x80).count();
    if more >= VARINT_BYTES_MAX {
        return Err(Status::unshown("a number is too long"));
    }
    Ok((more < bytes.len()).then_some(more + 1))
}

fn put(out: &mut dyn io::Write, bytes: &[u8]) -> Result<(), Status> {
    out.write_all(bytes).map_err(Status::unshown)
}

fn cut_off() -> Status {
    Status::unshown("a field is cut off")
}

#[cfg(test)]
mod tests;
