//! `endpoint health|status|hashkv`: asks each endpoint by itself.

use super::{Session, member};
use crate::client::{Client, Kind};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::{Answer, Health, warn};
use futures::future::join_all;
use gotext::duration;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::Instant;
use tonic::Code;

/// The endpoints of `--endpoints`, or with `--cluster` the client URLs of all members.
pub(crate) async fn endpoints(session: &Session) -> Result<Vec<String>, Failure> {
    if !session.invocation.flags.is("cluster") {
        return Ok(session.settings.endpoints.clone());
    }
    let client = session.client()?;
    let list = member::members(&client, true).await.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.text = failure
            .text
            .map(|text| format!("failed to fetch endpoints from etcd cluster member list: {text}"));
        failure
    })?;
    Ok(list.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

pub(crate) async fn health(invocation: Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let endpoints = endpoints(&session).await?;
    let clients: Vec<_> = endpoints
        .iter()
        .map(|endpoint| Client::for_endpoint(&session.settings, endpoint))
        .collect::<Result<_, _>>()?;
    let found =
        join_all(endpoints.iter().zip(&clients).map(|(endpoint, client)| examine(endpoint, client))).await;
    session.printer.print(&Answer::Health(&found))?;
    if found.iter().any(|health| !health.error.is_empty()) {
        return Err(Failure::error("unhealthy cluster"));
    }
    Ok(())
}

/// Does a linearizable read, then lists the alarms.
async fn examine(endpoint: &str, client: &Client) -> Health {
    let begun = Instant::now();
    let deadline = Some(client.deadline());
    let any = pb::RangeRequest { key: "health".into(), ..Default::default() };
    let read = client.range(deadline, any).await;
    let took = duration::show(begun.elapsed());
    // A refusal for lack of permission proves a quorum too.
    let error = match read {
        Err(error) if error.code != Code::PermissionDenied => match error.why {
            Some(why) => format!("{} ({why})", error.text),
            None => error.text,
        },
        _ => alarms(client, deadline).await,
    };
    Health { endpoint: endpoint.to_owned(), healthy: error.is_empty(), took, error }
}

async fn alarms(client: &Client, deadline: Option<Instant>) -> String {
    let answer = super::cluster::alarm(client, deadline, pb::AlarmRequest::default()).await;
    let Ok(answer) = answer else { return "Unable to fetch the alarm list".to_owned() };
    let mut text = String::new();
    for alarm in answer.alarms {
        text.push_str(match pb::AlarmType::try_from(alarm.alarm) {
            Ok(pb::AlarmType::Nospace) => "NOSPACE ",
            Ok(pb::AlarmType::Corrupt) => "CORRUPT ",
            _ => "UNKNOWN ",
        });
    }
    if text.is_empty() { text } else { format!("Active Alarm(s): {text}") }
}

pub(crate) async fn status_of(
    client: &Client,
    deadline: Option<Instant>,
) -> Result<pb::StatusResponse, crate::client::RequestError> {
    client
        .call(deadline, Kind::Read, pb::StatusRequest {}, async |c, q| {
            MaintenanceClient::new(c).status(q).await
        })
        .await
}

pub(crate) async fn status(invocation: Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let mut found = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(&session).await? {
        let client = Client::for_endpoint(&session.settings, &endpoint)?;
        match status_of(&client, Some(client.deadline())).await {
            Ok(answer) => found.push((endpoint, answer)),
            Err(error) => {
                failed = true;
                warn(format_args!("Failed to get the status of endpoint {endpoint} ({error})"));
                error.why.iter().for_each(warn);
            }
        }
    }
    session.printer.print(&Answer::Status(&found))?;
    if failed { Err(Failure::silent(crate::failure::ERROR)) } else { Ok(()) }
}

pub(crate) async fn hash_kv(invocation: Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let revision = session.invocation.flags.int("rev");
    let mut found = Vec::new();
    let mut failed = None;
    for endpoint in endpoints(&session).await? {
        let client = Client::for_endpoint(&session.settings, &endpoint)?;
        let request = pb::HashKvRequest { revision };
        let answer = client
            .call(Some(client.deadline()), Kind::Read, request, async |c, q| {
                MaintenanceClient::new(c).hash_kv(q).await
            })
            .await;
        match answer {
            Ok(answer) => found.push((endpoint, answer)),
            Err(error) => {
                warn(format_args!("Failed to get the hash of endpoint {endpoint} ({error})"));
                failed = Some(error);
            }
        }
    }
    session.printer.print(&Answer::HashKv(&found))?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}
