//! # The benchmark
//!
//! Compares etcd 3.7.3 and quorate on one machine, case by case, with etcd's own load generator:
//!
//! ```text
//!   for 1 member, 3 members:          start etcd and quorate, both stay up
//!     for put, get l, get s × 1, 100, 1000 clients; transactions, lists, keepalives, watches:
//!       etcd:    warm up · measure    CPU, peak memory, bytes written: /proc of all members
//!       quorate: warm up · measure    rate, p50, p99: what `benchmark` prints
//!     many leases expire at once:     time until all keys are deleted, latency of puts meanwhile
//!   limits: the same load against a tonic server that only answers; a loop of fdatasync
//! ```
//!
//! The main figure is the server's CPU time per request: it does not depend on how much of the two cores the load
//! generator takes. Throughput and latency do, and only allow comparison. The table goes to standard output and to
//! `target/bench/report.md`, the figures to `report.json`. Exit code 1 if an acceptance limit is exceeded.
//!
//! | variable | what |
//! | --- | --- |
//! | `BENCH_SECONDS` | length of one measurement (10) |
//! | `BENCH_QUICK=1` | 2 s each: the whole run takes under 6 minutes, the figures are rougher |
//! | `BENCH_MEMBERS`, `BENCH_CLIENTS` | only these, e.g. `3`, `100,1000` |
//! | `BENCH_WORK` | only these of `put get-l get-s txn-mixed list list-pages list-stream keepalive watch-fan watch-latency watch-catch-up expiry` |
//! | `QUORATE_BIN`, `QUORATE_GO_DIR` | where the server, and etcd and `benchmark`, are |
//! | `TMPDIR` | the file system that all of them write to |

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "reporting is its purpose")]

mod echo;
mod expiry;
mod fsync;
mod generator;
mod plan;
mod report;
mod servers;

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::Context as _;

use crate::{
    generator::Generator,
    plan::{Case, Plan},
    report::{ExpiryRow, Report, Row},
    servers::Servers,
};

/// The same allocator as in the server, for the echo server.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("echo") => echo::serve(),
        Some("fsync") => fsync::measure(&std::env::temp_dir()).map(|lines| println!("{lines:#?}")),
        Some(other) => {
            Err(anyhow::anyhow!("no command {other:?}: there are echo, fsync, and none for the whole run"))
        }
        None => match bench() {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the whole run, and writes what was measured even where a part of it failed. Returns whether all acceptance
/// limits hold.
fn bench() -> anyhow::Result<bool> {
    let begun = Instant::now();
    let plan = Plan::from_environment()?;
    let generator = Generator::find()?;
    let quorate = harness::server_binary()?;
    let etcd = generator::go_tool("etcd")?;
    let mut report = Report::new(&plan, &quorate);
    let measured = measure(&plan, &generator, [&etcd, &quorate], &mut report);
    report.took = begun.elapsed();
    let text = report.markdown();
    println!("{text}");
    let folder = report.write(&text)?;
    eprintln!("written to {}", folder.display());
    measured?;
    Ok(report.holds())
}

/// Fills the report; `servers` are the programs of etcd and of quorate.
fn measure(
    plan: &Plan,
    generator: &Generator,
    servers: [&Path; 2],
    report: &mut Report,
) -> anyhow::Result<()> {
    eprintln!("fdatasync on {}", std::env::temp_dir().display());
    report.syncs = fsync::measure(&std::env::temp_dir()).context("the fdatasync loop")?;
    for members in &plan.members {
        let mut etcd = Servers::start("etcd", servers[0], *members)?;
        let mut quorate = Servers::start("quorate", servers[1], *members)?;
        for (number, case) in plan.cases(*members).into_iter().enumerate() {
            // Alternate, so that neither server always comes second.
            let etcd_first = number % 2 == 0;
            let early = etcd_first.then(|| etcd.run(generator, plan, case)).transpose()?;
            let quorate = quorate.run(generator, plan, case)?;
            let etcd = early.map_or_else(|| etcd.run(generator, plan, case), Ok)?;
            let row = Row { case, etcd, quorate, echo: None };
            eprintln!("{}", report::progress(&row));
            report.rows.push(row);
        }
        if plan.expiry {
            let row = ExpiryRow { members: *members, etcd: etcd.expire()?, quorate: quorate.expire()? };
            report.expiries.push(row);
        }
    }
    limits(plan, generator, report)
}

/// The same load against the echo server, once for both sizes of cluster.
fn limits(plan: &Plan, generator: &Generator, report: &mut Report) -> anyhow::Result<()> {
    let mut echo = Servers::echo()?;
    for case in plan.limit_cases() {
        let reading = echo.run(generator, plan, case)?;
        for row in report.rows.iter_mut().filter(|row| Case { members: 1, ..row.case } == case) {
            row.echo = Some(reading.clone());
        }
    }
    Ok(())
}
