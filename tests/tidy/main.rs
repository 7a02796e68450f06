//! Style as a test: what a reviewer should not have to say twice.

mod boundaries;
mod cycles;
mod limits;
mod names;
mod style;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("it lies in tests/tidy").to_path_buf()
}

/// The directories of the workspace's packages, from the root; `.` is the root's own.
fn packages() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("members = [").expect("a list of members");
    let (members, _) = rest.split_once(']').expect("an end of the list");
    let members = members.split(',').map(|member| member.trim().trim_matches('"').to_owned());
    let (globs, mut packages): (Vec<_>, Vec<_>) = members.partition(|member| member.ends_with("/*"));
    for dir in globs.iter().map(|glob| glob.trim_end_matches("/*")) {
        let entries = fs::read_dir(root().join(dir)).expect("a directory of packages");
        packages.extend(entries.map(|entry| shown(&entry.expect("a directory entry").path())));
    }
    packages
}

/// Every Rust file of ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let dirs = ["src", "crates", "tests", "demo", "bench"];
    let mut files: Vec<_> = dirs.iter().flat_map(|dir| sources_below(&root().join(dir))).collect();
    files.push((root().join("build.rs"), read("build.rs")));
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    files
}

/// The Rust files below a directory, with their texts.
fn sources_below(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(dir, &mut files);
    let text = |path: &PathBuf| fs::read_to_string(path).expect("a source file is UTF-8");
    files.into_iter().map(|path| (path.clone(), text(&path))).collect()
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

/// The text of a file, named from the root.
fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
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
