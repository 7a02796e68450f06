//! Tests of the pure parts, and of whole transports over loopback.

mod chunks;
mod databases;
mod faults;
mod golden;
mod hostile;
mod http_face;
mod loopback;
mod parts;
mod snapshot_ends;
mod snapshot_requests;
mod snapshot_wire;
mod snapshots;
mod world;
