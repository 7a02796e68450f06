//! What a Rust service does with etcd, through the etcd-client crate: keys, transactions, leases, watches, locks,
//! elections.
//!
//! usage: etcd-client-program HOST:PORT, with RESTART = a command that kills the server and starts it again

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, Instant},
};

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Event, EventType, GetOptions, LeaseTimeToLiveOptions,
    LockOptions, ProclaimOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions,
};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let address = std::env::args().nth(1).ok_or("usage: etcd-client-program HOST:PORT")?;
    let mut client = Client::connect([&address], None).await?;
    assert!(client.status().await?.version().starts_with("3."));
    keys(&mut client).await?;
    println!("ok   put, get, delete, prefixes");
    transactions(&mut client, &address).await?;
    println!("ok   transactions");
    leases(&mut client).await?;
    println!("ok   leases");
    watches(&mut client).await?;
    println!("ok   watches, resumed over a kill of the server");
    locks(&mut client, &address).await?;
    println!("ok   locks");
    elections(&mut client, &address).await?;
    println!("ok   elections");
    Ok(())
}

async fn restart() -> Done {
    let command = std::env::var("RESTART")?;
    let mut words = command.split(' ');
    let program = words.next().ok_or("RESTART is empty")?;
    assert!(Command::new(program).args(words).status().await?.success(), "{command}");
    Ok(())
}

async fn value(client: &mut Client, key: &str) -> Done<Option<String>> {
    let found = client.get(key, None).await?;
    Ok(found.kvs().first().map(|pair| pair.value_str().map(str::to_owned)).transpose()?)
}

/// The crate does not try again; a program that outlives a server does.
async fn again(client: &mut Client, key: &str) -> Done<Option<String>> {
    let began = Instant::now();
    loop {
        match value(client, key).await {
            Err(error) if began.elapsed() > SOON => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
            found => return found,
        }
    }
}

async fn keys(client: &mut Client) -> Done {
    assert_eq!(value(client, "kv/none").await?, None);
    let first = client.put("kv/a", "1", None).await?.header().ok_or("no header")?.revision();
    let second = client.put("kv/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(second.prev_key().ok_or("no previous value")?.value_str()?, "1");
    let found = client.get("kv/a", None).await?;
    let pair = &found.kvs()[0];
    assert_eq!((pair.create_revision(), pair.mod_revision(), pair.version()), (first, first + 1, 2));
    let past = client.get("kv/a", Some(GetOptions::new().with_revision(first))).await?;
    assert_eq!(past.kvs()[0].value_str()?, "1");
    client.put("kv/b", [0, 255], None).await?;
    client.put("kw", "next door", None).await?;
    let prefix = client.get("kv/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(prefix.kvs().iter().map(|pair| pair.key()).collect::<Vec<_>>(), [b"kv/a", b"kv/b"]);
    let last = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
    let limited = client.get("kv/", Some(last)).await?;
    assert_eq!((limited.kvs()[0].key_str()?, limited.kvs()[0].value().len(), limited.more()), ("kv/b", 2, true));
    assert_eq!(client.get("kv/", Some(GetOptions::new().with_prefix().with_count_only())).await?.count(), 2);
    assert_eq!(client.delete("kv/a", None).await?.deleted(), 1);
    assert_eq!(client.delete("kv/", Some(DeleteOptions::new().with_prefix())).await?.deleted(), 1);
    assert_eq!(value(client, "kw").await?.as_deref(), Some("next door"));
    let refused = client.put("", "x", None).await.expect_err("a put without a key was accepted");
    assert!(refused.to_string().contains("etcdserver: key is not provided"), "{refused}");
    Ok(())
}

async fn swap(client: &mut Client, key: &str, from: &str, to: &str) -> Done<bool> {
    let txn = Txn::new()
        .when([Compare::value(key, CompareOp::Equal, from)])
        .and_then([TxnOp::put(key, to, None)]);
    Ok(client.txn(txn).await?.succeeded())
}

async fn transactions(client: &mut Client, address: &str) -> Done {
    client.put("txn/n", "0", None).await?;
    assert!(swap(client, "txn/n", "0", "1").await?);
    assert!(!swap(client, "txn/n", "0", "2").await?);
    let prefix = || Some(GetOptions::new().with_prefix());
    let nested = Txn::new().when([Compare::mod_revision("txn/n", CompareOp::Greater, 1)]).and_then([TxnOp::delete("txn/n", None)]);
    let several = Txn::new()
        .when([Compare::version("txn/n", CompareOp::Greater, 1), Compare::create_revision("txn/none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("txn/other", "x", None), TxnOp::get("txn/", prefix()), TxnOp::txn(nested)])
        .or_else([TxnOp::get("txn/n", None)]);
    let answer = client.txn(several).await?;
    assert!(answer.succeeded());
    let answers = answer.op_responses();
    let [TxnOpResponse::Put(_), TxnOpResponse::Get(read), TxnOpResponse::Txn(inner)] = answers.as_slice() else {
        panic!("{answers:?}");
    };
    assert_eq!(read.kvs().iter().map(|pair| pair.key()).collect::<Vec<_>>(), [&b"txn/n"[..], b"txn/other"]);
    assert!(inner.succeeded());
    assert_eq!(value(client, "txn/n").await?, None);

    client.put("txn/count", "0", None).await?;
    let mut other = Client::connect([address], None).await?;
    let count = async |client: &mut Client| -> Done {
        let mut done = 0;
        while done < 25 {
            let n = value(client, "txn/count").await?.ok_or("no count")?;
            let next = (n.parse::<u32>()? + 1).to_string();
            done += u32::from(swap(client, "txn/count", &n, &next).await?);
        }
        Ok(())
    };
    tokio::try_join!(count(client), count(&mut other))?;
    assert_eq!(value(client, "txn/count").await?.as_deref(), Some("50"));
    Ok(())
}

async fn leases(client: &mut Client) -> Done {
    const TTL: i64 = 2;
    let lease = client.lease_grant(TTL, None).await?.id();
    client.put("lease/kept", "x", Some(PutOptions::new().with_lease(lease))).await?;
    let left = client.lease_time_to_live(lease, Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    assert_eq!((left.granted_ttl(), left.keys()), (TTL, [b"lease/kept".to_vec()].as_slice()));
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    let mut asked = Instant::now();
    for _ in 0..8 {
        // twice as long as it was granted for
        sleep(Duration::from_millis(500)).await;
        asked = Instant::now();
        keeper.keep_alive().await?;
        let answer = timeout(SOON, answers.message()).await??.ok_or("the stream ended")?;
        assert_eq!((answer.id(), answer.ttl()), (lease, TTL));
    }
    assert_eq!(value(client, "lease/kept").await?.as_deref(), Some("x"));
    while value(client, "lease/kept").await?.is_some() {
        assert!(asked.elapsed() < Duration::from_secs(8), "the lease does not expire");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(asked.elapsed() >= Duration::from_secs(2), "before its time: {:?}", asked.elapsed());
    assert!(client.lease_keep_alive(lease).await.is_err(), "a keepalive of what is gone");

    let other = client.lease_grant(60, None).await?.id();
    client.put("lease/revoked", "x", Some(PutOptions::new().with_lease(other))).await?;
    restart().await?;
    assert_eq!(again(client, "lease/revoked").await?.as_deref(), Some("x"));
    let left = client.lease_time_to_live(other, None).await?.ttl();
    assert!((1..=60).contains(&left), "a lease outlives the server: {left}");
    assert_eq!(client.leases().await?.leases().iter().map(|lease| lease.id()).collect::<Vec<_>>(), [other]);
    client.lease_revoke(other).await?;
    assert_eq!(value(client, "lease/revoked").await?, None);
    Ok(())
}

/// Takes events until there are `count`; the end of the stream is no failure.
async fn follow(client: &mut Client, from: i64, seen: &mut Vec<Event>, count: usize) -> Done {
    let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(from);
    let mut stream = client.watch("watch/", Some(options)).await?;
    while seen.len() < count {
        match timeout(SOON, stream.message()).await? {
            Ok(Some(message)) => seen.extend_from_slice(message.events()),
            Ok(None) | Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn revision(event: &Event) -> i64 {
    event.kv().map_or(0, |pair| pair.mod_revision())
}

async fn watches(client: &mut Client) -> Done {
    let start = client.put("watch/0", "0", None).await?.header().ok_or("no header")?.revision();
    for n in 1..10 {
        client.put(format!("watch/{n}"), n.to_string(), None).await?;
    }
    let mut seen = Vec::new();
    follow(client, start, &mut seen, 10).await?;
    assert_eq!(seen.len(), 10);
    // A watch that is under way when the server dies ends; the next begins where it was.
    let mut watching = client.clone();
    let next = revision(&seen[9]) + 1;
    let cut = async { follow(&mut watching, next, &mut seen, usize::MAX).await };
    let killed = async {
        sleep(Duration::from_millis(100)).await;
        client.put("watch/10", "10", None).await?;
        sleep(Duration::from_millis(100)).await;
        restart().await
    };
    tokio::try_join!(cut, killed)?;
    assert_eq!(seen.len(), 11);
    again(client, "watch/0").await?;
    for n in 11..20 {
        client.put(format!("watch/{n}"), n.to_string(), None).await?;
    }
    client.delete("watch/0", None).await?;
    client.put("watch/1", "changed", None).await?;
    let next = revision(&seen[10]) + 1;
    follow(client, next, &mut seen, 22).await?;
    let revisions: Vec<_> = seen.iter().map(revision).collect();
    assert_eq!(revisions, revisions.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), "once and in order");
    assert_eq!(seen.len(), 22);
    let previous = |event: &Event| event.prev_kv().map(|pair| pair.value().to_vec());
    assert_eq!((seen[20].event_type(), previous(&seen[20])), (EventType::Delete, Some(b"0".to_vec())));
    assert_eq!((seen[21].event_type(), previous(&seen[21])), (EventType::Put, Some(b"1".to_vec())));

    // Several watches on one stream, under IDs of our choice; one is cancelled, the other goes on.
    let mut stream = client.watch("watch/1", Some(WatchOptions::new().with_watch_id(7))).await?;
    stream.watch("watch/2", Some(WatchOptions::new().with_watch_id(8))).await?;
    let mut created = BTreeSet::new();
    while created.len() < 2 {
        let message = timeout(SOON, stream.message()).await??.ok_or("the stream ended")?;
        assert!(message.created());
        created.insert(message.watch_id());
    }
    assert_eq!(created, BTreeSet::from([7, 8]));
    stream.cancel(7).await?;
    let message = timeout(SOON, stream.message()).await??.ok_or("the stream ended")?;
    assert_eq!((message.watch_id(), message.canceled()), (7, true));
    client.put("watch/1", "x", None).await?;
    client.put("watch/2", "y", None).await?;
    let message = timeout(SOON, stream.message()).await??.ok_or("the stream ended")?;
    assert_eq!((message.watch_id(), message.events().len()), (8, 1));

    client.compact(revisions[21], Some(CompactionOptions::new().with_physical())).await?;
    let mut stream = client.watch("watch/1", Some(WatchOptions::new().with_start_revision(start))).await?;
    loop {
        let message = timeout(SOON, stream.message()).await??.ok_or("the stream ended")?;
        if message.canceled() {
            assert_eq!(message.compact_revision(), revisions[21]);
            return Ok(());
        }
    }
}

async fn locks(client: &mut Client, address: &str) -> Done {
    let mut other = Client::connect([address], None).await?;
    let mine = client.lease_grant(60, None).await?.id();
    let others = client.lease_grant(60, None).await?.id();
    let held = client.lock("work", Some(LockOptions::new().with_lease(mine))).await?;
    assert_eq!(std::str::from_utf8(held.key())?, format!("work/{mine:x}"));
    let waiting = async { other.lock("work", Some(LockOptions::new().with_lease(others))).await };
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "two hold it");
    client.unlock(held.key()).await?;
    let next = timeout(SOON, waiting).await??;
    assert_eq!(std::str::from_utf8(next.key())?, format!("work/{others:x}"));
    client.lease_revoke(others).await?; // whose lease is gone holds no lock
    let again = timeout(SOON, client.lock("work", Some(LockOptions::new().with_lease(mine)))).await??;
    client.unlock(again.key()).await?;
    Ok(())
}

async fn elections(client: &mut Client, address: &str) -> Done {
    let mut other = Client::connect([address], None).await?;
    let ann = client.lease_grant(60, None).await?.id();
    let bob = client.lease_grant(60, None).await?.id();
    let mut observer = Client::connect([address], None).await?;
    let key = client.campaign("office", "ann", ann).await?.take_leader().ok_or("no leader's key")?;
    // The answer to this begins with the first leader that there is.
    let mut seen = observer.observe("office").await?;
    let mut sees = async |expected: &str| -> Done {
        let answer = timeout(SOON, seen.message()).await??.ok_or("the observer's stream ended")?;
        assert_eq!(answer.kv().ok_or("no leader")?.value_str()?, expected);
        Ok(())
    };
    sees("ann").await?;
    let next = async { other.campaign("office", "bob", bob).await };
    tokio::pin!(next);
    assert!(timeout(Duration::from_millis(300), &mut next).await.is_err(), "two in one office");
    client.proclaim("ann, again", Some(ProclaimOptions::new().with_leader(key.clone()))).await?;
    sees("ann, again").await?;
    assert_eq!(client.leader("office").await?.kv().ok_or("no leader")?.value_str()?, "ann, again");
    client.resign(Some(ResignOptions::new().with_leader(key))).await?;
    let second = timeout(SOON, next).await??;
    sees("bob").await?;
    let leader = second.leader().ok_or("no leader's key")?.clone();
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    Ok(())
}
