//! Scenarios of the configuration as a whole.

use super::*;

fn config(line: &str) -> Result<Config, String> {
    let raw = read(line.split_whitespace().map(str::to_owned), []).map_err(|e| format!("{e:?}"))?;
    Config::from_raw(&raw).map_err(|e| match e {
        Refusal::Invalid(text) | Refusal::Usage(text) => text,
    })
}

fn check_refused(line: &str, expected: &str) {
    assert_eq!(config(line).err().as_deref(), Some(expected), "{line}");
}

#[test]
fn without_flags_it_is_etcds_single_member() {
    let config = config("").expect("the defaults are valid");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.wal_dir, PathBuf::from("default.etcd/member/wal"));
    assert_eq!(config.listen_clients, ["127.0.0.1:2379".parse().expect("an address")]);
    assert_eq!(config.cluster.members[0].0, "default");
    assert_eq!(config.election_ticks, 10);
    assert_eq!(config.limits.txn_ops_max, 128);
}

#[test]
fn a_cluster_string_collects_names_and_sorts_their_urls() {
    let line = "--name a --initial-cluster a=http://127.0.0.1:2,b=http://127.0.0.1:3,a=http://127.0.0.1:1";
    let members = config(line).expect("valid").cluster.members;
    let shown: Vec<String> = members
        .iter()
        .map(|(name, urls)| {
            format!("{name}:{}", urls.iter().map(PeerUrl::host_port).collect::<Vec<_>>().join("+"))
        })
        .collect();
    assert_eq!(shown, ["a:127.0.0.1:1+127.0.0.1:2", "b:127.0.0.1:3"]);
}

#[test]
fn lists_for_http_are_read() {
    let config = config(
        "--cors=http://a:1,http://b:2 --host-whitelist=a,b, --enable-grpc-gateway=false \
                         --listen-metrics-urls=http://127.0.0.1:1,http://127.0.0.1:2",
    )
    .expect("valid");
    assert_eq!(config.http.origins, ["http://a:1", "http://b:2"]);
    assert_eq!(config.http.hosts, ["a", "b"]);
    assert!(!config.http.gateway);
    assert_eq!(config.listen_metrics.len(), 2);
    let defaults = self::config("").expect("valid").http;
    assert_eq!(
        (defaults.gateway, defaults.origins, defaults.hosts),
        (true, vec!["*".to_owned()], vec!["*".to_owned()])
    );
}

#[test]
fn what_etcd_refuses_is_refused_in_its_words() {
    check_refused(
        "--heartbeat-interval=300 --election-timeout=1000",
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
    );
    check_refused(
        "--election-timeout=60000",
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    );
    check_refused(
        "--listen-client-urls=http://127.0.0.1:1",
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    );
    check_refused(
        "--listen-peer-urls=http://example.com:1",
        "--listen-peer-urls: expected IP in URL for binding (http://example.com:1)",
    );
    check_refused(
        "--listen-peer-urls=http://127.0.0.1:1/",
        "invalid value \"http://127.0.0.1:1/\" for flag -listen-peer-urls: URL must not contain a path: http://127.0.0.1:1/",
    );
    check_refused(
        "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1",
        "--initial-cluster: duplicate URL http://127.0.0.1:1 in cluster config",
    );
    check_refused(
        "--listen-client-http-urls=http://127.0.0.1:2379",
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:2379",
    );
    check_refused(
        "--cors=http://example.com",
        "invalid value \"http://example.com\" for flag -cors: URL address does not have the form \"host:port\": \
         http://example.com",
    );
    check_refused("--log-level=loud", "unrecognized level: \"loud\"");
    let why = "--compact-hash-check-time must be >0 (set to ";
    check_refused("--compact-hash-check-time=0", &format!("{why}0s)"));
    check_refused("--compact-hash-check-time=-1m", &format!("{why}-1m0s)"));
}

#[test]
fn checks_of_corruption_are_off_unless_asked_for() {
    let checks = |line: &str| config(line).expect("valid").corruption;
    let defaults = checks("");
    assert_eq!(
        (defaults.is_initial, defaults.every, defaults.of_compactions),
        (false, Duration::ZERO, false)
    );
    assert_eq!(defaults.compactions_every, Duration::from_mins(1));
    let asked =
        checks("--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true --corrupt-check-time=1s");
    assert_eq!((asked.is_initial, asked.every, asked.of_compactions), (true, Duration::from_secs(1), true));
}

#[test]
fn urls_are_read_as_go_reads_them_and_listened_on_once() {
    let line =
        "--listen-client-urls=HTTP://127.0.0.1:1,http://127.0.0.1:1 --advertise-client-urls=Http://A:1";
    let config = config(line).expect("valid");
    assert_eq!(config.listen_clients, ["127.0.0.1:1".parse().expect("an address")]);
    assert_eq!(config.advertise_clients, ["http://A:1"]);
}

#[test]
fn limits_without_a_meaning_have_etcds() {
    let limits = |line: &str| config(line).expect("valid").limits;
    assert_eq!(limits("--max-concurrent-streams=0").streams_max, u32::MAX);
    assert_eq!(limits("--max-concurrent-streams=7").streams_max, 7);
    let bytes = limits("--max-request-bytes=18446744073709551615").request_bytes_max;
    assert!(bytes.checked_add(1 << 20).is_some() && bytes >= u32::MAX as usize, "{bytes}");
    assert_eq!(limits("--grpc-keepalive-timeout=0").keepalive_interval, Duration::ZERO);
    assert_eq!(limits("--grpc-keepalive-interval=-1s").keepalive_interval, Duration::ZERO);
    let text = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
    check_refused("--feature-gates=LeaseCheckpointPersist=true", text);
    assert!(config("--feature-gates=LeaseCheckpointPersist=true,LeaseCheckpoint=true").is_ok());
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    let retention = |mode: &str, text: &str| {
        let line = format!("--auto-compaction-mode={mode} --auto-compaction-retention={text}");
        config(&line).expect("valid").retention
    };
    assert_eq!(config("").expect("valid").retention, None);
    assert_eq!(retention("periodic", "0"), None);
    assert_eq!(retention("periodic", "2"), Some(Retention::Period(Duration::from_hours(2))));
    assert_eq!(retention("periodic", "5m"), Some(Retention::Period(Duration::from_mins(5))));
    assert_eq!(retention("revision", "1000"), Some(Retention::Revisions(1_000)));
    // As etcd has it: its retention is a duration in both modes.
    assert_eq!(retention("revision", "1us"), Some(Retention::Revisions(1_000)));
    check_refused("--auto-compaction-mode=foo", "unknown auto-compaction-mode \"foo\"");
    check_refused(
        "--auto-compaction-retention=x",
        "error parsing CompactionRetention: time: invalid duration \"x\"",
    );
    check_refused(
        "--auto-compaction-retention=-1h",
        "--auto-compaction-retention must not be negative (set to -1h)",
    );
}

#[test]
fn the_log_is_cut_by_count_only_if_that_is_said() {
    let limits = |line: &str| config(line).expect("valid").limits;
    assert_eq!((limits("").snapshot_count, limits("").catch_up_entries), (None, None));
    assert_eq!(limits("--snapshot-count=0").snapshot_count, None, "etcd's default");
    assert_eq!(limits("--snapshot-count=10000").snapshot_count, Some(10_000));
    assert_eq!(limits("--snapshot-catchup-entries=7").catch_up_entries, Some(7));
}

#[test]
fn a_cluster_version_can_be_held_at_one_that_exists() {
    let held = |line: &str| {
        config(line).expect("valid").changes.cluster_version_max.map(|version| version.to_string())
    };
    assert_eq!(held(""), None);
    assert_eq!(held("--max-cluster-version=3.5").as_deref(), Some("3.5.0"));
    assert_eq!(held("--max-cluster-version=3.6.16").as_deref(), Some("3.6.0"));
    for bad in ["3.8", "2.9", "4.0", "newest"] {
        let expected = format!("--max-cluster-version must be from 3.0 to 3.7, not {bad:?}");
        check_refused(&format!("--max-cluster-version={bad}"), &expected);
    }
}
