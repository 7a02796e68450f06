//! The peers at each moment, and the tasks that serve them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::{
    codec::Kind,
    context::{Context, hex, log_limited},
    dial,
    peer::{Peer, PeerKind, PeerStats},
    pipeline,
    post_queue::PostQueue,
    probe, snapshot_sender, urls,
};

#[derive(Clone, Default)]
pub(crate) struct Table {
    peers: BTreeMap<u64, Arc<Peer>>,
    /// By ID: when it was added, and the peer.
    remotes: BTreeMap<u64, (Instant, Arc<Peer>)>,
    /// Removed members, and until when they are sent to: what was on its way, their own removal too, still arrives.
    leaving: BTreeMap<u64, (Instant, Arc<Peer>)>,
}

impl Table {
    pub(crate) fn find(&self, id: u64) -> Option<&Arc<Peer>> {
        let leaving = || self.leaving.get(&id).filter(|(until, _)| Instant::now() < *until);
        let other = || leaving().or_else(|| self.remotes.get(&id)).map(|(_, peer)| peer);
        self.peers.get(&id).or_else(other)
    }
}

pub(crate) struct Peers {
    context: Arc<Context>,
    /// Replaced as a whole: the router never waits for a change of peers.
    table: RwLock<Arc<Table>>,
    /// Guards changes of `table`, which start and stop tasks.
    changing: Mutex<()>,
    runtime: OnceLock<Handle>,
}

impl Peers {
    pub(crate) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context: Arc::new(context),
            table: RwLock::default(),
            changing: Mutex::new(()),
            runtime: OnceLock::new(),
        })
    }

    /// Runs the tasks of all peers on this runtime. Panics if called a second time.
    pub(crate) fn start(&self, runtime: Handle) {
        self.runtime.set(runtime).expect("a transport is started once");
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().expect("no panic while the table is held").clone()
    }

    /// A member of the cluster; remotes are not.
    pub(crate) fn member(&self, id: u64) -> Option<Arc<Peer>> {
        self.table().peers.get(&id).cloned()
    }

    pub(crate) fn stats(&self) -> Vec<PeerStats> {
        self.table().peers.values().map(|peer| peer.stats()).collect()
    }

    pub(crate) fn update(&self, peers: &[(u64, Vec<String>)]) {
        let _changing = self.changing.lock().expect("no panic while peers change");
        let old = self.table();
        let me = self.context.identity.member;
        let mut table = Table { remotes: old.remotes.clone(), ..Table::default() };
        for (id, urls) in peers.iter().filter(|(id, _)| *id != me) {
            let remote = table.remotes.remove(id);
            let peer = if let Some(peer) = old.peers.get(id) {
                self.change_urls(peer, urls);
                peer.clone()
            } else {
                let posts = remote.as_ref().map(|(_, remote)| remote.posts.clone());
                self.add(*id, urls, PeerKind::Member, posts)
            };
            if let Some((_, remote)) = remote {
                remote.retire();
            }
            table.peers.insert(*id, peer);
        }
        let (now, farewell) = (Instant::now(), self.context.limits.farewell);
        table.leaving = old.leaving.clone();
        table.leaving.retain(|_, (until, _)| now < *until);
        let gone: Vec<_> = old.peers.values().filter(|p| !table.peers.contains_key(&p.id)).cloned().collect();
        table.leaving.extend(gone.iter().map(|peer| (peer.id, (now + farewell, peer.clone()))));
        self.put(table);
        for peer in gone {
            peer.give_up_snapshot();
            self.runtime().spawn(stop_later(peer.clone(), farewell));
            slog::info!(self.context.log, "removed remote peer"; "removed-remote-peer-id" => hex(peer.id));
        }
    }

    pub(crate) fn stop(&self) {
        let _changing = self.changing.lock().expect("no panic while peers change");
        let old = self.table();
        self.put(Table::default());
        old.peers.values().for_each(|peer| peer.stop());
        old.remotes.values().chain(old.leaving.values()).for_each(|(_, peer)| peer.stop());
    }

    /// Adds an unknown sender with well-formed URLs, to answer it (etcd `AddRemote`). If there are too many, it
    /// replaces the oldest that has been kept for long enough, or waits until it asks again.
    pub(crate) fn add_remote(&self, id: u64, peer_urls: &str) {
        let limits = &self.context.limits;
        let now = Instant::now();
        let oldest =
            |table: &Table| table.remotes.iter().min_by_key(|(_, (since, _))| *since).map(|(id, _)| *id);
        let is_kept = |since: Instant| now.saturating_duration_since(since) < limits.remote_kept;
        let no_place = |table: &Table| {
            let is_full = table.remotes.len() >= limits.remotes.max(1);
            table.find(id).is_some()
                || (is_full && oldest(table).is_some_and(|id| is_kept(table.remotes[&id].0)))
        };
        if id == self.context.identity.member || no_place(&self.table()) {
            return;
        }
        let list: Vec<String> = peer_urls.split(',').map(|url| url.trim().to_owned()).collect();
        if list.iter().any(|url| urls::authority(url).is_err()) {
            return;
        }
        let _changing = self.changing.lock().expect("no panic while peers change");
        let old = self.table();
        if no_place(&old) {
            return;
        }
        let mut table = Table::clone(&old);
        let is_full = table.remotes.len() >= limits.remotes.max(1);
        let gone = oldest(&table).filter(|_| is_full).and_then(|id| table.remotes.remove(&id));
        table.remotes.insert(id, (now, self.add(id, &list, PeerKind::Remote, None)));
        self.put(table);
        if let Some((_, gone)) = gone {
            gone.stop();
        }
    }

    fn runtime(&self) -> &Handle {
        self.runtime.get().expect("Transport::start comes before update_peers")
    }

    fn put(&self, table: Table) {
        *self.table.write().expect("no panic while the table is held") = Arc::new(table);
    }

    fn add(&self, id: u64, urls: &[String], kind: PeerKind, posts: Option<Arc<PostQueue>>) -> Arc<Peer> {
        let runtime = self.runtime();
        let _inside = runtime.enter();
        let posts = posts.unwrap_or_else(|| Arc::new(PostQueue::new(&self.context.limits)));
        let peer = Peer::new(self.context.clone(), id, urls, kind, posts);
        let mut tasks = pipeline::spawn(&peer);
        if kind == PeerKind::Member {
            tasks.extend(Kind::ALL.map(|kind| runtime.spawn(dial::run(peer.clone(), kind)).abort_handle()));
            tasks.push(runtime.spawn(probe::run(peer.clone())).abort_handle());
            peer.set_snapshot_task(runtime.spawn(snapshot_sender::run(peer.clone())).abort_handle());
        }
        peer.set_tasks(tasks);
        let what = match kind {
            PeerKind::Member => "added remote peer",
            PeerKind::Remote => "added new remote peer",
        };
        log_limited!(info, self.context, id, what;
            "remote-peer-id" => hex(id), "remote-peer-urls" => urls.join(","));
        peer
    }

    fn change_urls(&self, peer: &Peer, urls: &[String]) {
        if peer.urls.update(urls) {
            slog::info!(self.context.log, "updated remote peer";
                "updated-remote-peer-id" => hex(peer.id), "updated-remote-peer-urls" => urls.join(","));
        }
    }
}

async fn stop_later(peer: Arc<Peer>, farewell: Duration) {
    tokio::time::sleep(farewell).await;
    peer.stop();
}
