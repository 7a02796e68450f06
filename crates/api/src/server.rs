//! The accept loop: one port for gRPC (HTTP/2 with prior knowledge) and HTTP/1.1, and its end.
//!
//! Shutting down: stop accepting, tell every connection (GOAWAY), let calls in flight finish for a while ([`Wire::drain`]), then cut
//! what is left. Runs on one current-thread runtime, which the node's completions wake once a batch.

use crate::{
    Api,
    connections::Seat,
    front::{self, Traffic},
    grpc::Requests,
    metered,
    router::{self, Connection},
    socket::{Flusher, Socket, Turn},
    streams,
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

/// How long the connections that were cut may take to let go.
const CUT_MAX: Duration = Duration::from_millis(100);

/// Pause after an accept that failed: without free file descriptors the next would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause after a connection that was refused: those who come again and again cost a thousand turns a second at most.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// How an HTTP/2 client begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far the listener has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything is welcome.
    Serving,
    /// What is in flight may finish.
    Draining,
    /// No more.
    Cut,
}

/// Room for a client's first bytes, which are its preface and settings, or the head of a short request.
const PREFACE_READ_BYTES: usize = 256;

/// What the connections of one listener share.
struct Listener {
    api: Arc<Api>,
    traffic: Traffic,
    flusher: Arc<Flusher>,
    http2: http2::Builder<TokioExecutor>,
    http1: http1::Builder,
    phase: watch::Receiver<Phase>,
}

/// Serves clients until `shutdown` is ready, then lets the calls in flight finish. Call it inside a current-thread
/// runtime, once for each listener; all may share one [`Api`].
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
        tokio::spawn(streams::count_losses(api.node.watch_leader(), election_timeout, losses));
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
    // Every connection holds a receiver, and so does `shared`: sending cannot fail.
    let _ = phase.send(Phase::Draining);
    if timeout(shared.api.limits.wire.drain, all_gone.recv()).await.is_err() {
        slog::info!(shared.api.log, "calls in flight were cut at shutdown");
        let _ = phase.send(Phase::Cut);
        // Their tasks need one turn each to let go of their sockets.
        let _ = timeout(CUT_MAX, all_gone.recv()).await;
    }
    flusher.flush();
    flushing.abort();
}

/// Counts every leader that comes after another or after none, as etcd does. Ends with the node.
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
        // Over a connection's life it would end honest ones: a client whose oversized puts are refused while they are still
        // coming makes one each. They cost no more than a frame, and who does not take those is not read from.
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
        // Names are compared without case, but scripts that grep for etcd's headers do not.
        .title_case_headers(true);
    builder
}

/// One client, from its first bytes to its end. `_alive` tells the listener that it is still there.
async fn connection(listener: Arc<Listener>, stream: TcpStream, seat: Seat, _alive: mpsc::Sender<()>) {
    // Without it every answer waits for the acknowledgement of the one before. If it fails, the socket is gone.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut socket = Socket::new(stream, seat, &listener.api.limits.wire, Arc::clone(&listener.flusher));
    let (turn, mut phase) = (socket.turn(), listener.phase.clone());
    let speaks = tokio::select! {
        _ = phase.wait_for(|phase| *phase > Phase::Serving) => return,
        speaks = timeout(listener.api.limits.wire.first_bytes, first_bytes(&mut socket)) => speaks,
    };
    // It said nothing, or went away: nobody to tell.
    let Ok(Ok(speaks)) = speaks else { return };
    let api = Arc::clone(&listener.api);
    let shared = Arc::new(Connection::new(Arc::clone(&api), turn.clone(), listener.phase.clone()));
    let cut = shared.answers().cut();
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
            let service = service_fn(move |request| front::monitor(Arc::clone(&api), request));
            let served = listener.http1.serve_connection(TokioIo::new(socket), service);
            drive(served, http1::Connection::graceful_shutdown, turn, cut, phase).await;
        }
        // As etcd: the connection ends without a word.
        (Traffic::Grpc, Protocol::Http1) | (Traffic::Http | Traffic::Metrics, Protocol::Http2) => {}
    }
}

/// Runs a connection to its end; once the server goes down, to the end of what is in flight.
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
        // Errors here are the client's: it went away, or spoke nonsense and has been told so.
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

/// Reads just enough to know what the client speaks, and puts it back.
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

/// What the first bytes say; `None` while they could still be either.
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
