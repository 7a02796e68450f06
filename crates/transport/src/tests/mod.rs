//! Tests of the pure parts, and of whole transports over loopback.

mod chunks;
mod faults;
mod golden;
mod hostile;
mod http_face;
mod loopback;
mod parts;
mod world;
