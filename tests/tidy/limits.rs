//! The page of limits names every limit.

use crate::{check, read, shipped};

/// Option structs whose fields are limits: where they stand, and their names.
const LIMITS: &[(&str, &str)] = &[
    ("crates/wal/src/options.rs", "Options"),
    ("crates/bbolt/src/limits.rs", "Limits"),
    ("crates/engine-rocks/src/options.rs", "Options"),
    ("crates/mvcc/src/options.rs", "Options"),
    ("crates/mvcc/src/options.rs", "Shape"),
    ("crates/machine/src/limits.rs", "Limits"),
    ("crates/raft-node/src/limits.rs", "Limits"),
    ("crates/transport/src/limits.rs", "Limits"),
    ("crates/watch/src/limits.rs", "Limits"),
    ("crates/api/src/limits.rs", "Limits"),
    ("crates/api/src/watches.rs", "WatchLimits"),
    ("crates/api/src/wire.rs", "Wire"),
    ("crates/api/src/budget.rs", "Options"),
    ("crates/api/src/slow.rs", "WorkLimits"),
    ("crates/api/src/zip.rs", "Compression"),
    ("crates/api/src/limits.rs", "Snapshots"),
    ("crates/api/src/limits.rs", "Pace"),
    ("crates/gateway/src/work.rs", "WorkLimits"),
    ("src/descriptors.rs", "Options"),
    ("src/divergence/limits.rs", "Limits"),
    ("src/logging/sampler.rs", "Sampling"),
    ("src/logging/writer.rs", "Queue"),
];

/// Files whose constants are limits too: each that is named so must stand in the page.
const CONSTANTS: &[&str] = &[
    "crates/api/src/watches.rs",
    "crates/api/src/watch/requests.rs",
    "crates/gateway/src/lib.rs",
    "crates/lease/src/pace.rs",
    "crates/machine/src/machine.rs",
    "crates/mvcc/src/compactions.rs",
    "src/server.rs",
];
/// What the names of such constants have in them.
const LIMITING: &[&str] = &["_MAX", "PER_SECOND", "RETRY", "CHECKPOINT", "STEP_ROWS", "IN_A_ROW", "_MIN"];

#[test]
fn every_constant_that_is_a_limit_stands_in_the_page_of_limits() {
    let page = read("docs/limits.md");
    let mut complaints = Vec::new();
    for file in CONSTANTS {
        let text = read(file);
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
    let page = read("docs/limits.md");
    let mut complaints = Vec::new();
    for (file, name) in LIMITS {
        let text = read(file);
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
