//! The composer: builds every part of a member, joins them, and takes them apart in order.
//!
//! ```text
//! bind ports ─▶ boot (log, engine, identity) ─▶ machine ─▶ raft-node ⇄ peers ⇄ transport ─▶ publish ─▶ api
//! a signal   ─▶ clients drained ─▶ leadership handed over ─▶ node stopped, log synced, engine flushed ─▶ transport
//! ```

use crate::boot::DataDir;
use crate::config::Config;
use crate::corruption::{self, Asker};
use crate::descriptors::Shares;
use crate::divergence::{self, Comparison, Quarantine, Slices};
use crate::logging::Logs;
use crate::memory;
use crate::metrics;
use crate::observed::Observed;
use crate::peers::{Member, Out};
use crate::signals::{Ended, Signals};
use crate::snapshots::Incoming;
use crate::space::{self, Space};
use crate::{ETCD_VERSION, boot, checkpoints, compactor, duties, new_cluster, threads};
use anyhow::Context as _;
use api::{Api, Traffic};
use machine::{Machine, Settings, Shared};
use prometheus::IntGauge;
use raft_node::{Handle, NodeFault, Options};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

/// How long leadership may take to be handed over before the member stops without it.
const HANDOVER_MAX: Duration = Duration::from_secs(2);
/// How long the end waits for blocking work (name lookups, lists) that nobody needs: a resolver may take half a minute.
const BLOCKING_MAX: Duration = Duration::from_secs(1);

/// Runs a member until it is told to end, or cannot go on.
pub(crate) fn run(config: Config, shares: Shares, logs: &Logs) -> anyhow::Result<Ended> {
    // One thread for all of IO: requests are handed to the consensus thread in batches (docs/adr/001).
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    memory::Options::default().bound_threads(&mut runtime);
    let runtime = runtime.enable_all().on_thread_start(threads::give_way).build()?;
    let ended = runtime.block_on(member(config, shares, logs));
    runtime.shutdown_timeout(BLOCKING_MAX);
    ended
}

async fn member(config: Config, shares: Shares, logs: &Logs) -> anyhow::Result<Ended> {
    let log = &logs.logger;
    let mut signals = Signals::listen()?;
    let peer_listeners = bind(&config.listen_peers).await?;
    let client_listeners = bind_for_clients(&config).await?;
    let parts = tokio::select! {
        parts = build(&config, shares, log) => parts?,
        ended = signals.next() => return Ok(ended),
    };
    let (stop_peers, peers_stopping) = watch::channel(false);
    for listener in peer_listeners {
        tokio::spawn(Arc::clone(&parts.transport).serve(listener, told(peers_stopping.clone())));
    }
    let (stop_clients, clients_stopping) = watch::channel(false);
    let mut ended_node = parts.node.watch_ended();
    let mut failure = None;
    let ended = tokio::select! {
        ended = signals.next() => ended,
        _ = ended_node.wait_for(|ended| *ended) => {
            if parts.node.status().is_removed { Ended::Removed } else { Ended::Failed }
        }
        () = parts.removed.notified() => Ended::Removed,
        fault = parts.engine.failed() => {
            failure = Some(fault);
            Ended::Failed
        }
        never = serve(&config, shares, &parts, client_listeners, clients_stopping, logs) => match never? {},
    };
    slog::info!(log, "stopping"; "reason" => ?ended);
    if matches!(ended, Ended::Removed) {
        slog::warn!(log, "data-dir used by this member must be removed");
    }
    let _ = stop_clients.send(true);
    tokio::select! {
        () = drain(&parts, ended, log) => {}
        // Asked twice, it goes without: all that was acknowledged is in the log.
        again = signals.next() => {
            slog::warn!(log, "stopping at once"; "reason" => ?again);
            return Ok(again);
        }
    }
    let _ = stop_peers.send(true);
    parts.transport.stop();
    let ended = parts.finish(ended)?;
    failure.map_or(Ok(ended), |fault| Err(anyhow::Error::msg(fault)))
}

struct Parts {
    node: Handle,
    thread: JoinHandle<Result<(), NodeFault>>,
    shared: Arc<Shared>,
    engine: Arc<Observed>,
    applying: IntGauge,
    transport: Arc<transport::Transport>,
    removed: Arc<Notify>,
    asker: Arc<Asker>,
    slices: Arc<Slices>,
    member: u64,
    cluster: u64,
    #[expect(dead_code, reason = "a lock is held, not read")]
    lock: File,
}

impl Parts {
    /// The node's last word: a fault is this process's failure.
    fn finish(self, ended: Ended) -> anyhow::Result<Ended> {
        self.thread.join().unwrap_or(Err(NodeFault::Panicked))?;
        Ok(ended)
    }
}

async fn build(config: &Config, shares: Shares, log: &slog::Logger) -> anyhow::Result<Parts> {
    let mut data = boot::open(config, shares.tables, log).await?;
    let election = config.heartbeat * u32::try_from(config.election_ticks).unwrap_or(u32::MAX);
    let settings = Settings {
        member: data.member,
        lease_ttl_min: lease_ttl_min(election),
        max_learners: config.changes.learners_max,
        quota_bytes: config.limits.quota_bytes,
        limits: machine::Limits::default(),
    };
    let engine = Arc::new(Observed::new(data.engines.current()));
    let machine = open_machine(config, &mut data, &engine, settings, log)?;
    let shared = machine.shared();
    let work = Arc::new(api::Pool::new(api::WorkLimits { long_max: PEERS_WORK_MAX, ..Default::default() }));
    let (ids, request_timeout) = ((data.member, data.cluster), Options::request_timeout(election));
    let asker =
        Arc::new(Asker::new(Arc::clone(&shared), Arc::clone(&work), ids, request_timeout, log.clone()));
    let slices = Slices::new(Arc::clone(&shared), Arc::clone(&work), divergence::Limits::default());
    // One that never applied anything has nothing to compare.
    if config.corruption.is_initial && machine.applied().0 > 0 {
        corruption::check_initially(&asker, log).await?;
    }
    let identity = transport::Identity {
        member: data.member,
        cluster: data.cluster,
        peer_urls: config.cluster.advertise_peers.iter().map(ToString::to_string).collect(),
        version: ETCD_VERSION.to_owned(),
    };
    let limits = transport::Limits { connections: shares.peers, ..transport::Limits::default() };
    let transport = transport::Transport::with(identity, limits, log.clone());
    let out = Arc::new(Out::new(Arc::clone(&transport), data.member, Arc::clone(&data.engines)));
    let options = node_options(config, ids, election);
    let (node, thread) = raft_node::start(options, data.wal, machine, Arc::clone(&out) as _, log.clone())?;
    let incoming = Incoming::new(data.engines, settings, Arc::clone(&engine), log.clone())?;
    let applying = incoming.metric();
    let removed = Arc::new(Notify::new());
    transport.start(Arc::new(Member {
        node: node.clone(),
        shared: Arc::clone(&shared),
        slices: Arc::clone(&slices),
        work,
        removed: Arc::clone(&removed),
        incoming,
    }));
    out.started(|| shared.membership());
    if config.initial_election_tick_advance {
        // etcd waits one tick for a leader's heartbeat instead of a whole election timeout.
        node.advance_ticks(config.election_ticks.saturating_sub(1));
    }
    let ((member, cluster), lock) = (ids, data.lock);
    Ok(Parts {
        node,
        thread,
        shared,
        engine,
        applying,
        transport,
        removed,
        asker,
        slices,
        member,
        cluster,
        lock,
    })
}

fn node_options(config: &Config, (member, cluster): (u64, u64), election: Duration) -> Options {
    Options {
        tick: config.heartbeat,
        election_ticks: config.election_ticks,
        pre_vote: config.pre_vote,
        strict_reconfig_check: config.changes.strict_reconfig_check,
        learners_first: config.changes.auto_promote_learners,
        request_timeout: Options::request_timeout(election),
        max_request_bytes: config.limits.request_bytes_max,
        limits: log_limits(config),
        ..Options::new(member, cluster)
    }
}

/// The state to go on from: what is on the disk, and this member alone in it where the flags say so.
fn open_machine(
    config: &Config,
    data: &mut DataDir,
    engine: &Arc<Observed>,
    settings: Settings,
    log: &slog::Logger,
) -> anyhow::Result<Machine> {
    let open = || Machine::open(Arc::clone(engine) as _, settings).context("cannot read the applied state");
    let mut machine = open()?;
    boot::check_owner(data, machine.applied(), &machine.shared().membership(), config)?;
    if config.changes.force_new_cluster
        && new_cluster::force(&data.wal, &mut machine, &**engine, data.member, log)?
    {
        machine = open()?;
    }
    new_cluster::finish(&mut data.wal, &machine, data.member)?;
    Ok(machine)
}

/// How much of the log is kept: what the flags say, where they are given.
fn log_limits(config: &Config) -> raft_node::Limits {
    let defaults = raft_node::Limits::default();
    let (count, kept) = (config.limits.snapshot_count, config.limits.catch_up_entries);
    raft_node::Limits {
        flush_entries: count.unwrap_or(defaults.flush_entries),
        keep_entries: kept.unwrap_or(defaults.keep_entries),
        keep_lagging_steps: if kept.is_some() { 0 } else { defaults.keep_lagging_steps },
        ..defaults
    }
}

/// Hashes taken for peers at one time. They compare one now and then, and theirs wait for no client's.
const PEERS_WORK_MAX: usize = 1;

/// etcd's `minTTL`: one and a half election timeouts, in whole seconds.
fn lease_ttl_min(election: Duration) -> i64 {
    i64::try_from((3 * election / 2).as_millis().div_ceil(1_000)).unwrap_or(i64::MAX)
}

/// What nobody can be: a member that serves does not end by itself.
enum Never {}

async fn serve(
    config: &Config,
    shares: Shares,
    parts: &Parts,
    listeners: Vec<(Traffic, TcpListener)>,
    stopping: watch::Receiver<bool>,
    logs: &Logs,
) -> anyhow::Result<Never> {
    let log = &logs.logger;
    let (node, shared) = (&parts.node, &parts.shared);
    tokio::spawn(checkpoints::decide(node.clone(), Arc::clone(shared), log.clone()));
    let max = config.changes.cluster_version_max;
    tokio::spawn(duties::agree_on_version(node.clone(), Arc::clone(shared), max, log.clone()));
    if !config.downgrade_check.is_zero() {
        let every = config.downgrade_check;
        tokio::spawn(duties::end_downgrade(node.clone(), Arc::clone(shared), every, log.clone()));
    }
    if let Some(retention) = config.retention {
        tokio::spawn(compactor::run(retention, node.clone(), Arc::clone(shared), log.clone()));
    }
    if config.changes.auto_promote_learners {
        tokio::spawn(duties::promote_learners(node.clone(), log.clone()));
    }
    corruption::start(config.corruption, &parts.asker, node, log);
    tokio::spawn(space::watch(Space::of(config), node.clone(), Arc::clone(shared), log.clone()));
    let identity =
        api::Identity { member: parts.member, cluster: parts.cluster, version: ETCD_VERSION.to_owned() };
    let api = Api::new(
        parts.node.clone(),
        Arc::clone(&parts.shared),
        identity,
        limits(config, shares),
        log.clone(),
    );
    let asked = Arc::clone(&api);
    tokio::spawn(memory::Options::default().give_back(move || asked.holds_much(), log.clone()));
    let meters = parts.node.meters();
    metrics::register(api.registry(), &parts.engine, meters, &parts.transport, &parts.shared, parts.member);
    let applying = Box::new(parts.applying.clone());
    api.registry().register(applying).expect("metric names are registered once");
    compare(config, parts, &api, log);
    metrics::register_log(api.registry(), &logs.lost);
    let open = |traffic, listener| {
        tokio::spawn(api::serve(listener, Arc::clone(&api), traffic, told(stopping.clone())));
    };
    let (early, late): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|(traffic, _)| *traffic == Traffic::Metrics);
    // Before there is a leader too: how a member that has none fares is what they are asked for.
    for (traffic, listener) in early {
        slog::info!(log, "serving metrics"; "address" => format!("http://{}", listener.local_addr()?));
        open(traffic, listener);
    }
    duties::publish_member(&parts.node, &config.name, &config.advertise_clients, log).await?;
    for (traffic, listener) in late {
        slog::info!(log, "ready to serve client requests");
        slog::info!(log, "serving client traffic insecurely; this is strongly discouraged!";
            "traffic" => traffic.name(), "address" => listener.local_addr()?.to_string());
        open(traffic, listener);
    }
    std::future::pending().await
}

/// Compares this member with the others of its kind, unless that is switched off; one found wrong before does not serve.
fn compare(config: &Config, parts: &Parts, api: &Arc<Api>, log: &slog::Logger) {
    let quarantine = Arc::new(Quarantine::of(&config.data_dir.join("member"), Arc::clone(api), log));
    let needed = divergence::Parts {
        node: parts.node.clone(),
        slices: Arc::clone(&parts.slices),
        asker: Arc::clone(&parts.asker),
        quarantine: Arc::clone(&quarantine),
        log: log.clone(),
    };
    let comparison = Comparison::new(needed, divergence::Limits::default());
    let collectors: [Box<dyn prometheus::core::Collector>; 2] =
        [Box::new(quarantine.metric()), Box::new(comparison.metric())];
    for collector in collectors {
        api.registry().register(collector).expect("metric names are registered once");
    }
    if !config.divergence_check.is_zero() {
        tokio::spawn(comparison.run(config.divergence_check));
    }
}

fn limits(config: &Config, shares: Shares) -> api::Limits {
    let defaults = api::Limits::default();
    let interval = config.limits.watch_progress_interval;
    api::Limits {
        connections_max: shares.clients,
        monitors_max: shares.monitors,
        max_request_bytes: config.limits.request_bytes_max,
        max_txn_ops: config.limits.txn_ops_max,
        max_concurrent_streams: config.limits.streams_max,
        keepalive_interval: config.limits.keepalive_interval,
        keepalive_timeout: config.limits.keepalive_timeout,
        requests: in_flight(config.limits.inflight_request_bytes_max),
        answers: in_flight(config.limits.inflight_answer_bytes_max),
        values: api::InFlight {
            free_bytes: api::InFlight::values().free_bytes,
            ..in_flight(config.limits.inflight_answer_bytes_max)
        },
        http: config.http.clone(),
        shown: api::Shown { extensive: config.extensive_metrics, prefixes: config.metrics_prefixes.clone() },
        // As in etcd, an interval of zero is the default.
        watch_progress_interval: if interval.is_zero() { defaults.watch_progress_interval } else { interval },
        ..defaults
    }
}

/// One connection gets half of it.
fn in_flight(total_bytes: usize) -> api::InFlight {
    api::InFlight { total_bytes, connection_bytes: total_bytes / 2, ..api::InFlight::default() }
}

/// Hands leadership over, then lets the node finish what it has begun.
async fn drain(parts: &Parts, ended: Ended, log: &slog::Logger) {
    let is_alone = parts.shared.membership().members.len() == 1;
    let is_told = matches!(ended, Ended::Terminated | Ended::Interrupted);
    if is_told && parts.node.status().is_leader && !is_alone {
        match tokio::time::timeout(HANDOVER_MAX, parts.node.transfer_leader(0)).await {
            Ok(Ok(())) => slog::info!(log, "leadership handed over"),
            Ok(Err(error)) => slog::warn!(log, "leadership was not handed over"; "error" => %error),
            Err(_) => slog::warn!(log, "leadership was not handed over in time"),
        }
    }
    parts.node.stop().await;
}

async fn bind_for_clients(config: &Config) -> anyhow::Result<Vec<(Traffic, TcpListener)>> {
    let clients = if config.listen_http.is_empty() { Traffic::All } else { Traffic::Grpc };
    let ports = [
        (clients, &config.listen_clients),
        (Traffic::Http, &config.listen_http),
        (Traffic::Metrics, &config.listen_metrics),
    ];
    let mut bound = Vec::new();
    for (traffic, addresses) in ports {
        bound.extend(bind(addresses).await?.into_iter().map(|listener| (traffic, listener)));
    }
    Ok(bound)
}

async fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("listen tcp {address}"))?);
    }
    Ok(listeners)
}

/// Completes when the flag is raised, or its owner is gone.
async fn told(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}
