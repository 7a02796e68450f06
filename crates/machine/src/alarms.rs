//! Alarms: which members are out of space or corrupt.

use proto::etcdserverpb::{AlarmMember, AlarmType};
use std::collections::BTreeSet;

/// The raised alarms, by kind and member. Kinds are the wire's numbers: unknown ones are kept, as etcd keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Whether any member raised this kind.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.of_kind(kind as i32).next().is_some()
    }

    /// The alarms of a kind, `None` (0) for all, in order of kind and member.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let member = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        if kind == AlarmType::None as i32 {
            self.raised.iter().map(member).collect()
        } else {
            self.of_kind(kind).map(member).collect()
        }
    }

    /// Whether nothing is raised.
    pub fn is_empty(&self) -> bool {
        self.raised.is_empty()
    }

    /// Raises an alarm; `false` if it was raised already.
    pub(crate) fn raise(&mut self, member: u64, kind: i32) -> bool {
        self.raised.insert((kind, member))
    }

    /// Disarms an alarm; `false` if it was not raised.
    pub(crate) fn disarm(&mut self, member: u64, kind: i32) -> bool {
        self.raised.remove(&(kind, member))
    }

    fn of_kind(&self, kind: i32) -> impl Iterator<Item = &(i32, u64)> {
        self.raised.range((kind, 0)..=(kind, u64::MAX))
    }
}
