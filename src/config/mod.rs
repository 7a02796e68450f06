//! Configuration: text in, a validated [`Config`] out. Behind it there is no unparsed URL and no number out of range.

mod flags;
mod gates;
mod parse;
mod urls;

pub(crate) use flags::help;
pub(crate) use parse::{Raw, Refusal, read};
pub(crate) use urls::PeerUrl;

use crate::ETCD_VERSION;
use crate::corruption;
use anyhow::bail;
use gotext::duration;
use machine::ClusterVersion;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest election timeout, milliseconds: etcd's `maxElectionMs`.
const ELECTION_MS_MAX: u64 = 50_000;

/// Prefixes whose keys may be counted: each is walked whenever the metrics are asked for.
const METRICS_PREFIXES_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// The directory of the engine, and by default of the raft log.
    pub(crate) data_dir: PathBuf,
    pub(crate) wal_dir: PathBuf,
    /// What must agree over the cluster, or is agreed on when it is made.
    pub(crate) cluster: Cluster,
    pub(crate) listen_peers: Vec<SocketAddr>,
    pub(crate) listen_clients: Vec<SocketAddr>,
    /// Addresses to listen on for clients that speak HTTP alone; where there are any, the others are for gRPC alone.
    pub(crate) listen_http: Vec<SocketAddr>,
    pub(crate) listen_metrics: Vec<SocketAddr>,
    pub(crate) advertise_clients: Vec<String>,
    pub(crate) heartbeat: Duration,
    /// Time of an election, in heartbeats.
    pub(crate) election_ticks: usize,
    /// Whether the first election's wait is cut short.
    pub(crate) initial_election_tick_advance: bool,
    pub(crate) pre_vote: bool,
    pub(crate) limits: Limits,
    /// How much history is kept; `None` = all of it.
    pub(crate) retention: Option<Retention>,
    /// How often a leader looks whether a downgrade is done; zero = never.
    pub(crate) downgrade_check: Duration,
    /// When members are compared.
    pub(crate) corruption: corruption::Options,
    /// Time between comparisons with other members of ours; zero = none.
    pub(crate) divergence_check: Duration,
    /// What is served over HTTP, and to whom.
    pub(crate) http: api::Http,
    /// Whether the metrics tell how long each method takes.
    pub(crate) extensive_metrics: bool,
    /// Prefixes whose keys and bytes are counted.
    pub(crate) metrics_prefixes: Vec<String>,
    pub(crate) changes: Changes,
    pub(crate) log: Log,
}

/// The cluster as it was bootstrapped. Ignored once there is a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// This member's peer URLs, as the others reach them.
    pub(crate) advertise_peers: Vec<PeerUrl>,
    pub(crate) members: Vec<(String, Vec<PeerUrl>)>,
    /// Keeps clusters with equal URLs apart.
    pub(crate) token: String,
    pub(crate) is_new: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes of data at which writes are refused, as the flag has it: 0 = 2 GiB, negative = no limit.
    pub(crate) quota_bytes: i64,
    pub(crate) txn_ops_max: usize,
    pub(crate) request_bytes_max: usize,
    /// Connections; zero = what the file descriptors leave.
    pub(crate) connections_max: u64,
    /// Entries after which the log is cut; `None` = as its bytes and the time say.
    pub(crate) snapshot_count: Option<u64>,
    /// Entries of the log that are kept for slow followers; `None` = the default, and more where one lags.
    pub(crate) catch_up_entries: Option<u64>,
    /// Bytes of requests that are not whole yet.
    pub(crate) inflight_request_bytes_max: usize,
    /// Bytes of answers that are not read yet.
    pub(crate) inflight_answer_bytes_max: usize,
    /// Streams of one client connection at a time.
    pub(crate) streams_max: u32,
    /// Time between progress notifications; zero = the default.
    pub(crate) watch_progress_interval: Duration,
    /// Time between the server's pings; zero = none.
    pub(crate) keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub(crate) keepalive_timeout: Duration,
}

/// Rules for changes of members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes {
    /// Whether changes of members that may cost the quorum are refused.
    pub(crate) strict_reconfig_check: bool,
    /// Whether members are added as learners, and promoted when they have caught up.
    pub(crate) auto_promote_learners: bool,
    /// Most learners in the cluster.
    pub(crate) learners_max: usize,
    /// Whether this member goes on alone, without the others.
    pub(crate) force_new_cluster: bool,
    /// What the cluster's version is not raised beyond; `None` = what every member can do.
    pub(crate) cluster_version_max: Option<ClusterVersion>,
}

/// How much history auto-compaction keeps; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    Period(Duration),
    Revisions(i64),
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Lines below this level are not written.
    pub(crate) level: slog::Level,
    /// For people, not machines.
    pub(crate) is_console: bool,
    /// `stderr`, `stdout` or files.
    pub(crate) outputs: Vec<String>,
}

impl Cluster {
    /// A new cluster, as the three flags that describe it have it.
    pub(crate) fn parse(advertise_peers: &str, members: &str, token: &str) -> Result<Self, Refusal> {
        Ok(Self {
            advertise_peers: urls::parse_list("initial-advertise-peer-urls", advertise_peers)?,
            members: urls::parse_cluster(members)?,
            token: token.to_owned(),
            is_new: true,
        })
    }

    /// The peer URLs that the cluster lists for this member (etcd's `hasLocalMember`).
    pub(crate) fn listed(&self, name: &str) -> anyhow::Result<&[PeerUrl]> {
        match self.members.iter().find(|(known, _)| known == name) {
            Some((_, urls)) => Ok(urls),
            None => bail!("couldn't find local name {name:?} in the initial cluster configuration"),
        }
    }
}

impl Config {
    /// Checks what was said. The texts are etcd's where it has them.
    pub(crate) fn from_raw(raw: &Raw) -> Result<Self, Refusal> {
        let name = raw.text("name").to_owned();
        let data_dir = match raw.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let wal_dir = match raw.text("wal-dir") {
            "" => data_dir.join("member").join("wal"),
            dir => PathBuf::from(dir),
        };
        if raw.is_set("listen-client-urls") && !raw.is_set("advertise-client-urls") {
            let text = "--advertise-client-urls is required when --listen-client-urls is set explicitly";
            return Err(text.to_owned().into());
        }
        let listen_clients = urls::listen_addresses("listen-client-urls", raw.text("listen-client-urls"))?;
        let listen_http = addresses(raw, "listen-client-http-urls")?;
        if let Some(both) = listen_http.iter().find(|address| listen_clients.contains(address)) {
            let text = "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url";
            return Err(format!("{text} http://{both}").into());
        }
        let (heartbeat_ms, election_ms) = timing(raw)?;
        let gates = raw.text("feature-gates");
        if gates::is_gate_on(gates, "LeaseCheckpointPersist") && !gates::is_gate_on(gates, "LeaseCheckpoint")
        {
            let text =
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
            return Err(text.to_owned().into());
        }
        let learners_max = usize::try_from(raw.int("max-learners"))
            .ok()
            .filter(|max| *max > 0)
            .ok_or_else(|| "--max-learners must be greater than zero".to_owned())?;
        Ok(Self {
            cluster: cluster(raw, &name)?,
            listen_peers: urls::listen_addresses("listen-peer-urls", raw.text("listen-peer-urls"))?,
            listen_clients,
            listen_http,
            listen_metrics: addresses(raw, "listen-metrics-urls")?,
            advertise_clients: urls::parse_list("advertise-client-urls", raw.text("advertise-client-urls"))?
                .iter()
                .map(ToString::to_string)
                .collect(),
            heartbeat: Duration::from_millis(heartbeat_ms),
            election_ticks: usize::try_from(election_ms / heartbeat_ms).map_err(|e| e.to_string())?,
            initial_election_tick_advance: raw.bool("initial-election-tick-advance"),
            pre_vote: raw.bool("pre-vote"),
            limits: limits(raw),
            retention: retention(raw)?,
            downgrade_check: raw.duration("downgrade-check-time"),
            corruption: corruption_checks(raw)?,
            divergence_check: raw.duration("divergence-check-time"),
            http: http(raw)?,
            extensive_metrics: raw.text("metrics") == "extensive",
            metrics_prefixes: prefixes(raw)?,
            changes: Changes {
                strict_reconfig_check: raw.bool("strict-reconfig-check"),
                auto_promote_learners: raw.bool("auto-promote-learners"),
                learners_max,
                force_new_cluster: raw.bool("force-new-cluster"),
                cluster_version_max: cluster_version_max(raw.text("max-cluster-version"))?,
            },
            log: log(raw)?,
            name,
            data_dir,
            wal_dir,
        })
    }
}

/// A version from 3.0 to our own; the patch does not count.
fn cluster_version_max(text: &str) -> Result<Option<ClusterVersion>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let own = ClusterVersion::parse(ETCD_VERSION).expect("our version is one");
    match ClusterVersion::parse_target(text) {
        Some(version) if version.major == own.major && version <= own => Ok(Some(version)),
        _ => Err(format!(
            "--max-cluster-version must be from {}.0 to {}, not {text:?}",
            own.major,
            own.short()
        )),
    }
}

/// A text without a kind of its own is a configuration that is no good.
impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Refusal::Invalid(text)
    }
}

/// The addresses behind a flag's URLs; none where it is empty.
fn addresses(raw: &Raw, flag: &str) -> Result<Vec<SocketAddr>, Refusal> {
    match raw.text(flag) {
        "" => Ok(Vec::new()),
        text => urls::listen_addresses(flag, text),
    }
}

fn corruption_checks(raw: &Raw) -> Result<corruption::Options, String> {
    let gates = raw.text("feature-gates");
    let compactions_every = raw.duration("compact-hash-check-time");
    if compactions_every.is_zero() {
        let nanos = duration::nanos(raw.text("compact-hash-check-time").as_bytes()).unwrap_or_default();
        let (sign, size) = (if nanos < 0 { "-" } else { "" }, Duration::from_nanos(nanos.unsigned_abs()));
        return Err(format!("--compact-hash-check-time must be >0 (set to {sign}{})", duration::show(size)));
    }
    Ok(corruption::Options {
        is_initial: gates::is_gate_on(gates, "InitialCorruptCheck"),
        every: raw.duration("corrupt-check-time"),
        of_compactions: gates::is_gate_on(gates, "CompactHashCheck"),
        compactions_every,
    })
}

fn http(raw: &Raw) -> Result<api::Http, Refusal> {
    let origins = match raw.text("cors") {
        text @ ("" | "*") => vec![text.to_owned()],
        text => urls::parse_list("cors", text)?.iter().map(ToString::to_string).collect(),
    };
    let listed = |text: &str| text.split(',').map(str::to_owned).filter(|name| !name.is_empty()).collect();
    Ok(api::Http {
        gateway: raw.bool("enable-grpc-gateway"),
        origins: origins.into_iter().filter(|origin| !origin.is_empty()).collect(),
        hosts: listed(raw.text("host-whitelist")),
    })
}

fn prefixes(raw: &Raw) -> Result<Vec<String>, String> {
    let listed = raw.text("metrics-prefixes").split(',').filter(|prefix| !prefix.is_empty());
    let prefixes: Vec<String> = listed.map(str::to_owned).collect();
    if prefixes.len() > METRICS_PREFIXES_MAX {
        return Err(format!("--metrics-prefixes: more than {METRICS_PREFIXES_MAX} prefixes"));
    }
    Ok(prefixes)
}

/// etcd's `parseCompactionRetention`: a whole number is hours, or revisions; anything else is a duration, whose
/// nanoseconds are revisions. Below zero etcd would spin.
fn retention(raw: &Raw) -> Result<Option<Retention>, String> {
    let text = raw.text("auto-compaction-retention");
    let is_periodic = match raw.text("auto-compaction-mode") {
        "periodic" => true,
        "revision" => false,
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    };
    let text = if text.is_empty() { "0" } else { text };
    let nanos = match gotext::number::int(text.as_bytes(), 10).ok().filter(|number| *number >= 0) {
        Some(number) if is_periodic => number.saturating_mul(3_600_000_000_000),
        Some(number) => number,
        None => duration::nanos(text.as_bytes())
            .map_err(|error| format!("error parsing CompactionRetention: {error}"))?,
    };
    match u64::try_from(nanos) {
        Ok(0) => Ok(None),
        Ok(nanos) if is_periodic => Ok(Some(Retention::Period(Duration::from_nanos(nanos)))),
        Ok(_) => Ok(Some(Retention::Revisions(nanos))),
        Err(_) => Err(format!("--auto-compaction-retention must not be negative (set to {text})")),
    }
}

fn timing(raw: &Raw) -> Result<(u64, u64), String> {
    let (heartbeat, election) = (raw.uint("heartbeat-interval"), raw.uint("election-timeout"));
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok((heartbeat, election))
}

fn cluster(raw: &Raw, name: &str) -> Result<Cluster, Refusal> {
    let advertise_peers =
        urls::parse_list("initial-advertise-peer-urls", raw.text("initial-advertise-peer-urls"))?;
    let members = if raw.is_set("initial-cluster") {
        urls::parse_cluster(raw.text("initial-cluster"))?
    } else {
        // As etcd: the default cluster is this member alone, under its own name and URLs.
        vec![(name.to_owned(), advertise_peers.clone())]
    };
    let is_new = match raw.text("initial-cluster-state") {
        "new" => true,
        "existing" => false,
        other => {
            let text =
                format!("invalid value {other:?} for flag -initial-cluster-state: invalid value {other:?}");
            return Err(Refusal::Usage(text));
        }
    };
    let token = raw.text("initial-cluster-token").to_owned();
    Ok(Cluster { advertise_peers, members, token, is_new })
}

fn limits(raw: &Raw) -> Limits {
    // More than gRPC's length of a message can say is no limit, and leaves room to add to it.
    let bounded = |name: &str| usize::try_from(raw.uint(name).min(u64::from(u32::MAX))).unwrap_or(usize::MAX);
    let bytes = |name: &str| usize::try_from(raw.uint(name)).unwrap_or(usize::MAX);
    // As in etcd, none at all is the default.
    let given = |name: &str| Some(raw.uint(name)).filter(|entries| *entries > 0 && raw.is_set(name));
    let (interval, timeout) =
        (raw.duration("grpc-keepalive-interval"), raw.duration("grpc-keepalive-timeout"));
    Limits {
        quota_bytes: raw.int("quota-backend-bytes"),
        txn_ops_max: bounded("max-txn-ops"),
        request_bytes_max: bounded("max-request-bytes"),
        snapshot_count: given("snapshot-count"),
        catch_up_entries: given("snapshot-catchup-entries"),
        connections_max: raw.uint("max-client-connections"),
        inflight_request_bytes_max: bytes("max-inflight-request-bytes"),
        inflight_answer_bytes_max: bytes("max-inflight-answer-bytes"),
        // As in grpc-go, none at all is no limit.
        streams_max: match u32::try_from(raw.uint("max-concurrent-streams")) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(streams) => streams,
        },
        watch_progress_interval: raw.duration("watch-progress-notify-interval"),
        // As in etcd, without one of them there are none.
        keepalive_interval: if timeout.is_zero() { Duration::ZERO } else { interval },
        keepalive_timeout: timeout,
    }
}

fn log(raw: &Raw) -> Result<Log, String> {
    if raw.text("logger") != "zap" {
        return Err(format!("unknown logger option {:?}", raw.text("logger")));
    }
    let level = match raw.text("log-level") {
        "debug" => slog::Level::Debug,
        "info" => slog::Level::Info,
        "warn" => slog::Level::Warning,
        "error" => slog::Level::Error,
        "dpanic" | "panic" | "fatal" => slog::Level::Critical,
        other => return Err(format!("unrecognized level: {other:?}")),
    };
    let is_console = match raw.text("log-format") {
        "json" => false,
        "console" => true,
        other => return Err(format!("unknown log format: {other}")),
    };
    let outputs = raw.text("log-outputs").split(',').map(str::to_owned).collect();
    Ok(Log { level, is_console, outputs })
}

#[cfg(test)]
mod tests;
