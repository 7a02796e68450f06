//! HTTP/1.1 chunked framing (RFC 9112, 7.1), pure and incremental.
//!
//! Where etcd cuts its chunks means nothing: Go flushes every 2 to 4 KiB, in the middle of a message as well. So the
//! reader joins the data of all chunks, and the codec finds the frames.

use bytes::BytesMut;

/// Bytes of a size line with its extensions, or of a trailer line.
const LINE_BYTES_MAX: usize = 4096;
/// Hex digits of a chunk's size: 16^15 bytes are far beyond any frame limit, and fit a u64.
const SIZE_DIGITS_MAX: usize = 15;

/// Why bytes are not chunked framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A size line that is no hexadecimal number.
    #[error("malformed chunk size")]
    Size,
    /// A chunk's data that does not end with CRLF, or a line feed without its carriage return.
    #[error("malformed chunk end")]
    End,
    /// A line above the limit.
    #[error("chunk line too long")]
    Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a size line: the value so far, digits seen, extension begun, bytes of the line.
    Size {
        value: u64,
        digits: usize,
        extension: bool,
        line: usize,
    },
    /// After the size line's CR.
    SizeEnd {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In the trailer after the last chunk: bytes of this line, bytes of the trailer, CR seen.
    Trailer {
        line: usize,
        total: usize,
        cr: bool,
    },
    Done,
}

const LINE_START: State = State::Size { value: 0, digits: 0, extension: false, line: 0 };

/// Reads a chunked body.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self { state: LINE_START }
    }
}

impl ChunkDecoder {
    /// Appends the data in `input` to `out`. Returns how many bytes of `input` belong to the body: all, unless the body
    /// ended.
    pub fn feed(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                out.extend_from_slice(&input[at..at + take]);
                at += take;
                let left = left - take as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
            } else {
                self.state = step(self.state, input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Has the last chunk and its trailer been read?
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

/// One byte outside of data.
fn step(state: State, byte: u8) -> Result<State, ChunkError> {
    match (state, byte) {
        (State::Size { value, digits, line, .. }, b'\r') => {
            if digits == 0 || line > LINE_BYTES_MAX {
                return Err(ChunkError::Size);
            }
            Ok(State::SizeEnd { value })
        }
        (State::Size { value, digits, extension, line }, byte) => size(value, digits, extension, line, byte),
        (State::SizeEnd { value: 0 }, b'\n') => Ok(State::Trailer { line: 0, total: 0, cr: false }),
        (State::SizeEnd { value }, b'\n') => Ok(State::Data { left: value }),
        (State::DataCr, b'\r') => Ok(State::DataLf),
        (State::DataLf, b'\n') => Ok(LINE_START),
        (State::Trailer { line, total, cr }, byte) => trailer(line, total, cr, byte),
        (State::SizeEnd { .. } | State::DataCr | State::DataLf, _) => Err(ChunkError::End),
        (State::Data { .. } | State::Done, _) => Ok(state),
    }
}

fn size(value: u64, digits: usize, extension: bool, line: usize, byte: u8) -> Result<State, ChunkError> {
    let line = line + 1;
    if line > LINE_BYTES_MAX {
        return Err(ChunkError::Line);
    }
    if extension {
        return if byte == b'\n' {
            Err(ChunkError::End)
        } else {
            Ok(State::Size { value, digits, extension, line })
        };
    }
    match char::from(byte).to_digit(16) {
        Some(_) if digits == SIZE_DIGITS_MAX => Err(ChunkError::Size),
        Some(digit) => {
            Ok(State::Size { value: value * 16 + u64::from(digit), digits: digits + 1, extension, line })
        }
        None if digits > 0 && matches!(byte, b';' | b' ' | b'\t') => {
            Ok(State::Size { value, digits, extension: true, line })
        }
        None => Err(ChunkError::Size),
    }
}

fn trailer(line: usize, total: usize, cr: bool, byte: u8) -> Result<State, ChunkError> {
    match (cr, byte) {
        (true, b'\n') if line == 0 => Ok(State::Done),
        (true, b'\n') => Ok(State::Trailer { line: 0, total, cr: false }),
        (true, _) | (false, b'\n') => Err(ChunkError::End),
        (false, b'\r') => Ok(State::Trailer { line, total, cr: true }),
        (false, _) if total == LINE_BYTES_MAX => Err(ChunkError::Line),
        (false, _) => Ok(State::Trailer { line: line + 1, total: total + 1, cr: false }),
    }
}
