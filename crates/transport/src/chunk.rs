//! HTTP/1.1 chunked framing (RFC 9112, 7.1), pure and incremental. Chunks are not frames: Go flushes every 2 to 4 KiB,
//! also in the middle of a message. The reader joins the data of all chunks, and the codec finds the frames.

use bytes::BytesMut;

/// The longest size line with its extensions, or trailer, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Hexadecimal digits of a chunk's size: 16^15 is beyond any frame limit and fits a u64.
const SIZE_DIGITS_MAX: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("malformed chunk size")]
    Size,
    /// Chunk data without CRLF at its end, or a line feed without a carriage return.
    #[error("malformed chunk end")]
    End,
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

#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    state: State,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self { state: LINE_START }
    }
}

impl ChunkDecoder {
    /// Appends the data in `input` to `out`. Returns how many bytes of `input` belong to the body: all, unless it ends.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, ChunkError> {
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

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

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
