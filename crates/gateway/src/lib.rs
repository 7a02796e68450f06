//! # The JSON gateway
//!
//! etcd's API for programs without gRPC: `POST /v3/kv/range` and so on, with JSON in the body. etcd runs a proxy that
//! dials its own port. Here the request goes to the router and handlers of gRPC, and its answer comes back as JSON.
//!
//! ```text
//! HTTP ─▶ routes ─▶ metadata (headers) ─▶ scan (where a value ends) ─▶ json (to protobuf) ─┐
//!         404, 501   grpc-timeout          not JSON, too large, deep    no such type      ▼
//!                                                                        the gRPC side: router ─▶ handlers
//! HTTP ◀─ body: all at once, or a line a message ◀─ large, json (from protobuf) ◀─ status, frames ◀─┤
//! HTTP ◀─ long: JSON of a piece when it is asked for ◀─ large, json ◀─ pieces of a long message ◀───┘
//! ```
//!
//! The mapping is `prost-reflect`'s, by the descriptors of `proto/`: their field names, 64-bit numbers as text, bytes
//! as base64, enums by name, zero values absent. Unlike generated code (pbjson) it needs no code for a new method.
//!
//! Invariants:
//! * No handler knows of the gateway. A call through it is counted and refused like one over gRPC.
//! * A body is bounded in bytes and in depth before it is parsed. Large messages are converted on a blocking thread, a
//!   few at a time; short ones never wait for long ones ([`WorkLimits`]).
//! * A unary answer longer than [`WorkLimits::short_bytes`] is never held whole, neither as a message nor as JSON: the
//!   next piece is asked for when the client has taken the last one. Such a response has no `Content-Length`, and its
//!   body breaks off if the call fails half-way.
//! * Codes, HTTP statuses and error texts are etcd's. Only the text for a value that does not fit its field is the
//!   library's own (Go varies its text from build to build on purpose).
//!
//! Not supported: websockets, which etcd's gateway accepts (an upgrade is answered as a plain request), trailers, and
//! transactions nested deeper than [`scan::DEPTH_MAX`] brackets.

mod body;
mod json;
mod large;
mod long;
mod metadata;
mod misfit;
mod number;
mod routes;
mod scan;
mod status;
mod work;

pub use body::{Answer, Lines, Messages};
pub use long::Long;
pub use metadata::check_base64;
pub use misfit::without_misfits;
pub use work::WorkLimits;

use body::{Event, Frames, JSON};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use metadata::Metadata;
use percent_encoding::percent_decode_str;
use prost_reflect::MethodDescriptor;
use routes::Routes;
use scan::Values;
use status::{INTERNAL, NOT_FOUND, Status, UNIMPLEMENTED};
use std::{future::poll_fn, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use work::{Output, Turns};

/// How much longer than a message its JSON may be: base64 makes four bytes of three, and there are names and spaces.
const JSON_FACTOR: usize = 2;

const MESSAGES_AHEAD_MAX: usize = 8;

/// The header in which grpc-gateway shows the content type of gRPC's answer.
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// The gateway of a member: its routes, and its turns on blocking threads.
#[derive(Debug)]
pub struct Gateway {
    routes: Routes,
    max_json_bytes: usize,
    turns: Turns,
}

impl Gateway {
    /// A gateway to a gRPC side that accepts messages of up to `max_message_bytes`.
    pub fn new(max_message_bytes: usize, work: WorkLimits) -> Self {
        let max_json_bytes = max_message_bytes.saturating_mul(JSON_FACTOR);
        Self { routes: routes::routes(), max_json_bytes, turns: Turns::new(work) }
    }

    /// Answers a request for a path under `/v3/`. `call` is the gRPC side.
    pub async fn serve<B, C, F, R>(&self, request: Request<B>, call: C) -> Response<Answer<R>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        C: FnOnce(Request<Messages>) -> F,
        F: Future<Output = Response<R>>,
        R: Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let routed = self.route(&parts).and_then(|method| Ok((method, metadata::of(&parts.headers)?)));
        let (method, metadata) = match routed {
            Ok(routed) => routed,
            Err(status) => return Answer::failed(&status),
        };
        if method.is_client_streaming() || method.is_server_streaming() {
            return self.stream(method, metadata, body, call).await;
        }
        self.unary(method, metadata, body, call).await.unwrap_or_else(|status| Answer::failed(&status))
    }

    fn route(&self, parts: &Parts) -> Result<&MethodDescriptor, Status> {
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy();
        match self.routes.get(&*path) {
            None => Err(Status::new(NOT_FOUND, "Not Found")),
            Some(method) if parts.method == Method::POST => Ok(method),
            Some(_) => Err(Status::new(UNIMPLEMENTED, "Method Not Allowed")),
        }
    }

    async fn unary<B, C, F, R>(
        &self,
        method: &MethodDescriptor,
        metadata: Metadata,
        body: B,
        call: C,
    ) -> Result<Response<Answer<R>>, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        C: FnOnce(Request<Messages>) -> F,
        F: Future<Output = Response<R>>,
        R: Body<Data = Bytes> + Unpin,
    {
        let timeout = metadata.timeout;
        let message = self.message(method, body).await?;
        let request = request(method, metadata, Messages::One(Some(message)));
        let limits = self.turns.limits();
        let (begun, part_bytes) = (Instant::now(), limits.part_bytes);
        let outcome = async { outcome(call(request).await, limits.short_bytes).await };
        let answer = match within(timeout, outcome).await?? {
            Outcome::Whole(answer) => answer,
            Outcome::Long { body, length, begun: bytes } => {
                let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
                let deadline = left.map(|left| Box::pin(sleep(left)));
                let turns = self.turns.clone();
                let answer = Long::new(body, method.output(), length, bytes, deadline, turns);
                return long(Box::new(answer)).await;
            }
        };
        let (output, length) = (method.output(), answer.len());
        let shown = self.turns.clone().run(length, move |cancelled| {
            let mut shown = Output::new(length, cancelled);
            large::write(&output, answer, part_bytes, &mut shown).map(|()| shown.bytes)
        });
        Ok(success(Answer::Whole(Some(shown.await?.into()))))
    }

    /// Reads the one message in a body. As in etcd, no body is an empty message, and data after the value is ignored.
    async fn message<B>(&self, method: &MethodDescriptor, mut body: B) -> Result<Bytes, Status>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut values = Values::new(self.max_json_bytes);
        let mut value = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Status::invalid("unexpected EOF"))?;
            if let (None, Ok(data)) = (&value, frame.into_data()) {
                values.push(&data);
                value = values.next()?;
            }
        }
        let value = match value {
            Some(value) => value,
            None => values.finish()?.unwrap_or(Bytes::from_static(b"{}")),
        };
        let input = method.input();
        self.turns.clone().run(value.len(), move |_| json::read(&input, &value)).await
    }

    async fn stream<B, C, F, R>(
        &self,
        method: &MethodDescriptor,
        metadata: Metadata,
        body: B,
        call: C,
    ) -> Response<Answer<R>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        C: FnOnce(Request<Messages>) -> F,
        F: Future<Output = Response<R>>,
        R: Body<Data = Bytes> + Unpin,
    {
        let timeout = metadata.timeout;
        let messages = if method.is_client_streaming() {
            let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD_MAX);
            let values = Values::new(self.max_json_bytes);
            tokio::spawn(pump(method.clone(), values, body, sender, self.turns.clone()));
            Messages::Many(receiver)
        } else {
            match self.message(method, body).await {
                Ok(message) => Messages::One(Some(message)),
                Err(status) => return Answer::failed(&status),
            }
        };
        let deadline = timeout.map(|timeout| Box::pin(sleep(timeout)));
        let response = match within(timeout, call(request(method, metadata, messages))).await {
            Ok(response) => response,
            Err(status) => return Answer::stream_failed(&status),
        };
        if let Some(status) = Status::of(response.headers()) {
            return Answer::stream_failed(&status);
        }
        let mut lines = Lines::new(response.into_body(), method.output(), deadline, self.turns.clone());
        // The response head depends on whether the first message is an error.
        match poll_fn(|cx| lines.poll_event(cx)).await {
            Event::Line(line) => {
                lines.unread(line);
                success(Answer::Lines(Box::new(lines)))
            }
            Event::Failed(status) => Answer::stream_failed(&status),
            Event::End => {
                let mut response = success(Answer::Whole(None));
                response.headers_mut().remove(header::CONTENT_TYPE);
                response
            }
        }
    }
}

/// Sends a client's messages to the gRPC side until the body ends, a value is invalid, or nobody reads them: in each
/// case the end of the stream, as in etcd.
async fn pump<B>(
    method: MethodDescriptor,
    mut values: Values,
    mut body: B,
    sender: mpsc::Sender<Bytes>,
    turns: Turns,
) where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        while let Ok(Some(value)) = values.next() {
            let input = method.input();
            let read = turns.clone().run(value.len(), move |_| json::read(&input, &value));
            let read = tokio::select! {
                () = sender.closed() => return,
                read = read => read,
            };
            let Ok(message) = read else { return };
            if sender.send(message).await.is_err() {
                return;
            }
        }
        let frame = tokio::select! {
            () = sender.closed() => return,
            frame = body.frame() => frame,
        };
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    values.push(&data);
                }
            }
            Some(Err(_)) | None => return,
        }
    }
}

fn request(method: &MethodDescriptor, metadata: Metadata, messages: Messages) -> Request<Messages> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = Request::new(messages);
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = path.parse().expect("names of protobuf are a path");
    *request.headers_mut() = metadata.headers;
    request
}

async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Status> {
    match timeout {
        None => Ok(work.await),
        Some(Duration::ZERO) => Err(Status::late()),
        Some(timeout) => tokio::time::timeout(timeout, work).await.map_err(|_| Status::late()),
    }
}

enum Outcome<R> {
    Whole(Bytes),
    /// A message of `length` bytes, of which the first have come.
    Long {
        body: R,
        length: usize,
        begun: Bytes,
    },
}

/// Reads the message of a response. Does not wait for one that is longer than `whole_bytes`.
async fn outcome<R: Body<Data = Bytes> + Unpin>(
    response: Response<R>,
    whole_bytes: usize,
) -> Result<Outcome<R>, Status> {
    if let Some(status) = Status::of(response.headers()) {
        return Err(status);
    }
    let mut body = response.into_body();
    let mut frames = Frames::default();
    let mut message = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Status::broke_off())?.into_data() {
            Ok(_) if message.is_some() => {}
            Ok(data) => {
                frames.push(data);
                if let Some(length) = frames.length().filter(|length| *length > whole_bytes) {
                    return Ok(Outcome::Long { body, length, begun: frames.rest() });
                }
                message = frames.next();
            }
            Err(frame) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::of) {
                    return Err(status);
                }
            }
        }
    }
    message.map(Outcome::Whole).ok_or_else(|| Status::new(INTERNAL, "an answer without a message"))
}

/// A response that is converted as it is read. Its head says that the call succeeds, so it waits for the first JSON.
async fn long<R: Body<Data = Bytes> + Unpin>(mut long: Box<Long<R>>) -> Result<Response<Answer<R>>, Status> {
    if let Some(json) = poll_fn(|cx| long.poll_json(cx)).await {
        long.unread(json?);
    }
    Ok(success(Answer::Long(long)))
}

fn success<R>(body: Answer<R>) -> Response<Answer<R>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(GRPC_CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests;
