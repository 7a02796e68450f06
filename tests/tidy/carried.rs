//! What is carried in `third_party` is the registry's source and the patch that its decision record shows: no line else.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("it lies in tests/tidy").to_path_buf()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a directory, by their names from `base`.
fn files(dir: &Path, base: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory that can be read") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            files(&path, base, found);
        } else {
            found.insert(path.strip_prefix(base).expect("a file below its base").display().to_string());
        }
    }
}

/// The first number after `sign` in a hunk's head: `@@ -1,2 +3,4 @@`.
fn start(head: &str, sign: char) -> usize {
    let range = head.split(' ').find_map(|word| word.strip_prefix(sign)).expect("a range in a hunk's head");
    range.split(',').next().and_then(|line| line.parse().ok()).expect("a line's number")
}

/// What `patched` was before the hunks. Each is checked against the lines that it says are there.
fn taken_back(name: &str, patched: &str, hunks: &[&str]) -> String {
    let patched: Vec<&str> = patched.split_inclusive('\n').collect();
    let mut original = String::new();
    let mut at = 0;
    for hunk in hunks {
        let mut lines = hunk.split_inclusive('\n');
        let head = lines.next().expect("a hunk has a head");
        let begins = start(head, '+') - 1;
        original.extend(patched[at..begins].iter().copied());
        at = begins;
        for line in lines {
            let (sign, text) = line.split_at(1);
            if sign != "-" {
                assert_eq!(patched[at], text, "{name}:{}: the patch says otherwise", at + 1);
                at += 1;
            }
            if sign != "+" {
                original.push_str(text);
            }
        }
    }
    original.extend(patched[at..].iter().copied());
    original
}

#[test]
fn h2_is_the_registrys_and_the_patch() {
    let carried = root().join("third_party/h2");
    let patch = read(&root().join("docs/adr/002-carried-h2.patch"));
    let mut hunks: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in patch.split("diff a/").skip(1) {
        let name = file.split(' ').next().expect("a file's name");
        let body = file.split_once("\n@@").expect("a hunk").1;
        hunks.insert(name, body.split("\n@@").collect());
    }
    let listed = read(&root().join("third_party/h2.sha256"));
    let mut seen = BTreeSet::from(["Cargo.toml".to_owned()]);
    for line in listed.lines() {
        let (expected, name) = line.split_once("  ").expect("a checksum and a name");
        let text = read(&carried.join(name));
        let hunks: Vec<String> = hunks.remove(name).unwrap_or_default().iter().map(whole).collect();
        let hunks: Vec<&str> = hunks.iter().map(String::as_str).collect();
        let original = taken_back(name, &text, &hunks);
        assert_eq!(hex(&Sha256::digest(original)), expected, "{name} is not the registry's");
        seen.insert(name.to_owned());
    }
    assert!(hunks.is_empty(), "the patch names files that are not carried: {:?}", hunks.keys());
    let mut there = BTreeSet::new();
    files(&carried, &carried, &mut there);
    assert_eq!(there, seen, "files beside the registry's");
}

/// A hunk as it was before it was cut at its head.
fn whole(cut: &&str) -> String {
    format!("@@{}\n", cut.strip_suffix('\n').unwrap_or(cut))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
