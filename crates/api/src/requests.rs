//! Incoming messages: that of a unary call, or those of a stream one by one, bounded before they are decoded. HTTP/2's
//! window holds back a client that sends faster than the handler reads.

use crate::{
    budget::{Meter, Share},
    deadline::Deadline,
    frame::{PREFIX_BYTES, Prefix},
    methods::Method,
    metrics::{Call, Received},
    socket::Turn,
    zip::Zip,
};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use prost::Message;
use proto::EtcdError;
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep_until, timeout};
use tonic::{Code, Status};

/// How long a client may take to end its half of the stream after its call no longer waits for that.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Bytes it may still send in that time, unread, before its stream is reset.
const LINGER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) enum Requests {
    /// A gRPC client over HTTP/2.
    Wire(Incoming),
    /// A JSON client, through the gateway.
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

/// How a call's messages are bounded and compressed.
#[derive(Clone)]
pub(crate) struct Framing {
    /// The longest accepted message, compressed or not, in bytes.
    pub(crate) max_bytes: usize,
    /// Set if the client compresses.
    pub(crate) zip: Option<Arc<Zip>>,
    pub(crate) method: Method,
}

impl Framing {
    /// Decodes a message. As in Go, a field with a wrong wire type counts as unknown.
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

/// Reads the message of a unary call. As in grpc-go, the call begins when that is complete; what follows is ignored.
pub(crate) async fn read(
    mut body: Requests,
    framing: &Framing,
    deadline: Deadline,
    call: &Call,
    share: &Arc<Share>,
) -> Result<Bytes, Status> {
    let mut message = Gather::new(framing);
    // Nearly all messages arrive in one piece, and need no meter.
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

/// Reads the rest of the client's half: many end it with a separate frame. An earlier response makes h2 reset the
/// stream, and late frames on reset streams count as abuse. Nearly all have ended by then.
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

/// The next frame of a body; `None` at its end. Fails at the deadline, or if the meter must free its bytes.
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
        timer.as_mut().poll(cx).map(|()| Err(EtcdError::DeadlineExceeded.into()))
    });
    let frame = frame.await?;
    frame.transpose().map_err(|_| Status::cancelled("context canceled"))
}

/// Collects a message from its pieces: nearly always one, which is then used without a copy.
struct Gather<'a> {
    framing: &'a Framing,
    pieces: BytesMut,
    /// Length of the complete message with its prefix; 0 if unknown.
    whole: usize,
    is_packed: bool,
}

impl<'a> Gather<'a> {
    fn new(framing: &'a Framing) -> Self {
        Self { framing, pieces: BytesMut::new(), whole: 0, is_packed: false }
    }

    /// Adds a piece; returns the message once it is complete.
    fn push(&mut self, data: &Bytes) -> Result<Option<Bytes>, Status> {
        if self.pieces.is_empty()
            && let Some(prefix) = Prefix::of(data, self.framing.max_bytes)?
            && let Some(message) = prefix.message_in(data)
        {
            self.is_packed = prefix.is_packed(self.framing.zip.is_some())?;
            return Ok(Some(data.slice_ref(message)));
        }
        self.pieces.extend_from_slice(data);
        let Some(prefix) = Prefix::of(&self.pieces, self.framing.max_bytes)? else { return Ok(None) };
        let message = prefix.take(&mut self.pieces);
        if message.is_none() {
            self.whole = prefix.reserve(&mut self.pieces);
        } else {
            self.is_packed = prefix.is_packed(self.framing.zip.is_some())?;
        }
        Ok(message)
    }

    /// The error for a message that ends early: io.EOF or io.ErrUnexpectedEOF in grpc-go, which have no code.
    fn cut_off(&self) -> Status {
        Status::unknown(if self.pieces.len() < PREFIX_BYTES { "EOF" } else { "unexpected EOF" })
    }
}

pub(crate) struct Inbound {
    body: Requests,
    framing: Framing,
    /// Received bytes without a complete message.
    pieces: BytesMut,
    meter: Meter,
    /// A complete message that is being decompressed.
    packed: Option<Bytes>,
    received: Received,
    turn: Turn,
}

impl Inbound {
    /// The messages of a body. Each is bounded before it is decoded; unread bytes are counted in `share`, and a call
    /// that is given up in the connection's `turn`.
    pub(crate) fn new(
        body: Requests,
        framing: Framing,
        share: &Arc<Share>,
        received: Received,
        turn: Turn,
    ) -> Self {
        let (pieces, meter) = (BytesMut::new(), Meter::new(share));
        Self { body, framing, pieces, meter, packed: None, received, turn }
    }

    /// The next message; `None` after the last. Cancel-safe.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take().await? {
                self.received.message(message.len());
                return self.framing.decode(&message, |bytes| M::decode(bytes)).map(Some);
            }
            let frame = next_frame(&mut self.body, Some(&mut self.meter), None).await;
            let frame = frame.inspect_err(|status| {
                if status.code() == Code::Cancelled {
                    self.turn.given_up();
                }
            });
            match frame? {
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.pieces.extend_from_slice(&data);
                        let prefix = Prefix::of(&self.pieces, self.framing.max_bytes)?;
                        let whole = prefix.map_or(0, |prefix| prefix.reserve(&mut self.pieces));
                        self.meter.hold(self.pieces.len(), whole)?;
                    }
                }
                // grpc-go treats an incomplete prefix as the end too.
                None if self.pieces.len() < PREFIX_BYTES => return Ok(None),
                // grpc-go's io.ErrUnexpectedEOF.
                None => return Err(Status::internal("unexpected EOF")),
            }
        }
    }

    async fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.packed.is_none() {
            let Some(prefix) = Prefix::of(&self.pieces, self.framing.max_bytes)? else { return Ok(None) };
            let Some(message) = prefix.take(&mut self.pieces) else { return Ok(None) };
            // Fewer bytes than before always fit.
            let _ = self.meter.hold(self.pieces.len(), 0);
            if !prefix.is_packed(self.framing.zip.is_some())? {
                return Ok(Some(message));
            }
            self.packed = Some(message);
        }
        let (Some(packed), Some(zip)) = (&self.packed, &self.framing.zip) else { return Ok(None) };
        let message = zip.unpack(packed.clone(), self.framing.max_bytes).await;
        self.packed = None;
        message.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::RESERVED_BYTES_MIN;

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
}

#[cfg(test)]
#[path = "tests/requests.rs"]
mod over_http2;
