//! A gRPC client that decides on every frame: what it sends of a message, what it reads of an answer, when it leaves.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::net::TcpStream;

/// gRPC puts a flag and a length before each message.
const PREFIX_BYTES: usize = 5;
/// Streams that are opened before the server has said how many there may be.
const STREAMS: usize = 100_000;
/// The largest window in HTTP/2 (RFC 9113, 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// How much a server may send before something is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// A stream, in bytes.
    pub(crate) stream: u32,
    /// All streams of a connection together.
    pub(crate) connection: u32,
}

impl Windows {
    /// The server may send without limit.
    pub(crate) const WIDE: Self = Self { stream: WINDOW_MAX, connection: WINDOW_MAX };

    /// This much a stream.
    pub(crate) const fn of_stream(bytes: u32) -> Self {
        Self { stream: bytes, connection: WINDOW_MAX }
    }
}

/// One HTTP/2 connection. It closes when this, its clones and all its calls are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    authority: String,
    ended: Arc<OnceLock<String>>,
}

/// One call under way. Dropped, it is reset (CANCEL).
#[derive(Debug)]
pub(crate) struct Call {
    response: ResponseFuture,
    send: SendStream<Bytes>,
}

/// The answer of a call as it comes. Dropped before its end, the call is reset.
#[derive(Debug)]
pub(crate) struct Answer {
    headers: HeaderMap,
    body: RecvStream,
    /// Held, because a call whose sender is gone is half closed.
    _send: SendStream<Bytes>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, windows: Windows) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_frame_size(1 << 20)
            .initial_max_send_streams(STREAMS)
            .max_concurrent_reset_streams(STREAMS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(usize::MAX)
            .handshake(socket)
            .await
            .context("handshake")?;
        let ended = Arc::new(OnceLock::new());
        let told = Arc::clone(&ended);
        tokio::spawn(async move {
            let why = match connection.await {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = told.set(why);
        });
        Ok(Self { send, authority: address.to_string(), ended })
    }

    /// Why the server, or the network, ended it; `None` while it is open.
    pub(crate) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// Opens a call, `/etcdserverpb.KV/Put`, and sends no message yet.
    pub(crate) async fn open_call(&self, path: &str, limit: Option<Duration>) -> anyhow::Result<Call> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(limit) = limit {
            request = request.header("grpc-timeout", format!("{}m", limit.as_millis()));
        }
        let mut send = self.send.clone().ready().await.context("the connection is closed")?;
        let (response, send) = send.send_request(request.body(())?, false).context("the call is refused")?;
        Ok(Call { response, send })
    }

    /// A call with one message, sent whole.
    pub(crate) async fn call(&self, path: &str, message: &impl Message) -> anyhow::Result<Call> {
        let mut call = self.open_call(path, None).await?;
        call.send(framed(message), true)?;
        Ok(call)
    }

    /// The same, and its only answer.
    pub(crate) async fn ask<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> anyhow::Result<A> {
        let mut answer = self.call(path, message).await?.answer().await?;
        let message = answer.message(&mut BytesMut::new()).await?.context("no message")?;
        answer.end().await?;
        Ok(message)
    }
}

impl Call {
    /// Sends bytes; the library waits for the server's window.
    pub(crate) fn send(&mut self, bytes: Bytes, last: bool) -> anyhow::Result<()> {
        self.send.send_data(bytes, last).context("the call is over")
    }

    /// Sends bytes once the server has room for them.
    pub(crate) async fn send_in_turn(&mut self, bytes: Bytes) -> anyhow::Result<()> {
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() < bytes.len() {
            poll_fn(|context| self.send.poll_capacity(context)).await.context("the call is over")??;
        }
        self.send(bytes, false)
    }

    /// Waits for the headers of the answer.
    pub(crate) async fn answer(self) -> anyhow::Result<Answer> {
        Ok(Answer::new(self.response.await?, self.send))
    }

    /// Both halves: somebody sends while somebody else waits for the answer.
    pub(crate) fn split(self) -> (ResponseFuture, SendStream<Bytes>) {
        (self.response, self.send)
    }
}

impl Answer {
    /// Of the two halves of a call.
    pub(crate) fn new(response: Response<RecvStream>, send: SendStream<Bytes>) -> Self {
        let (head, body) = response.into_parts();
        Self { headers: head.headers, body, _send: send }
    }

    /// The next bytes of the answer, with the window that they took not yet given back.
    pub(crate) async fn bytes(&mut self) -> anyhow::Result<Option<Bytes>> {
        Ok(poll_fn(|context| self.body.poll_data(context)).await.transpose()?)
    }

    /// Lets the server send as much again.
    pub(crate) fn release(&mut self, bytes: usize) -> anyhow::Result<()> {
        Ok(self.body.flow_control().release_capacity(bytes)?)
    }

    /// The next message; `read` keeps what has come of those after it.
    pub(crate) async fn message<A: Message + Default>(
        &mut self,
        read: &mut BytesMut,
    ) -> anyhow::Result<Option<A>> {
        loop {
            if let Some(message) = unframed(read) {
                return Ok(Some(A::decode(message).context("an answer that is none")?));
            }
            let Some(bytes) = self.bytes().await? else { return Ok(None) };
            self.release(bytes.len())?;
            read.extend_from_slice(&bytes);
        }
    }

    /// Reads the rest as fast as it comes, and the status: how many bytes there were.
    pub(crate) async fn end(&mut self) -> anyhow::Result<usize> {
        let mut total = 0;
        while let Some(bytes) = self.bytes().await? {
            self.release(bytes.len())?;
            total += bytes.len();
        }
        let trailers = poll_fn(|context| self.body.poll_trailers(context)).await?;
        let status = trailers.as_ref().unwrap_or(&self.headers);
        match status.get("grpc-status").map(http::HeaderValue::as_bytes) {
            Some(b"0") => Ok(total),
            code => bail!("status {code:?}: {:?}", status.get("grpc-message")),
        }
    }
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("attacks send small messages"));
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

/// Takes the first message if all of it is there.
fn unframed(read: &mut BytesMut) -> Option<Bytes> {
    let prefix: [u8; PREFIX_BYTES] = read.get(..PREFIX_BYTES)?.try_into().ok()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if read.len() < PREFIX_BYTES + length {
        return None;
    }
    let mut message = read.split_to(PREFIX_BYTES + length);
    Some(message.split_off(PREFIX_BYTES).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_their_frames() {
        let message = proto::etcdserverpb::PutRequest { key: "k".into(), ..Default::default() };
        let bytes = framed(&message);
        let mut read = BytesMut::from(&bytes[..bytes.len() - 1]);
        assert_eq!(unframed(&mut read), None);
        read.extend_from_slice(&bytes[bytes.len() - 1..]);
        read.extend_from_slice(b"\0\0");
        assert_eq!(unframed(&mut read).as_deref(), Some(&bytes[PREFIX_BYTES..]));
        assert_eq!(&read[..], b"\0\0");
    }
}
