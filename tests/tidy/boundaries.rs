//! What a crate may know.

use crate::{check, packages, read, root, shipped, shown, sources};
use std::fs;

/// Crates that take `now` and draw no dice: the simulator runs them, and apply must be the same everywhere.
const PURE: &[&str] = &["types", "gotext", "bbolt", "engine", "mvcc", "lease", "watch", "machine"];
/// What a pure crate must not name.
const IMPURE: &[&str] =
    &["Instant::now", "SystemTime", "rand::", "tokio", "std::net", "std::thread", "thread::spawn"];

#[test]
fn pure_crates_know_no_clock_no_dice_no_socket_and_no_thread() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        let name = shown(&path);
        let is_pure = PURE.iter().any(|krate| name.starts_with(&format!("crates/{krate}/src/")));
        let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
        if !is_pure || is_test {
            continue;
        }
        for (number, line) in shipped(&text).lines().enumerate() {
            let code = line.split("//").next().expect("split gives at least one part");
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                complaints.push(format!("{name}:{}: names {word}", number + 1));
            }
        }
    }
    check(&complaints);
}

#[test]
fn boundaries_stand_in_the_manifests() {
    let mut complaints = Vec::new();
    let mut allow = |dependency: &str, owners: &[&str]| {
        for entry in fs::read_dir(root().join("crates")).expect("crates/") {
            let manifest = entry.expect("a directory entry").path().join("Cargo.toml");
            let name = shown(manifest.parent().expect("a manifest lies in a directory"));
            let Ok(text) = fs::read_to_string(&manifest) else { continue };
            let names = text.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(dependency));
            if names && !owners.iter().any(|owner| name == format!("crates/{owner}")) {
                complaints.push(format!("{name} depends on {dependency}, which belongs to {owners:?}"));
            }
        }
    };
    allow("rocksdb", &["engine-rocks"]);
    allow("raft", &["raft-node"]);
    allow("tonic", &["api", "ctl", "proto"]);
    check(&complaints);
}

#[test]
fn every_dependency_of_the_workspace_is_some_crates() {
    let manifests: Vec<String> =
        packages().iter().map(|package| read(&format!("{package}/Cargo.toml"))).collect();
    let unused = unused_dependencies(&read("Cargo.toml"), &manifests);
    let complaints = unused.iter().map(|name| format!("Cargo.toml: no crate depends on {name}"));
    check(&complaints.collect::<Vec<_>>());
}

/// The names in `[workspace.dependencies]` that no manifest takes from there.
fn unused_dependencies(workspace: &str, manifests: &[String]) -> Vec<String> {
    let (_, rest) = workspace.split_once("[workspace.dependencies]\n").expect("the workspace's dependencies");
    let table = rest.split("\n[").next().expect("split gives at least one part");
    let names = table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let is_used = |name: &str| {
        let ways = [format!("{name}.workspace = true"), format!("{name} = {{ workspace = true")];
        let mut lines = manifests.iter().flat_map(|manifest| manifest.lines());
        lines.any(|line| ways.iter().any(|way| line.starts_with(way)))
    };
    names.map(|(name, _)| name.to_owned()).filter(|name| !is_used(name)).collect()
}

#[test]
fn an_unused_dependency_is_found() {
    let workspace =
        "[workspace.dependencies]\n# ours\na = { path = \"a\" }\nb = \"1\"\nc = \"2\"\n\n[lints]\nd = 1\n";
    let manifests =
        ["[dependencies]\na.workspace = true\n", "bb.workspace = true\nc = { workspace = true, x = 1 }\n"];
    assert_eq!(unused_dependencies(workspace, &manifests.map(str::to_owned)), ["b"]);
}
