//! From `send`, on any thread, to the peers' queues, inside the runtime.
//!
//! A wake from another thread costs a system call (an eventfd write), so there is one per batch and not one per peer:
//! `send` fills the inbox and notifies the router; the router hands out what it finds and wakes each touched lane once,
//! which inside the runtime is a push onto the run queue. A router that was notified and has not run yet is not
//! notified again.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use proto::raftpb;
use tokio::sync::Notify;

use crate::{
    codec::Kind,
    limits::INBOX_MESSAGES_MAX,
    peer::Peer,
    transport::{Table, Transport},
};

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: Mutex<Vec<raftpb::Message>>,
    filled: Notify,
}

impl Inbox {
    /// Takes the batch; gives back what did not fit.
    pub(crate) fn push(&self, mut batch: Vec<raftpb::Message>) -> Vec<raftpb::Message> {
        let mut messages = self.lock();
        let was_empty = messages.is_empty();
        let room = INBOX_MESSAGES_MAX.saturating_sub(messages.len()).min(batch.len());
        let over = batch.split_off(room);
        if was_empty {
            *messages = batch;
        } else {
            messages.append(&mut batch);
        }
        drop(messages);
        if was_empty {
            self.filled.notify_one();
        }
        over
    }

    fn lock(&self) -> MutexGuard<'_, Vec<raftpb::Message>> {
        self.messages.lock().expect("no panic while the inbox is held")
    }
}

/// Hands out for ever; ends by abort.
pub(crate) async fn run(transport: Arc<Transport>) {
    loop {
        transport.inbox().filled.notified().await;
        let batch = mem::take(&mut *transport.inbox().lock());
        hand_out(&transport.table(), batch);
    }
}

fn hand_out(table: &Table, batch: Vec<raftpb::Message>) {
    let mut touched: Vec<(Arc<Peer>, Kind)> = Vec::new();
    for message in batch {
        // To 0: raft dropped it on purpose. To a member we do not know: ignored, as etcd does.
        let Some(peer) = table.find(message.to()) else { continue };
        if let Some(kind) = peer.push(message)
            && !touched.iter().any(|(p, k)| Arc::ptr_eq(p, peer) && *k == kind)
        {
            touched.push((peer.clone(), kind));
        }
    }
    for (peer, kind) in touched {
        peer.lane(kind).wake();
    }
}
