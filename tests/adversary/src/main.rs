//! # The adversary
//!
//! Attacks that clients can make, each on a fresh cluster of stock etcd and then of ours, while somebody else puts 200
//! small values a second and wants to notice nothing:
//!
//! ```text
//!   for 1 member, 3 members:  for each row of `rows::ROWS`:  for etcd, quorate:
//!     start · the row's data · 60,000 puts, daily use, the writer begins   most memory, term: before
//!     the attack, for some seconds                                         peak memory, the writer's latencies
//!     its clients are gone                                                 memory within 10 s, term, who lives
//! ```
//!
//! A row holds if ours lives in the same term, the writer's 99th percentile is at most 1.5 × etcd's or 25 ms, memory stays
//! below the live data and 256 MiB, and goes back to 1.3 × what it was ([`judge`]). Exit code 1 if one does not.
//!
//! The table goes to standard output and to `target/adversary/report.md`; that of a whole run at full strength also to
//! docs/testing.md, between its two marks.
//!
//! | variable | what |
//! | --- | --- |
//! | `ADVERSARY_ROWS` | only these, e.g. `B1,B4`; all of a finding with `B15*` |
//! | `ADVERSARY_MEMBERS` | sizes of cluster: `1,3`, and `1` where the strength is below 1 |
//! | `ADVERSARY_SCALE` | strength of the attacks and length of everything (1): `0.1` takes two minutes and proves little |
//! | `ADVERSARY_SECONDS` | length of one attack (10, times the strength) |
//! | `ADVERSARY_SERVERS` | `etcd,quorate`; with `quorate` alone etcd's figures are missing from the limits |
//! | `ADVERSARY_WRITE=1` | writes docs/testing.md whatever was run |
//! | `QUORATE_BIN`, `ETCD_BIN`, `TMPDIR` | the servers, and the file system that they write to |
//!
//! A new attack is a function in a file of `attacks/`, and a line in [`rows::ROWS`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "reporting is its purpose")]

mod attacks;
mod data;
mod json;
mod judge;
mod options;
mod raw;
mod report;
mod rows;
mod run;
mod servers;
mod target;
mod watchman;
mod writer;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{judge::Compared, options::Options, report::Report, servers::Server};

fn main() -> ExitCode {
    match adversary() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("adversary: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run; whether every row holds.
fn adversary() -> anyhow::Result<bool> {
    let options = Options::from_environment()?;
    raise_own_file_limit()?;
    let mut report = Report::new(&options);
    for members in &options.members {
        for row in &options.rows {
            let mut run = |server| {
                let seen =
                    options.servers.contains(&server).then(|| run::run(row, server, *members, &options))?;
                let what = || format!("{} on {members} member(s), {server}", row.name);
                seen.with_context(what).map_err(|error| report.broken.push(format!("{error:#}"))).ok()
            };
            let (etcd, quorate) = (run(Server::Etcd), run(Server::Quorate));
            let compared = Compared { row, members: *members, etcd, quorate };
            eprintln!("{}", report::progress(&compared));
            report.rows.push(compared);
        }
    }
    let text = report.markdown();
    println!("{text}");
    for path in report.write(&text)? {
        eprintln!("written to {}", path.display());
    }
    Ok(report.holds())
}

/// Thousands of connections come from this process; the servers get the limit of a shell ([`servers`]).
fn raise_own_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}
