//! What a row must hold to, and what was seen.

use std::{fmt, time::Duration};

use crate::{rows::Row, target::Outcome, writer::Latency};

/// A put's 99th percentile may be this many times etcd's in the same row …
const ETCD_FACTOR: f64 = 1.5;
/// … or this, whichever is larger.
const P99_FREE: Duration = Duration::from_millis(25);
/// The same for who stands beside an attack that is aimed at him.
const BYSTANDER_FREE: Duration = Duration::from_millis(250);
/// Memory of a member beyond the data in it.
const EXTRA_BYTES: u64 = 256 << 20;
/// Memory after the attack, in parts of what it was before.
const AFTER_FACTOR: f64 = 1.3;
/// What all members may log during an attack, unless etcd logs more.
const LOG_FREE: u64 = 1 << 20;

/// One row on one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// Why not all members live, if so.
    pub(crate) dead: Option<String>,
    /// Terms that began meanwhile.
    pub(crate) terms: u64,
    pub(crate) puts: Latency,
    /// Keys and values in the store.
    pub(crate) live_bytes: u64,
    /// Of each member: resident memory before, at its peak, and after.
    pub(crate) memory: Vec<Memory>,
    /// Written to the logs of all members during the attack.
    pub(crate) logged: u64,
    pub(crate) outcome: Outcome,
}

/// Resident memory of one member, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) before: u64,
    pub(crate) peak: u64,
    /// When it had come back, or 10 s after the attack.
    pub(crate) after: u64,
}

impl Memory {
    /// Whether so much is little enough after the attack.
    pub(crate) fn is_back(&self) -> bool {
        times(self.before, AFTER_FACTOR) >= self.after
    }
}

/// One row on both.
#[derive(Debug, Clone)]
pub(crate) struct Compared {
    pub(crate) row: &'static Row,
    pub(crate) members: usize,
    pub(crate) etcd: Option<Reading>,
    pub(crate) quorate: Option<Reading>,
}

impl Compared {
    /// What our server did that it must not; nothing if it was not run.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let Some(ours) = &self.quorate else { return Vec::new() };
        let nobody = Reading::default();
        let etcd = self.etcd.as_ref().unwrap_or(&nobody);
        let mut complaints = Vec::new();
        if let Some(dead) = &ours.dead {
            complaints.push(dead.clone());
        }
        if ours.terms > 0 {
            complaints.push(format!("{} new term(s)", ours.terms));
        }
        complaints.extend(above("put p99", Some(ours.puts.p99), Some(etcd.puts.p99), P99_FREE));
        let (waited, there) = (ours.outcome.bystander, etcd.outcome.bystander);
        let free = BYSTANDER_FREE.max(ours.outcome.bystander_free);
        complaints.extend(above("who stands beside", waited, there, free));
        if let Some(peak) = ours.memory.iter().map(|memory| memory.peak).max()
            && peak > ours.live_bytes + EXTRA_BYTES
        {
            complaints.push(format!("{} MiB at the peak", mib(peak)));
        }
        if let Some(memory) = ours.memory.iter().find(|memory| !memory.is_back()) {
            complaints.push(format!("{} MiB afterwards, {} before", mib(memory.after), mib(memory.before)));
        }
        if ours.logged > LOG_FREE.max(times(etcd.logged, ETCD_FACTOR)) {
            complaints.push(format!("{} KiB logged", ours.logged >> 10));
        }
        complaints.extend(beyond(&ours.outcome.faults, &etcd.outcome.faults));
        complaints
    }
}

/// Our faults without those that etcd's clients had too: each of theirs excuses one of ours of the same kind.
fn beyond(ours: &[String], etcd: &[String]) -> Vec<String> {
    let mut excuses: Vec<String> = etcd.iter().map(|fault| kind(fault)).collect();
    let mut is_excused = |fault: &String| {
        let found = excuses.iter().position(|excuse| *excuse == kind(fault));
        found.map(|at| excuses.swap_remove(at)).is_some()
    };
    ours.iter().filter(|fault| !is_excused(fault)).cloned().collect()
}

/// A fault without its figures, which are other ones in each run.
fn kind(fault: &str) -> String {
    fault.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

/// A complaint where ours took longer than it may.
fn above(what: &str, ours: Option<Duration>, etcd: Option<Duration>, free: Duration) -> Option<String> {
    let limit = free.max(etcd.unwrap_or_default().mul_f64(ETCD_FACTOR));
    let ours = ours.filter(|ours| *ours > limit)?;
    Some(format!("{what} {}, {} allowed", Millis(ours), Millis(limit)))
}

/// A duration as people read it.
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1_000.0;
        match ms {
            ..10.0 => write!(f, "{ms:.1} ms"),
            ..10_000.0 => write!(f, "{ms:.0} ms"),
            _ => write!(f, "{:.0} s", self.0.as_secs_f64()),
        }
    }
}

/// Bytes as the table has them.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of memory, and a factor above zero"
)]
fn times(bytes: u64, factor: f64) -> u64 {
    (bytes as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    const MIB: u64 = 1 << 20;

    fn reading(p99_ms: u64) -> Reading {
        let p99 = Duration::from_millis(p99_ms);
        let memory = vec![Memory { before: 100 * MIB, peak: 200 * MIB, after: 130 * MIB }];
        Reading { puts: Latency { p99, ..Default::default() }, memory, ..Default::default() }
    }

    fn complaints(etcd: Reading, quorate: Reading) -> usize {
        Compared { row: &ROWS[0], members: 1, etcd: Some(etcd), quorate: Some(quorate) }.complaints().len()
    }

    #[test]
    fn latency_is_free_below_25_ms_and_then_counts_by_etcds() {
        assert_eq!(complaints(reading(1), reading(25)), 0);
        assert_eq!(complaints(reading(1), reading(26)), 1);
        assert_eq!(complaints(reading(100), reading(150)), 0);
        assert_eq!(complaints(reading(100), reading(151)), 1);
    }

    #[test]
    fn memory_is_bounded_by_what_is_stored_and_comes_back() {
        let with = |live_bytes, before, peak, after| Reading {
            live_bytes: live_bytes * MIB,
            memory: vec![Memory { before: before * MIB, peak: peak * MIB, after: after * MIB }],
            ..reading(1)
        };
        assert_eq!(complaints(reading(1), with(0, 100, 256, 130)), 0);
        assert_eq!(complaints(reading(1), with(0, 100, 257, 130)), 1);
        assert_eq!(complaints(reading(1), with(100, 100, 356, 131)), 1);
        assert_eq!(complaints(reading(1), with(0, 100, 257, 131)), 2);
    }

    #[test]
    fn a_bystander_may_wait_as_long_as_its_row_says() {
        let waited = |ms| Outcome::waited(Duration::from_millis(ms));
        let with = |outcome| Reading { outcome, ..reading(1) };
        assert_eq!(complaints(with(waited(10)), with(waited(250))), 0);
        assert_eq!(complaints(with(waited(10)), with(waited(251))), 1);
        assert_eq!(complaints(with(waited(10)), with(waited(251).allowed(Duration::from_secs(1)))), 0);
    }

    #[test]
    fn what_etcds_clients_see_too_is_no_fault() {
        let faulty = || Reading { outcome: Outcome::fault("GOAWAY"), ..reading(1) };
        assert_eq!(complaints(reading(1), faulty()), 1);
        assert_eq!(complaints(faulty(), faulty()), 0);
        let of = |faults: &[&str]| {
            let seen = |so_far: Outcome, fault: &&str| so_far.and(Outcome::fault(*fault));
            Reading { outcome: faults.iter().fold(Outcome::quiet(), seen), ..reading(1) }
        };
        assert_eq!(complaints(of(&["inactive stream"]), of(&["GOAWAY"])), 1, "another kind");
        assert_eq!(complaints(of(&["inactive stream"]), of(&["inactive stream", "GOAWAY"])), 1);
        assert_eq!(complaints(of(&["GOAWAY"]), of(&["GOAWAY", "GOAWAY"])), 1, "more of the kind");
        assert_eq!(complaints(of(&["GOAWAY", "GOAWAY"]), of(&["GOAWAY"])), 0);
        assert_eq!(complaints(of(&["8 of 10 stay open"]), of(&["9 of 10 stay open"])), 0, "figures differ");
        assert_eq!(complaints(reading(1), Reading { terms: 1, dead: Some("no".into()), ..reading(1) }), 2);
    }
}
