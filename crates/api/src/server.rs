//! The accept loop: one port for gRPC (HTTP/2 with prior knowledge) and HTTP/1.1, on one current-thread runtime.
//! Shutdown stops accepting, sends GOAWAY, lets calls in flight finish for [`Wire::drain`], then closes the rest.

use crate::{
    call::Connection,
    connections::{Seat, Traffic},
    endings::{Phase, count_losses},
    http1_router, metered,
    requests::Requests,
    router,
    socket::{Flusher, Socket, Turn},
    state::Api,
    wire::Wire,
};
use bytes::BytesMut;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::IntCounter;
use raft_node::Leadership;
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};

/// How long closing the remaining connections may take.
const CUT_MAX: Duration = Duration::from_millis(100);

/// Pause after a failed accept: without free file descriptors the next would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause after a refused connection, which limits reconnect loops to a thousand turns a second.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// The HTTP/2 connection preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Buffer for a client's first bytes: preface and settings, or the head of a short request.
const PREFACE_READ_BYTES: usize = 256;

struct Listener {
    api: Arc<Api>,
    traffic: Traffic,
    flusher: Arc<Flusher>,
    http2: http2::Builder<TokioExecutor>,
    http1: http1::Builder,
    phase: watch::Receiver<Phase>,
}

/// Serves clients until `shutdown` resolves, then lets calls in flight finish. Call it inside a current-thread runtime,
/// once for each listener; all may share one [`Api`].
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    traffic: Traffic,
    shutdown: impl Future<Output = ()>,
) {
    if !api.watching.swap(true, Relaxed) {
        tokio::spawn(count_leaders(api.node.watch_leader(), api.metrics.leader_changes.clone()));
        let election_timeout = api.node.options().election_timeout();
        let losses = api.leader_losses.clone();
        tokio::spawn(crate::watch::follow(Arc::clone(&api)));
        tokio::spawn(count_losses(api.node.watch_leader(), election_timeout, losses));
    }
    let (phase, receiver) = watch::channel(Phase::Serving);
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let flusher = Arc::new(Flusher::default());
    let flushing = tokio::spawn(Arc::clone(&flusher).run());
    let shared = Arc::new(Listener {
        http2: http2_builder(&api),
        http1: http1_builder(&api.limits.wire),
        api,
        traffic,
        flusher: Arc::clone(&flusher),
        phase: receiver,
    });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(seat) = shared.api.connections.seat(traffic, &shared.api.log) {
                        tokio::spawn(connection(Arc::clone(&shared), stream, seat, alive.clone()));
                    } else {
                        drop(stream);
                        sleep(REFUSED_PAUSE).await;
                    }
                }
                Err(error) => {
                    slog::warn!(shared.api.log, "cannot accept a client"; "error" => %error);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(alive);
    // Cannot fail: `shared` holds a receiver.
    let _ = phase.send(Phase::Draining);
    if timeout(shared.api.limits.wire.drain, all_gone.recv()).await.is_err() {
        slog::info!(shared.api.log, "calls in flight were cut at shutdown");
        let _ = phase.send(Phase::Cut);
        // Each task needs one turn to close its socket.
        let _ = timeout(CUT_MAX, all_gone.recv()).await;
    }
    flusher.flush();
    flushing.abort();
}

/// Counts each new leader, as etcd does. Ends with the node.
async fn count_leaders(mut leadership: watch::Receiver<Leadership>, changes: IntCounter) {
    let mut last = 0;
    loop {
        let leader = leadership.borrow_and_update().leader;
        if leader != 0 && leader != last {
            changes.inc();
        }
        last = leader;
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

fn http2_builder(api: &Api) -> http2::Builder<TokioExecutor> {
    let (limits, wire) = (&api.limits, &api.limits.wire);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(wire.stream_window_bytes)
        .initial_connection_window_size(wire.connection_window_bytes)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(wire.headers_bytes)
        .max_pending_accept_reset_streams(wire.pending_resets)
        // A limit would end honest clients: each oversized put refused early counts once. Such a reset costs a frame,
        // and a client that does not read is not read from.
        .max_local_error_reset_streams(None)
        .keep_alive_timeout(limits.keepalive_timeout);
    if !limits.keepalive_interval.is_zero() {
        builder.keep_alive_interval(limits.keepalive_interval);
    }
    builder
}

fn http1_builder(wire: &Wire) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(wire.http1_head)
        .max_buf_size(wire.http1_head_bytes)
        .max_headers(wire.http1_headers)
        // Header names are case-insensitive, but scripts that grep for etcd's are not.
        .title_case_headers(true);
    builder
}

/// Serves one client. `_alive` shows the listener that it is still connected.
async fn connection(listener: Arc<Listener>, stream: TcpStream, seat: Seat, _alive: mpsc::Sender<()>) {
    // Without it every response would wait for the last one's acknowledgement. An error means that the socket is gone.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut socket = Socket::new(stream, seat, &listener.api.limits.wire, Arc::clone(&listener.flusher));
    let (turn, mut phase) = (socket.turn(), listener.phase.clone());
    let speaks = tokio::select! {
        _ = phase.wait_for(|phase| *phase > Phase::Serving) => return,
        speaks = timeout(listener.api.limits.wire.first_bytes, first_bytes(&mut socket)) => speaks,
    };
    // It sent nothing in time, or disconnected.
    let Ok(Ok(speaks)) = speaks else { return };
    let api = Arc::clone(&listener.api);
    let shared = Arc::new(Connection::new(Arc::clone(&api), turn.clone(), listener.phase.clone()));
    let cut = shared.answers.cut();
    match (listener.traffic, speaks) {
        (Traffic::All | Traffic::Grpc, Protocol::Http2) => {
            let service = service_fn(move |request: http::Request<_>| {
                router::serve(Arc::clone(&shared), request.map(Requests::Wire))
            });
            let served = listener.http2.serve_connection(TokioIo::new(socket), service);
            drive(served, http2::Connection::graceful_shutdown, turn, cut, phase).await;
        }
        (Traffic::All | Traffic::Http, Protocol::Http1) => {
            let service = service_fn(move |request| metered::serve(Arc::clone(&shared), request));
            let served = listener.http1.serve_connection(TokioIo::new(socket), service);
            drive(served, http1::Connection::graceful_shutdown, turn, cut, phase).await;
        }
        (Traffic::Metrics, Protocol::Http1) => {
            let service = service_fn(move |request| http1_router::monitor(Arc::clone(&api), request));
            let served = listener.http1.serve_connection(TokioIo::new(socket), service);
            drive(served, http1::Connection::graceful_shutdown, turn, cut, phase).await;
        }
        // Closed without a response, as in etcd.
        (Traffic::Grpc, Protocol::Http1) | (Traffic::Http | Traffic::Metrics, Protocol::Http2) => {}
    }
}

/// Runs a connection to its end, or after shutdown began until its calls in flight finished.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    finish: fn(Pin<&mut C>),
    turn: Turn,
    cut: Arc<Notify>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        // Errors are the client's: a disconnect, or a protocol error already answered.
        _ = poll_fn(|cx| { turn.begin(); connection.as_mut().poll(cx) }) => return,
        () = cut.notified() => return,
        _ = phase.wait_for(|phase| *phase > Phase::Serving) => {}
    }
    finish(connection.as_mut());
    tokio::select! {
        _ = poll_fn(|cx| { turn.begin(); connection.as_mut().poll(cx) }) => {}
        () = cut.notified() => {}
        _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads just enough to detect the protocol, and puts the bytes back.
async fn first_bytes(socket: &mut Socket) -> io::Result<Protocol> {
    let mut bytes = BytesMut::with_capacity(PREFACE_READ_BYTES);
    let protocol = loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(protocol) = speaks(&bytes) {
            break protocol;
        }
    };
    socket.unread(bytes.freeze());
    Ok(protocol)
}

/// The protocol of the first bytes; `None` if undecided.
fn speaks(bytes: &[u8]) -> Option<Protocol> {
    if bytes.starts_with(PREFACE) {
        Some(Protocol::Http2)
    } else if PREFACE.starts_with(bytes) {
        None
    } else {
        Some(Protocol::Http1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let check = |bytes: &str, expected| assert_eq!(speaks(bytes.as_bytes()), expected, "{bytes:?}");
        check("", None);
        check("P", None);
        check("PR", None);
        check("PRI", None);
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None);
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2));
        check("PRI * HTTP/1.1\r\n", Some(Protocol::Http1));
        check("PUT /", Some(Protocol::Http1));
        check("GET /health", Some(Protocol::Http1));
        check("\u{16}\u{3}\u{1}", Some(Protocol::Http1));
    }
}
