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
    convert::Infallible,
    future::Future,
    io,
    net::IpAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use self::reply::Reply;
use crate::{
    io::{Busy, PeerIo},
    transport::Transport,
};

/// After a failed accept (out of file descriptors, say): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn serve(
    transport: Arc<Transport>,
    listener: TcpListener,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, from)) => {
                    connections.spawn(connection(transport.clone(), stream, from.ip()));
                }
                Err(e) => pause(&transport, &e).await,
            }
        }
    }
    // Dropping the set ends the connections; etcd's dialler redials, and finds nobody.
}

async fn pause(transport: &Transport, error: &io::Error) {
    slog::warn!(transport.context().log, "failed to accept a peer connection"; "error" => %error);
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection(transport: Arc<Transport>, stream: TcpStream, from: IpAddr) {
    let _ = stream.set_nodelay(true); // an error here shows at the first read
    let busy = Arc::new(AtomicUsize::new(0));
    let io = TokioIo::new(PeerIo::new(stream, busy.clone()));
    let context = transport.context().clone();
    let service = service_fn(move |request| {
        let (transport, busy) = (transport.clone(), busy.clone());
        async move { Ok::<_, Infallible>(route(&transport, &busy, request, from).await) }
    });
    // How else a peer's connection ends is seen where it matters: by the stream's body, and by the sender.
    if let Err(error) = http1::Builder::new().serve_connection(io, service).await
        && error.is_parse()
    {
        context.complain(
            &from.to_string(),
            "a connection to the peer port spoke no HTTP",
            &error.to_string(),
        );
    }
}

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
