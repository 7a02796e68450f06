//! gRPC on the wire: length-prefixed messages in, one message or a stream of them out, the status in trailers.
//!
//! tonic's generated services would do it too; this is what is left of them when every call is unary or streams only
//! its answers, and errors must carry grpc-go's texts (which clients of etcd see). A call costs no box and no codec
//! buffer: an answer is encoded at its exact size into a block shared by many answers.

use crate::{
    budget::{Held, Late, Meter, Share, Shares},
    head,
    kv::Deadline,
    methods::Method,
    metrics::Call,
    streams::Outgoing,
    zip::{self, Zip},
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
    time::Duration,
};
use tokio::time::{Sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Status};

/// What precedes a message on the wire: a flag byte and a length of four.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Answers up to this size share a block of [`BLOCK_BYTES`]; larger ones get memory of their own, so that a list does
/// not pin a block's small answers, nor the other way round.
const SHARED_ANSWER_BYTES_MAX: usize = 2 << 10;

/// A block for small answers: one allocation for some hundred puts, freed when the last of them has left.
const BLOCK_BYTES: usize = 16 << 10;

/// How long a client may take to end its half once its call does not wait for that any more.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// What it may still send meanwhile, in bytes, before its stream is reset: nobody reads it.
const LINGER_BYTES_MAX: usize = 64 << 10;

/// What is there of a message before memory is set aside for the rest of it, and what room the next frames need, in bytes.
const RESERVED_BYTES_MIN: usize = 64 << 10;

/// How much is set aside for it at once, in bytes: any put of the default size. What nobody has written to takes no memory.
const RESERVED_BYTES_MAX: usize = 4 << 20;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A message as it goes over the wire, with its prefix.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let fill = |out: &mut BytesMut| {
        out.put_u8(0); // not compressed
        // What no prefix can say is refused before it leaves: see `sendable`.
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

/// How the messages of a call are bounded and written.
#[derive(Clone)]
pub(crate) struct Framing {
    /// The longest message that is taken, packed or not, in bytes.
    pub(crate) max_bytes: usize,
    /// There where the client compresses.
    pub(crate) zip: Option<Arc<Zip>>,
    /// Whose messages they are.
    pub(crate) method: Method,
}

impl Framing {
    /// Decodes a message. A field of a wrong wire type is an unknown one, as in Go.
    pub(crate) fn decode<M, E: std::fmt::Display>(
        &self,
        message: &Bytes,
        decode: impl Fn(Bytes) -> Result<M, E>,
    ) -> Result<M, Status> {
        decode(message.clone()).or_else(|error| {
            gateway::without_misfits(self.method.service(), self.method.name(), message)
                .and_then(|fitting| decode(fitting.into()).ok())
                .ok_or_else(|| Status::internal(format!("grpc: error unmarshalling request: {error}")))
        })
    }
}

/// The message of a unary call. Whatever follows it is not looked at, as in grpc-go: the call begins when its message is
/// whole, not when the client has ended its half.
pub(crate) async fn read(
    mut body: Requests,
    framing: &Framing,
    deadline: Deadline,
    call: &Call,
    share: &Arc<Share>,
) -> Result<Bytes, Status> {
    let mut message = Gather::new(framing);
    // Nearly all messages come whole, and need none.
    let mut meter: Option<Meter> = None;
    let bytes = loop {
        let frame = next_frame(&mut body, meter.as_mut(), deadline).await?;
        let Some(frame) = frame else { return Err(message.cut_off()) };
        let Ok(data) = frame.into_data() else { continue };
        if let Some(whole) = message.push(&data)? {
            break whole;
        }
        meter.get_or_insert_with(|| Meter::new(share)).hold(message.pieces.len(), message.whole)?;
    };
    linger(body);
    let bytes = match &framing.zip {
        Some(zip) if message.is_packed => Box::pin(zip.unpack(bytes, framing.max_bytes)).await?,
        _ => bytes,
    };
    call.received(bytes.len());
    if bytes.len() <= share.free_bytes() {
        return Ok(bytes);
    }
    meter.unwrap_or_else(|| Meter::new(share)).keep(bytes)
}

/// Waits for the end of a client's half whose call does not: many clients say it in a frame of its own, behind the
/// message. A stream that is answered and let go before is reset, and h2 takes what comes then for abuse once it is too
/// much. Nothing is done for a half that has ended, as nearly all have by then.
pub(crate) fn linger(mut body: Requests) {
    if body.is_end_stream() || matches!(body, Requests::Gateway(_)) {
        return;
    }
    tokio::spawn(timeout(LINGER_MAX, async move {
        let mut bytes = 0;
        while let Ok(Some(frame)) = next_frame(&mut body, None, None).await
            && bytes <= LINGER_BYTES_MAX
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    }));
}

/// The next frame of a body, `None` at its end; fails where the bytes that are counted have to go. A timer is made only
/// where the client keeps us waiting.
pub(crate) async fn next_frame(
    body: &mut Requests,
    mut meter: Option<&mut Meter>,
    deadline: Deadline,
) -> Result<Option<Frame<Bytes>>, Status> {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let frame = poll_fn(|cx| {
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(Ok(frame));
        }
        if let Some(meter) = &mut meter
            && let Poll::Ready(status) = meter.poll_stalled(cx)
        {
            return Poll::Ready(Err(status));
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| Err(head::over()))
    });
    let frame = frame.await?;
    frame.transpose().map_err(|_| Status::cancelled("context canceled"))
}

/// Waits for work no longer than its caller does.
pub(crate) async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => match timeout_at(deadline.into(), work).await {
            Ok(answer) => answer,
            Err(_) => Err(head::over()),
        },
    }
}

/// Refuses an answer that is longer than any that etcd sends. `framed` is it with its prefix.
pub(crate) fn sendable(framed: Bytes, max_bytes: usize) -> Result<Bytes, Status> {
    sendable_length(framed.len().saturating_sub(PREFIX_BYTES) as u64, max_bytes)?;
    Ok(framed)
}

/// The same by its length, without the prefix.
pub(crate) fn sendable_length(length: u64, max_bytes: usize) -> Result<(), Status> {
    if length <= max_bytes as u64 {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({length} vs. {max_bytes})");
    Err(Status::resource_exhausted(text))
}

/// Collects a message from the pieces it arrives in: nearly always one, which is then used as it is.
struct Gather<'a> {
    framing: &'a Framing,
    pieces: BytesMut,
    /// What the message will have taken once it is here, with its prefix; 0 while nobody knows.
    whole: usize,
    is_packed: bool,
}

impl<'a> Gather<'a> {
    fn new(framing: &'a Framing) -> Self {
        Self { framing, pieces: BytesMut::new(), whole: 0, is_packed: false }
    }

    /// The message, once it is whole.
    fn push(&mut self, data: &Bytes) -> Result<Option<Bytes>, Status> {
        if self.pieces.is_empty()
            && let Some(prefix) = Prefix::of(data, self.framing)?
            && let Some(message) = data.get(PREFIX_BYTES..PREFIX_BYTES + prefix.length)
        {
            self.is_packed = prefix.is_packed(self.framing)?;
            return Ok(Some(data.slice_ref(message)));
        }
        self.pieces.extend_from_slice(data);
        let Some(prefix) = Prefix::of(&self.pieces, self.framing)? else { return Ok(None) };
        let message = prefix.take(&mut self.pieces);
        if message.is_none() {
            self.whole = prefix.reserve(&mut self.pieces);
        } else {
            self.is_packed = prefix.is_packed(self.framing)?;
        }
        Ok(message)
    }

    /// What a client is told that ended its half before its message: grpc-go hands out io.EOF and io.ErrUnexpectedEOF,
    /// which have no code.
    fn cut_off(&self) -> Status {
        Status::unknown(if self.pieces.len() < PREFIX_BYTES { "EOF" } else { "unexpected EOF" })
    }
}

/// What precedes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    flag: u8,
    length: usize,
}

impl Prefix {
    /// The prefix, once it is there; refused where it announces what is too long.
    pub(crate) fn of(data: &[u8], framing: &Framing) -> Result<Option<Self>, Status> {
        let Some((prefix, _)) = data.split_at_checked(PREFIX_BYTES) else {
            return Ok(None);
        };
        let length = (&prefix[1..]).get_u32() as usize;
        let max_bytes = framing.max_bytes;
        if length > max_bytes {
            let text = format!("grpc: received message larger than max ({length} vs. {max_bytes})");
            return Err(Status::resource_exhausted(text));
        }
        Ok(Some(Self { flag: prefix[0], length }))
    }

    /// Whether the message is compressed; refused where nobody said how, or that is not the question.
    pub(crate) fn is_packed(self, framing: &Framing) -> Result<bool, Status> {
        match self.flag {
            0 => Ok(false),
            1 if framing.zip.is_some() => Ok(true),
            1 => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
            flag => Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        }
    }

    /// Sets memory aside for the rest of a message, so that a large one is not copied from block to block while it comes,
    /// each twice as long as the one before; says how long the whole is. A small beginning sets nothing aside.
    pub(crate) fn reserve(self, pieces: &mut BytesMut) -> usize {
        let (here, whole) = (pieces.len(), PREFIX_BYTES + self.length);
        let room = pieces.capacity();
        if here > RESERVED_BYTES_MIN && room < whole.min(here + RESERVED_BYTES_MIN) {
            // Not by `BytesMut::reserve`, which takes twice what there was.
            let mut larger = BytesMut::with_capacity(whole.min(here + RESERVED_BYTES_MAX.max(here)));
            larger.extend_from_slice(pieces);
            *pieces = larger;
        }
        whole
    }

    /// Takes the message out of the pieces, if it is all there.
    pub(crate) fn take(self, pieces: &mut BytesMut) -> Option<Bytes> {
        if pieces.len() < PREFIX_BYTES + self.length {
            return None;
        }
        pieces.advance(PREFIX_BYTES);
        Some(pieces.split_to(self.length).freeze())
    }
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
    pub(crate) fn held(message: Bytes, open: Shares<'_>, late: Late) -> http::Response<Self> {
        let Shares { answers, values } = open;
        match answers.hold(message, late) {
            Ok(held) => Self::head(Self::Held(held)),
            Err(smaller) => Self::unary(values.count(smaller)),
        }
    }

    /// An answer that comes in pieces.
    pub(crate) fn fed(held: Held) -> http::Response<Self> {
        Self::head(Self::Held(held))
    }

    /// The answer to a call that streams.
    pub(crate) fn stream(messages: Outgoing) -> http::Response<Self> {
        Self::head(Self::Stream(messages))
    }

    /// Says in a head that its messages are compressed.
    pub(crate) fn compressed(mut response: http::Response<Self>) -> http::Response<Self> {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(zip::NAME));
        response
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
            Self::Held(held) => Some(match std::task::ready!(held.poll_next(cx)) {
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

    fn framing(zip: bool) -> Framing {
        Framing {
            max_bytes: 10,
            zip: zip.then(|| Arc::new(Zip::new(crate::Compression::default()))),
            method: Method::Put,
        }
    }

    fn gather(pieces: &[&[u8]], zip: bool) -> Result<Bytes, (Code, String)> {
        let framing = framing(zip);
        let mut gather = Gather::new(&framing);
        let told = |s: Status| (s.code(), s.message().to_owned());
        for piece in pieces {
            if let Some(whole) = gather.push(&Bytes::copy_from_slice(piece)).map_err(told)? {
                return Ok(whole);
            }
        }
        Err(told(gather.cut_off()))
    }

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let frame = framed(b"0123456789");
        for cut in 0..frame.len() {
            let (front, back) = frame.split_at(cut);
            assert_eq!(gather(&[front, b"", back], false).as_deref(), Ok(&b"0123456789"[..]));
        }
        assert_eq!(gather(&[&framed(b"")], false).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn a_large_message_takes_no_more_memory_than_its_length() {
        let framing = Framing { max_bytes: 10 << 20, ..framing(false) };
        for length in [100 << 10, 1_400_000, 9 << 20] {
            let frame = framed(&vec![7; length]);
            let (mut gather, mut blocks) = (Gather::new(&framing), std::collections::BTreeSet::new());
            for piece in frame[..frame.len() - 1].chunks(16 << 10) {
                assert_eq!(gather.push(&Bytes::copy_from_slice(piece)).expect("a good one"), None);
                let (here, taken) = (gather.pieces.len(), gather.pieces.capacity());
                assert!(here <= RESERVED_BYTES_MIN || gather.whole == frame.len());
                assert!(taken <= frame.len().max(2 * RESERVED_BYTES_MIN), "{taken} of {length}");
                blocks.insert(taken);
            }
            assert!(blocks.len() <= 6, "copied from one to the next: {blocks:?}");
        }
    }

    #[test]
    fn what_follows_the_message_is_not_looked_at() {
        for zip in [false, true] {
            assert_eq!(gather(&[&framed(b"1"), &framed(b"2")], zip).as_deref(), Ok(&b"1"[..]));
            let together = [framed(b"1"), framed(b"2")].concat();
            assert_eq!(gather(&[&together], zip).as_deref(), Ok(&b"1"[..]));
            assert_eq!(gather(&[&together[..3], &together[3..]], zip).as_deref(), Ok(&b"1"[..]));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_in_grpc_gos_words() {
        let check = |pieces: &[&[u8]], zip, code, text: &str| {
            assert_eq!(gather(pieces, zip), Err((code, text.to_owned())));
        };
        let large = [&[0][..], &11u32.to_be_bytes()].concat();
        let text = "grpc: received message larger than max (11 vs. 10)";
        check(&[&large], false, Code::ResourceExhausted, text);
        check(&[&large], true, Code::ResourceExhausted, text);
        let packed = [1, 0, 0, 0, 1, 7];
        let text = "grpc: compressed flag set with identity or empty encoding";
        check(&[&packed], false, Code::Internal, text);
        assert_eq!(gather(&[&packed], true).as_deref(), Ok(&[7][..]));
        for flag in [2, 255] {
            let text = format!("grpc: received unexpected payload format {flag}");
            check(&[&[flag, 0, 0, 0, 0]], true, Code::Internal, &text);
        }
        check(&[], false, Code::Unknown, "EOF");
        check(&[&framed(b"123")[..4]], false, Code::Unknown, "EOF");
        for flag in [0, 2] {
            check(&[&[flag, 0, 0, 0, 3, 7]], false, Code::Unknown, "unexpected EOF");
        }
    }

    #[test]
    fn an_answer_above_the_limit_is_refused() {
        let answer = encode(&prost_bytes(20));
        let length = answer.len() - PREFIX_BYTES;
        assert_eq!(sendable(answer.clone(), length).map_err(|s| s.code()), Ok(answer.clone()));
        let status = sendable(answer, length - 1).expect_err("too long");
        let text = format!("grpc: trying to send message larger than max ({length} vs. {})", length - 1);
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, &*text));
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
}
