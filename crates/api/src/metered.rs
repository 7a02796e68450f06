//! HTTP/1.1 bodies whose bytes are counted: incoming JSON, outgoing responses.

use crate::{
    budget::{Held, Meter, exhausted},
    call::Connection,
    http1_router,
    page::Page,
    reply::Reply,
};
use bytes::Bytes;
use gateway::Answer;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

/// Paths whose bodies are streams of small messages. Nothing accumulates for them, so they are not counted.
const STREAMED: [&str; 2] = ["/v3/watch", "/v3/lease/keepalive"];

pub(crate) async fn serve(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Answered>, Infallible> {
    let refused = Arc::new(AtomicBool::new(false));
    let is_streamed = STREAMED.contains(&request.uri().path());
    let share = (!is_streamed).then(|| Meter::new(&connection.requests));
    let request =
        request.map(|body| Metered { body, received: 0, meter: share, refused: Arc::clone(&refused) });
    let page = http1_router::serve(Arc::clone(&connection), request).await?;
    let page = if refused.load(Relaxed) { too_many() } else { page };
    Ok(page.map(|body| match body {
        Answer::Whole(Some(bytes)) => match connection.answers.hold(bytes, exhausted) {
            Ok(held) => Answered::Held(held),
            Err(small) => Answered::Plain(Answer::Whole(Some(small))),
        },
        other => Answered::Plain(other),
    }))
}

fn too_many() -> Page {
    let text = format!(r#"{{"code":8,"message":"{}"}}"#, exhausted().message());
    let mut page = Response::new(Answer::Whole(Some(text.into())));
    *page.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    page
}

#[derive(Debug)]
pub(crate) struct Metered {
    body: Incoming,
    received: usize,
    meter: Option<Meter>,
    /// Says that the body ended because the budget was exhausted.
    refused: Arc<AtomicBool>,
}

impl Metered {
    fn refuse(&mut self) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.refused.store(true, Relaxed);
        self.meter = None;
        Poll::Ready(Some(Err(io::ErrorKind::OutOfMemory.into())))
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.received += frame.data_ref().map_or(0, Bytes::len);
                let held = this.meter.as_mut().map_or(Ok(()), |meter| meter.hold(this.received, 0));
                if held.is_err() { this.refuse() } else { Poll::Ready(Some(Ok(frame))) }
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(io::Error::other(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Some(meter) = &mut this.meter else { return Poll::Pending };
                ready!(meter.poll_stalled(cx));
                this.refuse()
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(crate) enum Answered {
    /// A small one, or a stream.
    Plain(Answer<Reply>),
    /// A large, counted response.
    Held(Held),
}

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Plain(answer) => Pin::new(answer).poll_frame(cx),
            // The head was sent long ago: the body can only be cut short.
            Self::Held(held) => Poll::Ready(match ready!(held.poll_next(cx)) {
                Ok(piece) => piece.map(|piece| Ok(Frame::data(piece))),
                Err(_) => Some(Err(io::ErrorKind::TimedOut.into())),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(answer) => answer.is_end_stream(),
            Self::Held(held) => held.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(answer) => answer.size_hint(),
            Self::Held(held) => SizeHint::with_exact(held.len() as u64),
        }
    }
}
