//! An HTTP/2 client that builds its own frames, as no library would.

use super::super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, RESET, SETTINGS,
    WINDOW_UPDATE, frame, framed,
};
use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// HTTP/2's default maximum frame size, in bytes.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// The HEADERS frame of a gRPC call.
pub(crate) fn headers(stream: u32, path: &str) -> Vec<u8> {
    let literal = |out: &mut Vec<u8>, text: &str| {
        out.push(u8::try_from(text.len()).unwrap());
        out.extend(text.as_bytes());
    };
    let mut block = vec![0x83, 0x86, 0x04]; // POST, http, :path
    literal(&mut block, path);
    block.push(0x01); // :authority
    literal(&mut block, "q");
    block.extend([0x0f, 0x10]); // content-type
    literal(&mut block, "application/grpc");
    frame(HEADERS, END_HEADERS, stream, &block)
}

pub(crate) fn data(stream: u32, bytes: &[u8], is_last: bool) -> Vec<u8> {
    frame(DATA, if is_last { END_STREAM } else { 0 }, stream, bytes)
}

pub(crate) fn call(stream: u32, path: &str, request: &impl prost::Message) -> Vec<u8> {
    let (mut frames, request) = (headers(stream, path), message(request));
    let mut pieces = request.chunks(FRAME_BYTES_MAX).peekable();
    while let Some(piece) = pieces.next() {
        frames.extend(data(stream, piece, pieces.peek().is_none()));
    }
    frames
}

pub(crate) fn message(message: &impl prost::Message) -> Vec<u8> {
    framed(0, &message.encode_to_vec()).into()
}

/// A `RST_STREAM` frame with code CANCEL.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &8u32.to_be_bytes())
}

pub(crate) fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: HashMap<u32, usize>,
    /// Streams that ended with headers (without messages) or trailers, and the raw block of those.
    pub(crate) ended: HashMap<u32, Vec<u8>>,
    /// Bytes by which the connection's window was opened: the server has read that much more.
    pub(crate) window: u64,
    pub(crate) is_greeted: bool,
    /// The debug data of a GOAWAY.
    pub(crate) goaway: Option<String>,
}

pub(crate) struct Raw {
    pub(crate) read: OwnedReadHalf,
    pub(crate) write: OwnedWriteHalf,
    pub(crate) seen: Seen,
    /// The same socket, for another thread.
    side: std::net::TcpStream,
}

impl Raw {
    /// Connects; the server may send `stream_window` bytes on each stream.
    pub(crate) async fn connect(address: SocketAddr, stream_window: u32) -> Self {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let side = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (read, mut write) = stream.into_split();
        let mut settings = vec![0, 4];
        settings.extend(stream_window.to_be_bytes());
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        hello.extend(window(0, 1 << 30));
        write.write_all(&hello).await.unwrap();
        let mut raw = Self { read, write, seen: Seen::default(), side };
        // Its windows apply once the settings are acknowledged.
        raw.until(|seen| seen.is_greeted).await;
        raw
    }

    /// Sends while this thread, and so the server, is paused.
    pub(crate) async fn send_beside(&self, frames: Vec<u8>, still: Duration) {
        let mut side = self.side.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let mut left = &frames[..];
            while !left.is_empty() {
                match side.write(left) {
                    Ok(sent) => left = &left[sent..],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => return, // the server has closed the connection
                }
            }
        });
        std::thread::sleep(still);
        while !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        writer.join().unwrap();
    }

    pub(crate) async fn send(&mut self, frames: &[u8]) {
        self.write.write_all(frames).await.unwrap();
    }

    /// Reads one frame; false if the connection has ended.
    pub(crate) async fn frame(&mut self) -> bool {
        let Some(Frame { kind, flags, stream, payload }) = Frame::read(&mut self.read).await else {
            return false;
        };
        match kind {
            DATA => *self.seen.bytes.entry(stream).or_default() += payload.len(),
            WINDOW_UPDATE if stream == 0 => {
                self.seen.window += u64::from(u32::from_be_bytes(payload[..4].try_into().unwrap()));
            }
            SETTINGS if flags & ACK == 0 => {
                self.seen.is_greeted = true;
                self.send(&frame(SETTINGS, ACK, 0, &[])).await;
            }
            PING if flags & ACK == 0 => self.send(&frame(PING, ACK, 0, &payload)).await,
            GOAWAY => self.seen.goaway = Some(String::from_utf8_lossy(&payload[8..]).into_owned()),
            HEADERS if flags & END_STREAM != 0 => drop(self.seen.ended.insert(stream, payload)),
            RESET => drop(self.seen.ended.entry(stream).or_insert(payload)),
            _ => {}
        }
        true
    }

    pub(crate) async fn until(&mut self, is_so: impl Fn(&Seen) -> bool) {
        while !is_so(&self.seen) {
            assert!(self.frame().await, "the connection ended: {:?}", self.seen.goaway);
        }
    }
}
