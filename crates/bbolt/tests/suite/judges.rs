//! bbolt itself and etcd's tools, each reading what the other wrote.
//!
//! The judges are `tests/go` (`bboltcheck`), built on `go.etcd.io/bbolt` 1.5.0, and `etcdutl` 3.7.3. `QUORATE_BBOLTCHECK`
//! and `QUORATE_ETCDUTL` are their paths. Without one its tests do nothing, and fail if `QUORATE_REQUIRE_JUDGES=1`, as in
//! `make test`.

use crate::damage::damage;
use crate::support::{Buckets, Dice, Line, file, lines, read, some_buckets, walked};
use bbolt::{Limits, Options, Reader, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

fn judge(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        let required = std::env::var("QUORATE_REQUIRE_JUDGES").is_ok_and(|value| value == "1");
        assert!(!required, "{variable} names no judge, and QUORATE_REQUIRE_JUDGES=1 asks for it");
        not_run(variable);
    }
    path
}

#[expect(clippy::print_stderr, reason = "a test that is not run says so")]
fn not_run(variable: &str) {
    eprintln!("NOT RUN: {variable} is not set (tests/etcd-suite/build.sh --only \"bboltcheck etcdutl\")");
}

/// How many files bbolt makes.
fn seeds() -> u64 {
    std::env::var("BBOLT_SEEDS").ok().map_or(10, |seeds| seeds.parse().expect("BBOLT_SEEDS is a number"))
}

fn run(judge: &Path, arguments: &[&str]) -> String {
    let output = Command::new(judge).args(arguments).output().expect("the judge starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {problem}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// The lines as `bboltcheck check` prints them.
fn printed(lines: &[Line]) -> String {
    let (mut out, mut buckets, mut entries) = (String::new(), 0, 0);
    for Line { path, key, value } in lines {
        let mut path: Vec<String> = path.iter().map(|name| hex(name)).collect();
        let done = match value {
            Err(sequence) => {
                buckets += 1;
                path.push(hex(key));
                writeln!(out, "bucket {} {sequence}", path.join("/"))
            }
            Ok(value) => {
                entries += 1;
                let (length, sum) = (value.len(), hex(&Sha256::digest(value)));
                writeln!(out, "entry {} {} {length} {sum}", path.join("/"), hex(key))
            }
        };
        done.expect("strings take what is written");
    }
    writeln!(out, "end {buckets} {entries}").expect("strings take what is written");
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("strings take what is written");
        out
    })
}

#[track_caller]
fn assert_same(ours: &str, theirs: &str) {
    let first = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
    assert!(ours == theirs, "ours and theirs: {first:?}");
}

fn opened(path: &Path) -> Reader<File> {
    Reader::open(File::open(path).expect("a file"), Limits::DEFAULT).expect("a valid file")
}

#[test]
fn what_we_write_bbolt_reads_alike_and_goes_on_with() {
    let Some(judge) = judge("QUORATE_BBOLTCHECK") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("db");
    let name = path.to_str().expect("a name");
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let page_bytes = 1024 << dice.below(7);
        let buckets = some_buckets(&mut dice, page_bytes);
        let fill_percent = [10, 50, 90, 100][dice.below(4)];
        let options = Options { page_bytes: u32::try_from(page_bytes).expect("small"), fill_percent };
        std::fs::write(&path, file(options, &buckets)).expect("a file");
        let theirs = run(&judge, &["check", name]);
        assert_same(&printed(&lines(&buckets)), &theirs);
        let theirs = run(&judge, &["churn", name, &seed.to_string()]);
        let reader = opened(&path);
        assert_same(&printed(&walked(&reader).expect("a walk")), &theirs);
    }
}

#[test]
fn what_bbolt_writes_is_read_alike() {
    let Some(judge) = judge("QUORATE_BBOLTCHECK") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    for seed in 0..seeds() {
        let path = dir.path().join(format!("db{seed}"));
        let (name, text) = (path.to_str().expect("a name"), seed.to_string());
        for command in ["make", "churn"] {
            let theirs = run(&judge, &[command, name, &text]);
            let reader = opened(&path);
            let walk = walked(&reader).expect("a walk");
            assert_same(&printed(&walk), &theirs);
            assert_eq!(walk, read(&reader).expect("cursors"));
            seek_all(&reader, &walk);
            if theirs.len() < 10_000_000 && seed % 4 == 0 {
                damaged(&path, seed);
            }
        }
        std::fs::remove_file(&path).expect("the file");
    }
}

/// Seeks every key, and a key after each: bbolt's branches have the first keys of their children, as a seek asks.
fn seek_all(reader: &Reader<File>, walk: &[Line]) {
    let mut cursor = reader.root().cursor();
    let mut path: &[Vec<u8>] = &[];
    for line in walk {
        if line.path != path {
            path = &line.path;
            let mut bucket = reader.root();
            for name in path {
                bucket = bucket.bucket(name).expect("a search").expect("it is there");
            }
            cursor = bucket.cursor();
        }
        let found = cursor.seek(&line.key).expect("a seek").expect("it is there");
        assert_eq!(found.key, line.key);
        match &line.value {
            Ok(bytes) => assert_eq!(found.value, Value::Bytes(bytes)),
            Err(_) => assert_eq!(found.value, Value::Bucket),
        }
        let next = cursor.next_entry().expect("a step").map(|entry| entry.key.to_vec());
        let after = [&line.key[..], &[0]].concat();
        let found = cursor.seek(&after).expect("a seek").map(|entry| entry.key.to_vec());
        assert_eq!(found, next);
    }
}

/// Damages a file of bbolt's: no panic, whatever is read.
fn damaged(path: &Path, seed: u64) {
    let reader = opened(path);
    let page_bytes = reader.page_bytes() as usize;
    let mut bytes = std::fs::read(path).expect("a file");
    bytes.truncate(usize::try_from(reader.pages()).expect("small") * page_bytes);
    let mut dice = Dice(seed);
    for _ in 0..20 {
        let mut bytes = bytes.clone();
        damage(&mut bytes, page_bytes, &mut dice);
        if let Ok(reader) = Reader::open(&bytes[..], Limits::DEFAULT) {
            let _ = walked(&reader);
            let _ = read(&reader);
        }
    }
}

/// A varint field of a protobuf message.
fn field(number: u8, mut value: u64) -> Vec<u8> {
    let mut bytes = vec![number << 3];
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

/// A field of up to 127 bytes.
fn text(number: u8, text: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(text.len()).expect("short")], text].concat()
}

fn revision(main: u64, sub: u64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// The data of an etcd member after so many puts of 100 keys: `mvccpb.KeyValue` by revision, and the other buckets.
fn member(puts: u64) -> Buckets {
    let mut key = BTreeMap::new();
    for n in 0..puts {
        let (main, version) = (n + 2, n / 100 + 1);
        let name = format!("key{:02}", n % 100);
        let parts = [
            text(1, name.as_bytes()),
            field(2, n % 100 + 2),
            field(3, main),
            field(4, version),
            text(5, format!("value{n}").as_bytes()),
        ];
        key.insert(revision(main, 0), parts.concat());
    }
    let meta = [
        (&b"confState"[..], &br#"{"voters":[9],"auto_leave":false}"#[..]),
        (b"consistent_index", &7_u64.to_be_bytes()),
        (b"term", &2_u64.to_be_bytes()),
        (b"storageVersion", b"3.7.0"),
    ];
    let meta = meta.map(|(key, value)| (key.to_vec(), value.to_vec()));
    let mut buckets = Buckets::new();
    for name in ["alarm", "auth", "authRoles", "authUsers", "cluster", "lease", "members", "members_removed"]
    {
        buckets.insert(name.into(), BTreeMap::new());
    }
    buckets.insert(b"key".to_vec(), key);
    buckets.insert(b"meta".to_vec(), meta.into());
    buckets
}

#[test]
fn etcds_tools_take_a_file_of_ours_for_a_snapshot() {
    let Some(etcdutl) = judge("QUORATE_ETCDUTL") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("db");
    let name = path.to_str().expect("a name");
    let bytes = file(Options::DEFAULT, &member(20_000));
    std::fs::write(&path, &bytes).expect("a file");
    let status = run(&etcdutl, &["snapshot", "status", name, "-w", "json"]);
    let expected =
        format!(r#""revision":20001,"totalKey":100,"totalSize":{},"version":"3.7.0"}}"#, bytes.len());
    assert!(status.trim_end().ends_with(&expected), "{status}");

    // etcd's hash of what it wrote itself, for the same revisions, is that of the restored member.
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    std::fs::copy(&path, &copy).expect("a copy");
    let hash = run(&etcdutl, &["hashkv", copy.to_str().expect("a name"), "-w", "json"]);
    assert!(hash.contains(r#""hashRevision":20001"#), "{hash}");
    let data = data.to_str().expect("a name");
    run(&etcdutl, &["snapshot", "restore", name, "--skip-hash-check", "--data-dir", data]);
    let restored = Path::new(data).join("member/snap/db");
    let again = run(&etcdutl, &["hashkv", restored.to_str().expect("a name"), "-w", "json"]);
    assert_eq!(hash, again);

    // What etcd made of it is read again, by us.
    let reader = opened(&restored);
    let keys = |line: &Line| line.path.first().is_some_and(|name| name == b"key");
    let walk = walked(&reader).expect("a walk");
    assert_eq!(walk.iter().filter(|line| keys(line)).count(), 20_000);
    assert_eq!(reader.names().expect("names"), member(0).into_keys().collect::<Vec<_>>());
}
