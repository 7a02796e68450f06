//! The commands `lease grant|revoke|timetolive|list|keep-alive`.

use super::Session;
use crate::client::Kind;
use crate::concurrency;
use crate::failure::{BAD_CONNECTION, Failure};
use crate::line::Invocation;
use crate::print::{Answer, Format, say};
use gotext::number;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::lease_client::LeaseClient;

fn id(argument: &[u8]) -> Result<i64, Failure> {
    number::int(argument, 16)
        .map_err(|why| Failure::args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// With etcdctl's exit code for commands without a timeout.
fn unreachable(error: crate::client::RequestError) -> Failure {
    Failure { code: BAD_CONNECTION, ..error.into() }
}

pub(crate) async fn grant(invocation: Invocation) -> Result<(), Failure> {
    let [ttl] = &invocation.args[..] else {
        return Err(Failure::args("lease grant command needs TTL argument"));
    };
    let ttl = number::int(ttl, 10).map_err(|why| Failure::args(format!("bad TTL ({why})")))?;
    let (session, client) = Session::connect(invocation)?;
    let answer = concurrency::grant(&client, Some(client.deadline()), ttl)
        .await
        .map_err(|error| Failure::from(error).within("failed to grant lease"))?;
    session.printer.print(&Answer::Grant(&answer))
}

pub(crate) async fn revoke(invocation: Invocation) -> Result<(), Failure> {
    let [argument] = &invocation.args[..] else {
        return Err(Failure::args("lease revoke command needs 1 argument"));
    };
    let id = id(argument)?;
    let (session, client) = Session::connect(invocation)?;
    let request = pb::LeaseRevokeRequest { id };
    let answer = client
        .write(request, async |c, q| LeaseClient::new(c).lease_revoke(q).await)
        .await
        .map_err(|error| Failure::from(error).within("failed to revoke lease"))?;
    session.printer.print(&Answer::Revoke(id, &answer))
}

pub(crate) async fn time_to_live(invocation: Invocation) -> Result<(), Failure> {
    let [argument] = &invocation.args[..] else {
        return Err(Failure::args("lease timetolive command needs lease ID as argument"));
    };
    let argument = argument.clone();
    let keys = invocation.flags.is("keys");
    let (session, client) = Session::connect(invocation)?;
    let request = pb::LeaseTimeToLiveRequest { id: id(&argument)?, keys };
    let answer = client
        .call(None, Kind::Read, request, async |c, q| LeaseClient::new(c).lease_time_to_live(q).await)
        .await
        .map_err(unreachable)?;
    session.printer.print(&Answer::TimeToLive(&answer, keys))
}

pub(crate) async fn list(invocation: Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let answer = session
        .client()?
        .call(None, Kind::Read, pb::LeaseLeasesRequest {}, async |c, q| {
            LeaseClient::new(c).lease_leases(q).await
        })
        .await
        .map_err(unreachable)?;
    session.printer.print(&Answer::Leases(&answer))
}

pub(crate) async fn keep_alive(invocation: Invocation) -> Result<(), Failure> {
    let [argument] = &invocation.args[..] else {
        return Err(Failure::args("lease keep-alive command needs lease ID as argument"));
    };
    let id = id(argument)?;
    let (session, client) = Session::connect(invocation)?;
    if session.invocation.flags.is("once") {
        let answer = concurrency::keep_alive_once(&client, id).await.map_err(unreachable)?;
        return session.printer.print(&Answer::KeepAlive(&answer));
    }
    concurrency::keep_alive(&client, id, |answer| session.printer.print(&Answer::KeepAlive(answer))).await?;
    if session.printer.format == Format::Simple {
        say(format_args!("lease {id:016x} expired or revoked."))?;
    }
    Ok(())
}
