//! The machine's rows in the meta family, besides `mvcc/…`, which belongs to the key space.
//!
//! | key | value |
//! | --- | --- |
//! | `applied` | index, term of the last applied entry: 8 bytes each, big-endian |
//! | `conf_state` | voters, learners: `raftpb.ConfState` |
//! | `member/` ++ id (8 bytes) | the member: etcd's JSON |
//! | `removed/` ++ id (8 bytes) | nothing |
//! | `cluster_version` | text, as `3.7.0` |
//! | `downgrade` | etcd's JSON |
//! | `alarm/` ++ kind (4 bytes) ++ member (8 bytes) | nothing |
//! | `lease/` ++ id (8 bytes) | see crate `lease` |

use crate::{Alarms, Downgrade, Fault, Member, Membership};
use engine::{Batch, Engine, Family};
use prost::Message as _;
use proto::raftpb;
use std::ops::ControlFlow;
use types::{ConfState, Index, Term};

pub(crate) const APPLIED: &[u8] = b"applied";
pub(crate) const CONF_STATE: &[u8] = b"conf_state";
pub(crate) const CLUSTER_VERSION: &[u8] = b"cluster_version";
pub(crate) const DOWNGRADE: &[u8] = b"downgrade";
pub(crate) const MEMBER: &[u8] = b"member/";
pub(crate) const REMOVED: &[u8] = b"removed/";
pub(crate) const ALARM: &[u8] = b"alarm/";

#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) applied: (Index, Term),
    pub(crate) conf_state: ConfState,
    pub(crate) membership: Membership,
    pub(crate) alarms: Alarms,
    pub(crate) leases: Vec<lease::Lease>,
}

pub(crate) fn load(engine: &dyn Engine) -> Result<Stored, Fault> {
    let mut stored = Stored::default();
    if let Some(value) = engine.get(Family::Meta, APPLIED)? {
        stored.applied = decode_applied(&value)?;
    }
    if let Some(value) = engine.get(Family::Meta, CONF_STATE)? {
        stored.conf_state = decode_conf_state(&value)?;
    }
    if let Some(value) = engine.get(Family::Meta, CLUSTER_VERSION)? {
        let text = String::from_utf8(value.to_vec()).map_err(|error| broken(CLUSTER_VERSION, error))?;
        stored.membership.cluster_version = Some(text);
    }
    if let Some(value) = engine.get(Family::Meta, DOWNGRADE)? {
        let downgrade = serde_json::from_slice(&value).map_err(|error| broken(DOWNGRADE, error))?;
        stored.membership.downgrade = Some(downgrade);
    }
    each(engine, MEMBER, |key, value| {
        let member: Member = serde_json::from_slice(value).map_err(|error| broken(key, error))?;
        stored.membership.members.insert(member.id, member);
        Ok(())
    })?;
    each(engine, REMOVED, |key, _| {
        stored.membership.removed.insert(u64_at(key, REMOVED.len())?);
        Ok(())
    })?;
    each(engine, ALARM, |key, _| {
        let (kind, member) = decode_alarm(key)?;
        stored.alarms.raise(member, kind);
        Ok(())
    })?;
    each(engine, lease::ROW_PREFIX, |key, value| {
        let lease = lease::Lease::from_row(key, value).ok_or_else(|| broken(key, "no lease"))?;
        stored.leases.push(lease);
        Ok(())
    })?;
    Ok(stored)
}

pub(crate) fn put_applied(batch: &mut Batch, index: Index, term: Term) {
    let value = [index.to_be_bytes(), term.to_be_bytes()].concat();
    batch.put(Family::Meta, APPLIED, value);
}

pub(crate) fn put_conf_state(batch: &mut Batch, conf_state: &ConfState) {
    let message = raftpb::ConfState {
        voters: conf_state.voters.clone(),
        learners: conf_state.learners.clone(),
        ..raftpb::ConfState::default()
    };
    batch.put(Family::Meta, CONF_STATE, message.encode_to_vec());
}

pub(crate) fn put_member(batch: &mut Batch, member: &Member) {
    let value = serde_json::to_vec(member).expect("members are plain strings and numbers");
    batch.put(Family::Meta, [MEMBER, &member.id.to_be_bytes()].concat(), value);
}

pub(crate) fn remove_member(batch: &mut Batch, id: u64) {
    batch.delete(Family::Meta, [MEMBER, &id.to_be_bytes()].concat());
    put_removed(batch, id);
}

pub(crate) fn put_removed(batch: &mut Batch, id: u64) {
    batch.put(Family::Meta, [REMOVED, &id.to_be_bytes()].concat(), Vec::new());
}

pub(crate) fn put_cluster_version(batch: &mut Batch, version: &str) {
    batch.put(Family::Meta, CLUSTER_VERSION, version.as_bytes().to_vec());
}

pub(crate) fn put_downgrade(batch: &mut Batch, downgrade: &Downgrade) {
    let value = serde_json::to_vec(downgrade).expect("a downgrade is a string and a flag");
    batch.put(Family::Meta, DOWNGRADE, value);
}

pub(crate) fn put_alarm(batch: &mut Batch, member: u64, kind: i32) {
    batch.put(Family::Meta, alarm_key(member, kind), Vec::new());
}

pub(crate) fn delete_alarm(batch: &mut Batch, member: u64, kind: i32) {
    batch.delete(Family::Meta, alarm_key(member, kind));
}

pub(crate) fn put_lease(batch: &mut Batch, lease: &lease::Lease) {
    batch.put(Family::Meta, lease::row_key(lease.id), lease.row_value());
}

pub(crate) fn delete_lease(batch: &mut Batch, id: types::LeaseId) {
    batch.delete(Family::Meta, lease::row_key(id));
}

/// Removes all members, former ones included.
pub(crate) fn forget_members(engine: &dyn Engine, batch: &mut Batch) -> Result<(), Fault> {
    for prefix in [MEMBER, REMOVED] {
        each(engine, prefix, |key, _| {
            batch.delete(Family::Meta, key.to_vec());
            Ok(())
        })?;
    }
    Ok(())
}

fn alarm_key(member: u64, kind: i32) -> Vec<u8> {
    [ALARM, &kind.to_be_bytes(), &member.to_be_bytes()].concat()
}

pub(crate) fn decode_applied(value: &[u8]) -> Result<(Index, Term), Fault> {
    match value.as_chunks::<8>() {
        ([index, term], []) => Ok((u64::from_be_bytes(*index), u64::from_be_bytes(*term))),
        _ => Err(broken(APPLIED, "not 16 bytes")),
    }
}

pub(crate) fn decode_conf_state(value: &[u8]) -> Result<ConfState, Fault> {
    let message = raftpb::ConfState::decode(value).map_err(|error| broken(CONF_STATE, error))?;
    Ok(ConfState { voters: message.voters, learners: message.learners })
}

/// The kind, and the member that raised it.
pub(crate) fn decode_alarm(key: &[u8]) -> Result<(i32, u64), Fault> {
    let kind = key.get(ALARM.len()..ALARM.len() + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = kind.map(i32::from_be_bytes).ok_or_else(|| broken(key, "too short"))?;
    Ok((kind, u64_at(key, ALARM.len() + 4)?))
}

pub(crate) fn u64_at(key: &[u8], offset: usize) -> Result<u64, Fault> {
    let bytes = key.get(offset..).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| broken(key, "no ID in the key"))
}

fn each(
    engine: &dyn Engine,
    prefix: &[u8],
    mut row: impl FnMut(&[u8], &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut result = Ok(());
    engine.scan(Family::Meta, prefix, Some(&end_of(prefix)), &mut |key, value| {
        result = row(key, value);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result
}

/// The first key after all that begin with a prefix; each ends in '/'.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("prefixes are not empty") += 1;
    end
}

pub(crate) fn broken(key: &[u8], reason: impl std::fmt::Display) -> Fault {
    Fault::Row { row: key.escape_ascii().to_string(), reason: reason.to_string() }
}
