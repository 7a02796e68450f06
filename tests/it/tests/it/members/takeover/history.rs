//! What watchers were told, and what it must have been.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use harness::end_of_prefix;
use proto::{
    etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use tokio_stream::StreamExt as _;
use tonic::Request;

use super::load::{ALL, BRIEF, KEPT, Stage};

/// Ranges that are watched by themselves, too: a tenth of the keys, and the keys of leases that nobody renews.
const PARTS: [&str; 2] = ["takeover/k/1", BRIEF];

/// Digest of the events of one revision: what, key, value, lease, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Digest {
    /// The digest of no events.
    pub(super) const NONE: Self = Self(0xcbf2_9ce4_8422_2325);

    pub(super) fn put(self, key: &[u8], value: &[u8], lease: i64) -> Self {
        self.mix(b"put").mix(key).mix(value).mix(&lease.to_le_bytes())
    }

    pub(super) fn delete(self, key: &[u8]) -> Self {
        self.mix(b"delete").mix(key)
    }

    fn event(self, is_put: bool, kv: &KeyValue) -> Self {
        if is_put { self.put(&kv.key, &kv.value, kv.lease) } else { self.delete(&kv.key) }
    }

    /// FNV-1a, with the length before the bytes.
    fn mix(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("keys and values are short").to_le_bytes();
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(length.iter().chain(bytes).fold(self.0, step))
    }
}

/// The number of the request that wrote this value, which no other did.
fn writer(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value.get(..16)?).ok()?, 16).ok()
}

/// What one watcher was told of one range: a digest for each revision.
type Told = Vec<(i64, Digest)>;

/// Keys with their revisions and values.
pub(super) type Keys = BTreeMap<Bytes, (i64, Bytes)>;

/// One watcher, or what became of it.
#[derive(Default)]
struct Watcher {
    /// Of everything it watches; of each of [`PARTS`] if it watches everything.
    told: Told,
    parts: [Told; 2],
    keys: Keys,
    /// Revision of each request whose value was seen.
    writers: BTreeMap<u64, i64>,
    doubled_writes: Vec<u64>,
    disorder: Vec<String>,
    /// Times that its stream broke, and it went on elsewhere.
    resumed: u64,
}

impl Watcher {
    fn next(&self, from: i64) -> i64 {
        self.told.last().map_or(from, |(revision, _)| revision + 1)
    }

    /// One answer. All events of a revision come in one: a second one of the same revision is a doubled one.
    fn note(&mut self, answer: WatchResponse) {
        let before = self.told.last().map_or(0, |(revision, _)| *revision);
        for event in answer.events {
            let is_put = event.r#type() == EventType::Put;
            let Event { kv: Some(kv), .. } = event else {
                self.disorder.push("an event of no key".to_owned());
                continue;
            };
            let revision = kv.mod_revision;
            let newest = self.told.last().map_or(0, |(revision, _)| *revision);
            if revision <= before || revision < newest {
                self.disorder.push(format!("revision {revision} after {newest}"));
                continue;
            }
            append(&mut self.told, revision, is_put, &kv);
            for (part, told) in PARTS.iter().zip(&mut self.parts) {
                if kv.key.starts_with(part.as_bytes()) {
                    append(told, revision, is_put, &kv);
                }
            }
            if let Some(number) = writer(&kv.value)
                && self.writers.insert(number, revision).is_some_and(|other| other != revision)
            {
                self.doubled_writes.push(number);
            }
            if is_put {
                self.keys.insert(kv.key, (revision, kv.value));
            } else {
                self.keys.remove(&kv.key);
            }
        }
    }
}

fn append(told: &mut Told, revision: i64, is_put: bool, kv: &KeyValue) {
    match told.last_mut() {
        Some((last, digest)) if *last == revision => *digest = digest.event(is_put, kv),
        _ => told.push((revision, Digest::NONE.event(is_put, kv))),
    }
}

/// How a watcher asks.
#[derive(Clone, Copy)]
struct Ask {
    prefix: &'static str,
    prev_kv: bool,
    progress: bool,
    /// etcd ends such a watch where there is no leader, as Kubernetes and clientv3's locks want it.
    leader: bool,
}

/// All watchers of a round: three of everything, one of each part.
pub(super) struct Watchers {
    from: i64,
    tasks: Vec<(tokio::task::JoinHandle<()>, Arc<std::sync::Mutex<Watcher>>)>,
}

impl Watchers {
    /// Watches from revision `from` on, before which there were these keys.
    pub(super) fn start(stage: &Arc<Stage>, from: i64, keys: &Keys) -> Self {
        let plain = Ask { prefix: ALL, prev_kv: false, progress: false, leader: false };
        let asks = [
            Ask { leader: true, ..plain },
            Ask { progress: true, ..plain },
            Ask { prev_kv: true, ..plain },
            Ask { prefix: PARTS[0], ..plain },
            Ask { prefix: PARTS[1], leader: true, ..plain },
        ];
        let tasks = asks.into_iter().enumerate().map(|(number, ask)| {
            let watcher =
                Arc::new(std::sync::Mutex::new(Watcher { keys: keys.clone(), ..Default::default() }));
            let task = tokio::spawn(watch(Arc::clone(stage), number, ask, from, Arc::clone(&watcher)));
            (task, watcher)
        });
        Self { from, tasks: tasks.collect() }
    }

    /// Waits until each has been told of the newest revision that concerns it, and compares. `acknowledged`: writes
    /// with their revisions. Returns the keys that must be there.
    pub(super) async fn judge(
        self,
        newest: i64,
        acknowledged: &[(i64, Digest)],
        limit: Duration,
    ) -> anyhow::Result<Keys> {
        let begun = Instant::now();
        let is_behind = |watchers: &Self| {
            watchers.tasks[..3].iter().any(|(_, watcher)| watcher.lock().unwrap().next(0) <= newest)
        };
        while is_behind(&self) && begun.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Watchers of a part cannot be seen to be behind.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut watchers = Vec::new();
        for (number, (task, watcher)) in self.tasks.into_iter().enumerate() {
            ensure!(!task.is_finished(), "watcher {number} gave up");
            task.abort();
            let watcher = std::mem::take(&mut *watcher.lock().unwrap());
            ensure!(watcher.disorder.is_empty(), "watcher {number}: {:?}", watcher.disorder);
            watchers.push(watcher);
        }
        compare(&watchers, self.from, newest, acknowledged)?;
        let resumed: Vec<u64> = watchers.iter().map(|watcher| watcher.resumed).collect();
        println!(
            "  {} watchers were told the same of {} revisions; streams resumed: {resumed:?}",
            watchers.len(),
            newest - self.from + 1
        );
        Ok(watchers.swap_remove(0).keys)
    }
}

fn compare(
    watchers: &[Watcher],
    from: i64,
    newest: i64,
    acknowledged: &[(i64, Digest)],
) -> anyhow::Result<()> {
    let all = &watchers[0];
    // Everything is watched, so every revision has an event.
    let revisions = from..=newest;
    for (number, watcher) in watchers[..3].iter().enumerate() {
        let told: BTreeSet<i64> = watcher.told.iter().map(|(revision, _)| *revision).collect();
        let missed: Vec<i64> =
            revisions.clone().filter(|revision| !told.contains(revision)).take(5).collect();
        ensure!(missed.is_empty(), "watcher {number} missed revisions, from {missed:?} on");
        ensure!(watcher.told == all.told, "watcher {number} was told otherwise than watcher 0");
    }
    for (part, watcher) in watchers[3..].iter().enumerate() {
        let (told, expected) = (&watcher.told, &all.parts[part]);
        let same = told.iter().zip(expected).take_while(|(told, expected)| told == expected).count();
        ensure!(
            told == expected && !told.is_empty(),
            "the watcher of {} was told of {} revisions instead of {}; the first {same} are the same",
            PARTS[part],
            told.len(),
            expected.len()
        );
    }
    let of: BTreeMap<i64, Digest> = all.told.iter().copied().collect();
    let lost: Vec<_> =
        acknowledged.iter().filter(|(revision, digest)| of.get(revision) != Some(digest)).collect();
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged writes are not in the history: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(5)]
    );
    ensure!(all.doubled_writes.is_empty(), "writes happened twice: {:?}", all.doubled_writes);
    Ok(())
}

/// Watches as clientv3 does: if a stream breaks it goes on from the next revision, at somebody else.
async fn watch(
    stage: Arc<Stage>,
    number: usize,
    ask: Ask,
    from: i64,
    watcher: Arc<std::sync::Mutex<Watcher>>,
) {
    for at in number.. {
        let client = stage.client();
        let create = WatchCreateRequest {
            key: ask.prefix.into(),
            range_end: end_of_prefix(ask.prefix.as_bytes()),
            start_revision: watcher.lock().unwrap().next(from),
            prev_kv: ask.prev_kv,
            progress_notify: ask.progress,
            ..Default::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let mut request = Request::new(tokio_stream::iter([create]).chain(tokio_stream::pending()));
        if ask.leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
        }
        if let Ok(answers) = WatchClient::new(client.channel(at % client.size())).watch(request).await {
            let mut answers = answers.into_inner();
            while let Some(Ok(answer)) = answers.next().await {
                if answer.compact_revision != 0 {
                    stage.violation(format!(
                        "watcher {number}: it was compacted at {}",
                        answer.compact_revision
                    ));
                }
                if answer.canceled {
                    break;
                }
                if number == 0 {
                    judge_deletes(&stage, &answer);
                }
                watcher.lock().unwrap().note(answer);
            }
        }
        watcher.lock().unwrap().resumed += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Keys of leases: none goes while its lease is renewed, or before the time that it was promised.
fn judge_deletes(stage: &Stage, answer: &WatchResponse) {
    let now = Instant::now();
    for event in answer.events.iter().filter(|event| event.r#type() == EventType::Delete) {
        let key =
            event.kv.as_ref().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).unwrap_or_default();
        if key.starts_with(KEPT) {
            stage.violation(format!("{key} went with its lease, which was renewed"));
        } else if let Some(lease) = key.strip_prefix(BRIEF) {
            stage.lease_ended(lease, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five watchers that were told of a put of each of these revisions, and the digests.
    fn watchers(revisions: &[i64]) -> (Vec<Watcher>, Vec<(i64, Digest)>) {
        let events = revisions.iter().map(|revision| {
            let key = if revision % 2 == 0 { format!("{}/x", PARTS[0]) } else { format!("{BRIEF}x") };
            let value = Bytes::from(format!("{revision:016x}"));
            let kv = KeyValue { key: key.into(), value, mod_revision: *revision, ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        });
        let mut watchers: Vec<Watcher> = (0..5).map(|_| Watcher::default()).collect();
        for event in events {
            for (number, watcher) in watchers.iter_mut().enumerate() {
                let kv = event.kv.as_ref().expect("it has one");
                if number < 3 || kv.key.starts_with(PARTS[number - 3].as_bytes()) {
                    watcher.note(WatchResponse { events: vec![event.clone()], ..Default::default() });
                }
            }
        }
        let told = watchers[0].told.clone();
        (watchers, told)
    }

    fn check(watchers: &[Watcher], acknowledged: &[(i64, Digest)], expected: &str) {
        let found =
            compare(watchers, 5, 8, acknowledged).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            found.contains(expected) && found.is_empty() == expected.is_empty(),
            "{found:?}, not {expected:?}"
        );
    }

    #[test]
    fn what_watchers_missed_and_what_was_lost_is_found() {
        let (mut all, told) = watchers(&[5, 6, 7, 8]);
        check(&all, &told, "");
        check(&all, &[(6, Digest::NONE.delete(b"k"))], "not in the history");
        check(&all, &[(9, told[0].1)], "not in the history");
        let missed = all[1].told.remove(2);
        check(&all, &told, "watcher 1 missed revisions");
        all[1].told.insert(2, (missed.0, Digest::NONE));
        check(&all, &told, "told otherwise");
        all[1].told[2] = missed;
        all[3].told.pop();
        check(&all, &told, "told of 1 revisions instead of 2");
    }

    #[test]
    fn events_that_come_again_are_found() {
        let (mut all, _) = watchers(&[5, 6]);
        let again = |key: &str, writer: u64, mod_revision| {
            let kv = KeyValue {
                key: key.to_owned().into(),
                value: format!("{writer:016x}").into(),
                mod_revision,
                ..Default::default()
            };
            WatchResponse { events: vec![Event { kv: Some(kv), ..Default::default() }], ..Default::default() }
        };
        all[0].note(again("k", 9, 7));
        assert!(all[0].disorder.is_empty() && all[0].doubled_writes.is_empty());
        all[0].note(again("k", 9, 8));
        assert_eq!(all[0].doubled_writes, [9], "a write in two revisions");
        for revision in [8, 5] {
            all[0].disorder.clear();
            all[0].note(again("k", 10, revision));
            assert_eq!(all[0].disorder.len(), 1, "revision {revision} once more");
        }
    }
}
