//! `lock` and `elect`: held until this program, or the one that it runs, ends.

use super::{Ended, Session, execute};
use crate::client::{Client, RequestError};
use crate::concurrency::{self, Place, first_created};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::{Answer, Printer};
use crate::watches::{Update, Watches};
use proto::etcdserverpb as pb;
use proto::mvccpb::event::EventType;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use tokio::signal::unix::{SignalKind, signal};

/// The default TTL of a session in seconds, as in clientv3.
const SESSION_TTL: i64 = 60;

/// Completes on SIGINT or SIGTERM.
async fn signalled() {
    let listen = |kind| signal(kind).expect("a signal can be listened to");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Does `work` while renewing the lease. The work goes on when the lease is gone.
async fn renewing<T>(client: &Client, lease: i64, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        () = async {
            let _ = concurrency::keep_alive(client, lease, |_| Ok(())).await;
            std::future::pending::<()>().await;
        } => unreachable!("pending never ends"),
    }
}

/// Completes when the lease is gone.
async fn expired(client: &Client, lease: i64) {
    let _ = concurrency::keep_alive(client, lease, |_| Ok(())).await;
}

fn canceled() -> RequestError {
    RequestError::local("context canceled".to_owned())
}

pub(crate) async fn lock(invocation: Invocation) -> Result<(), Failure> {
    let Some((name, command)) = invocation.args.split_first() else {
        return Err(Failure::args("lock takes a lock name argument and an optional command to execute"));
    };
    let (name, command) = (name.clone(), command.to_vec());
    let ttl = match invocation.flags.int("ttl") {
        ..=0 => SESSION_TTL,
        ttl => ttl,
    };
    let (session, client) = Session::connect(invocation)?;
    let lease = concurrency::grant(&client, None, ttl).await?.id;
    let (place, revision) = tokio::select! {
        locked = renewing(&client, lease, acquire(&client, &name, lease)) => locked?,
        () = signalled() => return Err(canceled().into()),
    };
    if !command.is_empty() {
        let run = run_command(&client, &place, revision, &command);
        return renewing(&client, lease, run).await;
    }
    let held = place.read(&client).await?;
    if held.kvs.is_empty() {
        return Err(Failure::error("lock lost on init"));
    }
    session.printer.print(&Answer::Get(&held))?;
    tokio::select! {
        () = signalled() => Ok(place.leave(&client).await?),
        () = expired(&client, lease) => Err(Failure::error("session expired")),
    }
}

/// Waits for the lock. A signal meanwhile gives up the place in the queue.
async fn acquire(client: &Client, name: &[u8], lease: i64) -> Result<(Place, i64), RequestError> {
    let (place, is_first) = Place::take(client, name, b"", lease).await?;
    if is_first {
        let revision = place.revision;
        return Ok((place, revision));
    }
    let waited = tokio::select! {
        waited = place.wait(client) => waited,
        () = signalled() => Err(canceled()),
    };
    if let Err(error) = waited {
        let _ = place.leave(client).await;
        return Err(error);
    }
    let held = place.read(client).await?;
    if held.kvs.is_empty() {
        return Err(RequestError::local("mutex: session is expired".to_owned()));
    }
    Ok((place, held.header.map_or(0, |header| header.revision)))
}

/// Runs a program while the lock is held. Its exit code becomes ours.
async fn run_command(
    client: &Client,
    place: &Place,
    revision: i64,
    command: &[Vec<u8>],
) -> Result<(), Failure> {
    let mut process = std::process::Command::new(OsStr::from_bytes(&command[0]));
    process.args(command[1..].iter().map(|word| OsStr::from_bytes(word)));
    for (name, value) in [
        ("ETCD_LOCK_KEY", OsString::from_vec(place.key.clone())),
        ("ETCD_LOCK_REV", revision.to_string().into()),
    ] {
        // A variable that the user has set is kept.
        if std::env::var_os(name).is_none() {
            process.env(name, value);
        }
    }
    let ended = execute(process).await;
    let left = place.leave(client).await;
    match ended {
        Ok(()) => Ok(left?),
        Err(Ended { code, text }) => Err(Failure::new(code, text)),
    }
}

pub(crate) async fn elect(invocation: Invocation) -> Result<(), Failure> {
    let listen = invocation.flags.is("listen");
    let (name, proposal) = match &invocation.args[..] {
        [name] if listen => (name.clone(), None),
        [_] | [_, _] if invocation.args.len() == 1 => {
            open_first(invocation)?;
            return Err(Failure::args("no proposal argument but -l not set"));
        }
        [_, _] if listen => {
            open_first(invocation)?;
            return Err(Failure::args("proposal given but -l is set"));
        }
        [name, proposal] => (name.clone(), Some(proposal.clone())),
        _ => {
            return Err(Failure::args(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
    };
    let (session, client) = Session::connect(invocation)?;
    let lease = concurrency::grant(&client, None, SESSION_TTL).await?.id;
    match proposal {
        Some(proposal) => campaign(&session.printer, &client, lease, &name, &proposal).await,
        None => {
            tokio::select! {
                ended = renewing(&client, lease, observe(&session.printer, &client, &name)) => ended,
                () = signalled() => Ok(()),
            }
        }
    }
}

/// Checks the global flags, which etcdctl does before it checks these arguments.
fn open_first(invocation: Invocation) -> Result<(), Failure> {
    Session::open(invocation).map(|_| ())
}

async fn campaign(
    printer: &Printer,
    client: &Client,
    lease: i64,
    name: &[u8],
    proposal: &[u8],
) -> Result<(), Failure> {
    let (place, is_first) = Place::take(client, name, proposal, lease).await?;
    if !is_first {
        let waited = tokio::select! {
            waited = renewing(client, lease, place.wait(client)) => waited,
            () = signalled() => Err(canceled()),
        };
        if let Err(error) = waited {
            let _ = place.leave(client).await;
            return Err(error.into());
        }
    }
    printer.print(&Answer::Get(&place.read(client).await?))?;
    tokio::select! {
        () = signalled() => Ok(place.leave(client).await?),
        () = expired(client, lease) => Err(Failure::error("elect: session expired")),
    }
}

/// Prints each leader, and each of its proposals.
async fn observe(printer: &Printer, client: &Client, name: &[u8]) -> Result<(), Failure> {
    let lost = || Failure::error("elect: observer lost");
    let prefix = [name, b"/"].concat();
    loop {
        let mut leader = client.range(None, first_created(&prefix)).await.map_err(|_| lost())?;
        let mut watches = Watches::new(client, false);
        if leader.kvs.is_empty() {
            let revision = leader.header.map_or(0, |header| header.revision);
            leader = first_put(client, &prefix, revision).await.ok_or_else(lost)?;
        }
        let revision = leader.header.map_or(0, |header| header.revision);
        let key = leader.kvs.first().map(|kv| kv.key.clone()).unwrap_or_default();
        (leader.count, leader.more) = (0, false);
        printer.print(&Answer::Get(&leader))?;
        watches.add(pb::WatchCreateRequest { key, start_revision: revision + 1, ..Default::default() }).await;
        let mut is_over = false;
        while !is_over {
            for (_, update) in watches.next().await {
                let Update::Answer(answer) = update else { return Err(lost()) };
                for event in answer.events {
                    if event.r#type() == EventType::Delete {
                        is_over = true;
                        break;
                    }
                    let kvs = event.kv.into_iter().collect();
                    printer.print(&Answer::Get(&pb::RangeResponse {
                        header: answer.header,
                        kvs,
                        ..Default::default()
                    }))?;
                }
            }
        }
    }
}

/// Waits for the first put under a prefix from a revision on; `None` if the watch is lost.
async fn first_put(client: &Client, prefix: &[u8], revision: i64) -> Option<pb::RangeResponse> {
    let mut watches = Watches::new(client, false);
    let create = pb::WatchCreateRequest {
        key: prefix.to_vec().into(),
        range_end: crate::text::words::end_of_prefix(prefix).into(),
        start_revision: revision,
        ..Default::default()
    };
    watches.add(create).await;
    loop {
        for (_, update) in watches.next().await {
            let Update::Answer(answer) = update else { return None };
            let put = answer.events.into_iter().find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                let header =
                    answer.header.map(|header| pb::ResponseHeader { revision: kv.mod_revision, ..header });
                return Some(pb::RangeResponse { header, kvs: vec![kv], ..Default::default() });
            }
        }
    }
}
