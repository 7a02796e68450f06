//! HTTP/2 byte by byte: requests that no library would send.

use super::{
    super::frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PREFACE, RESET, SETTINGS, frame,
    },
    *,
};

const FRAME_BYTES_MAX: usize = 16 << 10;

/// A client that sends arbitrary frames.
struct Wire {
    stream: TcpStream,
    next: u32,
}

/// The outcome of a stream: reset code, end, and bytes of data.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    reset: Option<u32>,
    ended: bool,
    bytes: usize,
}

const ANSWERED: &str = "an answer";

impl Wire {
    async fn connect(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        Self { stream, next: 1 }
    }

    /// Sends a call with these encoded headers; returns its stream's outcome, or `None` if the connection ended.
    async fn call(&mut self, block: &[u8]) -> Option<Got> {
        let id = self.next;
        self.next += 2;
        let mut out = Vec::new();
        let mut pieces = block.chunks(FRAME_BYTES_MAX).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            out.extend(frame(kind, flags, id, piece));
            kind = CONTINUATION;
        }
        out.extend(frame(DATA, END_STREAM, id, &framed(0, &a_range())));
        // Errors show up on reading.
        drop(self.stream.write_all(&out).await);
        tokio::time::timeout(PATIENCE, self.answer(id)).await.expect(ANSWERED)
    }

    async fn answer(&mut self, id: u32) -> Option<Got> {
        let mut got = Got::default();
        while got.reset.is_none() && !got.ended {
            let Frame { kind, flags, stream, payload } = Frame::read(&mut self.stream).await?;
            if kind == GOAWAY {
                return None;
            }
            if stream != id {
                continue;
            }
            match kind {
                DATA => got.bytes += payload.len(),
                RESET => got.reset = Some(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                _ => {}
            }
            got.ended |= matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        }
        Some(got)
    }
}

/// HPACK's integers (RFC 7541, 5.1) with a seven-bit prefix, as used for lengths.
fn length(n: usize, out: &mut Vec<u8>) {
    let byte = |n: usize| u8::try_from(n).unwrap();
    if n < 127 {
        out.push(byte(n));
        return;
    }
    out.push(127);
    let mut rest = n - 127;
    while rest >= 128 {
        out.push(byte((rest % 128) | 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

/// A literal field with a new name; `kind` 0 is not indexed, 0x40 is.
fn literal(kind: u8, name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    length(name.len(), out);
    out.extend(name.as_bytes());
    length(value.len(), out);
    out.extend(value);
}

/// Valid headers with this authority.
fn block(authority: Option<&str>) -> Vec<u8> {
    block_at(Some(RANGE), authority)
}

fn block_at(path: Option<&str>, authority: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in [(":method", "POST"), (":scheme", "http")] {
        literal(0, name, value.as_bytes(), &mut out);
    }
    if let Some(path) = path {
        literal(0, ":path", path.as_bytes(), &mut out);
    }
    if let Some(authority) = authority {
        literal(0, ":authority", authority.as_bytes(), &mut out);
    }
    literal(0, "content-type", b"application/grpc", &mut out);
    literal(0, "te", b"trailers", &mut out);
    out
}

async fn is_served(wire: &mut Wire, block: &[u8]) -> bool {
    wire.call(block).await.is_some_and(|got| got.bytes > 0 && got.reset.is_none())
}

#[tokio::test]
async fn any_authority_is_served() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    let long = "x".repeat(3_000);
    for authority in [
        "#initially=[127.0.0.1:2379]",
        "127.0.0.1:1,127.0.0.1:2",
        "/run/etcd.sock",
        "%2Frun%2Fetcd.sock",
        "http://host",
        "name/with/slashes",
        "",
        " ",
        "é",
        "@",
        "[::1",
        "a:b:c",
        &long,
    ] {
        assert!(is_served(&mut wire, &block(Some(authority))).await, "{authority:?}");
    }
    let got = wire.call(&block(None)).await.expect(ANSWERED);
    assert_eq!((got.bytes, got.reset), (0, None), "nobody is called: a refusal, in a head");
}

/// As in grpc-go, `content-length` is ignored: frames define the length.
#[tokio::test]
async fn any_content_length_is_served() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    for lengths in [
        &["0"][..],
        &["1"],
        &["1000000"],
        &["18446744073709551616"],
        &["-1"],
        &["x"],
        &[""],
        &["8, 8"],
        &["8", "1"],
        &["1", "8"],
    ] {
        let mut head = block(Some("a"));
        for length in lengths {
            literal(0, "content-length", length.as_bytes(), &mut head);
        }
        assert!(is_served(&mut wire, &head).await, "{lengths:?}");
    }
}

/// A path that is no URI path is an unknown method, never the method before its fragment.
#[tokio::test]
async fn any_path_is_a_methods_name() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    let fragment = format!("{RANGE}#x");
    let spaced = format!("{RANGE} x");
    let query = format!("{RANGE}?x#y");
    for path in [Some(&*fragment), Some(&*spaced), Some(&*query), Some("#"), Some("Range"), Some(""), None] {
        let got = wire.call(&block_at(path, Some("a"))).await.expect(ANSWERED);
        assert_eq!((got.bytes, got.reset, got.ended), (0, None, true), "{path:?}: a refusal, in a head");
        assert!(is_served(&mut wire, &block(Some("a"))).await, "after {path:?}");
    }
}

#[tokio::test]
async fn a_malformed_field_ends_its_stream_and_no_other() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    let protocol_error = Some(Got { reset: Some(1), ..Got::default() });
    for (name, value) in [
        ("X-Upper", &b"v"[..]),
        ("with space", b"v"),
        ("x-control", b"a\0b"),
        (":nobody", b"v"),
        (":method", b"P O"),
        (":path", b"\xff"),
        ("connection", b"close"),
    ] {
        let mut bad = Vec::new();
        if name.starts_with(':') {
            literal(0, name, value, &mut bad);
        }
        bad.extend(block(Some("a")));
        if !name.starts_with(':') {
            literal(0, name, value, &mut bad);
        }
        assert_eq!(wire.call(&bad).await, protocol_error, "{name}");
        assert!(is_served(&mut wire, &block(Some("a"))).await, "after {name}");
    }
}

/// Both ends must count even a malformed field in their HPACK tables.
#[tokio::test]
async fn a_malformed_field_keeps_its_place_in_the_table() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    let mut first = block(Some("a"));
    literal(0x40, "grpc-timeout", b"1X", &mut first); // 63 after the next
    literal(0x40, "X-Bad", b"v", &mut first); // 62
    assert_eq!(wire.call(&first).await.expect(ANSWERED).reset, Some(1));
    // A literal that refers to the malformed field's name.
    let mut named = block(Some("a"));
    named.extend([0x0f, 62 - 15, 1, b'w']);
    assert_eq!(wire.call(&named).await.expect(ANSWERED).reset, Some(1));
    let mut bad = block(Some("a"));
    bad.push(0xbe); // 62, as it is
    assert_eq!(wire.call(&bad).await.expect(ANSWERED).reset, Some(1));
    let mut timeout = block(Some("a"));
    timeout.push(0xbf); // 63
    let refused = wire.call(&timeout).await.expect(ANSWERED);
    assert_eq!((refused.bytes, refused.reset), (0, None), "the timeout is the one of the first call");
    assert!(is_served(&mut wire, &block(Some("a"))).await);
}

/// A client that ends its half in a separate frame, after the response, is no attacker.
#[tokio::test]
async fn halves_that_end_late_do_not_end_the_connection() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    let good = block(Some("a"));
    let mut refused = good.clone();
    literal(0, "grpc-timeout", b"0n", &mut refused);
    for round in 0..1_500 {
        let head = if round % 2 == 0 { &good } else { &refused };
        let id = wire.next;
        wire.next += 2;
        let mut out = frame(HEADERS, END_HEADERS, id, head);
        out.extend(frame(DATA, 0, id, &framed(0, &a_range())));
        wire.stream.write_all(&out).await.unwrap();
        let got = wire.answer(id).await.unwrap_or_else(|| panic!("call {round}: the connection ended"));
        assert_eq!((got.ended, got.reset), (true, None), "call {round}");
        wire.stream.write_all(&frame(DATA, END_STREAM, id, b"")).await.unwrap();
    }
}

fn with_metadata(bytes: usize, each: usize) -> Vec<u8> {
    let mut out = block(Some("a"));
    for _ in 0..bytes / each {
        literal(0, "x-metadata", &vec![b'v'; each], &mut out);
    }
    out
}

#[tokio::test]
async fn too_much_metadata_is_refused_on_its_stream() {
    let server = Server::start().await;
    let mut wire = Wire::connect(&server).await;
    for each in [1_000, 10_000, 100_000] {
        assert!(is_served(&mut wire, &with_metadata(900_000, each)).await, "{each}");
        for bytes in [1_200_000, 2_000_000, 3_900_000] {
            let got = wire.call(&with_metadata(bytes, each)).await.expect("the connection goes on");
            assert_eq!(got.bytes, 0, "{bytes} in {each}");
            assert!(is_served(&mut wire, &block(Some("a"))).await, "after {bytes} in {each}");
        }
    }
    // Four times the limit is no mistake.
    let mut wire = Wire::connect(&server).await;
    assert_eq!(wire.call(&with_metadata(6_000_000, 10_000)).await, None);
}
