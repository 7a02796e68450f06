//! The server of the peer port: accepts connections and routes requests. HTTP/1.1 only, as in etcd.
//!
//! ```text
//! POST /raft                              raft.rs     one message; 204
//! GET  /raft/stream/{msgapp,message}/<id> raft.rs     200 and a body without end
//! POST /raft/snapshot                     snapshot.rs message and database; 204 once it is installed
//! GET  /raft/probing                      plain.rs    a health check
//! GET  /members, /version, /members/hashkv, /downgrade/enabled   plain.rs
//! GET  /quorate/slice                            plain.rs    ours alone: hashes of small parts
//! POST /members/promote/<id>                                     plain.rs    makes a learner a voter
//! POST /leases, /leases/internal                                 leases.rs   lease requests, forwarded by another member
//! ```
//!
//! Statuses, headers and texts are etcd's (`rafthttp/http.go`, `etcdhttp/peer.go`).

mod body;
mod leases;
mod plain;
mod raft;
mod reply;
mod snapshot;

#[cfg(test)]
pub(crate) use self::raft::stream_path;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Method, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use self::reply::{Reply, not_allowed};
use crate::{
    io::{Busy, PeerIo},
    peers::Peers,
    slices,
};

/// The open connections, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<Connection>);

struct Connection {
    busy: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Connections {
    /// Makes room for one more: closes the oldest idle connection if there are too many, because anybody can open idle
    /// ones. Returns false if none is idle.
    fn make_room(&mut self, connections_max: usize) -> bool {
        if self.0.len() < connections_max {
            return true;
        }
        self.0.retain(|connection| !connection.task.is_finished());
        if self.0.len() < connections_max {
            return true;
        }
        let idle = self.0.iter().position(|connection| connection.busy.load(Ordering::Relaxed) == 0);
        let gone = idle.and_then(|at| self.0.remove(at));
        gone.inspect(|connection| connection.task.abort()).is_some()
    }
}

pub(crate) async fn serve(peers: Arc<Peers>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let (mut connections, mut open) = (JoinSet::new(), Connections::default());
    let connections_max = peers.context().limits.connections.max(1);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if open.make_room(connections_max) => {
                    let busy = Arc::new(AtomicUsize::new(0));
                    let task = connections.spawn(connection(peers.clone(), stream, from.ip(), busy.clone()));
                    open.0.push_back(Connection { busy, task });
                }
                Ok((_, from)) => {
                    let what = "refused a connection to the peer port: there are too many";
                    peers.context().log_fault(&from.ip().to_string(), what, &connections_max.to_string());
                }
                Err(e) => pause(&peers, &e).await,
            }
        }
    }
}

async fn pause(peers: &Peers, error: &io::Error) {
    peers.context().log_fault("", "failed to accept a peer connection", &error.to_string());
    tokio::time::sleep(peers.context().limits.accept_pause).await;
}

async fn connection(peers: Arc<Peers>, stream: TcpStream, from: IpAddr, busy: Arc<AtomicUsize>) {
    let _ = stream.set_nodelay(true); // an error shows at the first read
    let context = peers.context().clone();
    let limits = &context.limits;
    let io = TokioIo::new(PeerIo::new(stream, busy.clone(), limits.deadline));
    // Else a byte every few seconds would keep a connection open for ever.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.deadline).max_buf_size(limits.http_buffer());
    let service = service_fn(move |request| {
        let (peers, busy) = (peers.clone(), busy.clone());
        async move { Ok::<_, Infallible>(route(&peers, &busy, request, from).await) }
    });
    // Other errors are handled by the stream's body, and by the sender.
    if let Err(error) = http.serve_connection(io, service).await
        && error.is_parse()
    {
        context.log_fault(
            &from.to_string(),
            "a connection to the peer port spoke no HTTP",
            &error.to_string(),
        );
    }
}

type Answered = Response<Reply>;

async fn route(
    peers: &Arc<Peers>,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Answered {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (&method, path.as_str()) {
        (&Method::POST, "/raft") => raft::message(peers, request, from).await,
        (&Method::POST, "/raft/snapshot") => snapshot::snapshot(peers, busy, request, from).await,
        (_, "/raft/probing") => plain::probing(),
        (&Method::GET, "/members") => plain::members(peers),
        (&Method::GET, "/version") => plain::version(peers),
        (&Method::GET, "/members/hashkv") => plain::hash_kv(peers, busy, request).await,
        (&Method::GET, slices::PATH) => plain::hash_slice(peers, busy, request).await,
        (&Method::GET, "/downgrade/enabled") => plain::downgrade_enabled(peers, busy).await,
        (&Method::POST, "/leases") => leases::keep_alive(peers, busy, request).await,
        (&Method::POST, "/leases/internal") => leases::time_to_live(peers, busy, request).await,
        (&Method::GET, path) if path.starts_with("/raft/stream/") => {
            raft::stream(peers, Busy::new(busy), &request, from)
        }
        (_, "/raft" | "/raft/snapshot") => not_allowed(Some("POST")),
        (_, "/members" | "/version" | "/members/hashkv" | "/downgrade/enabled" | slices::PATH) => {
            not_allowed(Some("GET"))
        }
        (_, "/leases" | "/leases/internal") => not_allowed(None),
        (_, path) => match path.strip_prefix("/members/promote/") {
            Some(id) if method == Method::POST => plain::promote(peers, busy, id).await,
            Some(_) => not_allowed(Some("POST")),
            None if path.starts_with("/raft/stream/") => not_allowed(Some("GET")),
            None => reply::not_found(),
        },
    }
}
