//! From a request's head to its handler, by way of what etcd's interceptors check.

use crate::{
    Api, OVERHEAD_BYTES, auth,
    budget::{self, Answer, Share, Shares},
    cluster, concurrency, downgrade,
    grpc::{self, Framing, PREFIX_BYTES, Reply, Requests},
    head::{self, Encoding, Head},
    health, kv, lease,
    long::{self, Long},
    maintenance,
    methods::{self, Kind, Method},
    metrics::{Call, SeenVersion},
    range_stream,
    server::Phase,
    snapshot,
    socket::Turn,
    status::{self, Known},
    streams::{self, Channel, Ending, Feed, Inbound, Outgoing},
    zip::Zipped,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header::CONTENT_TYPE};
use prost::Message;
use proto::etcdserverpb as pb;
use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Instant,
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
    /// Told of calls that were given up.
    turn: Turn,
    /// What it holds of requests that are not whole.
    requests: Arc<Share>,
    /// What it holds of answers that are not read.
    answers: Arc<Share>,
    /// The same of small ones.
    values: Arc<Share>,
}

impl Connection {
    pub(crate) fn new(api: Arc<Api>, turn: Turn, phase: watch::Receiver<Phase>) -> Self {
        let (requests, answers, values) = (api.requests.share(), api.answers.share(), api.values.share());
        Self { api, version: OnceLock::new(), turn, phase, requests, answers, values }
    }

    /// What it holds of requests that are not whole.
    pub(crate) fn requests(&self) -> &Arc<Share> {
        &self.requests
    }

    /// What it holds of answers that are not read.
    pub(crate) fn answers(&self) -> &Arc<Share> {
        &self.answers
    }

    /// Whom the connection is with.
    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.api
    }
}

/// Answers one call. What of its head it needs is taken out before it begins: whatever a task has held once, it has
/// room for until it ends.
pub(crate) fn serve(
    connection: Arc<Connection>,
    request: http::Request<Requests>,
) -> impl Future<Output = Result<http::Response<Reply>, Infallible>> + Send {
    let (parts, body) = request.into_parts();
    let head = Head::of(&parts, matches!(body, Requests::Wire(_)));
    let method = head::method(&parts).map_err(|path| Status::unimplemented(methods::unknown(path)));
    let headers = parts.headers;
    async move {
        let Head { deadline, content_type, encoding } = match head {
            Ok(head) => head,
            Err(refusal) => {
                grpc::linger(body);
                return Ok(*refusal);
            }
        };
        let mut response = match open(&connection, &headers, method, deadline, &encoding) {
            Ok(mut call) => match call.method.kind() {
                // By reference: what a future is given by value lies in it twice.
                Kind::Unary => unary(&mut call, body).await,
                Kind::ServerStream => stream(call, body).await,
                Kind::BidiStream => converse(call, body),
            },
            Err(status) => {
                grpc::linger(body);
                Reply::refusal(status)
            }
        };
        if let Some(content_type) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, *content_type);
        }
        Ok(response)
    }
}

/// A call of this method, and how its messages come.
fn open<'a>(
    connection: &'a Arc<Connection>,
    headers: &'a HeaderMap,
    method: Result<Method, Status>,
    deadline: kv::Deadline,
    encoding: &Encoding,
) -> Result<Open<'a>, Status> {
    let method = method?;
    let api = &connection.api;
    let zip = encoding.is_gzip()?.then(|| Arc::clone(&api.zip));
    let framing = Framing { max_bytes: api.limits.max_request_bytes + OVERHEAD_BYTES, zip, method };
    let call = api.metrics.calls.start(method);
    Ok(Open { connection, method, headers, call, framing, deadline })
}

/// A call whose message has not been read yet.
struct Open<'a> {
    connection: &'a Arc<Connection>,
    method: Method,
    headers: &'a HeaderMap,
    call: Call,
    framing: Framing,
    /// When the caller stops waiting.
    deadline: kv::Deadline,
}

impl Open<'_> {
    fn api(&self) -> &Arc<Api> {
        &self.connection.api
    }

    fn shares(&self) -> Shares<'_> {
        let Connection { answers, values, .. } = &**self.connection;
        Shares { answers, values }
    }

    /// Reads the message, and lets the call in. A method that learners serve says so in `for_learner`.
    async fn read<M: Message + Default>(
        &self,
        body: Requests,
        for_learner: impl FnOnce(&M) -> bool,
    ) -> Result<M, Status> {
        let message = self.framing.decode(&self.bytes(body).await?, |bytes| M::decode(bytes))?;
        self.admit(self.headers, for_learner(&message))?;
        Ok(message)
    }

    /// Transactions are decoded as deep as etcd nests them.
    async fn read_txn(&self, body: Requests) -> Result<pb::TxnRequest, Status> {
        let message = self.framing.decode(&self.bytes(body).await?, proto::deep::txn)?;
        self.admit(self.headers, false)?;
        Ok(message)
    }

    async fn bytes(&self, body: Requests) -> Result<Bytes, Status> {
        let requests = &self.connection.requests;
        let read = grpc::read(body, &self.framing, self.deadline, &self.call, requests);
        read.await.inspect_err(|status| {
            if status.code() == Code::Cancelled {
                self.connection.turn.given_up();
            }
        })
    }

    /// The caller has stopped waiting: whatever went wrong, it did so too late. etcd's transport has closed such a
    /// stream before its handler answers.
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The answers of a stream, until it ends.
    fn outgoing(self, feed: Box<dyn Feed>) -> http::Response<Reply> {
        let ending = self.ending();
        let feed = match &self.framing.zip {
            Some(zip) => Box::new(Zipped::new(feed, Arc::clone(zip))),
            None => feed,
        };
        let max_bytes = self.api().limits.send_bytes_max;
        let response =
            Reply::stream(Outgoing::new(feed, self.call, ending).until(self.deadline).at_most(max_bytes));
        if self.framing.zip.is_some() { Reply::compressed(response) } else { response }
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
        let losses = wants_leader(self.headers).then(|| self.api().leader_losses.subscribe());
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
async fn unary(open: &mut Open<'_>, body: Requests) -> http::Response<Reply> {
    let reply = match answer(open, body).await {
        Ok(Answer::Long(long)) => Box::pin(send_long(open, long)).await,
        Ok(Answer::Read(message)) => {
            pack(open, message).await.map(|message| Reply::held(message, open.shares(), budget::exhausted))
        }
        Ok(Answer::Done(message)) => {
            let packed = pack(open, message).await;
            packed.map(|message| Reply::held(message, open.shares(), long::late_after_write))
        }
        Ok(Answer::Other(message)) => {
            pack(open, message).await.map(|message| Reply::unary(open.connection.values.count(message)))
        }
        Err(status) => Err(status),
    };
    match reply {
        Ok(reply) => {
            open.call.end(Code::Ok);
            if open.framing.zip.is_some() { Reply::compressed(reply) } else { reply }
        }
        Err(status) => {
            let status = if open.is_over() { head::over() } else { status };
            open.call.end(status.code());
            Reply::refusal(status)
        }
    }
}

/// A message as it is sent: in the client's encoding, and no longer than any that etcd sends.
async fn pack(open: &Open<'_>, mut message: Bytes) -> Result<Bytes, Status> {
    open.call.sent(message.len() - PREFIX_BYTES);
    if let Some(zip) = &open.framing.zip {
        message = Box::pin(zip.pack(message)).await?;
    }
    grpc::sendable(message, open.api().limits.send_bytes_max)
}

/// The same for one that is sent as it is read.
async fn send_long(open: &Open<'_>, long: Box<Long>) -> Result<http::Response<Reply>, Status> {
    let (api, answers) = (open.api(), &open.connection.answers);
    let length = long.len() - PREFIX_BYTES as u64;
    open.call.sent(usize::try_from(length).unwrap_or(usize::MAX));
    grpc::sendable_length(length, api.limits.send_bytes_max)?;
    if let Some(zip) = &open.framing.zip
        && let Some(packed) = Long::clone(&long).pack(api, zip).await?
    {
        return Ok(Reply::held(packed, open.shares(), long.late()));
    }
    Ok(Reply::fed(long.send(api, answers, open.deadline)))
}

/// The frequent calls run in the stream's own task as they are; the others are boxed, so that they do not make every
/// task as large as the largest of them.
async fn answer(open: &Open<'_>, body: Requests) -> Result<Answer, Status> {
    let api = open.api();
    let shares @ Shares { values, .. } = open.shares();
    if matches!(open.method, Method::Put | Method::DeleteRange | Method::Range | Method::Txn) {
        // Before the request is read: until then HTTP/2's windows bound what comes.
        values.turn(open.deadline).await?;
    }
    match open.method {
        Method::Put => {
            let request = open.read(body, |_| false).await?;
            kv::put(api, shares, open.deadline, request).await
        }
        Method::Range => {
            let request = open.read(body, |r: &pb::RangeRequest| r.serializable).await?;
            kv::range(api, shares, open.deadline, request).await
        }
        Method::Txn => {
            let request = open.read_txn(body).await?;
            kv::txn(api, shares, open.deadline, request).await
        }
        Method::DeleteRange => {
            let request = open.read(body, |_| false).await?;
            kv::delete_range(api, shares, open.deadline, request).await
        }
        _ => {
            let rare = grpc::within(open.deadline, rare(open, body));
            api.steps.watch(open.method.name(), rare).await.map(Answer::Other)
        }
    }
}

async fn rare(open: &Open<'_>, body: Requests) -> Result<Bytes, Status> {
    let api = open.api();
    let deadline = open.deadline;
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
        _ => authentication(open, body).await,
    }
}

/// The Auth service, where authentication is off.
async fn authentication(open: &Open<'_>, body: Requests) -> Result<Bytes, Status> {
    let (api, deadline) = (open.api(), open.deadline);
    match open.method {
        Method::Authenticate => {
            let _: pb::AuthenticateRequest = open.read(body, |_| false).await?;
            auth::authenticate(api, deadline).await
        }
        Method::AuthStatus => {
            let _: pb::AuthStatusRequest = open.read(body, |_| false).await?;
            auth::status(api, deadline).await
        }
        Method::UserList => {
            let _: pb::AuthUserListRequest = open.read(body, |_| false).await?;
            auth::users(api, deadline).await
        }
        Method::RoleList => {
            let _: pb::AuthRoleListRequest = open.read(body, |_| false).await?;
            auth::roles(api, deadline).await
        }
        Method::AuthEnable
        | Method::AuthDisable
        | Method::UserAdd
        | Method::UserGet
        | Method::UserDelete
        | Method::UserChangePassword
        | Method::UserGrantRole
        | Method::UserRevokeRole
        | Method::RoleAdd
        | Method::RoleGet
        | Method::RoleDelete
        | Method::RoleGrantPermission
        | Method::RoleRevokePermission => Err(not_served(open, "authentication")),
        _ => Err(Status::internal("a method was routed to the wrong handler")),
    }
}

/// One message in, many out.
async fn stream(mut open: Open<'_>, body: Requests) -> http::Response<Reply> {
    let (sender, receiver) = mpsc::channel(range_stream::PIECES_AHEAD_MAX);
    match start(&open, body, sender).await {
        Ok(()) => open.outgoing(Box::new(Channel::new(receiver))),
        Err(status) => {
            let status = if open.is_over() { head::over() } else { status };
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
            range_stream::start(open.api(), open.deadline, request, sender).await
        }
        Method::Observe => {
            let request = open.read(body, |_| false).await?;
            let api = Arc::clone(open.api());
            let deadline = open.deadline;
            streams::spawn_until(deadline, concurrency::observe(api, deadline, request, sender));
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
    let begun = open.admit(open.headers, false).and_then(|()| {
        let (connection, framing) = (open.connection, open.framing.clone());
        let inbound = Inbound::new(body, framing, &connection.requests, open.call.receiver());
        begin(&open, inbound.of(&connection.turn))
    });
    match begun {
        Ok(feed) => open.outgoing(feed),
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
