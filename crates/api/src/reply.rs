//! Response bodies: one message or a stream of messages, then the status in trailers. Not tonic's generated services,
//! because errors must carry grpc-go's texts, which etcd's clients see.

use crate::{
    budget::{Held, Late, Shares},
    deadline::Deadline,
    feed::Feed,
    frame,
    metrics::Call,
    zip,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use proto::EtcdError;
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

#[derive(Default)]
pub(crate) enum Reply {
    /// No body: the status is in the headers.
    #[default]
    Empty,
    /// One message, then status OK.
    Message(Option<Bytes>),
    /// A large message in pieces, counted in the budget.
    Held(Held),
    /// A stream of messages, then a status.
    Stream(Outgoing),
}

impl Reply {
    pub(crate) fn unary(message: Bytes) -> http::Response<Self> {
        Self::head(Self::Message(Some(message)))
    }

    /// Like `unary`, for a read that reserved room for its response.
    pub(crate) fn held(message: Bytes, open: Shares<'_>, late: Late) -> http::Response<Self> {
        let Shares { answers, values } = open;
        match answers.hold(message, late) {
            Ok(held) => Self::head(Self::Held(held)),
            Err(smaller) => Self::unary(values.count(smaller)),
        }
    }

    pub(crate) fn fed(held: Held) -> http::Response<Self> {
        Self::head(Self::Held(held))
    }

    pub(crate) fn stream(messages: Outgoing) -> http::Response<Self> {
        Self::head(Self::Stream(messages))
    }

    pub(crate) fn compressed(mut response: http::Response<Self>) -> http::Response<Self> {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static(zip::NAME));
        response
    }

    pub(crate) fn refusal(status: Status) -> http::Response<Self> {
        status.into_http()
    }

    fn head(body: Self) -> http::Response<Self> {
        let mut response = http::Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        response
    }
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}

fn failed(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Needs a message that is no header value even after percent-encoding; there is none.
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
            Self::Held(held) => Some(match ready!(held.poll_next(cx)) {
                Ok(Some(piece)) => Frame::data(piece),
                ended => {
                    *this = Self::Empty;
                    Frame::trailers(ended.map_or_else(|status| failed(&status), |_| ok()))
                }
            }),
            Self::Stream(messages) => Some(match ready!(messages.poll(cx)) {
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

pub(crate) type Ending = Pin<Box<dyn Future<Output = Status> + Send>>;

pub(crate) struct Outgoing {
    feed: Box<dyn Feed>,
    call: Call,
    ending: Option<Ending>,
    deadline: Deadline,
    /// Created when the stream first waits.
    timer: Option<Pin<Box<Sleep>>>,
    max_bytes: usize,
}

impl Outgoing {
    pub(crate) fn new(
        feed: Box<dyn Feed>,
        call: Call,
        ending: Option<Ending>,
        deadline: Deadline,
        max_bytes: usize,
    ) -> Self {
        Self { feed, call, ending, deadline, timer: None, max_bytes }
    }

    /// The next DATA frame, or the status that ends the stream; ready messages precede `ending`, not the deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let end = if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            EtcdError::DeadlineExceeded.into()
        } else {
            match self.feed.poll_messages(cx, &self.call) {
                Poll::Ready(Some(Ok(data))) => match frame::sendable(data, self.max_bytes) {
                    Ok(data) => return Poll::Ready(Ok(data)),
                    Err(status) => status,
                },
                Poll::Ready(Some(Err(status))) => status,
                Poll::Ready(None) => Status::ok(""),
                Poll::Pending => ready!(self.poll_end(cx)),
            }
        };
        self.call.end(end.code());
        debug_assert!(end.code() == Code::Ok || !end.message().is_empty());
        Poll::Ready(Err(end))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(status) = ending.as_mut().poll(cx)
        {
            return Poll::Ready(status);
        }
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| EtcdError::DeadlineExceeded.into())
    }
}
