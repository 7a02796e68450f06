//! The commands `member list|add|remove|update|promote`.

use super::{Session, ops};
use crate::client::{Client, Kind, RequestError};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::{Answer, Format, say};
use gotext::number;
use gotext::quote::quote;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;

/// The members of the cluster.
pub(crate) async fn members(
    client: &Client,
    linearizable: bool,
) -> Result<pb::MemberListResponse, RequestError> {
    let request = pb::MemberListRequest { linearizable };
    let deadline = Some(client.deadline());
    client.call(deadline, Kind::Read, request, async |c, q| ClusterClient::new(c).member_list(q).await).await
}

pub(crate) async fn list(invocation: Invocation) -> Result<(), Failure> {
    let serializable = ops::is_serializable(&invocation.flags)?;
    let session = Session::open(invocation)?;
    let list = members(&session.client()?, !serializable).await?;
    session.printer.print(&Answer::MemberList(&list))
}

fn id(args: &[Vec<u8>]) -> Result<u64, Failure> {
    let [argument] = args else { return Err(Failure::args("member ID is not provided")) };
    number::uint(argument, 16)
        .map_err(|why| Failure::args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

fn peer_urls(invocation: &Invocation) -> Result<Vec<String>, Failure> {
    let urls = invocation.flags.text("peer-urls");
    if urls.is_empty() {
        return Err(Failure::args("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// clientv3 looks at URLs before it sends them.
fn checked(urls: &[String]) -> Result<Vec<String>, Failure> {
    for url in urls {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let why = match scheme {
            "http" | "https" if !host.contains(':') => "URL address does not have the form \"host:port\"",
            "http" | "https" if !path.is_empty() => "URL must not contain a path",
            "http" | "https" | "unix" | "unixs" => continue,
            _ => "URL scheme must be http, https, unix, or unixs",
        };
        return Err(Failure::error(format!("{why}: {url}")));
    }
    Ok(urls.to_vec())
}

pub(crate) async fn add(invocation: Invocation) -> Result<(), Failure> {
    let name = match &invocation.args[..] {
        [] => return Err(Failure::args("member name not provided")),
        [name] => String::from_utf8_lossy(name).into_owned(),
        many => {
            let mut text = "too many arguments".to_owned();
            for word in many.iter().map(|word| String::from_utf8_lossy(word)) {
                if word.to_lowercase().starts_with("http") {
                    text.push_str(", did you mean --peer-urls=");
                    text.push_str(&word);
                }
            }
            return Err(Failure::args(text));
        }
    };
    let urls = peer_urls(&invocation)?;
    let is_learner = invocation.flags.is("learner");
    let (session, client) = Session::connect(invocation)?;
    let request = pb::MemberAddRequest { peer_ur_ls: checked(&urls)?, is_learner };
    let answer = client.write(request, async |c, q| ClusterClient::new(c).member_add(q).await).await?;
    session.printer.print(&Answer::MemberAdd(&answer))?;
    if session.printer.format == Format::Simple { say(configuration(&name, &urls, &answer)) } else { Ok(()) }
}

/// What the new member has to be started with.
fn configuration(name: &str, urls: &[String], answer: &pb::MemberAddResponse) -> String {
    let new = answer.member.as_ref().map_or(0, |member| member.id);
    let mut cluster = Vec::new();
    for member in &answer.members {
        let name = if member.id == new { name } else { &member.name };
        cluster.extend(member.peer_ur_ls.iter().map(|url| format!("{name}={url}")));
    }
    let [name, cluster, urls] =
        [name, &cluster.join(","), &urls.join(",")].map(|text| quote(text.as_bytes()));
    format!(
        "\nETCD_NAME={name}\nETCD_INITIAL_CLUSTER={cluster}\nETCD_INITIAL_ADVERTISE_PEER_URLS={urls}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\""
    )
}

pub(crate) async fn remove(invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation.args)?;
    let (session, client) = Session::connect(invocation)?;
    let request = pb::MemberRemoveRequest { id };
    let answer = client.write(request, async |c, q| ClusterClient::new(c).member_remove(q).await).await?;
    session.printer.print(&Answer::MemberRemove(id, &answer))
}

pub(crate) async fn update(invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation.args)?;
    let urls = peer_urls(&invocation)?;
    let (session, client) = Session::connect(invocation)?;
    let request = pb::MemberUpdateRequest { id, peer_ur_ls: checked(&urls)? };
    let answer = client.write(request, async |c, q| ClusterClient::new(c).member_update(q).await).await?;
    session.printer.print(&Answer::MemberUpdate(id, &answer))
}

pub(crate) async fn promote(invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation.args)?;
    let (session, client) = Session::connect(invocation)?;
    let request = pb::MemberPromoteRequest { id };
    let answer = client.write(request, async |c, q| ClusterClient::new(c).member_promote(q).await).await?;
    session.printer.print(&Answer::MemberPromote(id, &answer))
}
