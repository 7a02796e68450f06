//! The handler of each method. A method without one does not compile.

use crate::{
    answer::{self, Answer, Kv},
    auth,
    call::Call,
    cluster, concurrency, deadline, downgrade,
    feed::{Channel, Feed},
    frame, health, kv, lease, maintenance,
    methods::{BidiStream, Frequent, Rare, ServerStream},
    range_stream,
    requests::{Inbound, Requests},
    snapshot, status, watch,
};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Frequent calls run unboxed in their stream's own task.
pub(crate) async fn frequent(call: &Call<'_>, method: Frequent, body: Requests) -> Result<Answer, Status> {
    let kv = Kv { api: call.api(), shares: call.shares(), deadline: call.deadline };
    // Before reading the request: until then, HTTP/2's windows bound it.
    kv.shares.values.turn(kv.deadline).await?;
    match method {
        Frequent::Put => kv.put(call.read(body, |_| false).await?).await,
        Frequent::Range => kv.range(call.read(body, |r: &pb::RangeRequest| r.serializable).await?).await,
        Frequent::Txn => kv.txn(call.read_txn(body).await?).await,
        Frequent::DeleteRange => kv.delete_range(call.read(body, |_| false).await?).await,
    }
}

/// All other unary calls. Boxed, so that the largest of them does not set the size of every task.
pub(crate) async fn rare(call: &Call<'_>, method: Rare, body: Requests) -> Result<Answer, Status> {
    let steps = &call.api().steps;
    let answer = deadline::within(call.deadline, rare_answer(call, method, body));
    steps.watch(call.method.name(), answer).await.map(Answer::Other)
}

async fn rare_answer(call: &Call<'_>, method: Rare, body: Requests) -> Result<Bytes, Status> {
    let (api, deadline) = (call.api(), call.deadline);
    /// Runs a handler and encodes its response; in the slow pool if `$rows` counts many rows.
    macro_rules! by {
        ($handler:path) => {
            by!($handler, |_| 0)
        };
        ($handler:path, $rows:expr) => {{
            let answer = $handler(api, deadline, call.read(body, |_| false).await?).await?;
            answer::encoded(api, $rows(&answer), answer).await
        }};
    }
    match method {
        Rare::Compact => by!(kv::compact),
        Rare::Lock => by!(concurrency::lock),
        Rare::Unlock => by!(concurrency::unlock),
        Rare::Campaign => by!(concurrency::campaign),
        Rare::Proclaim => by!(concurrency::proclaim),
        Rare::Leader => by!(concurrency::leader),
        Rare::Resign => by!(concurrency::resign),
        Rare::LeaseGrant => by!(lease::grant),
        Rare::LeaseRevoke => by!(kv::propose::<pb::LeaseRevokeRequest>),
        Rare::LeaseTimeToLive => by!(lease::time_to_live, |a: &pb::LeaseTimeToLiveResponse| a.keys.len()),
        Rare::LeaseLeases => {
            let _: pb::LeaseLeasesRequest = call.read(body, |_| false).await?;
            answer::read(api, lease::leases).await
        }
        Rare::MemberAdd => by!(cluster::member_add),
        Rare::MemberRemove => by!(cluster::member_remove),
        Rare::MemberUpdate => by!(cluster::member_update),
        Rare::MemberPromote => by!(cluster::member_promote),
        Rare::MemberList => by!(cluster::member_list),
        Rare::Status => {
            // Learners serve it too, as in etcd.
            let _: pb::StatusRequest = call.read(body, |_| true).await?;
            Ok(frame::encode(&maintenance::status(api)))
        }
        // Through the log, even to list alarms.
        Rare::Alarm => by!(kv::propose::<pb::AlarmRequest>),
        Rare::Defragment => by!(maintenance::defragment),
        Rare::Hash => by!(maintenance::hash),
        Rare::HashKv => by!(maintenance::hash_kv),
        Rare::MoveLeader => by!(maintenance::move_leader),
        Rare::Downgrade => by!(downgrade::downgrade),
        Rare::Authenticate => by!(auth::authenticate),
        Rare::AuthStatus => by!(auth::status),
        Rare::UserList => by!(auth::users),
        Rare::RoleList => by!(auth::roles),
        Rare::HealthCheck => {
            let request = call.read(body, |_| false).await?;
            Ok(frame::encode(&health::check(&request)?))
        }
        Rare::HealthList => {
            let _: health::HealthListRequest = call.read(body, |_| false).await?;
            Ok(frame::encode(&health::list()))
        }
        Rare::AuthEnable
        | Rare::AuthDisable
        | Rare::UserAdd
        | Rare::UserGet
        | Rare::UserDelete
        | Rare::UserChangePassword
        | Rare::UserGrantRole
        | Rare::UserRevokeRole
        | Rare::RoleAdd
        | Rare::RoleGet
        | Rare::RoleDelete
        | Rare::RoleGrantPermission
        | Rare::RoleRevokePermission => Err(not_served(call, "authentication")),
    }
}

/// Reads the request and spawns a task that responds; returns the stream of responses.
pub(crate) async fn server_stream(
    call: &Call<'_>,
    method: ServerStream,
    body: Requests,
) -> Result<Box<dyn Feed>, Status> {
    let (api, deadline) = (call.api(), call.deadline);
    match method {
        ServerStream::RangeStream => {
            let (sender, receiver) = mpsc::channel(range_stream::PIECES_AHEAD_MAX);
            range_stream::start(api, deadline, call.read(body, |_| false).await?, sender).await?;
            Ok(Box::new(Channel::encoded(receiver)))
        }
        ServerStream::Observe => {
            let (sender, receiver) = mpsc::channel(1);
            let request = call.read(body, |_| false).await?;
            let observed = concurrency::observe(Arc::clone(api), deadline, request, sender);
            deadline::spawn_until(deadline, observed);
            Ok(Box::new(Channel::of(receiver)))
        }
        ServerStream::HealthWatch => {
            let (sender, receiver) = mpsc::channel(1);
            let request = call.read(body, |_| false).await?;
            tokio::spawn(health::watch(request, sender, call.connection.phase.clone()));
            Ok(Box::new(Channel::of(receiver)))
        }
        ServerStream::Snapshot => {
            // Learners serve it too, as in etcd.
            let _: pb::SnapshotRequest = call.read(body, |_| true).await?;
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(snapshot::start(Arc::clone(api), sender));
            Ok(Box::new(Channel::of(receiver)))
        }
    }
}

/// Spawns a task for the conversation, which ends when the returned stream of responses is dropped.
pub(crate) fn bidi_stream(call: &Call<'_>, method: BidiStream, requests: Inbound) -> Box<dyn Feed> {
    match method {
        BidiStream::Watch => watch::start(call.api(), requests),
        BidiStream::LeaseKeepAlive => {
            let (sender, receiver) = mpsc::channel(lease::ANSWERS_AHEAD_MAX);
            tokio::spawn(lease::keep_alive(Arc::clone(call.api()), requests, sender));
            Box::new(Channel::of(receiver))
        }
    }
}

fn not_served(call: &Call<'_>, missing: &str) -> Status {
    let name = format!("{}/{}", call.method.service(), call.method.name());
    status::not_served(&name, missing)
}
