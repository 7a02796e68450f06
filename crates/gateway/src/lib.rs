//! # The JSON gateway
//!
//! etcd's API for programs that have no gRPC: `POST /v3/kv/range` and so on, with JSON in the body. What etcd does with
//! a proxy that dials its own port is done here in the process: a request becomes the one that a gRPC client would have
//! sent, goes to the same router and the same handlers, and its answer comes back as JSON.
//!
//! ```text
//! HTTP ─▶ routes ─▶ metadata (headers) ─▶ scan (where a value ends) ─▶ json (to protobuf) ─┐
//!         404, 501   grpc-timeout          not JSON, too large, deep    no such type      ▼
//!                                                                        the gRPC side: router ─▶ handlers
//! HTTP ◀─ body: all at once, or a line a message ◀─ large, json (from protobuf) ◀─ status, frames ◀─┤
//! HTTP ◀─ long: JSON of a piece when it is asked for ◀─ large, json ◀─ pieces of a long message ◀───┘
//! ```
//!
//! The mapping between JSON and protobuf is `prost-reflect`'s, by the descriptors of `proto/`: field names as they are
//! there, 64-bit numbers as text, bytes as base64, enums by name, zero values absent. Chosen over generated code
//! (pbjson), because the descriptors are in the binary anyway, the compiler of `proto/` brings the crate along, and a
//! method that is added has its route without a line of code. Its price is a tree of values for every message, which
//! only users of JSON pay.
//!
//! Invariants:
//! * No handler knows of the gateway, and a call through it counts and is refused as one over gRPC.
//! * A body is bounded before it is parsed, in bytes and in depth. What is large is parsed and shown on a blocking
//!   thread, a few at a time, and what is short waits for nothing that is long ([`WorkLimits`]).
//! * An answer to a unary call that is longer than [`WorkLimits::short_bytes`] is never held, neither as a message nor as
//!   JSON: the gRPC side is asked for a piece when the client has taken the last one. Its head has no length, and where
//!   it fails half way its body breaks off.
//! * Codes, HTTP statuses and the texts of refusals are etcd's; only for a value that fits no field the text is the
//!   library's own (Go changes its from build to build on purpose).
//!
//! Deliberately not here: websockets, which etcd's gateway also takes (an upgrade is answered as the plain request that
//! it is), trailers, and transactions nested deeper than [`scan::DEPTH_MAX`] brackets.

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

use body::{Event, Frames};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use metadata::Metadata;
use percent_encoding::percent_decode_str;
use prost_reflect::MethodDescriptor;
use routes::Routes;
use scan::Values;
use status::{DEADLINE_EXCEEDED, INTERNAL, JSON, NOT_FOUND, Status, UNIMPLEMENTED};
use std::{future::poll_fn, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use work::{Output, Turns};

/// JSON is longer than the message it stands for: base64 makes four bytes of three, and names and spaces come on top.
/// Bodies may be so many times as long as a message.
const JSON_FACTOR: usize = 2;

/// Messages of a stream that wait for the gRPC side to read them.
const MESSAGES_AHEAD_MAX: usize = 8;

/// The header by which grpc-gateway shows what gRPC's answer had as its content type.
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// The gateway: its routes, and its turns on blocking threads. One for a member.
#[derive(Debug)]
pub struct Gateway {
    routes: Routes,
    max_json_bytes: usize,
    turns: Turns,
}

impl Gateway {
    /// A gateway to a gRPC side that takes messages of up to `max_message_bytes`.
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
        let method = match self.route(&parts) {
            Ok(method) => method,
            Err(status) => return status.response(),
        };
        let metadata = match metadata::of(&parts.headers) {
            Ok(metadata) => metadata,
            Err(status) => return status.response(),
        };
        if method.is_client_streaming() || method.is_server_streaming() {
            return self.stream(method, metadata, body, call).await;
        }
        self.unary(method, metadata, body, call).await.unwrap_or_else(|status| status.response())
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
        let shown = self.turns.clone().run(length, move |gone| {
            let mut shown = Output::new(length, gone);
            large::write(&output, answer, part_bytes, &mut shown).map(|()| shown.bytes)
        });
        Ok(success(Answer::Whole(Some(shown.await?.into()))))
    }

    /// The one message in a body: nothing stands for a message without fields, and what follows the first value is
    /// read and forgotten, as etcd does.
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
                Err(status) => return status.response(),
            }
        };
        let deadline = timeout.map(|timeout| Box::pin(sleep(timeout)));
        let response = match within(timeout, call(request(method, metadata, messages))).await {
            Ok(response) => response,
            Err(status) => return status.stream_response(),
        };
        if let Some(status) = Status::of(response.headers()) {
            return status.stream_response();
        }
        let mut lines = Lines::new(response.into_body(), method.output(), deadline, self.turns.clone());
        // The head says how the first message went, so it waits for it.
        match poll_fn(|cx| lines.poll_event(cx)).await {
            Event::Line(line) => {
                lines.unread(line);
                success(Answer::Lines(Box::new(lines)))
            }
            Event::Failed(status) => status.stream_response(),
            Event::End => {
                let mut response = success(Answer::Whole(None));
                response.headers_mut().remove(header::CONTENT_TYPE);
                response
            }
        }
    }
}

/// Hands over a client's values until there are no more, one is none, or nobody listens. The gRPC side sees the end of
/// the client's half in all of these cases, as with etcd.
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

/// Waits no longer than the caller does.
async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Status> {
    match timeout {
        None => Ok(work.await),
        // What is over is not even begun.
        Some(Duration::ZERO) => Err(Status::new(DEADLINE_EXCEEDED, "context deadline exceeded")),
        Some(timeout) => tokio::time::timeout(timeout, work)
            .await
            .map_err(|_| Status::new(DEADLINE_EXCEEDED, "context deadline exceeded")),
    }
}

/// What comes of a call that is answered once.
enum Outcome<R> {
    /// The message.
    Whole(Bytes),
    /// A message of `length` bytes, and what has come of it.
    Long { body: R, length: usize, begun: Bytes },
}

/// The one message of an answer, or why there is none. What is longer than `whole_bytes` is not waited for.
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
        match frame.map_err(|_| Status::new(INTERNAL, "the answer broke off"))?.into_data() {
            // What follows the message is not looked at.
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

/// The answer that is made as it is read. Its head says that all goes well, so it waits for the first JSON.
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
