//! Three etcd members are replaced by ours one after the other, and ours by etcd members again, while clients write, watch
//! and keep a lease alive.
//!
//! `IT_TAKEOVERS`: rounds there and back, 1 unless said otherwise.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use harness::{Client, end_of_prefix};
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest, PutRequest, WatchCreateRequest,
    WatchRequest, watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio_stream::StreamExt as _;

use super::grow::{PREFIX, Writer, keys};
use super::{Growing, Kind, SETTLE};
use crate::support::{PATIENT, get, no_panic, number, run};

const LEASE: i64 = 77;
/// Seconds; renewed every second, through whoever is there.
const TTL: i64 = 10;

/// Who is there for clients, which move on as members come and go.
type Endpoints = Arc<Mutex<Client>>;

/// Each event of the written keys: how often it came, by key.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

/// Watches as clientv3 does: if a stream breaks it goes on from the next revision, at somebody else.
async fn watch(endpoints: Endpoints, seen: Seen) {
    let (mut next, mut at) = (1, 0);
    loop {
        let client = endpoints.lock().unwrap().clone();
        at = (at + 1) % client.size();
        let create = WatchCreateRequest {
            key: PREFIX.into(),
            range_end: end_of_prefix(PREFIX.as_bytes()),
            start_revision: next,
            ..Default::default()
        };
        let ask = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let stream = tokio_stream::iter([ask]).chain(tokio_stream::pending());
        let Ok(answers) = WatchClient::new(client.channel(at)).watch(stream).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut answers = answers.into_inner();
        while let Some(Ok(answer)) = answers.next().await {
            assert!(answer.compact_revision == 0, "it was compacted");
            for event in answer.events {
                let kv = event.kv.expect("an event of a key");
                *seen.lock().unwrap().entry(String::from_utf8_lossy(&kv.key).into_owned()).or_default() += 1;
                next = kv.mod_revision + 1;
            }
        }
    }
}

/// Renews the lease every second; the least time that was left of it.
async fn renew(endpoints: Endpoints, least: Arc<Mutex<i64>>) {
    for round in 0.. {
        let client = endpoints.lock().unwrap().clone();
        let asked = tokio_stream::iter([LeaseKeepAliveRequest { id: LEASE }]);
        let renewed = client.lease(round % client.size()).lease_keep_alive(asked).await;
        if let Ok(answers) = renewed
            && let Some(Ok(answer)) = answers.into_inner().next().await
        {
            let mut least = least.lock().unwrap();
            *least = answer.ttl.min(*least);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn etcd_is_replaced_under_load_and_comes_back() {
    run(async {
        let mut growing = Growing::grow(Kind::Etcd, 3).await?;
        let client = growing.client();
        client.lease(0).lease_grant(LeaseGrantRequest { id: LEASE, ttl: TTL }).await?;
        let leased =
            PutRequest { key: "leased".into(), value: "v".into(), lease: LEASE, ..Default::default() };
        client.put(0, leased, PATIENT).await?;
        let (endpoints, seen) = (Arc::new(Mutex::new(client.clone())), Seen::default());
        let least = Arc::new(Mutex::new(i64::MAX));
        let watcher = tokio::spawn(watch(Arc::clone(&endpoints), Arc::clone(&seen)));
        let keeper = tokio::spawn(renew(Arc::clone(&endpoints), Arc::clone(&least)));
        let writer = Writer::start(client);
        let begun = Instant::now();
        for round in 0..number("IT_TAKEOVERS", 1) {
            for kind in [Kind::Ours, Kind::Etcd] {
                for old in growing.present() {
                    replace(&mut growing, old, kind, &writer, &endpoints)
                        .await
                        .with_context(|| format!("round {round}, {kind:?} for member {old}"))?;
                }
                println!("round {round}: all are {kind:?} after {:.0?}", begun.elapsed());
            }
        }
        let written = writer.stop().await?;
        let client = growing.client();
        let found = keys(&client, 0).await?;
        let lost = written.difference(&found).count();
        let doubled = {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let seen = seen.lock().unwrap();
            let missed = found.iter().filter(|key| !seen.contains_key(*key)).count();
            ensure!(missed == 0, "{missed} of {} events were missed", found.len());
            seen.values().filter(|times| **times > 1).count()
        };
        println!("{} writes, {lost} lost; {} events, {doubled} of them twice", written.len(), found.len());
        ensure!(lost == 0 && doubled == 0, "{lost} writes lost, {doubled} events doubled");
        ensure!(get(&client, 0, "leased").await?.is_some(), "the lease ended although it was renewed");
        let asked = LeaseTimeToLiveRequest { id: LEASE, keys: false };
        let left = client.lease(0).lease_time_to_live(asked).await?.into_inner();
        println!(
            "of the lease's {TTL} s {} are left; the least that a renewal gave: {}",
            left.ttl,
            least.lock().unwrap()
        );
        ensure!(left.ttl > 0, "{left:?}");
        ensure!(!watcher.is_finished() && !keeper.is_finished(), "a client gave up");
        watcher.abort();
        keeper.abort();
        Ok(())
    });
}

/// One of the other kind joins, then the old one goes; all hold the same at each step.
async fn replace(
    growing: &mut Growing,
    old: usize,
    kind: Kind,
    writer: &Writer,
    endpoints: &Endpoints,
) -> anyhow::Result<()> {
    growing.join(kind).await?;
    growing.agree().await?;
    let rest: Vec<usize> = growing.present().into_iter().filter(|at| *at != old).collect();
    let client = growing.client_of(&rest);
    writer.ask(client.clone());
    *endpoints.lock().unwrap() = client;
    let mut gone = growing.remove(*rest.last().context("somebody is left")?, old).await?;
    let process = gone.member.process()?;
    process.wait_end(SETTLE)?;
    no_panic(&process.output());
    growing.agree().await
}
