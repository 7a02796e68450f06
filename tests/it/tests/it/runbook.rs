//! docs/migration.md, command by command: its blocks are run in their order, on three etcd members and one more machine. What
//! a machine is there, is a folder and two ports here; `systemctl` is a script of ours.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use harness::{Addresses, Client, etcd_binary, server_binary};

use crate::support::{get, is_etcd, put, run};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/migration.md");
const SETTLE: Duration = Duration::from_secs(40);
const HEALTHY: Duration = Duration::from_secs(6);
/// A block waits for members to be healthy.
const BLOCK_SECONDS: &str = "120";

const SYSTEMCTL: &str = r#"#!/bin/bash
# systemctl start|stop UNIT, on the machine $HERE
set -u
pid=$HERE/$2.pid
case $1 in
start)
    set -a; . "$HERE/etc/etcd.env"; set +a
    setsid "$BIN/$2" >> "$HERE/$2.log" 2>&1 < /dev/null &
    echo $! > "$pid" ;;
stop)
    [ -f "$pid" ] || exit 0
    kill "$(cat "$pid")" 2> /dev/null
    for n in $(seq 300); do kill -0 "$(cat "$pid")" 2> /dev/null || break; sleep 0.1; done
    rm -f "$pid" ;;
esac
"#;

/// A block of commands: the section it stands in, and the machines it is for; none = anywhere.
#[derive(Debug)]
struct Block {
    section: String,
    on: Vec<char>,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut found, mut section, mut open) = (Vec::new(), String::new(), None::<String>);
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut section);
                }
            }
            (Some(text), "```") => {
                let first = text.lines().next().unwrap_or_default();
                let machines = first.strip_prefix("# on ").unwrap_or_default();
                let on = machines.split(", then on ").filter_map(|name| name.chars().next()).collect();
                found.push(Block { section: section.clone(), on, text: std::mem::take(text) });
                open = None;
            }
            (Some(text), line) => text.extend([line, "\n"]),
        }
    }
    found
}

/// Folders and ports that stand for machines.
struct Machines {
    root: PathBuf,
    names: Vec<(char, Addresses)>,
}

impl Machines {
    fn prepare(root: &Path) -> anyhow::Result<Self> {
        let names =
            "abcd".chars().map(|name| Ok((name, Addresses::free()?))).collect::<anyhow::Result<Vec<_>>>()?;
        let machines = Self { root: root.to_owned(), names };
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(root.join("backups"))?;
        fs::write(bin.join("systemctl"), SYSTEMCTL)?;
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755))?;
        let etcd = etcd_binary()?;
        for tool in ["etcd", "etcdctl", "etcdutl"] {
            std::os::unix::fs::symlink(etcd.with_file_name(tool), bin.join(tool))?;
        }
        std::os::unix::fs::symlink(fs::canonicalize(server_binary()?)?, bin.join("quorate"))?;
        let cluster = machines.names[..3].iter().map(|(name, at)| format!("{name}={}", at.peer_url()));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        for (name, at) in &machines.names {
            let (client, peer) = (at.client_url(), at.peer_url());
            let mut variables = vec![
                format!("ETCD_NAME={name}"),
                format!("ETCD_DATA_DIR={}", machines.here(*name).join("etcd").display()),
                format!("ETCD_LISTEN_CLIENT_URLS={client}"),
                format!("ETCD_ADVERTISE_CLIENT_URLS={client}"),
                format!("ETCD_LISTEN_PEER_URLS={peer}"),
                format!("ETCD_INITIAL_ADVERTISE_PEER_URLS={peer}"),
            ];
            if *name != 'd' {
                variables.push(format!("ETCD_INITIAL_CLUSTER={cluster}"));
            }
            fs::create_dir_all(machines.here(*name).join("etc"))?;
            fs::write(machines.here(*name).join("etc/etcd.env"), variables.join("\n") + "\n")?;
        }
        Ok(machines)
    }

    fn here(&self, name: char) -> PathBuf {
        self.root.join(name.to_string())
    }

    /// The page's names become ports and folders.
    fn translated(&self, text: &str, here: &Path) -> String {
        let mut text = text.to_owned();
        for (name, at) in &self.names {
            text = text.replace(&format!("http://{name}:2379"), &at.client_url());
            text = text.replace(&format!("http://{name}:2380"), &at.peer_url());
        }
        text.replace("/var/backups", &self.root.join("backups").display().to_string())
            .replace("/var/lib", &here.display().to_string())
            .replace("/etc/etcd.env", &here.join("etc/etcd.env").display().to_string())
    }

    fn run(&self, text: &str, on: Option<char>, endpoints: &str) -> anyhow::Result<()> {
        let here = on.map_or_else(|| self.root.join("anywhere"), |name| self.here(name));
        let env = here.join("etc/etcd.env");
        let script = format!(
            "set -eu; export ETCDCTL_ENDPOINTS={endpoints}\n[ ! -f {0} ] || . {0}\n{1}",
            env.display(),
            self.translated(text, &here)
        );
        let bin = self.root.join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
        let done = Command::new("timeout")
            .args([BLOCK_SECONDS, "bash", "-c", &script])
            .env("PATH", path)
            .env("BIN", &bin)
            .env("HERE", &here)
            .output()?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "{on:?}: {}\n{script}\n{said}", done.status);
        Ok(())
    }

    fn client(&self, on: &str) -> Client {
        let urls = self.names.iter().filter(|(name, _)| on.contains(*name)).map(|(_, at)| at.client_url());
        Client::new(urls)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for (name, _) in &self.names {
            for unit in ["etcd", "quorate"] {
                let pid = fs::read_to_string(self.here(*name).join(format!("{unit}.pid")));
                if let Ok(pid) = pid {
                    // It may have ended by itself.
                    let _ = Command::new("kill").args(["-9", pid.trim()]).status();
                }
            }
        }
    }
}

/// The end of each log, for whoever reads why a block failed.
fn tails(root: &Path) -> String {
    let mut all = String::new();
    for on in ["a", "b", "c", "d"] {
        for unit in ["etcd", "quorate"] {
            let text = fs::read_to_string(root.join(on).join(format!("{unit}.log"))).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            let head = format!("\n{unit} on {on}, from its log's end:\n");
            all.extend([head, last.join("\n")]);
        }
    }
    all
}

/// All these members serve, and hold the same; returns the revision.
async fn healthy(client: &Client) -> anyhow::Result<i64> {
    client.wait_leader(SETTLE).await?;
    let revision = client.revision(SETTLE).await?;
    client.same_hash(revision, SETTLE).await?;
    Ok(revision)
}

#[test]
fn every_command_of_the_runbook_works() {
    if is_etcd() {
        return;
    }
    run(async {
        let folder = tempfile::Builder::new().prefix("quorate-").tempdir()?;
        let machines = Machines::prepare(folder.path())?;
        for name in ['a', 'b', 'c'] {
            machines.run("systemctl start etcd", Some(name), "")?;
        }
        let all = machines.client("abc");
        all.wait_leader(SETTLE).await?;
        for n in 0..100 {
            put(&all, n % 3, &format!("key/{n}"), "v").await?;
        }
        // The first block exports the endpoints for those after it.
        let endpoints = machines.translated("http://a:2379,http://b:2379,http://c:2379", folder.path());
        let (blocks, mut raised) = (blocks(&fs::read_to_string(PAGE)?), 0);
        ensure!(blocks.len() == 12, "{} blocks: this test is to be read again", blocks.len());
        for (n, block) in blocks.iter().enumerate() {
            // Changes of members want five healthy seconds before: who reads takes longer.
            if block.section == "Live" {
                tokio::time::sleep(HEALTHY).await;
            }
            let lost = block.text.contains("FORCE_NEW_CLUSTER");
            if lost {
                for name in ['a', 'b'] {
                    machines.run("systemctl stop etcd", Some(name), "")?;
                    fs::remove_dir_all(machines.here(name).join("etcd"))?;
                }
            }
            let on = block.on.iter().copied().map(Some);
            for machine in if block.on.is_empty() { vec![None] } else { on.collect() } {
                let ran = machines.run(&block.text, machine, &endpoints);
                ran.with_context(|| format!("block {n}, in {:?}{}", block.section, tails(folder.path())))?;
            }
            if block.section == "By file" && block.text.contains("systemctl stop") {
                continue;
            }
            // In the middle of the section two of four members change places.
            let who = match (block.section.as_str(), n) {
                ("Live", 3) => "abcd",
                ("Live", 4) => "bcd",
                _ if lost => "c",
                _ => "abc",
            };
            let client = machines.client(who);
            let revision =
                healthy(&client).await.with_context(|| format!("after block {n}{}", tails(folder.path())))?;
            for key in 0..100 {
                let value = get(&client, key % who.len(), &format!("key/{key}")).await?;
                ensure!(value.as_deref() == Some("v"), "key {key} is gone after block {n}");
            }
            raised += usize::from(revision > (1 + i64::try_from(raised)?) * 1_000_000_000);
            println!("{}, block {n}, on {:?}: {who} hold revision {revision}", block.section, block.on);
        }
        ensure!(raised == 3, "the revision was raised {raised} times, not by each restore and when forced");
        Ok(())
    });
}
