//! One member becomes three, five, three and one again, while a client writes: nothing acknowledged is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::ensure;
use bytes::Bytes;
use harness::{Client, end_of_prefix};
use proto::etcdserverpb::RangeRequest;

use super::{Growing, Kind, put_patiently};
use crate::support::{PATIENT, no_panic, put, run};

pub(crate) const PREFIX: &str = "grow/";

/// Writes numbered keys to whoever is there, one after the other.
pub(crate) struct Writer {
    client: Arc<Mutex<Client>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<BTreeSet<String>>,
}

impl Writer {
    pub(crate) fn start(client: Client) -> Self {
        let (client, stop) = (Arc::new(Mutex::new(client)), Arc::new(AtomicBool::new(false)));
        let (shared, told) = (Arc::clone(&client), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut written = BTreeSet::new();
            for number in 0_usize.. {
                if told.load(Relaxed) {
                    break;
                }
                let client = shared.lock().unwrap().clone();
                let key = format!("{PREFIX}{number:08}");
                match put(&client, number % client.size(), &key, "v").await {
                    Ok(_) => drop(written.insert(key)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            written
        });
        Self { client, stop, task }
    }

    pub(crate) fn ask(&self, client: Client) {
        *self.client.lock().unwrap() = client;
    }

    pub(crate) async fn stop(self) -> anyhow::Result<BTreeSet<String>> {
        self.stop.store(true, Relaxed);
        Ok(self.task.await?)
    }
}

pub(crate) async fn keys(client: &Client, at: usize) -> anyhow::Result<BTreeSet<String>> {
    let range = RangeRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: end_of_prefix(PREFIX.as_bytes()),
        keys_only: true,
        ..Default::default()
    };
    let kvs = client.range(at, range, PATIENT).await?.kvs;
    Ok(kvs.into_iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect())
}

#[test]
fn one_becomes_three_and_five_and_one_again_under_writes() {
    run(async {
        let mut growing = Growing::start(Kind::Ours).await?;
        let writer = Writer::start(growing.client());
        for _ in 0..4 {
            growing.join(Kind::Ours).await?;
            writer.ask(growing.client());
        }
        growing.agree().await?;
        println!("five members: {:?}", growing.present());
        // The oldest go first, who most likely lead; the last one had never been in the first cluster.
        for _ in 0..4 {
            let (gone, rest) = (growing.present()[0], growing.present()[1..].to_vec());
            writer.ask(growing.client_of(&rest));
            let mut removed = growing.remove(rest[0], gone).await?;
            let process = removed.member.process()?;
            let status = process.wait_end(super::SETTLE)?;
            ensure!(status.success(), "a removed member ended with {status}:\n{}", process.tail(8));
            no_panic(&process.output());
        }
        let left = growing.present();
        ensure!(left.len() == 1, "{left:?}");
        put_patiently(&growing.client(), 0, "after").await?;
        let written = writer.stop().await?;
        let found = keys(&growing.client(), 0).await?;
        let lost: Vec<_> = written.difference(&found).collect();
        ensure!(lost.is_empty(), "{} of {} were lost: {lost:?}", lost.len(), written.len());
        println!("{} writes, none lost", written.len());
        ensure!(written.len() > 100, "only {} writes", written.len());
        Ok(())
    });
}
