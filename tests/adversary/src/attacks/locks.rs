//! Attacks by those who wait for each other.

use anyhow::ensure;
use proto::v3lockpb::LockRequest;

use super::LOCK;
use crate::{
    raw::{Connection, Windows},
    target::{Outcome, Target},
};

/// Who wants the lock, each with a lease of its own.
const LOCKS: u32 = 4_000;
/// Of them on one connection.
const LOCKS_A_CONNECTION: i64 = 100;

/// B7: many want the lock of one name; one gets it, the others wait until the end, and leave.
pub(crate) async fn storm(target: Target) -> anyhow::Result<Outcome> {
    let mut held = Vec::new();
    let mut connection = Connection::open(target.leader(), Windows::WIDE).await?;
    for lease in 1..=i64::from(target.count(LOCKS)) {
        let lock = LockRequest { name: "storm".into(), lease };
        held.push(connection.call(LOCK, &lock).await?);
        if lease % LOCKS_A_CONNECTION == 0 {
            ensure!(connection.ended().is_none(), "the connection ended: {:?}", connection.ended());
            connection = Connection::open(target.leader(), Windows::WIDE).await?;
        }
    }
    target.until_end().await;
    Ok(Outcome::quiet())
}
