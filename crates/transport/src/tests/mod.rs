//! Tests of the transport: pure parts by values, whole transports over loopback.

mod chunks;
mod faults;
mod golden;
mod hostile;
mod http_face;
mod loopback;
mod parts;
mod world;
