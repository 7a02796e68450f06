//! # Real processes, real kills
//!
//! What the tests here, the demo and the benchmark share: clusters of server processes on
//! this machine, a small client, a load that remembers everything it was told, and a checker
//! that holds the servers to it.
//!
//! ```text
//!   Cluster ── Member ── Process      start, SIGKILL, SIGSTOP, SIGTERM, restart; ports, folders, logs
//!      │                             or Compose: the same as containers of deploy/compose.yaml
//!   Client ───────────── one gRPC connection a member, generated from proto/
//!      │
//!   Load ──▶ Record ──▶ history::check     every write and read with its times and its revision
//! ```
//!
//! The witness is the revision in each answer: a Put that was answered
//! with revision R is the only write at R, for ever. After a fault the checker walks every key
//! back through its history, version by version, and demands that
//!
//! 1. every acknowledged write is there, at its revision, with its value;
//! 2. an unacknowledged one is there once or not at all;
//! 3. nothing is there that nobody wrote, and no revision is missing;
//! 4. whatever began after an answer was given comes after it;
//! 5. every linearizable read saw the newest value at the revision it reports.
//!
//! The program under test is [`server_binary`]: `$QUORATE_BIN`, or `target/release/quorate`.
//! Any server with etcd's flags will do; stock etcd passes.
//!
//! [`power`] cuts the power of a member's disk. It injects no other faults into the network or the
//! disk's contents: that is `sim`'s work.

mod between;
mod client;
mod cluster;
mod compose;
pub mod history;
mod load;
mod member;
mod ports;
pub mod power;
pub mod preload;
mod process;
pub mod usage;

use std::path::{Path, PathBuf};

pub use between::Between;
pub use client::{Client, end_of_prefix, txn_of_puts};
pub use cluster::{Cluster, Options};
pub use compose::{Compose, SERVICES};
pub use load::{Figures, Load, Read, Record, Shape, Write};
pub use member::{Addresses, Member};
pub use ports::Port;
pub use process::Process;

/// The line that a server writes once it serves: etcd's words.
pub const READY: &str = "ready to serve client requests";

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The server under test: `$QUORATE_BIN`, or the release build of this repository.
///
/// The error says how to get one.
pub fn server_binary() -> anyhow::Result<PathBuf> {
    let (path, named) = match std::env::var_os("QUORATE_BIN") {
        Some(path) => (PathBuf::from(path), true),
        None => (target_dir().join("release/quorate"), false),
    };
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ if named => anyhow::bail!("QUORATE_BIN names {}, which is no file", path.display()),
        _ => anyhow::bail!(
            "there is no server at {}: run `cargo build --release` first, or set QUORATE_BIN",
            path.display()
        ),
    }
}

/// Stock etcd, the judge of what we say to members: `$ETCD_BIN`, or what `tests/etcd-suite/build.sh` built.
///
/// The error says how to get one.
pub fn etcd_binary() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("ETCD_BIN").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
            cache.unwrap_or_else(home).join("quorate/go/etcd")
        },
        PathBuf::from,
    );
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => {
            anyhow::bail!("there is no etcd at {}: run `make judges` first, or set ETCD_BIN", path.display())
        }
    }
}

/// etcd's newest patch of a release: `3.5`, `3.6` or `3.7`, which is [`etcd_binary`]; the others lie beside it.
pub fn etcd_binary_of(release: &str) -> anyhow::Result<PathBuf> {
    let newest = etcd_binary()?;
    if release == "3.7" {
        return Ok(newest);
    }
    let path = newest.with_file_name(format!("etcd-{release}"));
    anyhow::ensure!(path.is_file(), "there is no etcd at {}: run `make judges` first", path.display());
    Ok(path)
}

/// Where cargo puts what it builds: `$CARGO_TARGET_DIR`, or `target/` in the repository.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}
