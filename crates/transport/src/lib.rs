//! # How members talk
//!
//! etcd's peer protocol, byte for byte, over plain TCP: a member of ours and a stock etcd 3.7 member cannot tell each
//! other apart. Raft messages travel on two long-lived HTTP/1.1 responses per direction; everything else is small
//! requests on the same port.
//!
//! ```text
//!            member A                                   member B
//!   Transport::send ─▶ inbox ─▶ router                  dialer (client): GET /raft/stream/{msgapp,message}/<B>
//!                                 │ choice of 1.3            │ 5 s read deadline, redial at most every 100 ms
//!               ┌─────────────────┼──────────────┐           ▼
//!        lane msgapp        lane message     POST queue  chunk reader ─▶ codec ─▶ Host::deliver(Vec<Message>)
//!        (StreamBody: the body of the            │
//!         GET that B dialled; drains its         └─▶ 4 workers ─▶ POST /raft  (no stream yet, or "remote" senders)
//!         lane into one write a batch)
//! ```
//!
//! The dialler of a stream is its *receiver*: to send to B, A writes on the response that B asked for.
//!
//! * [`codec`] is pure: bytes in any pieces to messages and back. A malformed frame is an error, never a panic.
//! * [`chunk`] is pure: HTTP/1.1 chunked framing.
//! * [`Transport`] is the facade. [`Transport::send`] takes a batch from any thread, appends it to an inbox and wakes one
//!   task once; that task, inside the runtime, hands the messages to the lanes and wakes each lane once. A lane's batch is
//!   encoded into one buffer and leaves in one `writev`.
//! * [`Host`] is what the transport asks of the member it serves.
//! * Keepalives and times to live of leases are posted to the leader ([`Transport::renew_lease`]).
//! * [`fetch`] asks other members for their member list and version (bootstrap, cluster version loop).
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
//! * `send` never blocks, never does IO, and holds each lock for a push. All queues are bounded in messages and bytes; a
//!   full one drops the message and reports the member unreachable.
//! * Encoder state (term, index) lives exactly as long as one response: a new GET starts from zero on both ends.
//! * Whoever reaches the port costs a bounded amount of memory, connections and lines in the log ([`Limits`]).
//! * 410 is answered to removed members only; etcd members stop their process when they see it.
//! * Nothing that is sent is ever sent twice: a POST is retried only when it is known not to have left.
//!
//! ## Deviations from the first sketch
//!
//! [`Host::deliver`] takes a batch; [`Host::downgrade_enabled`] and [`Host::hash_kv`] return boxed futures, because one
//! waits for a linearizable read and the other walks the store; `set_host` and `start` are one call.
//!
//! ## What it does not do
//!
//! No TLS (an `https` peer URL fails to dial, by name). No snapshots between members: `/raft/snapshot` is refused by
//! name, an outgoing `MsgSnap` is reported as failed. It does not judge raft messages beyond sender and addressee: a stream
//! carries what its member says of itself, and what members hand on (proposals, reads, wishes that leadership move); the
//! node validates what it is given.

pub mod chunk;
pub mod codec;
mod complaint;
mod context;
mod dial;
pub mod fetch;
mod headers;
mod io;
mod lane;
mod leases;
mod limits;
mod peer;
mod pipeline;
mod post;
mod probe;
mod router;
mod server;
mod stream;
mod transport;
mod urls;

#[cfg(test)]
mod tests;

pub use context::{Answer, HashError, HashKv, Host, Identity, PromoteError};
pub use fetch::{
    FetchError, MemberJson, RemoteCluster, Versions, fetch_clears_checkpoints, fetch_downgrade_enabled,
    fetch_members, fetch_version,
};
pub use leases::LeaseRefusal;
pub use limits::Limits;
pub use peer::PeerStats;
pub use transport::Transport;
