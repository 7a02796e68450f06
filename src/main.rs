//! The `quorate` server: parse → build → run → drain.
mod config;
fn main() {}
