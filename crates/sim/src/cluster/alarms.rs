//! The operator who disarms alarms, and sometimes raises one.

use super::{Cluster, Event};
use crate::client::{NOBODY, alarm};
use crate::drawn::count_draw;
use crate::member::Waiter;
use crate::trace::trace;
use proto::etcdserverpb::AlarmType;
use proto::etcdserverpb::alarm_request::AlarmAction;

/// The interval between checks once faults have ended, microseconds of virtual time.
const LOOK: u64 = 200_000;

impl Cluster {
    /// Disarms raised alarms; during faults not always, and sometimes raises one without reason.
    pub(crate) fn check_alarms(&mut self) {
        let pause = if self.chaos { self.rng.between(300_000, 3_000_000) } else { LOOK };
        self.schedule(self.now + pause, Event::Alarms);
        let raised: Vec<(i32, u64)> = self.oracle.model().alarms().iter().copied().collect();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let at = *self.rng.pick(&ids);
        let ask = if raised.is_empty() {
            if !self.chaos || !self.rng.one_in(4) {
                return;
            }
            count_draw("alarm raised");
            let kind = *self.rng.pick(&[AlarmType::Corrupt, AlarmType::Nospace, AlarmType::None]);
            alarm(AlarmAction::Activate, kind, *self.rng.pick(&ids))
        } else {
            let (kind, member) = *self.rng.pick(&raised);
            let kind = AlarmType::try_from(kind).expect("a kind that was raised here");
            let lists = self.chaos && self.rng.one_in(3);
            count_draw(if lists { "alarms listed" } else { "alarm disarmed" });
            alarm(if lists { AlarmAction::Get } else { AlarmAction::Deactivate }, kind, member)
        };
        trace!(self.trace, "the operator asks member {at}: {ask:?}");
        let waiter = Waiter { client: NOBODY, number: 0, read: None };
        self.inbox(at, |inbox| inbox.requests.push((ask, waiter)));
    }
}
