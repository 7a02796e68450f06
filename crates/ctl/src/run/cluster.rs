//! The commands `alarm`, `defrag`, `move-leader` and `downgrade`.

use super::{Session, endpoint};
use crate::client::{Client, Kind, RequestError};
use crate::failure::{ERROR, Failure};
use crate::line::Invocation;
use crate::print::{Answer, say, warn};
use gotext::{duration, number};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::Instant;

pub(crate) async fn alarm(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::AlarmRequest,
) -> Result<pb::AlarmResponse, RequestError> {
    // clientv3 retries the list only.
    let kind = if request.action == i32::from(AlarmAction::Get) { Kind::Read } else { Kind::Write };
    client.call(deadline, kind, request, async |c, q| MaintenanceClient::new(c).alarm(q).await).await
}

pub(crate) async fn alarm_list(invocation: Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::args("alarm list command accepts no arguments"));
    }
    let (session, client) = Session::connect(invocation)?;
    let answer = alarm(&client, Some(client.deadline()), pb::AlarmRequest::default()).await?;
    session.printer.print(&Answer::Alarm(&answer))
}

/// Disarms every alarm that is raised, one by one.
pub(crate) async fn alarm_disarm(invocation: Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::args("alarm disarm command accepts no arguments"));
    }
    let (session, client) = Session::connect(invocation)?;
    let deadline = Some(client.deadline());
    let raised = alarm(&client, deadline, pb::AlarmRequest::default()).await?;
    let mut disarmed = pb::AlarmResponse::default();
    for member in raised.alarms {
        let request = pb::AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: member.member_id,
            alarm: member.alarm,
        };
        disarmed.alarms.extend(alarm(&client, deadline, request).await?.alarms);
    }
    session.printer.print(&Answer::Alarm(&disarmed))
}

pub(crate) async fn defragment(client: &Client, deadline: Option<Instant>) -> Result<(), RequestError> {
    let request = pb::DefragmentRequest {};
    let sent = client
        .call(deadline, Kind::Write, request, async |c, q| MaintenanceClient::new(c).defragment(q).await);
    sent.await.map(|_| ())
}

pub(crate) async fn defrag(invocation: Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let mut failed = false;
    for endpoint in endpoint::endpoints(&session).await? {
        let client = Client::for_endpoint(&session.settings, &endpoint)?;
        let begun = Instant::now();
        let done = defragment(&client, Some(client.deadline())).await;
        let took = duration::show(begun.elapsed());
        match done {
            Ok(()) => say(format_args!("Finished defragmenting etcd member[{endpoint}]. took {took}"))?,
            Err(error) => {
                failed = true;
                warn(format_args!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})"));
                error.why.iter().for_each(warn);
            }
        }
    }
    if failed { Err(Failure::silent(ERROR)) } else { Ok(()) }
}

/// Looks for the leader among the endpoints, because only the leader can transfer leadership.
pub(crate) async fn move_leader(invocation: Invocation) -> Result<(), Failure> {
    let [target] = &invocation.args[..] else {
        return Err(Failure::args("move-leader command needs 1 argument"));
    };
    let target = number::uint(target, 16).map_err(Failure::args)?;
    let session = Session::open(invocation)?;
    let deadline = Some(session.client()?.deadline());
    for endpoint in &session.settings.endpoints {
        let client = Client::for_endpoint(&session.settings, endpoint)?;
        let status = endpoint::status_of(&client, deadline).await?;
        if status.header.is_none_or(|header| header.member_id != status.leader) {
            continue;
        }
        let request = pb::MoveLeaderRequest { target_id: target };
        let answer = client
            .call(deadline, Kind::Write, request, async |c, q| MaintenanceClient::new(c).move_leader(q).await)
            .await?;
        return session.printer.print(&Answer::MoveLeader {
            from: status.leader,
            to: target,
            answer: &answer,
        });
    }
    let endpoints = session.settings.endpoints.join(" ");
    Err(Failure::args(format!("no leader endpoint given at [{endpoints}]")))
}

pub(crate) async fn downgrade(invocation: Invocation, action: DowngradeAction) -> Result<(), Failure> {
    let version = match (&invocation.args[..], action) {
        (_, DowngradeAction::Cancel) => String::new(),
        ([], _) => return Err(Failure::args("TARGET_VERSION not provided")),
        ([version], _) if version.is_empty() => return Err(Failure::args("target version not provided")),
        ([version], _) => String::from_utf8_lossy(version).into_owned(),
        _ => return Err(Failure::args("too many arguments")),
    };
    let (session, client) = Session::connect(invocation)?;
    let request = pb::DowngradeRequest { action: action.into(), version };
    let answer = client.write(request, async |c, q| MaintenanceClient::new(c).downgrade(q).await).await?;
    session.printer.print(&Answer::Downgrade(action, &answer))
}
