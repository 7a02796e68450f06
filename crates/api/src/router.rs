//! From a request's head to its handler, by way of what etcd's interceptors check.

use crate::{
    Api, OVERHEAD_BYTES, cluster, concurrency, downgrade,
    grpc::{self, PREFIX_BYTES, Reply, Requests},
    health, kv, lease, maintenance,
    methods::{self, Kind, Method},
    metrics::{Call, SeenVersion},
    range_stream,
    server::Phase,
    snapshot,
    status::{self, Known},
    streams::{self, Channel, Ending, Feed, Inbound, Outgoing},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE, request::Parts};
use prost::Message;
use proto::etcdserverpb as pb;
use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

const CLIENT_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const WANTS_LEADER: HeaderName = HeaderName::from_static("hasleader");

/// What the calls of one connection share.
pub(crate) struct Connection {
    api: Arc<Api>,
    /// The first client version seen: a client sends the same with every call.
    version: OnceLock<SeenVersion>,
    /// Says when the server goes down, for streams that have no end of their own.
    phase: watch::Receiver<Phase>,
}

impl Connection {
    pub(crate) fn new(api: Arc<Api>, phase: watch::Receiver<Phase>) -> Self {
        Self { api, version: OnceLock::new(), phase }
    }

    /// Whom the connection is with.
    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.api
    }
}

/// Answers one call.
pub(crate) async fn serve(
    connection: Arc<Connection>,
    request: http::Request<Requests>,
) -> Result<http::Response<Reply>, Infallible> {
    let (parts, body) = request.into_parts();
    if let Some(refusal) = not_grpc(&parts) {
        return Ok(refusal);
    }
    let Some(method) = Method::at(parts.uri.path()) else {
        return Ok(Reply::refusal(Status::unimplemented(methods::unknown(parts.uri.path()))));
    };
    let call = connection.api.metrics.calls.start(method);
    let call = Open { connection: &connection, method, parts: &parts, call };
    Ok(match method.kind() {
        Kind::Unary => unary(call, body).await,
        Kind::ServerStream => stream(call, body).await,
        Kind::BidiStream => converse(call, body),
    })
}

/// grpc-go's refusal of an HTTP/2 request that is none of gRPC's.
fn not_grpc(parts: &Parts) -> Option<http::Response<Reply>> {
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let (code, status) = if parts.method != http::Method::POST {
        let text =
            format!("Received a HEADERS frame with :method {:?} which should be POST", parts.method.as_str());
        (StatusCode::METHOD_NOT_ALLOWED, Status::internal(text))
    } else if !content_type.starts_with(b"application/grpc") {
        let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(content_type));
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(text))
    } else {
        return None;
    };
    let mut response = Reply::refusal(status);
    *response.status_mut() = code;
    Some(response)
}

/// A call whose message has not been read yet.
struct Open<'a> {
    connection: &'a Arc<Connection>,
    method: Method,
    parts: &'a Parts,
    call: Call,
}

impl Open<'_> {
    fn api(&self) -> &Arc<Api> {
        &self.connection.api
    }

    /// Reads the message, and lets the call in. A method that learners serve says so in `for_learner`.
    async fn read<M: Message + Default>(
        &self,
        body: Requests,
        for_learner: impl FnOnce(&M) -> bool,
    ) -> Result<M, Status> {
        let message = grpc::decoded(M::decode(self.bytes(body).await?))?;
        self.admit(&self.parts.headers, for_learner(&message))?;
        Ok(message)
    }

    /// Transactions are decoded as deep as etcd nests them.
    async fn read_txn(&self, body: Requests) -> Result<pb::TxnRequest, Status> {
        let message = grpc::decoded(proto::deep::txn(self.bytes(body).await?))?;
        self.admit(&self.parts.headers, false)?;
        Ok(message)
    }

    async fn bytes(&self, body: Requests) -> Result<Bytes, Status> {
        let max_bytes = self.api().limits.max_request_bytes + OVERHEAD_BYTES;
        grpc::read(body, &self.parts.headers, max_bytes, &self.call).await
    }

    /// etcd's interceptors, in their order.
    fn admit(&self, headers: &HeaderMap, for_learner: bool) -> Result<(), Status> {
        let status = self.api().node.status();
        if status.is_learner && !for_learner {
            return Err(Known::NotForLearner.into());
        }
        self.count_version(headers)?;
        if status.leader == 0 && wants_leader(headers) {
            return Err(Known::NoLeader.into());
        }
        Ok(())
    }

    /// What ends a stream that has begun: a lost leader where the client asked for one; and where the stream has no end
    /// of its own, the server going down.
    fn ending(&self) -> Option<Ending> {
        let losses = wants_leader(&self.parts.headers).then(|| self.api().leader_losses.subscribe());
        let endless = self.method.kind() == Kind::BidiStream || self.method == Method::Observe;
        let phase = endless.then(|| self.connection.phase.clone());
        match (losses, phase) {
            (None, None) => None,
            (Some(losses), None) => Some(Box::pin(streams::leader_lost(losses))),
            (None, Some(phase)) => Some(Box::pin(streams::going_down(phase))),
            (Some(losses), Some(phase)) => Some(Box::pin(async {
                tokio::select! {
                    status = streams::leader_lost(losses) => status,
                    status = streams::going_down(phase) => status,
                }
            })),
        }
    }

    fn count_version(&self, headers: &HeaderMap) -> Result<(), Status> {
        let header = headers.get(CLIENT_VERSION);
        let look_up = || {
            let text = header.map_or(Ok("unknown"), |h| str::from_utf8(h.as_bytes()));
            let text = text.map_err(|_| Status::from(Known::InvalidClientApiVersion))?;
            Ok::<_, Status>(self.api().metrics.client_version(text))
        };
        let count = |version: &crate::metrics::ClientVersion| match self.method.kind() {
            Kind::Unary => version.unary.inc(),
            Kind::ServerStream | Kind::BidiStream => version.stream.inc(),
        };
        match self.connection.version.get() {
            Some((seen, version)) if seen.as_ref() == header => count(version),
            Some(_) => count(&look_up()?),
            None => {
                let version = look_up()?;
                count(&version);
                // Another call of this connection may have been first; then that one stays.
                let _ = self.connection.version.set((header.cloned(), version));
            }
        }
        Ok(())
    }
}

fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get(WANTS_LEADER).is_some_and(|value| value.as_bytes() == b"true")
}

/// One message in, one out.
async fn unary(mut open: Open<'_>, body: Requests) -> http::Response<Reply> {
    match answer(&open, body).await {
        Ok(message) => {
            open.call.sent(message.len() - PREFIX_BYTES);
            open.call.end(Code::Ok);
            Reply::unary(message)
        }
        Err(status) => {
            open.call.end(status.code());
            Reply::refusal(status)
        }
    }
}

/// The frequent calls run in the stream's own task as they are; the others are boxed, so that they do not make every
/// task as large as the largest of them.
async fn answer(open: &Open<'_>, body: Requests) -> Result<Bytes, Status> {
    let api = open.api();
    match open.method {
        Method::Put => {
            let request = open.read(body, |_| false).await?;
            kv::put(api, grpc::deadline(&open.parts.headers), request).await
        }
        Method::Range => {
            let request = open.read(body, |r: &pb::RangeRequest| r.serializable).await?;
            kv::range(api, grpc::deadline(&open.parts.headers), request).await
        }
        Method::Txn => {
            let request = open.read_txn(body).await?;
            kv::txn(api, grpc::deadline(&open.parts.headers), request).await
        }
        Method::DeleteRange => {
            let request = open.read(body, |_| false).await?;
            kv::delete_range(api, grpc::deadline(&open.parts.headers), request).await
        }
        _ => api.steps.watch(open.method.name(), rare(open, body)).await,
    }
}

async fn rare(open: &Open<'_>, body: Requests) -> Result<Bytes, Status> {
    let api = open.api();
    let deadline = grpc::deadline(&open.parts.headers);
    match open.method {
        Method::Compact => kv::compact(api, deadline, open.read(body, |_| false).await?).await,
        Method::Lock => concurrency::lock(api, deadline, open.read(body, |_| false).await?).await,
        Method::Unlock => concurrency::unlock(api, deadline, open.read(body, |_| false).await?).await,
        Method::Campaign => concurrency::campaign(api, deadline, open.read(body, |_| false).await?).await,
        Method::Proclaim => concurrency::proclaim(api, deadline, open.read(body, |_| false).await?).await,
        Method::Leader => concurrency::leader(api, deadline, open.read(body, |_| false).await?).await,
        Method::Resign => concurrency::resign(api, deadline, open.read(body, |_| false).await?).await,
        Method::LeaseGrant => lease::grant(api, deadline, open.read(body, |_| false).await?).await,
        Method::LeaseRevoke => lease::revoke(api, deadline, open.read(body, |_| false).await?).await,
        Method::LeaseTimeToLive => {
            lease::time_to_live(api, deadline, open.read(body, |_| false).await?).await
        }
        Method::LeaseLeases => {
            let _: pb::LeaseLeasesRequest = open.read(body, |_| false).await?;
            lease::leases(api).await
        }
        Method::MemberList => cluster::member_list(api, deadline, open.read(body, |_| false).await?).await,
        Method::Status => {
            let _: pb::StatusRequest = open.read(body, |_| true).await?;
            Ok(maintenance::status(api))
        }
        Method::Alarm => maintenance::alarm(api, deadline, open.read(body, |_| false).await?).await,
        Method::Hash => {
            let _: pb::HashRequest = open.read(body, |_| false).await?;
            maintenance::hash(api).await
        }
        Method::HashKv => maintenance::hash_kv(api, open.read(body, |_| false).await?).await,
        Method::MoveLeader => maintenance::move_leader(api, open.read(body, |_| false).await?).await,
        Method::HealthCheck => health::check(&open.read(body, |_| false).await?),
        Method::HealthList => {
            let _: health::HealthListRequest = open.read(body, |_| false).await?;
            Ok(health::list())
        }
        Method::MemberAdd | Method::MemberRemove | Method::MemberUpdate | Method::MemberPromote => {
            Err(not_served(open, "changes of members"))
        }
        Method::Defragment => {
            let _: pb::DefragmentRequest = open.read(body, |_| false).await?;
            maintenance::defragment(api).await
        }
        Method::Downgrade => downgrade::downgrade(api, deadline, open.read(body, |_| false).await?).await,
        Method::Put
        | Method::Range
        | Method::Txn
        | Method::DeleteRange
        | Method::RangeStream
        | Method::Watch
        | Method::LeaseKeepAlive
        | Method::Observe
        | Method::Snapshot
        | Method::HealthWatch => Err(Status::internal("a method was routed to the wrong handler")),
    }
}

/// One message in, many out.
async fn stream(mut open: Open<'_>, body: Requests) -> http::Response<Reply> {
    let (sender, receiver) = mpsc::channel(range_stream::PIECES_AHEAD_MAX);
    match start(&open, body, sender).await {
        Ok(()) => {
            let ending = open.ending();
            Reply::stream(Outgoing::new(Box::new(Channel::new(receiver)), open.call, ending))
        }
        Err(status) => {
            open.call.end(status.code());
            Reply::refusal(status)
        }
    }
}

async fn start(
    open: &Open<'_>,
    body: Requests,
    sender: mpsc::Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    match open.method {
        Method::RangeStream => {
            let request = open.read(body, |_| false).await?;
            let deadline = grpc::deadline(&open.parts.headers);
            range_stream::start(open.api(), deadline, request, sender).await
        }
        Method::Observe => {
            let request = open.read(body, |_| false).await?;
            let deadline = grpc::deadline(&open.parts.headers);
            tokio::spawn(concurrency::observe(Arc::clone(open.api()), deadline, request, sender));
            Ok(())
        }
        Method::HealthWatch => {
            let request = open.read(body, |_| false).await?;
            tokio::spawn(health::watch(request, sender, open.connection.phase.clone()));
            Ok(())
        }
        Method::Snapshot => {
            // Learners too, as in etcd.
            let _: pb::SnapshotRequest = open.read(body, |_| true).await?;
            tokio::spawn(snapshot::start(Arc::clone(open.api()), sender));
            Ok(())
        }
        _ => Err(Status::internal("a method was routed to the wrong handler")),
    }
}

/// Many messages each way: nothing is read before the call is let in.
fn converse(mut open: Open<'_>, body: Requests) -> http::Response<Reply> {
    let begun = open.admit(&open.parts.headers, false).and_then(|()| {
        let max_bytes = open.api().limits.max_request_bytes + OVERHEAD_BYTES;
        begin(&open, Inbound::new(body, open.parts.headers.clone(), max_bytes, open.call.receiver()))
    });
    match begun {
        Ok(feed) => {
            let ending = open.ending();
            Reply::stream(Outgoing::new(feed, open.call, ending))
        }
        Err(status) => {
            open.call.end(status.code());
            Reply::refusal(status)
        }
    }
}

/// Starts the conversation in a task of its own, which ends when its answers' receiver is dropped; says where they come
/// from.
fn begin(open: &Open<'_>, requests: Inbound) -> Result<Box<dyn Feed>, Status> {
    match open.method {
        Method::Watch => Ok(crate::watch::start(open.api(), requests)),
        Method::LeaseKeepAlive => {
            let (answers, receiver) = mpsc::channel(lease::ANSWERS_AHEAD_MAX);
            tokio::spawn(lease::keep_alive(Arc::clone(open.api()), requests, answers));
            Ok(Box::new(Channel::new(receiver)))
        }
        _ => Err(Status::internal("a method was routed to the wrong handler")),
    }
}

fn not_served(open: &Open<'_>, missing: &str) -> Status {
    let name = format!("{}/{}", open.method.service(), open.method.name());
    status::not_served(&name, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call's task may take, in bytes: it is allocated, filled and moved for every call.
    const TASK_BYTES_MAX: usize = 2_560;

    fn size<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_call_does_not_carry_room_for_every_request_there_is() {
        let size = size(serve);
        assert!(size <= TASK_BYTES_MAX, "a call's task takes {size} bytes: box what is rare or large");
    }
}
