//! gRPC on the wire: length-prefixed messages in, one message or a stream of them out, the status in trailers.
//!
//! tonic's generated services would do it too; this is what is left of them when every call is unary or streams only
//! its answers, nothing is compressed, and errors must carry grpc-go's texts (which clients of etcd see). A call costs
//! no box and no codec buffer: an answer is encoded at its exact size into a block shared by many answers.

use crate::{
    budget::{Held, Meter, Share},
    metrics::Call,
    streams::Outgoing,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prost::Message;
use std::{
    cell::RefCell,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tonic::{Code, Status};

/// What precedes a message on the wire: a flag byte and a length of four.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Answers up to this size share a block of [`BLOCK_BYTES`]; larger ones get memory of their own, so that a list does
/// not pin a block's small answers, nor the other way round.
const SHARED_ANSWER_BYTES_MAX: usize = 2 << 10;

/// A block for small answers: one allocation for some hundred puts, freed when the last of them has left.
const BLOCK_BYTES: usize = 16 << 10;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A message as it goes over the wire, with its prefix.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let fill = |out: &mut BytesMut| {
        out.put_u8(0); // not compressed
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        message.encode_raw(out);
    };
    if length > SHARED_ANSWER_BYTES_MAX {
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
        fill(&mut out);
        return out.freeze();
    }
    BLOCK.with_borrow_mut(|block| {
        if block.capacity() < PREFIX_BYTES + length {
            *block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        fill(block);
        block.split().freeze()
    })
}

/// Where a call's messages come from.
#[derive(Debug)]
pub(crate) enum Requests {
    /// A client that speaks gRPC.
    Wire(Incoming),
    /// One that speaks JSON.
    Gateway(gateway::Messages),
}

impl Body for Requests {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Wire(body) => Pin::new(body).poll_frame(cx),
            Self::Gateway(messages) => {
                Pin::new(messages).poll_frame(cx).map_err(|never: Infallible| match never {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Wire(body) => body.is_end_stream(),
            Self::Gateway(messages) => messages.is_end_stream(),
        }
    }
}

/// Reads the one message of a call, bounded by `max_bytes` before anything is decoded.
pub(crate) async fn read(
    mut body: Requests,
    headers: &HeaderMap,
    max_bytes: usize,
    call: &Call,
    share: &Arc<Share>,
) -> Result<Bytes, Status> {
    let mut message = Gather::new(max_bytes);
    let mut meter = Meter::new(share);
    while let Some(frame) = next_frame(&mut body, &mut meter).await? {
        let frame = frame.map_err(|_| Status::cancelled("context canceled"))?;
        if let Ok(data) = frame.into_data() {
            message.push(&data, headers)?;
            meter.hold(message.pieces.len())?;
        }
        if body.is_end_stream() {
            break;
        }
    }
    let bytes = message.finish()?;
    call.received(bytes.len());
    Ok(bytes)
}

/// The next frame of a body whose bytes are counted; fails where they have to go.
pub(crate) async fn next_frame(
    body: &mut Requests,
    meter: &mut Meter,
) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, Status> {
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Ok(frame)),
        Poll::Pending => meter.poll_stalled(cx).map(Err),
    })
    .await
}

/// grpc-go's answer to what cannot be decoded.
pub(crate) fn decoded<M, E: std::fmt::Display>(message: Result<M, E>) -> Result<M, Status> {
    message.map_err(|e| Status::internal(format!("grpc: error unmarshalling request: {e}")))
}

/// Collects a message from the pieces it arrives in: nearly always one, which is then used as it is.
struct Gather {
    max_bytes: usize,
    pieces: BytesMut,
    whole: Option<Bytes>,
}

impl Gather {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, pieces: BytesMut::new(), whole: None }
    }

    fn push(&mut self, data: &Bytes, headers: &HeaderMap) -> Result<(), Status> {
        if data.is_empty() {
            return Ok(());
        }
        if self.whole.is_some() {
            return Err(Status::internal("grpc: a unary call carries more than one message"));
        }
        if self.pieces.is_empty()
            && let Some(length) = expected(data, self.max_bytes, headers)?
            && data.len() == PREFIX_BYTES + length
        {
            self.whole = Some(data.slice(PREFIX_BYTES..));
            return Ok(());
        }
        self.pieces.extend_from_slice(data);
        if let Some(length) = expected(&self.pieces, self.max_bytes, headers)? {
            match self.pieces.len().cmp(&(PREFIX_BYTES + length)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    let mut whole = self.pieces.split();
                    whole.advance(PREFIX_BYTES);
                    self.whole = Some(whole.freeze());
                }
                std::cmp::Ordering::Greater => {
                    return Err(Status::internal("grpc: a unary call carries more than one message"));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Bytes, Status> {
        match self.whole {
            Some(whole) => Ok(whole),
            // grpc-go hands out io.EOF and io.ErrUnexpectedEOF here.
            None if self.pieces.is_empty() => Err(Status::internal("EOF")),
            None => Err(Status::internal("unexpected EOF")),
        }
    }
}

/// The length that a message's prefix announces, once the prefix is there; refused when it is too large or compressed.
pub(crate) fn expected(data: &[u8], max_bytes: usize, headers: &HeaderMap) -> Result<Option<usize>, Status> {
    let Some((prefix, _)) = data.split_at_checked(PREFIX_BYTES) else {
        return Ok(None);
    };
    let length = (&prefix[1..]).get_u32() as usize;
    if length > max_bytes {
        let text = format!("grpc: received message larger than max ({length} vs. {max_bytes})");
        return Err(Status::resource_exhausted(text));
    }
    if prefix[0] != 0 {
        return Err(compressed(headers));
    }
    Ok(Some(length))
}

/// grpc-go's answers to a compressed message where no decompressor is registered, as in etcd.
fn compressed(headers: &HeaderMap) -> Status {
    match headers.get("grpc-encoding").and_then(|v| v.to_str().ok()) {
        None | Some("identity") => {
            Status::internal("grpc: compressed flag set with identity or empty encoding")
        }
        Some(name) => {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{name}\"");
            Status::unimplemented(text)
        }
    }
}

/// When the caller stops waiting, from `grpc-timeout` (gRPC over HTTP/2: at most eight digits and a unit).
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    Instant::now().checked_add(timeout(text)?)
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// What a call sends back.
#[derive(Default)]
pub(crate) enum Reply {
    /// The head says it all: an error, or nothing.
    #[default]
    Empty,
    /// One message, then the status OK.
    Message(Option<Bytes>),
    /// A large one, in pieces, whose bytes are counted.
    Held(Held),
    /// Messages as they come, then a status.
    Stream(Outgoing),
}

impl Reply {
    /// The answer to a unary call.
    pub(crate) fn unary(message: Bytes) -> http::Response<Self> {
        Self::head(Self::Message(Some(message)))
    }

    /// The same for a read that had to find room for its answer.
    pub(crate) fn held(message: Bytes, answers: &Arc<Share>, values: &Arc<Share>) -> http::Response<Self> {
        match answers.hold(message) {
            Ok(held) => Self::head(Self::Held(held)),
            Err(smaller) => Self::unary(values.count(smaller)),
        }
    }

    /// The answer to a call that streams.
    pub(crate) fn stream(messages: Outgoing) -> http::Response<Self> {
        Self::head(Self::Stream(messages))
    }

    /// A refusal: headers only.
    pub(crate) fn refusal(status: Status) -> http::Response<Self> {
        status.into_http()
    }

    fn head(body: Self) -> http::Response<Self> {
        let mut response = http::Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        response
    }
}

/// The trailers that end a call well.
fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}

fn failed(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only a message that is no header value even after percent-encoding gets here, and there is none.
        trailers.insert(STATUS, HeaderValue::from_static("2"));
    }
    trailers
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let frame = match this {
            Self::Empty => None,
            Self::Message(data) => {
                let message = data.take();
                if message.is_none() {
                    *this = Self::Empty;
                }
                Some(message.map_or_else(|| Frame::trailers(ok()), Frame::data))
            }
            Self::Held(held) => Some(match held.next() {
                Ok(Some(piece)) => Frame::data(piece),
                ended => {
                    *this = Self::Empty;
                    Frame::trailers(ended.map_or_else(|status| failed(&status), |_| ok()))
                }
            }),
            Self::Stream(messages) => Some(match std::task::ready!(messages.poll(cx)) {
                Ok(data) => Frame::data(data),
                Err(status) => {
                    *this = Self::Empty;
                    Frame::trailers(if status.code() == Code::Ok { ok() } else { failed(&status) })
                }
            }),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Message(_) | Self::Held(_) | Self::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        out.extend(message);
        out
    }

    fn gather(pieces: &[&[u8]], headers: &HeaderMap) -> Result<Bytes, (Code, String)> {
        let mut gather = Gather::new(10);
        let pushed = pieces.iter().try_for_each(|p| gather.push(&Bytes::copy_from_slice(p), headers));
        pushed.and_then(|()| gather.finish()).map_err(|s| (s.code(), s.message().to_owned()))
    }

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let frame = framed(b"0123456789");
        for cut in 0..frame.len() {
            let (front, back) = frame.split_at(cut);
            assert_eq!(gather(&[front, b"", back], &HeaderMap::new()).as_deref(), Ok(&b"0123456789"[..]));
        }
        assert_eq!(gather(&[&framed(b"")], &HeaderMap::new()).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_no_single_message_is_refused_in_grpc_gos_words() {
        let check = |pieces: &[&[u8]], encoding: Option<&'static str>, code, text: &str| {
            let mut headers = HeaderMap::new();
            if let Some(name) = encoding {
                headers.insert("grpc-encoding", HeaderValue::from_static(name));
            }
            assert_eq!(gather(pieces, &headers), Err((code, text.to_owned())));
        };
        let large = [&[0][..], &11u32.to_be_bytes()].concat();
        let text = "grpc: received message larger than max (11 vs. 10)";
        check(&[&large], None, Code::ResourceExhausted, text);
        let packed = [1, 0, 0, 0, 1, 7];
        let text = "grpc: Decompressor is not installed for grpc-encoding \"gzip\"";
        check(&[&packed], Some("gzip"), Code::Unimplemented, text);
        let text = "grpc: compressed flag set with identity or empty encoding";
        check(&[&packed], None, Code::Internal, text);
        check(&[], None, Code::Internal, "EOF");
        check(&[&framed(b"123")[..4]], None, Code::Internal, "unexpected EOF");
        let text = "grpc: a unary call carries more than one message";
        check(&[&framed(b"1"), &framed(b"2")], None, Code::Internal, text);
        check(&[&[framed(b"1"), framed(b"2")].concat()], None, Code::Internal, text);
    }

    #[test]
    fn answers_carry_their_length() {
        let small = prost_bytes(3);
        let large = prost_bytes(SHARED_ANSWER_BYTES_MAX + 1);
        for message in [&small, &large, &small] {
            let frame = encode(message);
            assert_eq!(frame[..PREFIX_BYTES], framed(&message.encode_to_vec())[..PREFIX_BYTES]);
            assert_eq!(frame[PREFIX_BYTES..], message.encode_to_vec());
        }
    }

    fn prost_bytes(length: usize) -> proto::mvccpb::KeyValue {
        proto::mvccpb::KeyValue { value: vec![7; length].into(), ..Default::default() }
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let check = |text: &str, expected: Option<Duration>| assert_eq!(timeout(text), expected, "{text}");
        check("5S", Some(Duration::from_secs(5)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("100m", Some(Duration::from_millis(100)));
        check("7u", Some(Duration::from_micros(7)));
        check("2H", Some(Duration::from_hours(2)));
        check("3M", Some(Duration::from_mins(3)));
        check("", None);
        check("S", None);
        check("5", None);
        check("123456789S", None);
        check("-1S", None);
        check("5é", None);
    }
}
