//! `check takeover`: names what keeps members of quorate from taking the places of a running cluster's members.

use super::{Session, cluster, endpoint, member};
use crate::client::{Client, Kind};
use crate::failure::{ERROR, Failure};
use crate::line::Invocation;
use crate::print::say;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;

/// The versions of etcd, major and minor, that a cluster may be of.
const OLDEST: (u32, u32) = (3, 5);
const NEWEST: (u32, u32) = (3, 7);

/// etcd's words for a request without a user, where there are users.
const NO_NAME: &str = "user name is empty";

pub(crate) async fn check(invocation: Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::args("check takeover accepts no arguments"));
    }
    let (session, client) = Session::connect(invocation)?;
    let mut obstacles = Vec::new();
    let members = match member::members(&client, true).await {
        Ok(list) => list.members,
        // With authentication, nobody without a name may ask.
        Err(error) if error.text.contains(NO_NAME) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for member in &members {
        of_member(&session, member, &mut obstacles).await?;
    }
    of_cluster(&client, &mut obstacles).await;
    if obstacles.is_empty() {
        return say(format_args!("{} members: quorate can take their places", members.len()));
    }
    for obstacle in &obstacles {
        say(format_args!("obstacle: {obstacle}"))?;
    }
    Err(Failure::new(ERROR, format!("quorate cannot take their places: {} in the way", obstacles.len())))
}

async fn of_member(
    session: &Session,
    member: &pb::Member,
    obstacles: &mut Vec<String>,
) -> Result<(), Failure> {
    let who = format!("member {:x} ({})", member.id, member.name);
    if member.is_learner {
        obstacles.push(format!("{who} is a learner: promote or remove it first"));
    }
    let mut urls = member.peer_ur_ls.iter().chain(&member.client_ur_ls);
    if let Some(url) = urls.find(|url| url.starts_with("https:") || url.starts_with("unix")) {
        obstacles.push(format!("{who} is at {url}: this version of quorate speaks plain HTTP alone"));
        return Ok(());
    }
    let Some(url) = member.client_ur_ls.first() else {
        obstacles.push(format!("member {:x} was never started", member.id));
        return Ok(());
    };
    let client = Client::for_endpoint(&session.settings, url)?;
    match endpoint::status_of(&client, Some(client.deadline())).await {
        Ok(status) => {
            let is_known = minor(&status.version).is_some_and(|minor| (OLDEST..=NEWEST).contains(&minor));
            if !is_known {
                obstacles.push(format!("{who} is of version {}, not 3.5, 3.6 or 3.7", status.version));
            }
            obstacles.extend(status.errors.iter().map(|error| format!("{who} says: {error}")));
        }
        Err(error) => obstacles.push(format!("{who} does not answer: {error}")),
    }
    Ok(())
}

async fn of_cluster(client: &Client, obstacles: &mut Vec<String>) {
    let deadline = Some(client.deadline());
    match cluster::alarm(client, deadline, pb::AlarmRequest::default()).await {
        Ok(raised) => {
            for alarm in raised.alarms {
                let kind = alarm.alarm().as_str_name();
                obstacles.push(format!("member {:x} has raised {kind}", alarm.member_id));
            }
        }
        Err(error) if error.text.contains(NO_NAME) => {}
        Err(error) => obstacles.push(format!("the alarms cannot be read: {error}")),
    }
    let asked = pb::AuthStatusRequest {};
    let auth =
        client.call(deadline, Kind::Read, asked, async |c, q| AuthClient::new(c).auth_status(q).await).await;
    if auth.map_or_else(|error| error.text.contains(NO_NAME), |status| status.enabled) {
        obstacles.push("it has authentication, which this version of quorate has not".to_owned());
    }
}

/// The first two numbers of a version.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        for (version, is_known) in [("3.5.0", true), ("3.6.13", true), ("3.7.3", true), ("3.4.27", false)] {
            assert_eq!(minor(version).is_some_and(|found| (OLDEST..=NEWEST).contains(&found)), is_known);
        }
        assert_eq!((minor("3"), minor("x.y"), minor("3.10.1")), (None, None, Some((3, 10))));
    }
}
