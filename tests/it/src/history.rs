//! The checker: what a cluster holds, against what its clients were told.
//!
//! [`read`] walks every key back from the newest version to the first, one exact read a version,
//! and so sees everything that ever happened to it. [`check`] is pure: it takes that history and
//! the [`Record`] of a load and says what is wrong, or what it counted. The numbered promises are
//! those of the crate's chapter.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use tokio::task::JoinSet;

use crate::{Client, Record, Write, end_of_prefix};

/// Keys walked at a time.
const WALKS_MAX: usize = 32;

/// A read that is part of a check may meet an election.
const PATIENT: Duration = Duration::from_secs(10);

/// How often a read of a check is tried: members come and go while we look.
const ATTEMPTS_MAX: usize = 20;

/// One version of a key, as a server holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Where it was written.
    pub mod_revision: i64,
    /// Which version of its key it is.
    pub version: i64,
    /// The value of this version.
    pub value: Bytes,
}

/// Every version of every key, oldest first, up to one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// What it is the history up to.
    pub revision: i64,
    /// The versions of each key.
    pub keys: BTreeMap<Bytes, Vec<Version>>,
}

/// What a check counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Acknowledged writes, all of them found.
    pub acked: usize,
    /// Unanswered writes that had happened.
    pub unknown_done: usize,
    /// Unanswered writes that had not.
    pub unknown_not: usize,
    /// Linearizable reads, all of them fresh.
    pub reads: usize,
    /// The newest revision that was read.
    pub revision: i64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged writes all there and in order; of {} unanswered ones {} had happened; {} reads fresh; revision {}",
            self.acked,
            self.unknown_done + self.unknown_not,
            self.unknown_done,
            self.reads,
            self.revision
        )
    }
}

/// Reads the whole history below `prefix`, up to `revision`, from one member.
pub async fn read(client: &Client, at: usize, prefix: &str, revision: i64) -> anyhow::Result<History> {
    let all = RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: end_of_prefix(prefix.as_bytes()),
        revision,
        ..Default::default()
    };
    let newest = ask(client, at, all).await?;
    let mut keys = BTreeMap::new();
    let mut walks = JoinSet::new();
    let mut waiting = newest.kvs.into_iter();
    loop {
        while walks.len() < WALKS_MAX
            && let Some(kv) = waiting.next()
        {
            walks.spawn(walk(client.clone(), at, kv.key, revision));
        }
        let Some(walked) = walks.join_next().await else { break };
        let (key, versions) = walked.context("a walk panicked")??;
        keys.insert(key, versions);
    }
    Ok(History { revision, keys })
}

async fn walk(client: Client, at: usize, key: Bytes, newest: i64) -> anyhow::Result<(Bytes, Vec<Version>)> {
    let mut versions = Vec::new();
    let mut revision = newest;
    loop {
        let range = RangeRequest { key: key.clone(), revision, serializable: true, ..Default::default() };
        let Some(kv) = ask(&client, at, range).await?.kvs.pop() else { break };
        ensure!(kv.mod_revision <= revision, "a read of {key:?} at {revision} gave {}", kv.mod_revision);
        revision = kv.mod_revision - 1;
        versions.push(Version { mod_revision: kv.mod_revision, version: kv.version, value: kv.value });
        if revision == 0 || kv.version == 1 {
            break;
        }
    }
    versions.reverse();
    Ok((key, versions))
}

/// Reads each acknowledged write back at its own revision, at one member.
pub async fn check_acked(client: &Client, at: usize, writes: &[Write]) -> anyhow::Result<usize> {
    let mut reads = JoinSet::new();
    let mut checked = 0;
    for write in writes {
        let Some(revision) = write.acked else { continue };
        if reads.len() >= WALKS_MAX {
            reads.join_next().await.expect("there are reads").context("a read panicked")??;
        }
        reads.spawn(check_one(client.clone(), at, write.clone(), revision));
        checked += 1;
    }
    while let Some(read) = reads.join_next().await {
        read.context("a read panicked")??;
    }
    Ok(checked)
}

async fn check_one(client: Client, at: usize, write: Write, revision: i64) -> anyhow::Result<()> {
    let range = RangeRequest { key: write.key.clone(), revision, ..Default::default() };
    let found = ask(&client, at, range).await?.kvs.pop();
    match found {
        Some(kv) if kv.mod_revision == revision && kv.value == write.value => Ok(()),
        other => bail!(
            "LOST: {:?} was acknowledged at revision {revision}, where member {at} now has {other:?}",
            write.key
        ),
    }
}

async fn ask(client: &Client, at: usize, range: RangeRequest) -> anyhow::Result<RangeResponse> {
    let mut attempt = 1;
    loop {
        match client.range(at, range.clone(), PATIENT).await {
            Ok(answer) => return Ok(answer),
            Err(error) if attempt == ATTEMPTS_MAX => {
                return Err(error).with_context(|| format!("member {at} does not answer {range:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        attempt += 1;
    }
}

/// Holds a history to what clients were told.
///
/// `alone` says that nobody else wrote to the cluster, so that every revision after the record's
/// base must be one of the load's.
pub fn check(history: &History, record: &Record, alone: bool) -> anyhow::Result<Report> {
    let places = places(history, record)?;
    let mut report =
        Report { acked: 0, unknown_done: 0, unknown_not: 0, reads: 0, revision: history.revision };
    for write in &record.writes {
        match (write.acked, places.get(&write.value)) {
            (Some(revision), Some(place)) if place.revision == revision => report.acked += 1,
            (Some(revision), found) => bail!(
                "LOST: {:?} = {:?} was acknowledged at revision {revision}; it is at {:?}",
                write.key,
                write.value,
                found.map(|place| place.revision)
            ),
            (None, Some(_)) => report.unknown_done += 1,
            (None, None) => report.unknown_not += 1,
        }
        if let (Some(before), Some(place)) = (write.previous, places.get(&write.value)) {
            ensure!(
                place.previous == before,
                "{:?} at {}: its answer said the key was at {before} before, the history says {}",
                write.key,
                place.revision,
                place.previous
            );
        }
    }
    if alone {
        let happened = i64::try_from(places.len()).expect("fewer writes than i64 holds");
        ensure!(
            record.base + happened == history.revision,
            "{happened} writes after revision {} cannot lead to {}: a revision is missing or one was given twice",
            record.base,
            history.revision
        );
    }
    check_order(record)?;
    report.reads = check_reads(history, record)?;
    Ok(report)
}

/// Where a value stands in the history, and what its key was at before.
struct Place {
    revision: i64,
    previous: i64,
}

/// Every value of the history, each of which somebody must have written, once.
fn places<'a>(history: &'a History, record: &'a Record) -> anyhow::Result<HashMap<&'a Bytes, Place>> {
    let written: HashMap<&Bytes, &Bytes> = record.writes.iter().map(|w| (&w.value, &w.key)).collect();
    let mut places = HashMap::with_capacity(written.len());
    for (key, versions) in &history.keys {
        let mut previous = 0;
        for (number, version) in (1..).zip(versions) {
            let at = version.mod_revision;
            ensure!(
                version.version == number && at > previous,
                "{key:?} at {at} is version {}, expected version {number} after revision {previous}",
                version.version
            );
            ensure!(
                written.get(&version.value) == Some(&key),
                "{key:?} at {at} holds {:?}, which nobody wrote there",
                version.value
            );
            let place = Place { revision: at, previous };
            if let Some(other) = places.insert(&version.value, place) {
                bail!("{key:?} = {:?} happened twice, at {} and at {at}", version.value, other.revision);
            }
            previous = at;
        }
    }
    Ok(places)
}

/// What began after an answer was given comes after it; a read may be at the same revision.
fn check_order(record: &Record) -> anyhow::Result<()> {
    let writes = record.writes.iter().filter_map(|w| Some((w.started, w.ended, w.acked?, 1, &w.key)));
    let reads = record.reads.iter().map(|r| (r.started, r.ended, r.revision, 0, &r.key));
    let mut by_start: Vec<_> = writes.chain(reads).collect();
    by_start.sort_unstable_by_key(|event| event.0);
    let mut by_end: Vec<(Instant, i64)> = by_start.iter().map(|event| (event.1, event.2)).collect();
    by_end.sort_unstable();
    let (mut told, mut ended) = (0, by_end.iter().peekable());
    for (started, _, revision, least, key) in by_start {
        while let Some((_, earlier)) = ended.next_if(|(end, _)| *end < started) {
            told = told.max(*earlier);
        }
        let what = if least == 0 { "STALE: a read" } else { "OUT OF ORDER: a write" };
        ensure!(
            revision >= told + least,
            "{what} of {key:?} that began after revision {told} had been answered was given {revision}"
        );
    }
    Ok(())
}

/// Each read against the history at the revision it reports.
fn check_reads(history: &History, record: &Record) -> anyhow::Result<usize> {
    for read in &record.reads {
        let none = Vec::new();
        let versions = history.keys.get(&read.key).unwrap_or(&none);
        let upto = versions.partition_point(|version| version.mod_revision <= read.revision);
        let expected = versions[..upto].last().map(|version| (version.mod_revision, version.value.clone()));
        ensure!(
            read.found == expected,
            "STALE: a read of {:?} at revision {} found {:?}, the history has {expected:?}",
            read.key,
            read.revision,
            read.found
        );
    }
    Ok(record.reads.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Read;

    /// `history`: "key@rev=value …"; `record`: "key=value@rev" (`?` = unanswered) and "read key@rev=value@mod",
    /// one after the other in time. Gives the report or the first words of the complaint.
    fn verdict(history: &str, record: &str) -> String {
        let mut held = History::default();
        for word in history.split_whitespace() {
            let (key, rest) = word.split_once('@').expect("key@rev=value");
            let (revision, value) = rest.split_once('=').expect("rev=value");
            let revision: i64 = revision.parse().expect("a number");
            let versions: &mut Vec<Version> = held.keys.entry(Bytes::from(key.to_owned())).or_default();
            let version = 1 + i64::try_from(versions.len()).expect("few");
            versions.push(Version { mod_revision: revision, version, value: Bytes::from(value.to_owned()) });
            held.revision = held.revision.max(revision);
        }
        let mut told = Record { base: 1, ..Record::default() };
        let mut now = Instant::now();
        for word in record.split_whitespace() {
            let started = now;
            let ended = now + Duration::from_millis(1);
            now += Duration::from_millis(2);
            if let Some(read) = word.strip_prefix("read:") {
                let (key, rest) = read.split_once('@').expect("key@rev=value");
                let (revision, found) = rest.split_once('=').expect("rev=value@mod");
                let found = found
                    .split_once('@')
                    .map(|(value, at)| (at.parse().expect("a number"), Bytes::from(value.to_owned())));
                let revision = revision.parse().expect("a number");
                told.reads.push(Read { key: Bytes::from(key.to_owned()), started, ended, revision, found });
            } else {
                let (key, rest) = word.split_once('=').expect("key=value@rev");
                let (value, acked) = rest.split_once('@').expect("value@rev");
                let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
                told.writes.push(Write {
                    key,
                    value,
                    started,
                    ended,
                    acked: acked.parse().ok(),
                    previous: None,
                });
            }
        }
        match check(&held, &told, true) {
            Ok(report) => format!("ok {} {} {}", report.acked, report.unknown_done, report.reads),
            Err(error) => error.to_string(),
        }
    }

    fn check_verdict(history: &str, record: &str, begins: &str) {
        let verdict = verdict(history, record);
        assert!(verdict.starts_with(begins), "{history} | {record}: {verdict}");
    }

    #[test]
    fn what_was_acknowledged_is_there_at_its_revision() {
        check_verdict("a@2=x a@4=z b@3=y", "a=x@2 b=y@3 a=z@4", "ok 3 0 0");
        check_verdict("a@2=x", "a=x@2 b=y@3", "LOST: b\"b\"");
        check_verdict("a@3=x b@2=y", "a=x@2 b=y@3", "LOST");
        check_verdict("", "a=x@0", "LOST");
    }

    #[test]
    fn an_unanswered_write_may_be_there_once() {
        check_verdict("a@2=x a@3=y", "a=x@2 a=y@?", "ok 1 1 0");
        check_verdict("a@2=x", "a=x@2 a=y@?", "ok 1 0 0");
        check_verdict("a@2=x a@3=x", "a=x@?", "b\"a\" = b\"x\" happened twice");
    }

    #[test]
    fn nothing_is_invented_and_no_revision_is_missing() {
        check_verdict("a@2=x b@3=q", "a=x@2", "b\"b\" at 3 holds b\"q\", which nobody wrote");
        check_verdict("a@2=x a@4=y", "a=x@2 a=y@4", "2 writes after revision 1 cannot lead to 4");
    }

    #[test]
    fn later_requests_come_later_and_reads_are_fresh() {
        check_verdict("a@3=x b@2=y", "a=x@3 b=y@2", "OUT OF ORDER");
        check_verdict("a@2=x a@3=y", "a=x@2 a=y@3 read:a@3=y@3", "ok 2 0 1");
        check_verdict("a@2=x a@3=y", "a=x@2 a=y@3 read:a@2=x@2", "STALE: a read");
        check_verdict("a@2=x a@3=y", "a=x@2 a=y@3 read:a@3=x@2", "STALE: a read of");
        check_verdict("a@2=x", "read:a@1= a=x@2", "ok 1 0 1");
    }
}
