//! The machine's state besides the key space.

use crate::{Alarms, Membership};
use types::{ConfState, Index, Term};

/// Everything outside the key space. Ahead of what readers see by the group being applied.
#[derive(Debug)]
pub(crate) struct AppliedState {
    pub(crate) applied: (Index, Term),
    pub(crate) conf: ConfState,
    pub(crate) membership: Membership,
    pub(crate) alarms: Alarms,
    /// The end of the entries that [`crate::Machine::replays_up_to`] announced.
    pub(crate) replay_end: Index,
    pub(crate) lease_changes: Vec<lease::Change>,
}
