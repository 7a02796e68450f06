//! Large messages as JSON, as they come.
//!
//! The library makes a tree of a message before it writes a letter, which takes ten times the memory of a list of short
//! values. So a large message is followed along its wire format, piece by piece, and never held: what is larger than a
//! part is entered, and its fields are shown as they become whole. Only one part has its tree at a time. What comes out
//! is the same.
//!
//! ```text
//! pieces ─▶ head of a field ─┬─ a message larger than a part ─▶ entered: one more is open
//!                            ├─ a shorter one, or a scalar ───▶ held until it is whole ─▶ json::write
//!                            └─ nobody knows it ──────────────▶ passed over
//! ```
//!
//! Invariants:
//! * Held at one time is one part, or one scalar (a value, say), and some words for each open message.
//! * Shown is only what every reader would understand alike: fields in the order of their numbers, each once or in a
//!   row, one of a oneof. Our encoders write nothing else; where it came, it could only be shown with the whole message
//!   in hand, so it is refused.
//! * The last bracket is written by [`Writer::finish`]: what breaks off before is no JSON.

use crate::{
    json,
    misfit::fits,
    scan::DEPTH_MAX,
    status::{INTERNAL, Status},
};
use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use std::{
    borrow::Cow,
    fmt,
    io::{self, Write as _},
};

/// Bytes of the longest varint.
const VARINT_BYTES_MAX: usize = 10;

/// A field's key, and behind it its number or its length.
const HEAD_BYTES_MAX: usize = 2 * VARINT_BYTES_MAX;

/// JSON of scalars that is passed on at once, in bytes.
const GATHERED_BYTES_MAX: usize = 4 << 10;

/// Writes a whole message, without its prefix, as JSON.
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

/// Writes a message that comes in pieces.
#[derive(Debug)]
pub(crate) struct Writer {
    part_bytes: usize,
    /// The innermost of the open messages, and those around it.
    top: Open,
    outer: Vec<Open>,
    next: Next,
    /// What has come of what is awaited.
    held: Vec<u8>,
    begun: bool,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A field's head.
    Head,
    /// So many bytes that nobody knows.
    Skip(usize),
    /// A message of so many bytes that is entered.
    Enter(usize),
    /// The missing bytes of what is shown at once: a message without its head, or a scalar with it.
    Show(usize),
}

/// A message that has been entered.
#[derive(Debug)]
struct Open {
    message: MessageDescriptor,
    /// Bytes behind the last field whose head has been read.
    rest: usize,
    last: Option<Field>,
    /// The oneofs that are set.
    oneofs: Vec<OneofDescriptor>,
    /// Nothing stands behind the bracket.
    is_empty: bool,
}

/// The last known field of an open message.
#[derive(Debug)]
struct Field {
    descriptor: FieldDescriptor,
    /// The messages it has, where it has some.
    inner: Option<MessageDescriptor>,
    /// How it comes on the wire.
    wire: WireType,
    is_list: bool,
    /// Its bracket stands.
    list_open: bool,
}

impl Writer {
    /// For a message of `length` bytes. Messages in it of up to `part_bytes` are written by way of their tree.
    pub(crate) fn new(message: MessageDescriptor, length: usize, part_bytes: usize) -> Self {
        let top = Open::new(message, length);
        Self { part_bytes, top, outer: Vec::new(), next: Next::Head, held: Vec::new(), begun: false }
    }

    /// How many bytes are worked on where so many come next.
    pub(crate) fn work(&self, piece_bytes: usize) -> usize {
        match self.next {
            Next::Show(missing) if missing > piece_bytes => piece_bytes,
            _ => self.held.len() + piece_bytes,
        }
    }

    /// Writes what is whole with these bytes. What follows the message is not looked at.
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

    /// Writes the end; refused where the message is not whole.
    pub(crate) fn finish(mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        self.begin(out)?;
        if self.next != Next::Head || self.top.rest > 0 || !self.outer.is_empty() {
            return Err(broken(&"it broke off"));
        }
        self.top.end(out)
    }

    fn begin(&mut self, out: &mut dyn io::Write) -> Result<(), Status> {
        if std::mem::replace(&mut self.begun, true) { Ok(()) } else { put(out, b"{") }
    }

    /// Reads a field's head; false where it is not whole, or there is none any more.
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

    /// How many bytes more of a list of scalars are here, as whole fields: a part of them is shown at once.
    fn row(&mut self, head: &Head, length: usize, piece: &Bytes) -> usize {
        let is_list = self.top.last.as_ref().is_some_and(|field| field.is_list);
        let most = if is_list { self.part_bytes.min(piece.len()) } else { 0 };
        let (mut row, mut rest) = (0, piece.get(length..most).unwrap_or_default());
        rest = &rest[..rest.len().min(self.top.rest)];
        // What is wrong is found when it is its turn.
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

    /// Takes in what follows a head; false where more of it has to come.
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
                    // Never more than what has come twice over, nor than what is to come.
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
            return Err(broken(&"it is too deep"));
        }
        let Some(inner) = self.top.introduce(out)? else { return Ok(()) };
        put(out, b"{")?;
        self.outer.push(std::mem::replace(&mut self.top, Open::new(inner, length)));
        Ok(())
    }

    /// Leaves the messages that are over.
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

    /// Takes note of a field; false where nobody knows it, refused where it cannot be shown now.
    fn admit(&mut self, head: &Head, out: &mut dyn io::Write) -> Result<bool, Status> {
        if let Some(last) = &self.last
            && last.is_list
            && last.descriptor.number() == head.number
            && last.wire == head.wire
        {
            return Ok(true);
        }
        let Some(descriptor) = self.message.get_field(head.number) else { return Ok(false) };
        let refuse = |what: &str| Err(broken(&format_args!("{} {what}", descriptor.full_name())));
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

    /// Shows a value of the last field: a whole message, or a scalar as it stands on the wire.
    fn show(&mut self, bytes: Bytes, out: &mut dyn io::Write) -> Result<(), Status> {
        if let Some(inner) = self.introduce(out)? {
            return json::write(&inner, bytes, out);
        }
        let Some(field) = &mut self.last else { return Ok(()) };
        // `{"name":…}` and `{"name":[…]}`; for a zero, or an empty list, there is only `{}`.
        let (front, back) = if field.is_list { (field.descriptor.name().len() + 5, 2) } else { (1, 1) };
        let lead = field.lead(self.is_empty);
        let mut inside = Inside { out, lead: Some(&lead), front, back, kept: Vec::new() };
        // The library writes brackets, commas and texts one by one.
        let mut gathered = io::BufWriter::with_capacity(bytes.len().min(GATHERED_BYTES_MAX), &mut inside);
        json::write(&self.message, bytes, &mut gathered)?;
        gathered.flush().map_err(|error| broken(&error))?;
        drop(gathered);
        if inside.lead.is_none() {
            (self.is_empty, field.list_open) = (false, field.is_list);
        }
        Ok(())
    }

    /// Writes what precedes a message of the last field, and says of which type it is; nothing where that has scalars.
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
    /// What precedes a value. The library writes the names of single scalars.
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

/// Passes on what stands between the brackets, without holding it.
struct Inside<'a> {
    out: &'a mut dyn io::Write,
    /// Written before anything is.
    lead: Option<&'a str>,
    /// Bytes in front that are still left out.
    front: usize,
    /// Bytes at the end that are left out.
    back: usize,
    /// The last ones.
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

/// What precedes a field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    number: u32,
    wire: WireType,
    /// Its own bytes: for a varint all there is.
    bytes: usize,
    /// The bytes that follow.
    content: usize,
}

impl Head {
    /// The head in front of `bytes`, once it is whole.
    fn of(bytes: &[u8]) -> Result<Option<Self>, Status> {
        let Some(key_bytes) = varint_bytes(bytes)? else { return Ok(None) };
        let (number, wire) = decode_key(&mut &bytes[..key_bytes]).map_err(|error| broken(&error))?;
        let (more, content) = match wire {
            WireType::SixtyFourBit => (0, 8),
            WireType::ThirtyTwoBit => (0, 4),
            WireType::Varint | WireType::LengthDelimited => {
                let Some(more) = varint_bytes(&bytes[key_bytes..])? else { return Ok(None) };
                let number = decode_varint(&mut &bytes[key_bytes..]).map_err(|error| broken(&error))?;
                let length = if wire == WireType::Varint { 0 } else { number };
                (more, usize::try_from(length).unwrap_or(usize::MAX))
            }
            WireType::StartGroup | WireType::EndGroup => return Err(broken(&"it has groups")),
        };
        Ok(Some(Self { number, wire, bytes: key_bytes + more, content }))
    }
}

/// How long the varint in front is, once it is whole.
fn varint_bytes(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let more = bytes.iter().take_while(|byte| **byte >= 0x80).count();
    if more >= VARINT_BYTES_MAX {
        return Err(broken(&"a number is too long"));
    }
    Ok((more < bytes.len()).then_some(more + 1))
}

fn put(out: &mut dyn io::Write, bytes: &[u8]) -> Result<(), Status> {
    out.write_all(bytes).map_err(|error| broken(&error))
}

fn cut_off() -> Status {
    broken(&"a field is cut off")
}

fn broken(error: &dyn fmt::Display) -> Status {
    Status::new(INTERNAL, format!("the gateway cannot show this answer: {error}"))
}

#[cfg(test)]
mod tests;
