//! # How members talk
//!
//! etcd's peer protocol, byte for byte, over plain TCP: an etcd 3.7 member cannot tell a member of ours from its own
//! kind. Raft messages travel on two long-lived HTTP/1.1 responses per direction; all else is small requests on the
//! same port.
//!
//! ```text
//!            member A                                   member B
//!   Transport::send ─▶ inbox ─▶ router                  dialer (client): GET /raft/stream/{msgapp,message}/<B>
//!                                 │ by type of message       │ 5 s read deadline, redial at most every 100 ms
//!               ┌─────────────────┼──────────────┐           ▼
//!        lane msgapp        lane message     POST queue  chunk reader ─▶ codec ─▶ Host::deliver(Vec<Message>)
//!        (StreamBody: the body of the            │
//!         GET that B dialled; drains its         └─▶ 4 workers ─▶ POST /raft  (no stream yet, or "remote" senders)
//!         lane into one write a batch)
//!
//!   snapshots:  router ─▶ SnapshotQueue ─▶ Host::snapshot_for ─▶ POST /raft/snapshot ─▶ Host::receive_snapshot
//! ```
//!
//! The dialler of a stream is its *receiver*: to send to B, A writes on the response that B asked for.
//!
//! ## Order of calls
//!
//! 1. [`Transport::new`].
//! 2. [`Transport::start`] with the host, inside the tokio runtime.
//! 3. [`Transport::update_peers`] and [`Transport::serve`], in either order; `update_peers` again, from any thread,
//!    whenever the membership changes.
//! 4. [`Transport::stop`].
//!
//! ## Invariants
//!
//! * `send` never blocks, never does IO, and holds each lock for a push. All queues are bounded in messages and bytes;
//!   a full one drops the message and reports the member unreachable.
//! * Encoder state (term, index) lives exactly as long as one response: a new GET starts from zero on both ends.
//! * Whoever reaches the port costs bounded memory, connections and log lines ([`Limits`]). A malformed frame is an
//!   error, never a panic.
//! * 410 is answered to removed members only: an etcd member that sees it stops its process.
//! * Nothing is sent twice: a POST is retried only if it is known not to have left.
//! * A database is never held: a few pieces of it are, at either end, and the host's end waits for the other's.
//! * A database that did not come whole has no clean end: the body breaks, and the receiver's host gets an error. Between
//!   members of ours its SHA-256 is compared too (`snapshot.rs`).
//!
//! ## What it does not do
//!
//! No TLS: an `https` peer URL fails to dial with a clear error. It makes and installs no snapshots, it carries them: the
//! host has the databases. Of raft messages it checks only sender and recipient; the node validates the rest.

mod chunk;
mod codec;
mod context;
mod dial;
mod fetch;
mod hashes;
mod headers;
mod io;
mod lane;
mod leases;
mod limits;
mod log_limiter;
mod peer;
mod peers;
mod pipeline;
mod post;
mod post_queue;
mod probe;
mod promote;
mod router;
mod server;
mod slices;
mod snapshot;
mod snapshot_meters;
mod snapshot_queue;
mod snapshot_sender;
mod stream;
mod transport;
mod urls;

#[cfg(test)]
mod tests;

pub use context::{Answer, HashError, HashKv, Host, Identity, PromoteError};
pub use fetch::{
    FetchError, RemoteCluster, Versions, fetch_clears_checkpoints, fetch_downgrade_enabled, fetch_members,
    fetch_version,
};
pub use hashes::{fetch_hash_kv, fetch_slice_hash};
pub use leases::LeaseRefusal;
pub use limits::Limits;
pub use peer::PeerStats;
pub use promote::ask_to_promote;
pub use slices::{Slice, SliceHash, SliceQuestion};
pub use snapshot::{IncomingSnapshot, OutgoingSnapshot, SnapshotRefusal};
pub use transport::Transport;
