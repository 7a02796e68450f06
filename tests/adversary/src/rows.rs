//! The table of attacks: the one place that says which there are.

use futures::future::LocalBoxFuture;

use crate::{
    attacks::{connections, history, lists, locks, mixtures, peers, snapshots, streams},
    data::Data,
    servers::Files,
    target::{Outcome, Target},
};

/// An attack, and the state that it needs.
#[derive(Debug)]
pub(crate) struct Row {
    /// The finding, and which of its forms.
    pub(crate) name: &'static str,
    /// What the table says of it.
    pub(crate) what: &'static str,
    /// What is in the store before.
    pub(crate) data: Data,
    /// The limit of open files that the servers start with.
    pub(crate) files: Files,
    pub(crate) attack: fn(Target) -> LocalBoxFuture<'static, anyhow::Result<Outcome>>,
}

macro_rules! rows {
    ($($name:literal, $what:literal, $data:expr, $files:ident, $attack:path;)*) => {
        &[$(Row {
            name: $name, what: $what, data: $data, files: Files::$files, attack: |target| Box::pin($attack(target)),
        }),*]
    };
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Little data, for attacks that need none.
const FEW: Data = Data::few();
/// Large values have been put before: what a store gathers of them in memory is there from the beginning.
const WARM: Data = Data { values: 100, value_bytes: MIB, ..FEW };
/// 100 MB, in one list.
const LISTED: Data = Data { values: 200, value_bytes: 512 * KIB, ..FEW };
/// 200 values that are as large as values can be, almost.
const LARGE: Data = Data { values: 200, value_bytes: MIB, ..FEW };
/// 50 MiB, in one list.
const MEDIUM: Data = Data { values: 200, value_bytes: 256 * KIB, ..FEW };
/// Keys that all have an older history.
const REMADE: Data = Data { remade: 200_000, ..FEW };
/// Leases for those who keep them alive, or lock with them.
const LEASES: Data = Data { leases: 10_000, ..FEW };
/// A bit of each.
const MIXED: Data = Data { remade: 100_000, leases: 10_000, ..MEDIUM };

/// All attacks, in the order of the table.
pub(crate) const ROWS: &[Row] = rows![
    "B1", "2,000 idle connections, the soft limit at 1,024 files", WARM, SoftLimit, connections::idle;
    "B1-hard", "the same with the hard limit at 1,024 files", WARM, HardLimit, connections::idle;
    "B2", "300 lists of 100 MB, reset after 4 ms, every 5 s", LISTED, SoftLimit, lists::cancelled;
    "B2-json", "150 lists of 100 MB as JSON, left after 4 ms, every 5 s", LISTED, SoftLimit, lists::cancelled_json;
    "B4", "two reads of 200,000 remade keys at an older revision, every 2 s", REMADE, SoftLimit, history::old_counts;
    "B4-txn", "two transactions that put, then read as much, every 2 s", REMADE, SoftLimit, history::old_counts_after_a_put;
    "B4-cmp", "two transactions of 20 compares over 200,000 keys each, every 2 s", REMADE, SoftLimit, history::wide_compares;
    "B5-1", "one client lists 200 values of 1 MiB", LARGE, SoftLimit, lists::one_large;
    "B5-6", "six clients do", LARGE, SoftLimit, lists::six_large;
    "B5-txn", "six read transactions of 128 gets of 1 MiB", LARGE, SoftLimit, lists::large_reads;
    "B5-put", "six transactions of a put and 127 gets of 1 MiB", LARGE, SoftLimit, lists::large_reads_after_a_put;
    "B5-old", "two transactions of a put and 20 lists of 200,000 keys at an older revision", REMADE, SoftLimit, lists::old_lists_after_a_put;
    "B6-lease", "10,000 leases kept alive on one stream, through a follower", LEASES, SoftLimit, streams::keepalives;
    "B6-watch", "20,000 watches created on one stream", FEW, SoftLimit, streams::watch_creates;
    "B7", "4,000 locks of one name", LEASES, SoftLimit, locks::storm;
    "B8", "four snapshot readers that crawl, and a fifth that does not", LISTED, SoftLimit, snapshots::slow_readers;
    "B10", "5,000 watch streams with a deadline of 1 s", FEW, SoftLimit, streams::deadlines;
    "B11", "an unread RangeStream, and a physical compaction", MEDIUM, SoftLimit, snapshots::unread_stream;
    "B12", "3,000 calls time out in a pause of 2 s, on a connection that others use", FEW, SoftLimit, streams::paused;
    "B13", "a JSON put of 40 KB beside eight JSON lists of 50 MiB", MEDIUM, SoftLimit, lists::json_put;
    "B14", "40,000 empty watch requests a second", FEW, SoftLimit, streams::empty_requests;
    "B14-peer", "5,000 heartbeats of no term a second, at the peers' port", FEW, SoftLimit, peers::stray_messages;
    "B15-list", "40 lists of 50 MiB at window 0", MEDIUM, SoftLimit, lists::unread;
    "B15-put", "500 puts of 1.4 MB, half sent", FEW, SoftLimit, connections::half_sent;
    "M-memory", "B1, B8, B15-list, B15-put at half strength", MEDIUM, SoftLimit, mixtures::memory;
    "M-work", "B2, B4, B5-txn, B13 at half strength", MIXED, SoftLimit, mixtures::work;
    "M-streams", "B6-lease, B6-watch, B7, B14 at half strength", LEASES, SoftLimit, mixtures::streams;
    "M-all", "all three mixtures, each attack at a quarter", MIXED, SoftLimit, mixtures::everything;
];
