//! The peer port's server: accepts, and routes each request to its handler. HTTP/1.1 only, as etcd.
//!
//! ```text
//! POST /raft                              raft.rs     one message; 204
//! GET  /raft/stream/{msgapp,message}/<id> raft.rs     200 and a body without end
//! POST /raft/snapshot                     raft.rs     refused by name
//! GET  /raft/probing                      plain.rs    are you there
//! GET  /members, /version, /members/hashkv, /downgrade/enabled   plain.rs
//! POST /members/promote/<id>                                     plain.rs    makes a learner a voter
//! POST /leases, /leases/internal                                 leases.rs   questions that clients asked of another
//! ```
//!
//! Statuses, headers and texts are etcd's (`rafthttp/http.go`, `etcdhttp/peer.go`); what is refused by name answers 501.

mod body;
mod leases;
mod plain;
mod raft;
mod reply;

#[cfg(test)]
pub(crate) use self::{
    plain::{hash_json, rfc3339},
    raft::stream_path,
};

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

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use self::reply::Reply;
use crate::{
    io::{Busy, PeerIo},
    transport::Transport,
};

/// The connections there are, the oldest first.
#[derive(Default)]
struct Guests(VecDeque<Guest>);

struct Guest {
    /// Streams and questions under way on it.
    busy: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Guests {
    /// Makes room for one more. Whoever is not at work goes first: a connection without a request costs nothing to make,
    /// and members must get in however many of those there are.
    fn make_room(&mut self, connections_max: usize) -> bool {
        if self.0.len() < connections_max {
            return true;
        }
        self.0.retain(|guest| !guest.task.is_finished());
        if self.0.len() < connections_max {
            return true;
        }
        let idle = self.0.iter().position(|guest| guest.busy.load(Ordering::Relaxed) == 0);
        let gone = idle.and_then(|at| self.0.remove(at));
        gone.inspect(|guest| guest.task.abort()).is_some()
    }
}

pub(crate) async fn serve(
    transport: Arc<Transport>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let (mut connections, mut guests) = (JoinSet::new(), Guests::default());
    let connections_max = transport.context().limits.connections.max(1);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if guests.make_room(connections_max) => {
                    let busy = Arc::new(AtomicUsize::new(0));
                    let task = connections.spawn(connection(transport.clone(), stream, from.ip(), busy.clone()));
                    guests.0.push_back(Guest { busy, task });
                }
                Ok((_, from)) => {
                    let what = "refused a connection to the peer port: there are too many";
                    transport.context().complain(&from.ip().to_string(), what, &connections_max.to_string());
                }
                Err(e) => pause(&transport, &e).await,
            }
        }
    }
    // Dropping the set ends the connections; etcd's dialler redials, and finds nobody.
}

async fn pause(transport: &Transport, error: &io::Error) {
    transport.context().complain("", "failed to accept a peer connection", &error.to_string());
    tokio::time::sleep(transport.context().limits.accept_pause).await;
}

async fn connection(transport: Arc<Transport>, stream: TcpStream, from: IpAddr, busy: Arc<AtomicUsize>) {
    let _ = stream.set_nodelay(true); // an error here shows at the first read
    let context = transport.context().clone();
    let limits = &context.limits;
    let io = TokioIo::new(PeerIo::new(stream, busy.clone(), limits.deadline));
    // A head has the time that a read has: else a byte every few seconds would keep a connection for ever.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.deadline)
        .max_buf_size(limits.connection_bytes.max(CONNECTION_BYTES_MIN));
    let service = service_fn(move |request| {
        let (transport, busy) = (transport.clone(), busy.clone());
        async move { Ok::<_, Infallible>(route(&transport, &busy, request, from).await) }
    });
    // How else a peer's connection ends is seen where it matters: by the stream's body, and by the sender.
    if let Err(error) = http.serve_connection(io, service).await
        && error.is_parse()
    {
        context.complain(
            &from.to_string(),
            "a connection to the peer port spoke no HTTP",
            &error.to_string(),
        );
    }
}

/// hyper takes no smaller buffer.
const CONNECTION_BYTES_MIN: usize = 8 << 10;

type Answered = Response<Reply>;

async fn route(
    transport: &Arc<Transport>,
    busy: &Arc<AtomicUsize>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Answered {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/raft" => raft::message(transport, request, from).await,
        "/raft/snapshot" => raft::snapshot(transport, request, from).await,
        "/raft/probing" => plain::probing(),
        "/members" => plain::members(transport, &request),
        "/version" => plain::version(transport, &request),
        "/members/hashkv" => plain::hash_kv(transport, busy, request).await,
        "/downgrade/enabled" => plain::downgrade_enabled(transport, busy, &request).await,
        "/leases" => leases::keep_alive(transport, busy, request).await,
        "/leases/internal" => leases::time_to_live(transport, busy, request).await,
        path => {
            if path.starts_with("/raft/stream/") {
                raft::stream(transport, Busy::new(busy), &request, from)
            } else if let Some(id) = path.strip_prefix("/members/promote/") {
                plain::promote(transport, busy, &request, id).await
            } else {
                reply::not_found()
            }
        }
    }
}
