//! Style as a test: what a reviewer should not have to say twice.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file may have; most should stay under 500.
const FILE_LINES_MAX: usize = 800;
/// Columns a line may have, rustfmt's `max_width`; strings and tables are what rustfmt cannot break.
const LINE_COLUMNS_MAX: usize = 160;
/// Crates that take `now` and draw no dice: the simulator runs them, and apply must be the same everywhere.
const PURE: &[&str] = &["types", "engine", "mvcc", "lease", "watch", "machine"];
/// What a pure crate must not name.
const IMPURE: &[&str] =
    &["Instant::now", "SystemTime", "rand::", "tokio", "std::net", "std::thread", "thread::spawn"];
/// What nothing may be committed with.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for dir in ["src", "crates", "tests", "demo", "bench"] {
        collect(&root().join(dir), &mut files);
    }
    files.push(root().join("build.rs"));
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a source file is UTF-8")))
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Fails with every complaint at once.
fn check(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The file's text up to its unit tests: the part that ships.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().expect("split gives at least one part")
}

#[test]
fn every_file_opens_with_what_it_is_and_is_not_too_long() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            complaints.push(format!("{}: does not open with a //! chapter", shown(&path)));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines, the limit is {FILE_LINES_MAX}", shown(&path)));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS_MAX && !shown(&path).ends_with("flags.rs") {
                complaints.push(format!(
                    "{}:{}: longer than {LINE_COLUMNS_MAX} columns",
                    shown(&path),
                    number + 1
                ));
            }
        }
    }
    check(&complaints);
}

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
fn nothing_unfinished_is_committed() {
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", shown(&path), number + 1));
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

/// Option structs whose fields are limits: where they stand, and their names.
const LIMITS: &[(&str, &str)] = &[
    ("crates/wal/src/options.rs", "Options"),
    ("crates/engine-rocks/src/options.rs", "Options"),
    ("crates/mvcc/src/options.rs", "Options"),
    ("crates/mvcc/src/options.rs", "Shape"),
    ("crates/machine/src/limits.rs", "Limits"),
    ("crates/raft-node/src/limits.rs", "Limits"),
    ("crates/transport/src/limits.rs", "Limits"),
    ("crates/watch/src/limits.rs", "Limits"),
    ("crates/api/src/lib.rs", "Limits"),
    ("crates/api/src/watch/mod.rs", "WatchLimits"),
    ("crates/api/src/wire.rs", "Wire"),
    ("crates/api/src/budget.rs", "Options"),
    ("crates/api/src/slow.rs", "WorkLimits"),
    ("crates/api/src/zip.rs", "Compression"),
    ("crates/api/src/snapshot.rs", "Snapshots"),
    ("crates/api/src/snapshot.rs", "Pace"),
    ("crates/gateway/src/work.rs", "WorkLimits"),
    ("src/descriptors.rs", "Options"),
    ("src/logging/sampler.rs", "Sampling"),
    ("src/logging/writer.rs", "Queue"),
];

/// Files whose constants are limits too: each that is named so must stand in the page.
const CONSTANTS: &[&str] = &[
    "crates/api/src/watch/mod.rs",
    "crates/api/src/watch/requests.rs",
    "crates/gateway/src/lib.rs",
    "crates/lease/src/expirer.rs",
    "crates/machine/src/machine.rs",
    "crates/mvcc/src/compaction.rs",
    "src/server.rs",
];
/// What the names of such constants have in them.
const LIMITING: &[&str] = &["_MAX", "PER_SECOND", "RETRY", "CHECKPOINT", "STEP_ROWS", "IN_A_ROW", "_MIN"];

#[test]
fn every_constant_that_is_a_limit_stands_in_the_page_of_limits() {
    let page = fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let mut complaints = Vec::new();
    for file in CONSTANTS {
        let text = fs::read_to_string(root().join(file)).expect("a file with limits");
        let names = shipped(&text).lines().filter_map(|line| {
            let (visible, rest) = line.split_once("const ")?;
            let name = rest.split_once(':')?.0;
            (visible.is_empty() || visible.starts_with("pub")).then_some(name)
        });
        for name in names.filter(|name| LIMITING.iter().any(|part| name.contains(part))) {
            if !page.contains(&format!("`{name}`")) {
                complaints.push(format!("{file}: {name} is not in docs/limits.md"));
            }
        }
    }
    check(&complaints);
}

#[test]
fn every_limit_stands_in_the_page_of_limits() {
    let page = fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let mut complaints = Vec::new();
    for (file, name) in LIMITS {
        let text = fs::read_to_string(root().join(file)).expect("a file with limits");
        let head = format!("struct {name} {{\n");
        let body = text.split_once(&head).and_then(|(_, rest)| rest.split_once("\n}"));
        let (body, _) = body.unwrap_or_else(|| panic!("{file}: no struct {name}"));
        let fields = body.lines().filter_map(|line| {
            let (_, field) = line.trim_start().strip_prefix("pub")?.split_once(' ')?;
            field.split_once(':').map(|(field, _)| field)
        });
        let fields: Vec<&str> = fields.collect();
        assert!(!fields.is_empty(), "{file}: {name} has no fields");
        let missing = fields.into_iter().filter(|field| !page.contains(&format!("`{field}`")));
        complaints.extend(missing.map(|field| format!("{file}: {name}.{field} is not in docs/limits.md")));
    }
    check(&complaints);
}
