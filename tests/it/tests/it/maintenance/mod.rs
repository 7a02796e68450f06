//! Maintenance: snapshots and what is made of them, defragmentation, alarms, leadership and downgrades handed over with
//! stock etcdctl, each beside stock etcd where both must say the same.

mod alarms;
mod exchange;
mod orders;
mod snapshots;
mod space;
mod stalls;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use harness::server_binary;

/// A program from etcd's side: `name` in `$QUORATE_GO_DIR`, where `make judges` builds it.
fn judge(name: &str) -> anyhow::Result<PathBuf> {
    let cache = || {
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).map(|dir| dir.join("quorate/go"))
    };
    let dir = std::env::var_os("QUORATE_GO_DIR").map(PathBuf::from).or_else(cache);
    let path = dir.context("no folder for etcd's programs")?.join(name);
    ensure!(path.is_file(), "there is no {}: run `make judges`", path.display());
    Ok(path)
}

/// What a program printed, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    /// The last line on stderr that begins with `Error:`; etcdctl logs JSON before it.
    error: String,
}

fn call<S: AsRef<std::ffi::OsStr>>(program: &Path, args: &[S]) -> anyhow::Result<Said> {
    let output = Command::new(program).args(args).output()?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = err.lines().rfind(|line| line.starts_with("Error:")).unwrap_or_default().to_owned();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Said { code: output.status.code(), out, error })
}

/// Runs `quorate ctl` with these arguments.
fn ctl<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> anyhow::Result<Said> {
    let all: Vec<&std::ffi::OsStr> =
        std::iter::once("ctl".as_ref()).chain(args.iter().map(AsRef::as_ref)).collect();
    call(&server_binary()?, &all)
}
