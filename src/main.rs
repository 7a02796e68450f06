//! The `quorate` server: parse → build → run → drain.
mod config;
mod logging;
fn main() {}
