//! The limits of a run's members, drawn from its seed: small ones, so that they are reached.

use crate::rng::Rng;
use machine::Limits as MachineLimits;
use mvcc::Cost;
use raft_node::Limits;
use std::time::Duration;

/// Draws the node's limits. Most use a generator of their own, so that other draws do not depend on the number of
/// limits.
pub(crate) fn draw(seed: u64, common: &mut Rng) -> Limits {
    let mut rng = Rng::new(seed ^ 0x11_0000_0000);
    let defaults = Limits {
        flush_every: *common.pick(&[
            Duration::from_millis(300),
            Duration::from_secs(2),
            Duration::from_secs(20),
        ]),
        flush_log_bytes: *common.pick(&[500, 20_000, 64 << 20]),
        keep_entries: *common.pick(&[0, 5, 50]),
        keep_lagging_steps: *common.pick(&[0, 1, 3, usize::MAX]),
        ..Limits::default()
    };
    // In every other run members that fall behind are soon sent snapshots.
    let is_short = common.one_in(2);
    let defaults = if is_short {
        let flush_entries = *common.pick(&[1, 5, 20]);
        Limits { flush_entries, keep_entries: 0, keep_lagging_steps: 0, ..defaults }
    } else {
        defaults
    };
    if rng.one_in(4) {
        return defaults;
    }
    let queues = draw_queues(&mut rng, defaults.clone());
    Limits {
        backlog_bytes: *rng.pick(&[0, 300, defaults.backlog_bytes]),
        follower_lag: *rng.pick(&[0, 3, defaults.follower_lag]),
        deadlines_inline: *rng.pick(&[0, defaults.deadlines_inline]),
        background_every: *rng.pick(&[Duration::ZERO, defaults.background_every]),
        backlog_entries: *rng.pick(&[0, 3, 50, defaults.backlog_entries]),
        uncommitted_entries: *rng.pick(&[0, 2, 20, defaults.uncommitted_entries]),
        uncommitted_bytes: *rng.pick(&[0, 2_000, defaults.uncommitted_bytes]),
        batch_entries: *rng.pick(&[1, 3, defaults.batch_entries]),
        batch_bytes: *rng.pick(&[1, 500, defaults.batch_bytes]),
        message_bytes: *rng.pick(&[0, 64, 1_000, defaults.message_bytes]),
        inflight_messages: *rng.pick(&[1, 2, defaults.inflight_messages]),
        group_bytes: *rng.pick(&[0, 100, 2_000, defaults.group_bytes]),
        cache_bytes: *rng.pick(&[0, 500, 5_000, defaults.cache_bytes]),
        forward_hops: *rng.pick(&[1, 2, defaults.forward_hops]),
        peer_reads: *rng.pick(&[2, 10, defaults.peer_reads]),
        seen_reads: *rng.pick(&[256, defaults.seen_reads]),
        read_attempts: *rng.pick(&[1, 3, defaults.read_attempts]),
        read_retry: *rng.pick(&[Duration::from_millis(50), defaults.read_retry]),
        ..queues
    }
}

/// Draws the room for what waits. Small in a few runs only: what is refused tests nothing else.
fn draw_queues(rng: &mut Rng, defaults: Limits) -> Limits {
    if !rng.one_in(5) {
        return defaults;
    }
    Limits {
        inbox_entries: *rng.pick(&[1, 4, defaults.inbox_entries]),
        inbox_bytes: *rng.pick(&[200, defaults.inbox_bytes]),
        inbox_messages: *rng.pick(&[2, 10, defaults.inbox_messages]),
        inbox_message_bytes: *rng.pick(&[2_000, defaults.inbox_message_bytes]),
        waiters: *rng.pick(&[1, 4, defaults.waiters]),
        ..defaults
    }
}

/// Draws the log's limits, with a generator of their own.
pub(crate) fn draw_log(seed: u64) -> wal::Options {
    let mut rng = Rng::new(seed ^ 0x13_0000_0000);
    let defaults = wal::Options::DEFAULT;
    let segment_bytes = *rng.pick(&[300, 1 << 10, 4 << 10, 16 << 10, 1 << 20]);
    if rng.one_in(4) {
        return wal::Options { segment_bytes, ..defaults };
    }
    wal::Options {
        segment_bytes,
        write_bytes_max: *rng.pick(&[1, 512, 4 << 10, defaults.write_bytes_max]),
        unsynced_bytes_max: *rng.pick(&[1, 2 << 10, 16 << 10, defaults.unsynced_bytes_max]),
        superblock_sync_bytes: *rng.pick(&[1, 4 << 10, defaults.superblock_sync_bytes]),
        zero_ahead_bytes: *rng.pick(&[0, 512, 8 << 10]),
        read_bytes_max: *rng.pick(&[1, 1 << 10, defaults.read_bytes_max]),
        replay_bytes: *rng.pick(&[1, 4 << 10, defaults.replay_bytes]),
    }
}

/// Draws a member's space quota: mostly more than it ever needs.
pub(crate) fn draw_quota(seed: u64, member: u64) -> i64 {
    let mut rng = Rng::new(seed ^ 0x14_0000_0000);
    if !rng.one_in(4) {
        return -1;
    }
    let most = *rng.pick(&[3_000, 20_000]);
    // Members may differ in it.
    let less = Rng::new(seed ^ 0x15_0000_0000 ^ member).below(most / 4);
    i64::try_from(most - less).expect("a small number")
}

/// Draws the machine's limits, with a generator of their own. Members may differ in them, because they must not
/// matter.
pub(crate) fn draw_machine(seed: u64, member: u64) -> MachineLimits {
    let mut rng = Rng::new(seed ^ 0x12_0000_0000 ^ member);
    let defaults = MachineLimits::default();
    let mut cost = |most: Cost| *rng.pick(&[Cost::default(), Cost { rows: 7, bytes: 100 }, most]);
    let (entry_reads, group_reads) = (cost(defaults.entry_reads), cost(defaults.group_reads));
    MachineLimits { entry_reads, group_reads, group_keys: *rng.pick(&[0, 3, defaults.group_keys]) }
}
