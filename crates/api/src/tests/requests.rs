//! Bidirectional streams over real HTTP/2, served by an echo.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::*;
use crate::{
    budget::Budget,
    endings::{Phase, going_down, leader_lost},
    feed::Channel,
    metrics::Metrics,
    reply::{Ending, Outgoing, Reply},
};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use machine::Quota;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchRequest, WatchResponse, watch_client::WatchClient, watch_request::RequestUnion,
};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::{
    net::TcpListener,
    sync::{
        mpsc::{self, Receiver, Sender},
        watch,
    },
    time::sleep,
};
use tonic::{Streaming, transport};

/// Responses queued for the client, in messages.
const ANSWERS_MAX: usize = 16;

/// Requests that a test may queue, in messages.
const REQUESTS_MAX: usize = 100_000;

type Answers = Sender<Result<WatchResponse, Status>>;

/// Observes and controls the service under test.
#[derive(Clone)]
struct Seen {
    answered: Arc<AtomicU64>,
    gone: watch::Sender<bool>,
    losses: watch::Sender<u64>,
    phase: watch::Sender<Phase>,
}

impl Seen {
    fn new() -> Self {
        Self {
            answered: Arc::default(),
            gone: watch::Sender::new(false),
            losses: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Serving),
        }
    }
}

fn request(id: i64) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id })) }
}

/// Echoes every cancelled ID; `reason` makes the responses long.
async fn echo(mut requests: Inbound, answers: Answers, seen: Seen, reason: &'static str) {
    let ended = loop {
        match requests.next::<WatchRequest>().await {
            Ok(Some(WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) })) => {
                let watch_id = cancel.watch_id;
                let answer = WatchResponse { watch_id, cancel_reason: reason.into(), ..Default::default() };
                if answers.send(Ok(answer)).await.is_err() {
                    break None;
                }
                seen.answered.fetch_add(1, SeqCst);
            }
            Ok(_) => break None,
            Err(status) => break Some(status),
        }
    };
    if let Some(status) = ended {
        // The client may be gone.
        let _ = answers.send(Err(status)).await;
    }
    seen.gone.send_replace(true);
}

/// A client of a new echo server. All of it ends with the runtime.
async fn echo_client(seen: &Seen, reason: &'static str) -> WatchClient<transport::Channel> {
    let metrics = Arc::new(Metrics::new(1, "3.7.3", Quota::new(0), &crate::Shown::default()));
    let share = Budget::new(crate::InFlight::default()).share();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = seen.clone();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let serve = move |request: http::Request<Incoming>| {
            let call = metrics.calls.start(Method::Watch);
            let body = request.into_body();
            let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
            tokio::spawn(echo(
                Inbound::new(
                    super::Requests::Wire(body),
                    Framing { max_bytes: 1_024, zip: None, method: Method::Watch },
                    &share,
                    call.receiver(),
                    Turn::default(),
                ),
                sender,
                seen.clone(),
                reason,
            ));
            let (losses, phase) = (seen.losses.subscribe(), seen.phase.subscribe());
            let ending: Ending = Box::pin(async {
                tokio::select! {
                    status = leader_lost(losses) => status,
                    status = going_down(phase) => status,
                }
            });
            let feed = Box::new(Channel::of(receiver));
            std::future::ready(Ok::<_, Infallible>(Reply::stream(Outgoing::new(
                feed,
                call,
                Some(ending),
                None,
                usize::MAX,
            ))))
        };
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(socket), service_fn(serve));
        let _ = connection.await; // the client disconnects when a test ends
    });
    WatchClient::connect(format!("http://{address}")).await.unwrap()
}

async fn open(
    client: &mut WatchClient<transport::Channel>,
) -> (Sender<WatchRequest>, Streaming<WatchResponse>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    (sender, client.watch(Requests(receiver)).await.unwrap().into_inner())
}

struct Requests(Receiver<WatchRequest>);

impl tokio_stream::Stream for Requests {
    type Item = WatchRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchRequest>> {
        self.0.poll_recv(cx)
    }
}

async fn ended(answers: &mut Streaming<WatchResponse>) -> (Code, String) {
    let status = answers.message().await.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn ten_thousand_small_messages_at_once_are_answered_in_order_and_the_stream_ends_well() {
    let seen = Seen::new();
    let (requests, mut answers) = open(&mut echo_client(&seen, "").await).await;
    for id in 0..10_000 {
        requests.try_send(request(id)).unwrap();
    }
    for id in 0..10_000 {
        assert_eq!(answers.message().await.unwrap().unwrap().watch_id, id);
    }
    drop(requests);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_own_handler_up() {
    let seen = Seen::new();
    let long = Box::leak("x".repeat(1_000).into_boxed_str());
    let (requests, mut answers) = open(&mut echo_client(&seen, long).await).await;
    for id in 0..100_000 {
        requests.try_send(request(id)).unwrap();
    }
    let mut before = u64::MAX;
    while seen.answered.load(SeqCst) != before {
        before = seen.answered.load(SeqCst);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 10_000, "100 MB of answers wait for a client that takes none: {before}");
    for id in 0..100_000 {
        assert_eq!(answers.message().await.unwrap().unwrap().watch_id, id);
    }
}

#[tokio::test]
async fn a_handler_learns_that_its_client_is_gone() {
    let seen = Seen::new();
    let mut client = echo_client(&seen, "").await;
    let (requests, mut answers) = open(&mut client).await;
    requests.try_send(request(7)).unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().watch_id, 7);
    drop((requests, answers));
    seen.gone.subscribe().wait_for(|gone| *gone).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_in_grpc_gos_words() {
    let seen = Seen::new();
    let (requests, mut answers) = open(&mut echo_client(&seen, "").await).await;
    requests.try_send(request(1)).unwrap();
    assert!(answers.message().await.unwrap().is_some());
    let create = proto::etcdserverpb::WatchCreateRequest { key: vec![0; 2_000].into(), ..Default::default() };
    requests.try_send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).unwrap();
    let text = "grpc: received message larger than max (2006 vs. 1024)";
    assert_eq!(ended(&mut answers).await, (Code::ResourceExhausted, text.to_owned()));
}

#[tokio::test]
async fn a_stream_ends_with_the_leader_or_with_the_server() {
    let seen = Seen::new();
    let mut client = echo_client(&seen, "").await;
    seen.losses.send_modify(|losses| *losses += 1); // before the stream began: ignored
    let (_requests, mut answers) = open(&mut client).await;
    seen.losses.send_modify(|losses| *losses += 1);
    assert_eq!(ended(&mut answers).await, (Code::Unavailable, "etcdserver: no leader".to_owned()));
    let (_requests, mut answers) = open(&mut client).await;
    seen.phase.send_replace(Phase::Draining);
    assert_eq!(ended(&mut answers).await, (Code::Unavailable, "etcdserver: server stopped".to_owned()));
}
