//! The table of results, for docs/testing.md.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    judge::{Compared, Millis, Reading, mib},
    options::Options,
};

/// In docs/testing.md, the table stands between these.
const BEGIN: &str = "<!-- adversary:begin -->";
const END: &str = "<!-- adversary:end -->";

/// What docs/testing.md is while nobody else has written it.
const DOCUMENT: &str = "# Testing\n";
/// Where the table goes when it is not there yet.
const CHAPTER: &str = "\n## The adversary\n\n`make adversary` attacks etcd and quorate as clients can, and writes this table.\n\n";

/// All results of the run.
pub(crate) struct Report {
    pub(crate) rows: Vec<Compared>,
    /// What could not be measured, and why.
    pub(crate) broken: Vec<String>,
    options: Options,
    begun: Instant,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self { rows: Vec::new(), broken: Vec::new(), options: options.clone(), begun: Instant::now() }
    }

    /// Whether every row was measured and holds.
    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty() && self.rows.iter().all(|row| row.complaints().is_empty())
    }

    pub(crate) fn markdown(&self) -> String {
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let held = self.rows.iter().filter(|row| row.complaints().is_empty()).count();
        let mut text = format!(
            "{held} of {} rows hold. {cores} cores, shared by servers, attackers and writer; {} s an attack, strength {}; \
             one run of {} min. Left quorate, right etcd 3.7.3. Put: what a steady writer (200 a second, to all members in \
             turn) waits from when a put is due; one that fails counts as 5 s. Memory is resident MiB of the largest member: \
             its peak in daily use before, its peak in the attack, and what it is at most 10 s later. Beside: how long a client waits whom the attack is aimed \
             at. Log: KiB that all members write meanwhile.\n\n",
            self.rows.len(),
            self.options.attack.as_secs_f64(),
            self.options.scale,
            self.begun.elapsed().as_secs().div_ceil(60),
        );
        text += "| row | attack | members | put p50, ms | p99, ms | slowest, ms | failed | memory, quorate | etcd | beside, ms \
                 | log | holds |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            text += &line(row);
        }
        for broken in &self.broken {
            let _ = write!(text, "\nNot measured: {broken}\n");
        }
        text
    }

    /// Writes the table to the target folder, and to docs/testing.md if that is wanted: where it was written.
    pub(crate) fn write(&self, text: &str) -> anyhow::Result<Vec<PathBuf>> {
        let folder = harness::target_dir().join("adversary");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut written = vec![folder.join("report.md")];
        fs::write(&written[0], text).with_context(|| format!("cannot write {}", written[0].display()))?;
        if self.options.write {
            let document = harness::repository().canonicalize()?.join("docs/testing.md");
            into_document(&document, text)?;
            written.push(document);
        }
        Ok(written)
    }
}

fn into_document(path: &Path, table: &str) -> anyhow::Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DOCUMENT.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    fs::write(path, inserted(&old, table)).with_context(|| format!("cannot write {}", path.display()))
}

/// The document with the table between its marks.
fn inserted(document: &str, table: &str) -> String {
    let between = |before: &str, after: &str| format!("{before}{BEGIN}\n{table}{END}{after}");
    match (document.split_once(BEGIN), document.split_once(END)) {
        (Some((before, _)), Some((_, after))) => between(before, after),
        _ => between(&format!("{document}{CHAPTER}"), "\n"),
    }
}

/// One line while the run goes on.
pub(crate) fn progress(row: &Compared) -> String {
    let complaints = row.complaints();
    let verdict = if complaints.is_empty() { "holds".to_owned() } else { complaints.join("; ") };
    let figures = both(row, |seen| {
        let peak = seen.memory.iter().map(|memory| memory.peak).max().unwrap_or(0);
        format!("p99 {}, {} MiB{}", Millis(seen.puts.p99), mib(peak), told(seen))
    });
    format!("{}, {} member(s): {figures}\n    {verdict}", row.row.name, row.members)
}

/// What etcd's row has beside its figures.
fn told(seen: &Reading) -> String {
    let mut text = String::new();
    if let Some(dead) = &seen.dead {
        let _ = write!(text, ", {dead}");
    }
    if seen.terms > 0 {
        let _ = write!(text, ", {} new term(s)", seen.terms);
    }
    for fault in &seen.outcome.faults {
        let _ = write!(text, ", {fault}");
    }
    text
}

fn line(row: &Compared) -> String {
    let put = |time: fn(&Reading) -> Duration| both(row, move |seen| number(time(seen)));
    let complaints = row.complaints();
    let etcd = row.etcd.as_ref().map(told).filter(|told| !told.is_empty());
    let mut verdict = if complaints.is_empty() { "yes".to_owned() } else { complaints.join("; ") };
    if let Some(etcd) = etcd {
        let _ = write!(verdict, " (etcd{etcd})");
    }
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.row.name,
        row.row.what,
        row.members,
        put(|seen| seen.puts.p50),
        put(|seen| seen.puts.p99),
        put(|seen| seen.puts.max),
        both(row, |seen| seen.puts.failed.to_string()),
        row.quorate.as_ref().map_or_else(dash, memory),
        row.etcd.as_ref().map_or_else(dash, memory),
        both(row, |seen| seen.outcome.bystander.map_or_else(dash, number)),
        both(row, |seen| (seen.logged >> 10).to_string()),
        verdict.replace('|', "/").replace('\n', " "),
    )
}

/// Ours and etcd's, as far as they were run.
fn both(row: &Compared, show: impl Fn(&Reading) -> String) -> String {
    let show = |seen: &Option<Reading>| seen.as_ref().map_or_else(dash, &show);
    format!("{} / {}", show(&row.quorate), show(&row.etcd))
}

fn dash() -> String {
    "–".to_owned()
}

fn number(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

fn memory(seen: &Reading) -> String {
    let largest =
        |which: fn(&crate::judge::Memory) -> u64| mib(seen.memory.iter().map(which).max().unwrap_or(0));
    format!("{} → {} → {}", largest(|m| m.before), largest(|m| m.peak), largest(|m| m.after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_the_place_of_the_one_before() {
        let first = inserted(DOCUMENT, "| one |\n");
        assert!(first.starts_with(DOCUMENT) && first.contains("| one |"));
        let edited = first.replace("# Testing", "# Tests") + "\n## More\n";
        let second = inserted(&edited, "| two |\n");
        assert!(second.contains("# Tests") && second.contains("## More") && second.contains("| two |"));
        assert!(!second.contains("| one |"));
        assert_eq!(second.matches(BEGIN).count(), 1);
    }
}
