//! Alarms: which members are out of space or corrupt.

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};
use std::collections::BTreeSet;

/// The request that raises NOSPACE in this member's name: quota or disk are used up.
pub fn no_space(member_id: u64) -> AlarmRequest {
    AlarmRequest { action: AlarmAction::Activate.into(), member_id, alarm: AlarmType::Nospace.into() }
}

/// The raised alarms, by kind and member. Kinds are wire numbers; unknown ones are kept, as in etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Whether any member has raised this kind.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.of_kind(kind as i32).next().is_some()
    }

    /// Whether this member has raised this kind.
    pub fn has(&self, kind: AlarmType, member: u64) -> bool {
        self.raised.contains(&(kind as i32, member))
    }

    /// The alarms of a kind (0 = all), in order of kind and member.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let member = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        if kind == AlarmType::None as i32 {
            self.raised.iter().map(member).collect()
        } else {
            self.of_kind(kind).map(member).collect()
        }
    }

    /// Whether no alarm is raised.
    pub fn is_empty(&self) -> bool {
        self.raised.is_empty()
    }

    pub(crate) fn raise(&mut self, member: u64, kind: i32) -> bool {
        self.raised.insert((kind, member))
    }

    pub(crate) fn disarm(&mut self, member: u64, kind: i32) -> bool {
        self.raised.remove(&(kind, member))
    }

    fn of_kind(&self, kind: i32) -> impl Iterator<Item = &(i32, u64)> {
        self.raised.range((kind, 0)..=(kind, u64::MAX))
    }
}
