//! # The client port
//!
//! Turns every client call into proposals, reads and responses. What a request does to the store is decided in
//! `machine`; how members agree on it, in `raft-node`.
//!
//! ```text
//! TcpStream ─ socket ─ server: HTTP/2 preface? ─┬─ yes ─▶ HTTP/2 ─▶ router ─▶ call ─▶ routes ─▶ a handler
//!                                               │                     ▲
//!                                               └─ no ──▶ HTTP/1 ─▶ http1_router ─┬─ /v3/… ─▶ gateway
//!                                                                                 └─ pages · probes: /health /readyz /metrics …
//! ```
//!
//! | part | modules |
//! | --- | --- |
//! | bytes | `socket` (gathers a tick's writes into one), `frame`, `zip`, `requests` (incoming), `feed` and `reply` (outgoing) |
//! | around a handler | `head` (grpc-go's header checks in its order), `call` (etcd's interceptors, counters, encoding), `routes` (method → handler) |
//! | handlers, messages in and out | `kv`, `lease`, `watch`, `concurrency`, `cluster`, `maintenance`, `downgrade`, `auth`, `health`, `snapshot` |
//! | responses of any size, encoded where they are made | `answer`, `parts`, `long`, `range_stream` |
//! | shared | `state`, `limits`, `metrics`, `slow` (long work), `budget` (bytes in flight), `deadline`, `status` (etcd's codes and texts) |
//!
//! Invariants:
//! * Refusals have etcd's code and text, which stand in one table ([`proto::EtcdError`]); [`status`] maps every error
//!   to it.
//! * No response carries state older than its header's revision; every header carries cluster, member and term.
//! * A call spawns nothing beyond HTTP/2's own stream task, and consensus wakes it only through the node's batched
//!   completions. Work beyond a small budget ([`slow`]) leaves the runtime's thread for a small capped pool, wakes its
//!   own call, and stops when its client disconnects.
//! * Every message is bounded before it is decoded; every socket's send buffer is bounded ([`socket`]).
//!
//! Not here: users and roles (as in etcd with authentication off; changes are refused by name), and disconnecting
//! clients that ping too often, since h2 does not expose pings.

mod access;
mod answer;
mod auth;
mod budget;
mod call;
mod cluster;
mod concurrency;
mod connections;
mod deadline;
mod downgrade;
mod endings;
mod feed;
mod frame;
mod head;
mod health;
mod http1_router;
mod intervals;
mod kv;
mod lease;
mod limits;
mod long;
mod maintenance;
mod metered;
mod methods;
mod metrics;
mod page;
mod pages;
pub mod parse;
mod parts;
mod probes;
mod query;
mod range_stream;
mod reply;
mod requests;
mod router;
mod routes;
mod server;
mod slow;
mod snapshot;
mod socket;
mod state;
pub mod status;
mod steps;
mod turns;
mod watch;
mod watches;
mod wire;
mod zip;

pub use budget::Options as InFlight;
pub use connections::Traffic;
pub use limits::{Http, Limits, Pace, Snapshots};
pub use metrics::Shown;
pub use mvcc::Cost;
pub use server::serve;
pub use slow::{Lane, Lost, Pool, WorkLimits};
pub use state::{Api, Identity};
pub use watches::WatchLimits;
pub use wire::Wire;
pub use zip::Compression;
