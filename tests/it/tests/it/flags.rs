//! Flags that cannot be: etcd's exit code and words, or one clear line that names the flag, and no panic.

use std::process::ExitStatus;

use harness::{Addresses, READY};

use crate::support::{is_etcd, no_panic, refused};

/// Starts one member with these flags more (the last one of a name counts) and expects `code` and `words`.
fn check(flags: &[&str], code: i32, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let addresses = Addresses::free().unwrap();
    let mut args =
        vec!["--name=m0".to_owned(), format!("--data-dir={}", folder.path().join("data").display())];
    args.extend(addresses.flags());
    args.push(format!("--initial-cluster=m0={}", addresses.peer_url()));
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let (status, output) = refused(&args, folder.path()).unwrap();
    println!("{flags:?}: {status}");
    let as_etcd = status.code() == Some(code) && output.contains(words);
    assert!(
        as_etcd || (!is_etcd() && one_clear_line(flags, status, &output)),
        "{flags:?}: neither exit code {code} and {words:?}, nor one clear line; {status}:\n{output}"
    );
    assert!(!output.contains(READY), "{flags:?} served all the same");
    no_panic(&output);
}

/// What we allow ourselves where etcd's words are not promised: a line that names flag or value, and an exit code.
fn one_clear_line(flags: &[&str], status: ExitStatus, output: &str) -> bool {
    let (name, value) = flags[0].trim_start_matches('-').split_once('=').unwrap_or((flags[0], flags[0]));
    matches!(status.code(), Some(1 | 2))
        // And perhaps one more that says where help is.
        && output.trim().lines().count() <= 2
        && (output.contains(name) || output.contains(value))
}

#[test]
fn an_unknown_flag_is_exit_code_2() {
    check(&["--nonsense"], 2, "flag provided but not defined: -nonsense");
    check(&["--nonsense=1"], 2, "flag provided but not defined: -nonsense");
    check(&["-nonsense"], 2, "flag provided but not defined: -nonsense");
}

#[test]
fn a_value_that_cannot_be_read_is_exit_code_2() {
    check(
        &["--heartbeat-interval=abc"],
        2,
        "invalid value \"abc\" for flag -heartbeat-interval: parse error",
    );
    check(&["--snapshot-count=-1"], 2, "invalid value \"-1\" for flag -snapshot-count: parse error");
    check(&["--quota-backend-bytes=x"], 2, "invalid value \"x\" for flag -quota-backend-bytes: parse error");
    check(&["--initial-cluster-state=foo"], 2, "invalid value \"foo\" for flag -initial-cluster-state");
}

#[test]
fn a_url_that_is_none_is_exit_code_2() {
    check(&["--listen-client-urls=foo"], 2, "invalid value \"foo\" for flag -listen-client-urls");
    check(&["--listen-peer-urls=ftp://127.0.0.1:1"], 2, "for flag -listen-peer-urls");
    check(&["--listen-client-urls=http://127.0.0.1"], 2, "for flag -listen-client-urls");
}

#[test]
fn values_that_contradict_each_other_are_exit_code_1() {
    check(
        &["--heartbeat-interval=100", "--election-timeout=200"],
        1,
        "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    );
    check(
        &["--election-timeout=60000"],
        1,
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    );
    check(&["--auto-compaction-mode=foo"], 1, "unknown auto-compaction-mode");
    check(&["an-argument"], 1, "is not a valid flag");
}

#[test]
fn a_name_or_url_that_the_initial_cluster_does_not_have_is_exit_code_1() {
    check(&["--name=other"], 1, "couldn't find local name");
    check(&["--initial-cluster=m0=http://127.0.0.1:9"], 1, "--initial-cluster has m0=http://127.0.0.1:9");
}

#[test]
fn a_log_level_that_is_none_is_exit_code_2_without_a_panic() {
    if is_etcd() {
        println!("etcd panics here");
        return;
    }
    check(&["--log-level=foo"], 2, "foo");
}
