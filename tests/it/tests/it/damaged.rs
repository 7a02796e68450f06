//! Every file of a member's directory, damaged in every way. The member ends with a line that says what is wrong, or it
//! serves exactly what it held: never something else.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use harness::{Client, Cluster, Options, READY};
use proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use proto::mvccpb::KeyValue;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::support::{PATIENT, copy_all, is_etcd, no_panic, number, run, seed};

/// How long a damaged member may take until it serves or has ended.
const DECIDED: Duration = Duration::from_mins(1);
/// How long a member that fails a read may take to end.
const END: Duration = Duration::from_secs(10);
/// Values so large that the log has two segments (64 MB each).
const LARGE: usize = 256 << 10;
const LARGE_KEYS: usize = 260;

/// What is done to one file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Removed,
    Emptied,
    /// Cut in the middle of what is written in it.
    Halved,
    /// The last byte that is not zero is gone.
    Shortened,
    /// One bit is another one.
    Flipped,
    /// 4 KiB of zeros, as of a page that never reached the disk.
    Zeroed,
    /// What it was at the orderly stop before the last run.
    Yesterdays,
}

/// All that clients can read.
#[derive(Debug, PartialEq)]
struct State {
    kvs: Vec<KeyValue>,
    older: Vec<KeyValue>,
    hash: (u32, i64),
}

/// A member, its directory as it was at two moments, and what it held at the later one.
struct Subject {
    cluster: Cluster,
    today: PathBuf,
    yesterday: PathBuf,
    state: State,
    older: i64,
}

async fn state(client: &Client, older: i64) -> anyhow::Result<State> {
    let all = |revision| RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        revision,
        ..Default::default()
    };
    let kvs = client.range(0, all(0), PATIENT).await?.kvs;
    let older = client.range(0, all(older), PATIENT).await?.kvs;
    Ok(State { kvs, older, hash: client.hash_kv(0, 0).await? })
}

async fn put(client: &Client, key: String, value: Vec<u8>) -> anyhow::Result<()> {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    client.put(0, put, PATIENT).await?;
    Ok(())
}

/// Puts, changes and removes small keys.
async fn small_writes(client: &Client, random: &mut SmallRng, count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        let key = format!("small/{:03}", random.random_range(0..200));
        if random.random_range(0..5) == 0 {
            client.kv(0).delete_range(DeleteRangeRequest { key: key.into(), ..Default::default() }).await?;
        } else {
            put(client, key, vec![b'v'; random.random_range(0..500)]).await?;
        }
    }
    Ok(())
}

impl Subject {
    async fn new(random: &mut SmallRng) -> anyhow::Result<Self> {
        let mut cluster = Cluster::prepare(&Options::new(1))?;
        cluster.member(0).start()?;
        cluster.member(0).wait_ready()?;
        let client = cluster.client();
        for n in 0..LARGE_KEYS {
            put(&client, format!("large/{:02}", n % 40), vec![b'a' + u8::try_from(n % 26)?; LARGE]).await?;
        }
        small_writes(&client, random, 300).await?;
        let revision = client.revision(PATIENT).await?;
        client.kv(0).compact(CompactionRequest { revision: revision - 100, physical: true }).await?;
        cluster.stop(0)?;
        let (data, folder) = (cluster.members()[0].data.clone(), cluster.folder().to_owned());
        let (today, yesterday) = (folder.join("today"), folder.join("yesterday"));
        copy_all(&data, &yesterday)?;
        cluster.restart(0)?;
        small_writes(&client, random, 300).await?;
        let older = client.revision(PATIENT).await? - 50;
        let state = state(&client, older).await?;
        cluster.kill(0)?;
        copy_all(&data, &today)?;
        Ok(Self { cluster, today, yesterday, state, older })
    }

    /// All files of the directory.
    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.today.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&self.today)?.to_owned());
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Damages one file of a fresh copy; false if that changes nothing.
    fn damage(&self, file: &Path, damage: Damage, random: &mut SmallRng) -> anyhow::Result<bool> {
        let data = &self.cluster.members()[0].data;
        fs::remove_dir_all(data)?;
        copy_all(&self.today, data)?;
        let path = data.join(file);
        let before = fs::read(&path)?;
        let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut after = before.clone();
        match damage {
            Damage::Removed => {
                fs::remove_file(&path)?;
                return Ok(true);
            }
            Damage::Yesterdays => match fs::read(self.yesterday.join(file)) {
                Ok(old) => after = old,
                Err(_) => return Ok(false),
            },
            _ if used == 0 => return Ok(false),
            Damage::Emptied => after.clear(),
            Damage::Halved => after.truncate(used / 2),
            Damage::Shortened => after.truncate(used - 1),
            Damage::Flipped => after[random.random_range(0..used)] ^= 1 << random.random_range(0..8),
            Damage::Zeroed => {
                let at = random.random_range(0..used);
                let end = (at + 4096).min(after.len());
                after[at..end].fill(0);
            }
        }
        if after != before {
            fs::write(&path, &after)?;
        }
        Ok(after != before)
    }

    /// Starts the member on its damaged directory; how that ended.
    async fn outcome(&mut self) -> anyhow::Result<String> {
        let client = self.cluster.client();
        self.cluster.member(0).start()?;
        let (older, begun) = (self.older, Instant::now());
        loop {
            let process = self.cluster.member(0).process()?;
            if process.ended()?.is_some() {
                return self.ended();
            }
            if process.output().contains(READY) {
                break;
            }
            ensure!(begun.elapsed() < DECIDED, "neither served nor ended: {}", process.tail(5));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match state(&client, older).await {
            Ok(found) => {
                compare(&found, &self.state)?;
                put(&client, "small/after".to_owned(), b"written".to_vec()).await?;
                self.cluster.kill(0)?;
                Ok("serves what it held".to_owned())
            }
            // A read that fails ends it.
            Err(error) => {
                let process = self.cluster.member(0).process()?;
                process.wait_end(END).with_context(|| format!("a read failed: {error:#}"))?;
                self.ended()
            }
        }
    }

    /// The line with which it ended.
    fn ended(&mut self) -> anyhow::Result<String> {
        let process = self.cluster.member(0).process()?;
        let (status, output) = (process.wait_end(END)?, process.output());
        no_panic(&output);
        ensure!(status.code() == Some(1), "it ended with {status}: {}", process.tail(5));
        let last = output.lines().last().unwrap_or_default().to_owned();
        self.cluster.member(0).kill()?;
        let is_clear = last.contains("\"the member stops\"")
            && last.contains(&self.cluster.members()[0].data.display().to_string());
        ensure!(is_clear, "no line that says what is wrong and where: {last}");
        let error = last.split_once("\"error\":").map_or(last.as_str(), |(_, error)| error);
        Ok(format!("ends: {error}"))
    }
}

fn compare(found: &State, expected: &State) -> anyhow::Result<()> {
    let keys =
        |kvs: &[KeyValue]| kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect::<BTreeMap<_, _>>();
    for (found, expected, what) in
        [(&found.kvs, &expected.kvs, "now"), (&found.older, &expected.older, "at the older revision")]
    {
        let (found, expected) = (keys(found), keys(expected));
        let other = expected.iter().find(|(key, kv)| found.get(*key) != Some(*kv));
        if let Some((key, kv)) = other {
            bail!(
                "{what} {key:?} of revision {} is {:?}",
                kv.mod_revision,
                found.get(key).map(|kv| kv.mod_revision)
            );
        }
        ensure!(found.len() == expected.len(), "{what} there are {} keys of {}", found.len(), expected.len());
    }
    ensure!(found.hash == expected.hash, "HashKV {:?} was {:?}", found.hash, expected.hash);
    Ok(())
}

#[test]
fn a_member_with_a_damaged_file_ends_with_a_line_or_serves_what_it_held() {
    if is_etcd() {
        return;
    }
    run(async {
        let seed = seed();
        println!("IT_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut subject = Subject::new(&mut random).await?;
        let places = usize::try_from(number("IT_DAMAGES", 1))?;
        let once = [Damage::Removed, Damage::Emptied, Damage::Halved, Damage::Shortened, Damage::Yesterdays];
        let often = std::iter::repeat_n([Damage::Flipped, Damage::Zeroed], places).flatten();
        let damages: Vec<Damage> = once.into_iter().chain(often).collect();
        let (mut tried, mut wrong) = (0, Vec::new());
        for file in subject.files()? {
            for damage in &damages {
                if !subject.damage(&file, *damage, &mut random)? {
                    continue;
                }
                tried += 1;
                let case = format!("{} {damage:?}", file.display());
                match subject.outcome().await {
                    Ok(outcome) => println!("{case}: {outcome}"),
                    Err(error) => {
                        println!("{case}: WRONG: {error:#}");
                        wrong.push(case);
                    }
                }
                let _ = subject.cluster.member(0).kill();
            }
        }
        println!("{tried} damaged files");
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    });
}
