//! `make-mirror`: copies every key under a prefix to another cluster, then every later change.

use super::Session;
use crate::client::{Client, RequestError};
use crate::failure::Failure;
use crate::flags::Flags;
use crate::line::Invocation;
use crate::print::say;
use crate::settings::Settings;
use crate::text::words::end_of_prefix;
use crate::watches::{Update, Watches};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::mvccpb::event::EventType;
use std::cell::Cell;
use std::time::Duration;

/// Keys per list request, as in clientv3's syncer.
const LIST_KEYS: i64 = 1000;
/// How often the number of copied keys is printed.
const REPORT: Duration = Duration::from_secs(30);

struct Mirror {
    source: Client,
    destination: Client,
    prefix: Vec<u8>,
    /// Replaces `prefix` at the destination.
    new_prefix: Vec<u8>,
    /// Operations per transaction, at most.
    ops_max: usize,
    total: Cell<u64>,
}

pub(crate) async fn run(invocation: Invocation) -> Result<(), Failure> {
    let [destination] = &invocation.args[..] else {
        return Err(Failure::args("make-mirror takes one destination argument"));
    };
    let destination = String::from_utf8_lossy(destination).into_owned();
    let session = Session::open(invocation)?;
    let flags = &session.invocation.flags;
    refuse_later(flags)?;
    let (prefix, other) = (flags.bytes("prefix").to_vec(), flags.bytes("dest-prefix").to_vec());
    let has_none = flags.is("no-dest-prefix");
    if has_none && !other.is_empty() {
        let text = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
        return Err(Failure::args(text));
    }
    let start = (flags.int("rev") - 1).max(0);
    // With `--rev`, etcdctl does not default to the source prefix.
    let keeps_prefix = start == 0 && !has_none && other.is_empty();
    let new_prefix = if keeps_prefix { prefix.clone() } else { other };
    let mirror = Mirror {
        source: session.client()?,
        destination: Client::new(&Settings { endpoints: vec![destination], ..session.settings.clone() })?,
        prefix,
        new_prefix,
        ops_max: usize::try_from(flags.uint("max-txn-ops")).unwrap_or(usize::MAX).max(1),
        total: Cell::new(0),
    };
    tokio::select! {
        ended = mirror.work(start) => ended,
        failed = mirror.report() => failed,
    }
}

fn refuse_later(flags: &Flags) -> Result<(), Failure> {
    for name in ["dest-cert", "dest-key", "dest-cacert", "dest-user", "dest-password"] {
        if flags.changed(name) {
            return Err(Failure::args(format!("--{name} is not there yet in this program")));
        }
    }
    if flags.is("dest-insecure-transport") {
        return Ok(());
    }
    Err(Failure::args("--dest-insecure-transport=false is not there yet: this program knows no TLS"))
}

impl Mirror {
    async fn report(&self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(REPORT).await;
            say(self.total.get())?;
        }
    }

    async fn work(&self, start: i64) -> Result<(), Failure> {
        let revision = if start == 0 { self.copy_all().await? } else { start };
        let mut watches = Watches::new(&self.source, false);
        let (key, range_end) = self.range();
        let create = pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: revision + 1,
            ..Default::default()
        };
        watches.add(create).await;
        loop {
            for (_, update) in watches.next().await {
                match update {
                    Update::Answer(answer) => self.copy_events(answer).await?,
                    Update::Lost(_, why) => return Err(Failure::error(why)),
                    Update::Ended => return Err(Failure::error("the watch was ended by the server")),
                }
            }
        }
    }

    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        if self.prefix.is_empty() {
            (vec![0], vec![0])
        } else {
            (self.prefix.clone(), end_of_prefix(&self.prefix))
        }
    }

    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        [&self.new_prefix[..], key.strip_prefix(&self.prefix[..]).unwrap_or(key)].concat()
    }

    fn count(&self) {
        self.total.set(self.total.get() + 1);
    }

    /// Copies all keys at one revision, and returns the revision.
    async fn copy_all(&self) -> Result<i64, Failure> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let list = pb::RangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                limit: LIST_KEYS,
                revision,
                ..Default::default()
            };
            let answer = self.source.range(None, list).await?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            for kv in &answer.kvs {
                let put = pb::PutRequest {
                    key: self.renamed(&kv.key).into(),
                    value: kv.value.clone(),
                    ..Default::default()
                };
                self.destination.put(None, put).await?;
                self.count();
            }
            match answer.kvs.last() {
                Some(last) if answer.more => key = [&last.key[..], &[0]].concat(),
                _ => return Ok(revision),
            }
        }
    }

    /// Copies events: one transaction per revision, split after `ops_max` operations.
    async fn copy_events(&self, answer: pb::WatchResponse) -> Result<(), RequestError> {
        let mut ops = Vec::new();
        let mut revision = 0;
        for event in answer.events {
            let deletes = event.r#type() == EventType::Delete;
            let Some(kv) = event.kv else { continue };
            if (revision != 0 && kv.mod_revision > revision) || ops.len() == self.ops_max {
                self.commit(std::mem::take(&mut ops)).await?;
            }
            revision = kv.mod_revision;
            let key = self.renamed(&kv.key).into();
            let op = if deletes {
                Op::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
            } else {
                Op::RequestPut(pb::PutRequest { key, value: kv.value, ..Default::default() })
            };
            ops.push(pb::RequestOp { request: Some(op) });
            self.count();
        }
        if ops.is_empty() { Ok(()) } else { self.commit(ops).await }
    }

    async fn commit(&self, success: Vec<pb::RequestOp>) -> Result<(), RequestError> {
        let request = pb::TxnRequest { success, ..Default::default() };
        self.destination.txn(None, request).await.map(|_| ())
    }
}
