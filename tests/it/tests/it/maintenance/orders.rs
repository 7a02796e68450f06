//! Orders given with stock etcdctl, to our members and to etcd's: the same words, the same exit codes.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use harness::{Cluster, Options};

use super::{call, judge};
use crate::support::{PATIENT, put, run};

/// Names for what differs between clusters: IDs, endpoints, durations.
struct Words(BTreeMap<String, String>);

impl Words {
    async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let client = cluster.client();
        let leader = client.wait_leader(PATIENT).await?;
        let mut words = BTreeMap::new();
        let mut followers = 0;
        for at in 0..cluster.size() {
            let id = client.status(at).await?.header.context("a header")?.member_id;
            let name = if at == leader {
                "LEADER".to_owned()
            } else {
                followers += 1;
                format!("FOLLOWER{followers}")
            };
            let url = cluster.members()[at].addresses.client_url();
            words.insert(format!("{id:x}"), format!("<{name}>"));
            words.insert(url, format!("<{name} URL>"));
        }
        Ok(Self(words))
    }

    /// The word that stands for what a name says here.
    fn real(&self, name: &str) -> anyhow::Result<String> {
        let found = self.0.iter().find(|(_, word)| *word == name);
        Ok(found.with_context(|| format!("nobody is {name}"))?.0.clone())
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (real, name) in &self.0 {
            text = text.replace(real, name);
        }
        // `took 27.6ms`
        let words = text.split_inclusive(' ').scan(false, |after_took, word| {
            let shown = if std::mem::replace(after_took, word == "took ") { "<time>\n" } else { word };
            Some(shown.to_owned())
        });
        words.collect()
    }
}

/// Orders, with the endpoint they are given to.
const ORDERS: &[(&str, &str)] = &[
    ("<LEADER URL>", "defrag"),
    ("<FOLLOWER1 URL>", "defrag"),
    ("<FOLLOWER2 URL>", "alarm list"),
    ("<FOLLOWER2 URL>", "alarm disarm"),
    ("<LEADER URL>", "move-leader 1234"),
    ("<LEADER URL>", "move-leader 0"),
    ("<LEADER URL>", "move-leader nobody"),
    ("<FOLLOWER1 URL>", "move-leader <FOLLOWER1>"),
    ("<LEADER URL>", "move-leader <LEADER>"),
    ("<FOLLOWER1 URL>", "downgrade validate 3.6"),
    ("<FOLLOWER1 URL>", "downgrade validate 3.6.11"),
    ("<LEADER URL>", "downgrade validate 3.5"),
    ("<LEADER URL>", "downgrade validate 3.7"),
    ("<LEADER URL>", "downgrade validate 3.8.0"),
    ("<LEADER URL>", "downgrade validate 2.6"),
    ("<LEADER URL>", "downgrade validate three"),
    ("<LEADER URL>", "downgrade enable 3.5"),
    ("<LEADER URL>", "downgrade enable x.y"),
    ("<LEADER URL>", "downgrade cancel"),
    ("<FOLLOWER2 URL>", "downgrade enable 3.6"),
    ("<FOLLOWER1 URL>", "downgrade validate 3.6"),
    ("<LEADER URL>", "downgrade enable 3.6"),
];

const AFTER_THE_VERSION_WENT_DOWN: &[(&str, &str)] =
    &[("<LEADER URL>", "downgrade validate 3.5"), ("<FOLLOWER1 URL>", "downgrade cancel")];

const AT_LAST: &[(&str, &str)] = &[("<LEADER URL>", "move-leader <FOLLOWER1>")];

/// Both programs move the version within their monitor's four seconds.
const VERSION_LIMIT: Duration = Duration::from_secs(12);

async fn carried_out(binary: Option<std::path::PathBuf>) -> anyhow::Result<Vec<String>> {
    let cluster = Cluster::start_with(&Options { binary, ..Options::new(3) })?;
    put(&cluster.client(), 0, "key", "value").await?;
    version_becomes(&cluster, "3.7.0").await?;
    let (words, etcdctl) = (Words::of(&cluster).await?, judge("etcdctl")?);
    let mut said = orders(&words, &etcdctl, ORDERS)?;
    version_becomes(&cluster, "3.6.0").await?;
    said.push(downgrade_info(&cluster).await?);
    said.extend(orders(&words, &etcdctl, AFTER_THE_VERSION_WENT_DOWN)?);
    version_becomes(&cluster, "3.7.0").await?;
    said.push(downgrade_info(&cluster).await?);
    said.extend(orders(&words, &etcdctl, AT_LAST)?);
    put(&cluster.client(), 1, "key", "after the hand-over").await?;
    Ok(said)
}

fn orders(words: &Words, etcdctl: &Path, orders: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for (endpoint, order) in orders {
        let mut args = vec![format!("--endpoints={}", words.real(endpoint)?)];
        for word in order.split(' ') {
            args.push(if word.starts_with('<') { words.real(word)? } else { word.to_owned() });
        }
        let said = call(etcdctl, &args)?;
        let (out, error) = (words.plain(&said.out), words.plain(&said.error));
        all.push(format!("{order} -> {:?} {} {error}", said.code, out.trim_end()));
    }
    Ok(all)
}

/// Waits until every member stores data of this version.
pub(super) async fn version_becomes(cluster: &Cluster, version: &str) -> anyhow::Result<()> {
    let (client, mut at) = (cluster.client(), 0);
    let all = async {
        while at < cluster.size() {
            match client.status(at).await {
                Ok(status) if status.storage_version == version => at += 1,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let done = tokio::time::timeout(VERSION_LIMIT, all).await;
    ensure!(done.is_ok(), "not every member came to storage version {version}");
    Ok(())
}

async fn downgrade_info(cluster: &Cluster) -> anyhow::Result<String> {
    let client = cluster.client();
    let mut all = Vec::new();
    for at in 0..cluster.size() {
        let status = client.status(at).await?;
        let info = status.downgrade_info.context("downgrade_info")?;
        all.push(format!("{} {:?} {}", info.enabled, info.target_version, status.db_size_quota));
    }
    Ok(all.join(", "))
}

#[test]
fn orders_get_the_same_answers_as_from_etcd() {
    run(async {
        let ours = carried_out(None).await?;
        let theirs = carried_out(Some(judge("etcd")?)).await?;
        for (ours, theirs) in ours.iter().zip(&theirs) {
            println!("{ours}");
            ensure!(ours == theirs, "\nquorate: {ours}\netcd:    {theirs}");
        }
        ensure!(ours.len() == theirs.len() && ours.len() > ORDERS.len(), "{} answers", ours.len());
        Ok(())
    });
}
