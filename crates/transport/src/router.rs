//! Moves messages from `send`, on any thread, to the peers' queues, inside the runtime. A wake from another thread
//! costs a system call, so there is one per batch: `send` fills the inbox and notifies the router, which wakes each
//! lane once.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use proto::raftpb;
use tokio::sync::Notify;

use crate::{
    codec::Kind,
    peer::Peer,
    peers::{Peers, Table},
};

#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    messages_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<raftpb::Message>,
    /// Members whose messages did not fit, and whether one was a snapshot: the router reports them, since `send` must
    /// not call the host, which may be its caller.
    lost: BTreeMap<u64, bool>,
}

impl Inbox {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), messages_max: messages_max.max(1) }
    }

    /// Appends a batch. Messages that do not fit are dropped; the router reports it.
    pub(crate) fn push(&self, mut batch: Vec<raftpb::Message>) {
        let mut waiting = self.lock();
        let was_empty = waiting.messages.is_empty();
        let room = self.messages_max.saturating_sub(waiting.messages.len());
        if batch.len() > room {
            for message in batch.drain(room..) {
                let is_snapshot = message.r#type() == raftpb::MessageType::MsgSnap;
                *waiting.lost.entry(message.to()).or_default() |= is_snapshot;
            }
        }
        if was_empty {
            waiting.messages = batch;
        } else {
            waiting.messages.append(&mut batch);
        }
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic while the inbox is held")
    }
}

pub(crate) async fn run(inbox: Arc<Inbox>, peers: Arc<Peers>) {
    loop {
        inbox.filled.notified().await;
        let Waiting { messages, lost } = mem::take(&mut *inbox.lock());
        let table = peers.table();
        for member in hand_out(&table, messages) {
            peers.context().host().snapshot_status(member, false);
        }
        for (member, is_snapshot) in lost {
            if let Some(peer) = table.find(member) {
                peer.dropped(is_snapshot, "the outbox is full");
            }
        }
    }
}

/// Returns unknown members that a snapshot is for: raft, which knows a new member a moment earlier, sends nothing else to them
/// until it hears of it.
fn hand_out(table: &Table, batch: Vec<raftpb::Message>) -> Vec<u64> {
    let (mut touched, mut unknown): (Vec<(Arc<Peer>, Kind)>, Vec<u64>) = Default::default();
    for message in batch {
        // Raft addresses to 0 what it drops. As in etcd, unknown members are ignored.
        let Some(peer) = table.find(message.to()) else {
            if message.r#type() == raftpb::MessageType::MsgSnap && message.to() != 0 {
                unknown.push(message.to());
            }
            continue;
        };
        if let Some(kind) = peer.push(message)
            && !touched.iter().any(|(p, k)| Arc::ptr_eq(p, peer) && *k == kind)
        {
            touched.push((peer.clone(), kind));
        }
    }
    for (peer, kind) in touched {
        peer.lane(kind).wake();
    }
    unknown
}
