//! Hashes to compare: this member's own, and those of its peers over the peer port.

use machine::Shared;
use std::sync::Arc;
use std::time::Duration;
use transport::{HashError, HashKv};

/// What a peer answered.
#[derive(Clone, Debug)]
pub(crate) struct PeerHash {
    pub(crate) member: u64,
    pub(crate) urls: Vec<String>,
    /// The answer of the first of its URLs that has one, else the error of the last.
    pub(crate) answer: Result<HashKv, HashError>,
}

/// Asks members for hashes.
pub(crate) struct Asker {
    shared: Arc<Shared>,
    /// Turns at what takes long, those of peers that ask.
    work: Arc<api::Pool>,
    member: u64,
    cluster: u64,
    /// How long a peer's URL may take to answer: etcd's request timeout.
    limit: Duration,
    log: slog::Logger,
}

impl Asker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        work: Arc<api::Pool>,
        (member, cluster): (u64, u64),
        limit: Duration,
        log: slog::Logger,
    ) -> Self {
        Self { shared, work, member, cluster, limit, log }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn member(&self) -> u64 {
        self.member
    }

    /// This member's ID as it stands in log lines.
    pub(crate) fn me(&self) -> String {
        format!("{:x}", self.member)
    }

    pub(crate) fn cluster(&self) -> u64 {
        self.cluster
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// The hash of this member's history up to a revision; 0 = the current one.
    pub(crate) async fn own(&self, revision: i64) -> Result<HashKv, HashError> {
        own_hash(Arc::clone(&self.shared), &self.work, revision).await
    }

    /// All other members that have a URL, with their URLs, in order of ID.
    pub(crate) fn others(&self) -> Vec<(u64, Vec<String>)> {
        let mut others = self.shared.membership().others(self.member);
        others.retain(|(_, urls)| !urls.is_empty());
        others
    }

    /// The hashes of [`Asker::others`].
    pub(crate) async fn peers(&self, revision: i64) -> Vec<PeerHash> {
        let asked = self.others().into_iter().map(|(member, urls)| self.peer(member, urls, revision));
        futures::future::join_all(asked).await
    }

    async fn peer(&self, member: u64, urls: Vec<String>, revision: i64) -> PeerHash {
        let mut answer = Err(HashError::Other("it has no URL".to_owned()));
        for url in &urls {
            answer = transport::fetch_hash_kv(url, self.cluster, revision, self.limit).await;
            match &answer {
                Ok(_) => break,
                Err(error) => slog::warn!(self.log, "failed hash kv request"; "local-member-id" => self.me(),
                    "requested-revision" => revision, "remote-peer-endpoint" => url, "error" => %error),
            }
        }
        PeerHash { member, urls, answer }
    }
}

/// The hash of a member's history up to a revision; 0 = the current one. It walks the whole store, so it waits for its
/// turn off the runtime's thread, and ends early when the future is dropped.
pub(crate) async fn own_hash(
    shared: Arc<Shared>,
    work: &api::Pool,
    revision: i64,
) -> Result<HashKv, HashError> {
    let hashed = work.run(api::Lane::Long, move |gone| {
        let (view, effort) = (shared.view(), mvcc::Effort::within(mvcc::Cost::MAX).unless(gone));
        (view.revision(), view.bounded(&effort).hash_kv(revision))
    });
    let (current, hashed) = hashed.await.map_err(|error| HashError::Other(error.to_string()))?;
    let hashed = hashed.map_err(|error| match error {
        mvcc::ReadError::Compacted => HashError::Compacted,
        mvcc::ReadError::FutureRevision => HashError::Future,
        error => HashError::Other(error.to_string()),
    })?;
    Ok(HashKv {
        revision: current,
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.hash_revision,
    })
}
