//! The table of results, and the acceptance limits.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    expiry::Expiry,
    fsync::Sync,
    plan::{Case, Plan, Work},
    servers::Reading,
};

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    plan: Plan,
    quorate: PathBuf,
    cores: usize,
    processor: String,
    pub(crate) syncs: Vec<Sync>,
    pub(crate) rows: Vec<Row>,
    pub(crate) expiries: Vec<ExpiryRow>,
    pub(crate) took: Duration,
}

/// One case on both servers, and on the echo server.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) etcd: Reading,
    pub(crate) quorate: Reading,
    pub(crate) echo: Option<Reading>,
}

/// The expiry of many leases on both servers.
#[derive(Debug, Serialize)]
pub(crate) struct ExpiryRow {
    pub(crate) members: usize,
    pub(crate) etcd: Expiry,
    pub(crate) quorate: Expiry,
}

impl Row {
    fn cpu_ratio(&self) -> f64 {
        self.quorate.cpu_us / self.etcd.cpu_us
    }

    /// Whether the acceptance limit holds; `None` without one.
    fn holds(&self) -> Option<bool> {
        self.case.limit().map(|limit| self.cpu_ratio() <= limit)
    }
}

pub(crate) fn progress(row: &Row) -> String {
    format!(
        "{}: CPU {:.1} / {:.1} µs a request ({:.2}), {:.0} / {:.0} a second",
        row.case,
        row.quorate.cpu_us,
        row.etcd.cpu_us,
        row.cpu_ratio(),
        row.quorate.load.rate,
        row.etcd.load.rate
    )
}

impl Report {
    pub(crate) fn new(plan: &Plan, quorate: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
        Self {
            plan: plan.clone(),
            quorate: quorate.to_path_buf(),
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: processor.to_owned(),
            syncs: Vec::new(),
            rows: Vec::new(),
            expiries: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Whether every acceptance limit holds.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.holds() != Some(false))
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "# quorate and etcd 3.7.3, side by side\n\n{} cores ({}), shared by servers and load generator; 256 B values; \
             {} s a measurement; one run of {:.0} s.\nLeft quorate, right etcd. CPU is user+system of all members, a request; \
             echo is a bare tonic server on one thread. A list returns 10,000 keys of 100 B; where watchers are measured, a \
             request is an event delivered (watch-latency: time from the put to its events; watch-catch-up: latency of gets \
             meanwhile). \
             \"Written\" is the kernel's count for the processes: it counts whole folios, so small appends show more than \
             the device sees.\n\n",
            self.cores,
            self.processor,
            self.plan.measure.as_secs(),
            self.took.as_secs_f64(),
        );
        text += "| members | work | clients | CPU, µs | ratio | limit | echo CPU, µs (requests/s) | requests/s | ratio \
                 | p50, ms | p99, ms | peak RSS, MB | written, B a request |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            text += &line(row);
        }
        text += &expiries(&self.expiries);
        text += "\n| durable append on this file system | p50, µs | p99, µs | a second |\n| --- | --- | --- | --- |\n";
        for sync in &self.syncs {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(
                text,
                "| {} B + fdatasync | {:.0} | {:.0} | {:.0} |",
                sync.append_bytes, sync.p50_us, sync.p99_us, sync.rate
            );
        }
        let exceeded: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.holds() == Some(false))
            .map(|row| row.case.to_string())
            .collect();
        if exceeded.is_empty() {
            text += "\nEvery acceptance limit holds.\n";
        } else {
            let _ = writeln!(text, "\nABOVE THE LIMIT: {}.", exceeded.join("; "));
        }
        text
    }

    /// Writes `report.md` and `report.json`. Returns their folder.
    pub(crate) fn write(&self, markdown: &str) -> anyhow::Result<PathBuf> {
        let folder = harness::target_dir().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join("report.md"), markdown)?;
        fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(folder)
    }
}

fn expiries(rows: &[ExpiryRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = "\n| members | leases that end at once, a key each | all gone after, s | put p99 before, ms | put p99 meanwhile, ms |\n\
                    | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for ExpiryRow { members, etcd, quorate } in rows {
        let _ = writeln!(
            text,
            "| {members} | {} | {:.1} / {:.1} | {:.2} / {:.2} | {:.2} / {:.2} |",
            quorate.leases,
            quorate.gone_after_s,
            etcd.gone_after_s,
            quorate.quiet_p99_ms,
            etcd.quiet_p99_ms,
            quorate.p99_ms,
            etcd.p99_ms
        );
    }
    text
}

fn line(row: &Row) -> String {
    let (ours, theirs, case) = (&row.quorate, &row.etcd, &row.case);
    let limit = match (case.limit(), row.holds()) {
        (Some(limit), Some(false)) => format!("**above {limit}**"),
        (Some(limit), _) => format!("≤ {limit}"),
        (None, _) => "–".to_owned(),
    };
    let echo = row
        .echo
        .as_ref()
        .map_or_else(|| "–".to_owned(), |echo| format!("{:.1} ({:.0})", echo.cpu_us, echo.load.rate));
    let megabytes = |bytes: u64| bytes / 1_000_000;
    // `benchmark watch` does not measure the latency of events.
    let timed = |ours: f64, theirs: f64| match case.work {
        Work::WatchFan => "–".to_owned(),
        _ => format!("{ours:.2} / {theirs:.2}"),
    };
    format!(
        "| {} | {} | {} | {:.1} / {:.1} | **{:.2}** | {limit} | {echo} | {:.0} / {:.0} | {:.2} | {} | {} | {} / {} | {:.0} / {:.0} |\n",
        case.members,
        case.work.name(),
        case.clients,
        ours.cpu_us,
        theirs.cpu_us,
        row.cpu_ratio(),
        ours.load.rate,
        theirs.load.rate,
        ours.load.rate / theirs.load.rate,
        timed(ours.load.p50_ms, theirs.load.p50_ms),
        timed(ours.load.p99_ms, theirs.load.p99_ms),
        megabytes(ours.peak_bytes),
        megabytes(theirs.peak_bytes),
        ours.written_bytes,
        theirs.written_bytes,
    )
}
