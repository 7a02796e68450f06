//! Data directories put together of parts that do not belong together: refused by name, with nothing in them changed. A
//! directory that a first start left half made goes on.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use harness::{Client, Cluster, Options, etcd_binary};

use crate::support::{PATIENT, copy_all, get, is_etcd, no_panic, put, refused, run};

/// Stock etcd may take a while to compact, or to make a snapshot of its own.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What is known of a file or directory: kind and mode, length, last change, bytes.
type Found = (u32, u64, (i64, i64), Vec<u8>);

/// Everything below a directory.
fn contents(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, Found>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let bytes = if found.is_file() { fs::read(&path)? } else { Vec::new() };
            if found.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path, (found.mode(), found.len(), (found.mtime(), found.mtime_nsec()), bytes));
        }
    }
    Ok(all)
}

/// Our server on this directory ends with one line that holds all these words, and leaves the directory as it was.
pub(crate) fn check_refused(
    flags: &[String],
    data: &Path,
    folder: &Path,
    words: &[&str],
) -> anyhow::Result<()> {
    let before = contents(data)?;
    let (status, output) = refused(flags, folder)?;
    no_panic(&output);
    ensure!(status.code() == Some(1), "it ended with {status}:\n{output}");
    let last = output.lines().last().unwrap_or_default();
    for word in words {
        ensure!(last.contains(word), "{word:?} is not in: {last}");
    }
    let after = contents(data)?;
    for (path, was) in &before {
        ensure!(after.get(path) == Some(was), "{} was changed", path.display());
    }
    ensure!(before.len() == after.len(), "something was made: {:?}", after.keys().collect::<Vec<_>>());
    Ok(())
}

pub(crate) fn etcdutl(arguments: &[&str]) -> anyhow::Result<()> {
    let tool = etcd_binary()?.with_file_name("etcdutl");
    let done = Command::new(&tool).args(arguments).output().with_context(|| tool.display().to_string())?;
    ensure!(done.status.success(), "etcdutl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A stopped etcd member that held five keys, and the flags that it, or we, would start it with.
pub(crate) async fn etcds(flags: &[&str]) -> anyhow::Result<(Cluster, Client)> {
    let etcd_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let options = Options { etcd: vec![0], etcd_flags, ..Options::new(1) };
    let mut cluster = Cluster::start_with(&options)?;
    let client = cluster.client();
    for n in 0..50 {
        put(&client, 0, &format!("key/{}", n % 5), "theirs").await?;
    }
    cluster.stop(0)?;
    Ok((cluster, client))
}

#[test]
fn etcds_log_without_its_database_is_refused() {
    if is_etcd() {
        return;
    }
    run(async {
        let words = ["goes on from a state at index", "nothing was changed"];
        // With a snapshot record in the log; without one the log holds everything.
        let (cluster, _) = etcds(&["--snapshot-count=10"]).await?;
        let member = &cluster.members()[0];
        fs::remove_dir_all(member.data.join("member/snap"))?;
        check_refused(member.flags(), &member.data, cluster.folder(), &words)
    });
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut clusters = [Cluster::start(1)?, Cluster::start(1)?];
        for (n, cluster) in clusters.iter_mut().enumerate() {
            let client = cluster.client();
            for write in 0..10 + 20 * n {
                put(&client, 0, &format!("{n}/{write}"), "ours").await?;
            }
            cluster.stop(0)?;
        }
        let [one, other] = &clusters;
        let member = &one.members()[0];
        let (rows, log) = (member.data.join("member/kv"), member.data.join("member/wal"));
        let aside = one.folder().join("aside");
        // Rows and no log.
        fs::rename(&log, &aside)?;
        check_refused(member.flags(), &member.data, one.folder(), &["holds data but no log"])?;
        fs::rename(&aside, &log)?;
        // Rows of another cluster, older than this log and newer.
        fs::rename(&rows, &aside)?;
        copy_all(&other.members()[0].data.join("member/kv"), &rows)?;
        let (status, output) = refused(member.flags(), one.folder())?;
        let last = output.lines().last().unwrap_or_default();
        ensure!(status.code() == Some(1) && last.contains("refused"), "{output}");
        println!("{last}");
        Ok(())
    });
}

#[test]
fn rows_that_the_log_still_holds_whole_come_back() {
    if is_etcd() {
        return;
    }
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        put(&client, 0, "key", "value").await?;
        // What a crash in the middle of a first start leaves: a log, and no rows, or the beginning of some.
        for begun in [None, Some(""), Some("000001.dbtmp")] {
            cluster.kill(0)?;
            let rows = cluster.members()[0].data.join("member/kv");
            fs::remove_dir_all(&rows)?;
            if let Some(name) = begun {
                fs::create_dir(&rows)?;
                if !name.is_empty() {
                    fs::write(rows.join(name), "MANIF")?;
                }
            }
            cluster.restart(0)?;
            ensure!(get(&client, 0, "key").await?.as_deref() == Some("value"), "{begun:?}");
        }
        Ok(())
    });
}

#[test]
fn data_is_private_and_a_directory_that_is_not_is_warned_of() {
    run(async {
        let mut cluster = Cluster::prepare(&Options::new(1))?;
        let data = cluster.members()[0].data.clone();
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777))?;
        cluster.member(0).start()?;
        cluster.member(0).wait_ready()?;
        let warned =
            cluster.member(0).process()?.lines_with(&["check file permission", "drwxrwxrwx", "drwx------"]);
        ensure!(warned.len() == 1, "{warned:?}");
        for entry in fs::read_dir(data.join("member"))? {
            let (path, found) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            ensure!(
                !found.is_dir() || found.mode() & 0o777 == 0o700,
                "{} is {:o}",
                path.display(),
                found.mode()
            );
        }
        // Nobody is warned of one that is private.
        cluster.stop(0)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        cluster.restart(0)?;
        let warned = cluster.member(0).process()?.lines_with(&["check file permission"]);
        ensure!(warned.is_empty(), "{warned:?}");
        let client = cluster.client();
        tokio::time::timeout(PATIENT.max(READY_LIMIT), put(&client, 0, "key", "value")).await??;
        Ok(())
    });
}
