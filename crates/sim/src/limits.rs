//! The limits of a run's members, drawn from its seed: small ones, so that what lies behind them happens.

use crate::rng::Rng;
use machine::Limits as MachineLimits;
use mvcc::Cost;
use raft_node::Limits;
use std::time::Duration;

/// Draws the limits. They have dice of their own: what else a seed draws does not depend on how many limits there are.
pub(crate) fn draw(seed: u64) -> Limits {
    let mut rng = Rng::new(seed ^ 0x11_0000_0000);
    let defaults = Limits::default();
    if rng.one_in(4) {
        return defaults;
    }
    Limits {
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
        ..defaults
    }
}

/// Draws the machine's, with dice of their own too. Members of a cluster may differ in them, as in everything that must
/// not matter.
pub(crate) fn draw_machine(seed: u64, member: u64) -> MachineLimits {
    let mut rng = Rng::new(seed ^ 0x12_0000_0000 ^ member);
    let defaults = MachineLimits::default();
    let mut cost = |most: Cost| *rng.pick(&[Cost::default(), Cost { rows: 7, bytes: 100 }, most]);
    let (entry_reads, group_reads) = (cost(defaults.entry_reads), cost(defaults.group_reads));
    MachineLimits { entry_reads, group_reads, group_keys: *rng.pick(&[0, 3, defaults.group_keys]) }
}
