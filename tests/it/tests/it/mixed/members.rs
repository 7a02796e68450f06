//! Changes of members in clusters of both, asked of either: checked, logged and applied alike.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use harness::{Addresses, Client, Cluster, Member, Port, etcd_binary, server_binary};
use proto::etcdserverpb::{
    MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    cluster_client::ClusterClient,
};
use tonic::{Code, Status, transport::Channel};

use super::{ELECTION, ETCD, ONE_ETCD, OURS, SETTLE, TWO_ETCD, all_run, put_patiently, same_members, start};
use crate::support::{no_panic, put, run};

/// A member that joins: it asks the others, gets the log or a snapshot, and publishes itself.
const JOIN: Duration = Duration::from_mins(1);

#[test]
fn two_etcd_and_one_of_ours_change_members_with_ours_leading() {
    run(changes(TWO_ETCD, OURS, ETCD));
}

#[test]
fn two_etcd_and_one_of_ours_change_members_with_etcd_leading() {
    run(changes(TWO_ETCD, ETCD, ETCD));
}

#[test]
fn two_of_ours_and_one_etcd_change_members_with_ours_leading() {
    run(changes(ONE_ETCD, OURS, ETCD));
}

#[test]
fn two_of_ours_and_one_etcd_change_members_with_etcd_leading() {
    run(changes(ONE_ETCD, ETCD, ETCD));
}

#[test]
fn ours_is_asked_to_change_members_while_it_leads_etcd() {
    run(changes(TWO_ETCD, OURS, OURS));
}

#[test]
fn ours_is_asked_to_change_members_while_etcd_leads() {
    run(changes(ONE_ETCD, ETCD, OURS));
}

/// The newcomer runs what the asked one does not.
async fn changes(etcd: &[usize], leader: usize, asked: usize) -> anyhow::Result<()> {
    println!("etcd members {etcd:?}, m{leader} leads, m{asked} is asked");
    let mut cluster = start(etcd)?;
    let client = cluster.client();
    client.make_leader(leader, ELECTION).await?;
    put(&client, OURS, "members/before", "1").await?;
    let admin = ClusterClient::new(client.channel(asked));
    move_and_back(&client, admin.clone(), &cluster).await?;
    absent_learner(&client, admin.clone()).await?;
    let binary = if asked == OURS { etcd_binary()? } else { server_binary()? };
    let mut joined = join(admin.clone(), &cluster, &binary).await?;
    refusals(&client, admin.clone(), &cluster).await?;
    leave(&client, admin.clone(), &mut joined).await?;
    all_run(&mut cluster)?;
    remove(&client, admin, &mut cluster, OURS).await?;
    Ok(())
}

/// One change, tried again while the cluster is too young for it (etcd wants five healthy seconds).
async fn change<T>(
    admin: &ClusterClient<Channel>,
    ask: impl AsyncFn(ClusterClient<Channel>) -> Result<T, Status>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match ask(admin.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(status) if begun.elapsed() < ELECTION && is_young(&status) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(status) => bail!("{:?}: {}", status.code(), status.message()),
        }
    }
}

fn is_young(status: &Status) -> bool {
    ["unhealthy cluster", "in sync with leader", "not enough started members", "timed out", "leader changed"]
        .iter()
        .any(|words| status.message().contains(words))
}

async fn all_agree(client: &Client) -> anyhow::Result<()> {
    let everybody: Vec<usize> = (0..client.size()).collect();
    same_members(client, &everybody).await.map(drop)
}

/// A member gets a second peer URL, and loses it again: an update is nothing to raft and something to everybody.
async fn move_and_back(
    client: &Client,
    admin: ClusterClient<Channel>,
    cluster: &Cluster,
) -> anyhow::Result<()> {
    for at in [OURS, ETCD] {
        let id = id_of(client, at).await?;
        let url = cluster.members()[at].addresses.peer_url();
        let spare = format!("http://127.0.0.1:{}", Port::free()?);
        for urls in [vec![spare, url.clone()], vec![url]] {
            let ask = MemberUpdateRequest { id, peer_ur_ls: urls.clone() };
            change(&admin, async |mut admin| admin.member_update(ask.clone()).await).await?;
            let members = same_members(client, &[0, 1, 2]).await?;
            let found = members.iter().find(|member| member.id == id).context("it is gone")?;
            let (mut found, mut wanted) = (found.peer_ur_ls.clone(), urls);
            found.sort();
            wanted.sort();
            ensure!(found == wanted, "{found:?} after an update to {wanted:?}");
        }
    }
    Ok(())
}

/// A learner that nobody has started: listed, never in step, removed.
async fn absent_learner(client: &Client, admin: ClusterClient<Channel>) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{}", Port::free()?);
    let ask = MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
    let added = change(&admin, async |mut admin| admin.member_add(ask.clone()).await).await?;
    let id = added.into_inner().member.context("no member in the answer")?.id;
    let members = same_members(client, &[0, 1, 2]).await?;
    ensure!(members.iter().any(|member| member.id == id && member.is_learner), "{members:?}");
    for at in 0..client.size() {
        put_patiently(client, at, "members/learner").await?;
    }
    let refusal = admin.clone().member_promote(MemberPromoteRequest { id }).await.err();
    let refusal = refusal.context("a learner that nobody started was promoted")?;
    ensure!(
        refusal.code() == Code::FailedPrecondition && refusal.message().contains("in sync with leader"),
        "{refusal:?}"
    );
    change(&admin, async |mut admin| admin.member_remove(MemberRemoveRequest { id }).await).await?;
    let members = same_members(client, &[0, 1, 2]).await?;
    ensure!(members.len() == 3, "{members:?}");
    Ok(())
}

/// A fourth member: a learner first, then a voter.
async fn join(admin: ClusterClient<Channel>, cluster: &Cluster, binary: &Path) -> anyhow::Result<Joined> {
    let addresses = Addresses::free()?;
    let ask = MemberAddRequest { peer_ur_ls: vec![addresses.peer_url()], is_learner: true };
    let added = change(&admin, async |mut admin| admin.member_add(ask.clone()).await).await?;
    let id = added.into_inner().member.context("no member in the answer")?.id;
    let mut member = newcomer(binary, cluster, addresses);
    member.start()?;
    let begun = Instant::now();
    let promote = MemberPromoteRequest { id };
    let promoted = change(&admin, async |mut admin| admin.member_promote(promote).await).await?;
    ensure!(promoted.into_inner().members.len() == 4, "the answer to a promotion lists all members");
    ensure!(begun.elapsed() < JOIN, "joining took {:?}", begun.elapsed());
    member.wait_ready()?;
    let urls = cluster.members().iter().map(|member| member.addresses.client_url());
    let client = Client::new(urls.chain([member.addresses.client_url()]));
    // It may not have applied its own promotion yet.
    put_patiently(&client, 3, "members/of-four").await?;
    let revision = client.revision(ELECTION).await?;
    client.same_hash(revision, SETTLE).await?;
    all_agree(&client).await?;
    println!("a fourth member joined and was promoted after {:.1?}", begun.elapsed());
    Ok(Joined { id, member })
}

struct Joined {
    id: u64,
    member: Member,
}

fn newcomer(binary: &Path, cluster: &Cluster, addresses: Addresses) -> Member {
    let known = cluster.members().iter().map(|m| format!("{}={}", m.name, m.addresses.peer_url()));
    let list: Vec<String> = known.chain([format!("m3={}", addresses.peer_url())]).collect();
    let flags = [
        format!("--initial-cluster={}", list.join(",")),
        "--initial-cluster-token=quorate-it".to_owned(),
        "--initial-cluster-state=existing".to_owned(),
    ];
    Member::new("m3", binary, cluster.folder(), addresses, &flags)
}

/// What cannot be: etcd's words, and nothing changes anywhere.
async fn refusals(client: &Client, admin: ClusterClient<Channel>, cluster: &Cluster) -> anyhow::Result<()> {
    let before = same_members(client, &[0, 1, 2]).await?;
    let taken = vec![cluster.members()[OURS].addresses.peer_url()];
    let mut admin = admin;
    let add = MemberAddRequest { peer_ur_ls: taken.clone(), is_learner: false };
    let update = MemberUpdateRequest { id: id_of(client, ETCD).await?, peer_ur_ls: taken };
    let ours = MemberPromoteRequest { id: id_of(client, OURS).await? };
    for (refusal, words) in [
        (admin.member_add(add).await.err(), "Peer URLs already exists"),
        (admin.member_update(update).await.err(), "Peer URLs already exists"),
        (admin.member_remove(MemberRemoveRequest { id: 7 }).await.err(), "member not found"),
        (admin.member_promote(MemberPromoteRequest { id: 7 }).await.err(), "member not found"),
        (admin.member_promote(ours).await.err(), "can only promote a learner member"),
    ] {
        let refusal = refusal.with_context(|| format!("accepted, instead of {words:?}"))?;
        ensure!(refusal.message().contains(words), "{words:?}: {refusal:?}");
    }
    ensure!(same_members(client, &[0, 1, 2]).await? == before, "a refused change changed something");
    Ok(())
}

/// The fourth leaves; its process learns of it and ends.
async fn leave(client: &Client, admin: ClusterClient<Channel>, joined: &mut Joined) -> anyhow::Result<()> {
    let ask = MemberRemoveRequest { id: joined.id };
    change(&admin, async |mut admin| admin.member_remove(ask).await).await?;
    let members = same_members(client, &[0, 1, 2]).await?;
    ensure!(members.len() == 3 && members.iter().all(|member| member.id != joined.id), "{members:?}");
    let status = joined.member.process()?.wait_end(SETTLE).context("the removed member runs on")?;
    println!("the fourth member was removed and ended with {status}");
    Ok(())
}

/// A member of ours is removed, the leader too: it ends by itself, and the others go on.
async fn remove(
    client: &Client,
    admin: ClusterClient<Channel>,
    cluster: &mut Cluster,
    at: usize,
) -> anyhow::Result<()> {
    let ask = MemberRemoveRequest { id: id_of(client, at).await? };
    change(&admin, async |mut admin| admin.member_remove(ask).await).await?;
    let process = cluster.member(at).process()?;
    let status = process.wait_end(SETTLE).context("the removed member of ours runs on")?;
    let output = process.output();
    no_panic(&output);
    ensure!(
        output.contains("removed from the cluster"),
        "it does not say why it ended:\n{}",
        process.tail(5)
    );
    println!("m{at} was removed and ended with {status}");
    let rest: Vec<usize> = (0..client.size()).filter(|other| *other != at).collect();
    for other in &rest {
        put_patiently(client, *other, "members/after").await?;
    }
    let members = same_members(client, &rest).await?;
    ensure!(members.len() == 2, "{members:?}");
    Ok(())
}

async fn id_of(client: &Client, at: usize) -> anyhow::Result<u64> {
    Ok(client.status(at).await?.header.map_or(0, |header| header.member_id))
}
