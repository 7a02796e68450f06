//! `quorate ctl` beside etcdctl: the same script by both, each on a fresh store behind the same port, byte for byte.
//!
//! The two stores have the same cluster and member IDs, revisions, terms and log, because they are made in the same way
//! and see the same requests: nothing has to be masked but durations and the IDs of leases. A request that one of the
//! programs makes differently shifts every revision after it.
//!
//! The program under test is the server's own binary, called through a link named `etcdctl`.

mod live;
mod members;
mod script;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use harness::{Cluster, Options, server_binary};
use script::Step;

/// `µs` and `─` where each byte is a character.
const MICRO: &str = "\u{c2}\u{b5}s";
const RULE: &str = "\u{e2}\u{94}\u{80}";

/// What one command line did. Bytes that are no text stay apart: each byte is a character.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: Vec<String>,
}

/// A program from etcd's side: `$variable`, or `name` in `$QUORATE_GO_DIR`.
fn judge(variable: &str, name: &str) -> PathBuf {
    let folder = std::env::var_os("QUORATE_GO_DIR").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        cache.or_else(home).map(|cache| cache.join("quorate/go"))
    });
    let path = std::env::var_os(variable).map(PathBuf::from).or_else(|| Some(folder?.join(name)));
    path.filter(|path| path.is_file())
        .unwrap_or_else(|| panic!("there is no {name}: `make judges` builds it, or {variable} names it"))
}

/// The program under test: our server's binary under etcdctl's name, in `folder`.
fn ours(folder: &Path) -> PathBuf {
    let link = folder.join("etcdctl");
    std::os::unix::fs::symlink(server_binary().unwrap(), &link).unwrap();
    link
}

/// Plays a script with one program on a server whose store is empty.
fn play(program: &Path, cluster: &mut Cluster, steps: &[Step]) -> Vec<Outcome> {
    let member = cluster.member(0);
    if member.data.exists() {
        member.stop().unwrap();
        fs::remove_dir_all(&member.data).unwrap();
    }
    member.start().unwrap();
    member.wait_ready().unwrap();
    let endpoint = format!("127.0.0.1:{}", member.addresses.client);
    let folder = cluster.folder().display().to_string();
    let mut names = BTreeMap::from([("EP".to_owned(), endpoint), ("DIR".to_owned(), folder)]);
    steps.iter().map(|step| run(program, step, &mut names)).collect()
}

fn run(program: &Path, step: &Step, names: &mut BTreeMap<String, String>) -> Outcome {
    use std::os::unix::ffi::OsStringExt as _;
    // Nothing here takes long: who does waits for something that will not come.
    let mut command = Command::new("timeout");
    command.arg("60").arg(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ETCDCTL_"))
    {
        command.env_remove(name);
    }
    for (name, value) in &step.env {
        command.env(name, filled(value.as_bytes(), names));
    }
    for arg in &step.args {
        command.arg(std::ffi::OsString::from_vec(filled_bytes(arg, names)));
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who does not read it has ended already.
    let _ = child.stdin.take().unwrap().write_all(&step.stdin);
    let output = child.wait_with_output().unwrap();
    let characters = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let mut stdout = characters(&output.stdout);
    if let Some(name) = &step.capture {
        let word = stdout.split_whitespace().nth(1).unwrap_or_default().to_owned();
        names.insert(name.clone(), word);
    }
    for (name, value) in names.iter().filter(|(name, _)| !["EP", "ONE", "DIR"].contains(&name.as_str())) {
        stdout = stdout.replace(value, &format!("${name}"));
        if let Ok(number) = i64::from_str_radix(value, 16) {
            stdout = stdout.replace(&number.to_string(), &format!("${name}"));
        }
    }
    if step.durations {
        stdout = without_durations(&stdout);
    }
    if step.leases {
        stdout = without_leases(&stdout);
    }
    let mut stderr: Vec<String> = characters(&output.stderr).lines().map(str::to_owned).collect();
    if step.durations {
        for line in &mut stderr {
            *line = without_durations(line);
        }
    }
    Outcome { code: output.status.code(), stdout, stderr }
}

fn filled(text: &[u8], names: &BTreeMap<String, String>) -> String {
    String::from_utf8(filled_bytes(text, names)).unwrap()
}

fn filled_bytes(text: &[u8], names: &BTreeMap<String, String>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    names
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
        .into_bytes()
}

/// `took = 1.5ms` and the like masked, and the width that it gives a table.
fn without_durations(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive([' ', '\n', '"', ',']) {
        let end = word.trim_end_matches([' ', '\n', '"', ',', '.']);
        let unit = ["ns", MICRO, "ms", "s"].iter().find_map(|unit| end.strip_suffix(unit));
        let is_duration = unit.is_some_and(|number| number.parse::<f64>().is_ok());
        out.push_str(if is_duration { "<duration>" } else { end });
        out.push_str(&word[end.len()..]);
    }
    let squeezed = out.replace(RULE, "");
    squeezed.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Without IDs of leases, in hexadecimal or decimal, and without the seconds that a lease has left.
fn without_leases(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_part = |c: char| c.is_ascii_alphanumeric();
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(length);
        let is_id = word.len() >= 15 && word.chars().all(|c| c.is_ascii_hexdigit());
        let is_rest = ["remaining(", "\"ttl\":", "\"TTL\":", "\"TTL\" : ", "TTL("]
            .iter()
            .any(|lead| out.ends_with(lead));
        out.push_str(match word {
            _ if is_id => "<id>",
            _ if is_rest => "<seconds>",
            word => word,
        });
        let between = tail.find(is_part).unwrap_or(tail.len());
        out.push_str(&tail[..between]);
        rest = &tail[between..];
    }
    out
}

/// What etcdctl says beside the log lines of its library and its usage.
fn essence(theirs: &[String]) -> (Vec<&String>, bool) {
    let has_usage = theirs.iter().any(|line| line.starts_with("Usage:"));
    let lines = theirs.iter().take_while(|line| !line.starts_with("Usage:"));
    (lines.filter(|line| !line.starts_with("{\"level\"")).collect(), has_usage)
}

fn differ(step: &Step, theirs: &Outcome, ours: &Outcome) -> Option<String> {
    let (said, has_usage) = essence(&theirs.stderr);
    let mut own: Vec<&String> = ours.stderr.iter().collect();
    if has_usage {
        own.retain(|line| !(line.starts_with("Run '") && line.ends_with("--help' for usage.")));
    }
    let same_words = if step.own_words {
        own.len() == 1
    } else if step.says_more {
        own.len() <= said.len() + 1 && said.iter().all(|line| own.contains(line))
    } else {
        own == said
    };
    let same = theirs.code == ours.code && theirs.stdout == ours.stdout && same_words;
    let panics = ours.stderr.iter().any(|line| line.contains("panicked"));
    if same && !panics {
        return None;
    }
    let args: Vec<_> = step.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
    Some(format!(
        "{args:?} {:?} <<< {:?}\n  etcdctl {:?} {:?}\n          {said:?}\n  ours    {:?} {:?}\n          {own:?}",
        step.env,
        String::from_utf8_lossy(&step.stdin),
        theirs.code,
        theirs.stdout,
        ours.code,
        ours.stdout,
    ))
}

fn compare(server: &Path, script: &str) {
    compare_with(server, script, &[]);
}

fn compare_with(server: &Path, script: &str, flags: &[String]) {
    let steps = script::read(&script.replace("$MIB", &"x".repeat(1 << 20)));
    let folder = tempfile::tempdir().unwrap();
    let ours = ours(folder.path());
    let options = Options { binary: Some(server.to_path_buf()), flags: flags.to_vec(), ..Options::new(1) };
    let mut cluster = Cluster::prepare(&options).unwrap();
    let expected = play(&judge("ETCDCTL_BIN", "etcdctl"), &mut cluster, &steps);
    let found = play(&ours, &mut cluster, &steps);
    let pairs = steps.iter().zip(expected.iter().zip(&found));
    let complaints: Vec<_> = pairs.filter_map(|(step, (theirs, ours))| differ(step, theirs, ours)).collect();
    println!("{} command lines on {}", steps.len(), server.display());
    assert!(complaints.is_empty(), "{} differ:\n{}", complaints.len(), complaints.join("\n"));
    // A script whose every line fails would compare nothing but refusals.
    let good = expected.iter().filter(|outcome| outcome.code == Some(0)).count();
    assert!(good * 3 > steps.len(), "only {good} of {} command lines did anything", steps.len());
}

/// What changes nothing, asked of the same three members by one program after the other.
const THREE: &str = "\
* endpoint status
* endpoint status --cluster
* endpoint hashkv --cluster
* member list --endpoints=$ONE
* alarm list --endpoints=$ONE
--endpoints=$EP,127.0.0.1:1 get k
move-leader 1
";

/// Times that a comparison may begin again because the cluster itself moved on (a size, an index) in between.
const MOVES: usize = 5;

fn compare_on_three(server: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let programs = [judge("ETCDCTL_BIN", "etcdctl"), ours(folder.path())];
    let options = Options { binary: Some(server.to_path_buf()), ..Options::new(3) };
    let cluster = Cluster::start_with(&options).unwrap();
    let hosts: Vec<_> =
        cluster.members().iter().map(|m| format!("127.0.0.1:{}", m.addresses.client)).collect();
    // etcdctl asks any of several endpoints, and a header says which.
    let mut names =
        BTreeMap::from([("EP".to_owned(), hosts.join(",")), ("ONE".to_owned(), hosts[0].clone())]);
    for step in script::read(THREE) {
        let mut tries = (0..MOVES).map(|_| {
            let [theirs, ours] = programs.each_ref().map(|program| run(program, &step, &mut names));
            differ(&step, &theirs, &ours)
        });
        // The last complaint, unless one of the tries had none.
        let complaint = tries.try_fold(String::new(), |_, complaint| complaint);
        assert!(complaint.is_none(), "{}", complaint.unwrap_or_default());
    }
    for program in programs.iter().chain(&programs) {
        move_leader(program, &mut names);
    }
}

/// Hands the leadership to whoever has it not, and finds it there.
fn move_leader(program: &Path, names: &mut BTreeMap<String, String>) {
    let mut ask = |words: &str| {
        let step = script::read(words).remove(0);
        let outcome = run(program, &step, names);
        assert_eq!(outcome.code, Some(0), "{words}: {outcome:?}");
        outcome.stdout
    };
    let mut roles = || {
        let rows = ask("endpoint status");
        let row = |line: &str| {
            let cells: Vec<_> = line.split(", ").collect();
            (cells[1].to_owned(), cells[8] == "true")
        };
        let rows: Vec<(String, bool)> = rows.lines().map(row).collect();
        let leader = rows.iter().find(|(_, leads)| *leads).expect("somebody leads").0.clone();
        let other = rows.iter().find(|(_, leads)| !leads).expect("somebody follows").0.clone();
        (leader, other)
    };
    let (leader, other) = roles();
    let said = ask(&format!("move-leader {other}"));
    assert_eq!(said, format!("Leadership transferred from {leader} to {other}\n"));
    let mut roles = || {
        let rows = ask("endpoint status");
        rows.lines().any(|line| line.contains(&other) && line.split(", ").nth(8) == Some("true"))
    };
    assert!(roles(), "{other} does not lead");
}

#[test]
fn three_members_of_etcd() {
    compare_on_three(&judge("ETCD_BIN", "etcd"));
}

#[test]
fn three_members_of_quorate() {
    compare_on_three(&server_binary().unwrap());
}

/// A quota that the second large value breaks; etcd sees how large its file is once it has written it.
/// (How many blanks stand between an alarm's fields depends on how etcdctl was built.)
const FULL: &str = r#"
put small 1
*% alarm list
put big <<< "$MIB"
% defrag
put more <<< "$MIB"
*% alarm list
% endpoint health
% endpoint health -w json
put small 2
del big
alarm disarm -w json
*% alarm list
"#;

const KV: &str = include_str!("kv.script");

const MORE: &str = include_str!("more.script");

#[test]
fn a_full_store_on_etcd() {
    compare_with(&judge("ETCD_BIN", "etcd"), FULL, &["--quota-backend-bytes=2000000".to_owned()]);
}

#[test]
fn everything_else_on_etcd() {
    compare(&judge("ETCD_BIN", "etcd"), MORE);
}

#[test]
fn everything_else_on_quorate() {
    compare(&server_binary().unwrap(), MORE);
}

#[test]
fn keys_and_values_on_etcd() {
    compare(&judge("ETCD_BIN", "etcd"), KV);
}

#[test]
fn keys_and_values_on_quorate() {
    compare(&server_binary().unwrap(), KV);
}
