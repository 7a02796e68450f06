//! What of a peer's message can only be judged by this member's log and role.
//!
//! Each refusal here stands for a panic in raft-rs 0.7.0 (`fatal!`), or for an answer that would be wrong. A correct
//! peer sends none of these, unless this member has lost what it promised to keep.

use super::log::LogStore;
use raft::eraftpb::{Message, MessageType};
use raft::{Raft, StateRole};

/// Why the message is dropped, or nothing.
pub(super) fn check(raft: &Raft<LogStore>, message: &Message) -> Result<(), &'static str> {
    let log = &raft.raft_log;
    // Of an older term: raft answers or ignores it, without a look at the rest.
    let is_old = message.term != 0 && message.term < raft.term;
    match message.get_msg_type() {
        // Forwarded by a follower: raft-rs panics when such a message, whose term is set, is to be forwarded again.
        MessageType::MsgTransferLeader if raft.state != StateRole::Leader || message.term > raft.term => {
            Err("leadership is not this member's to hand over")
        }
        _ if is_old => Ok(()),
        // `commit_to` panics.
        MessageType::MsgHeartbeat if message.commit > log.last_index() => {
            Err("it commits entries that this member does not have: was its log lost?")
        }
        // A leader has all that is committed; the search for the conflict would run off the log's start and panic.
        MessageType::MsgAppend
            if message.index >= log.committed
                && log.term(log.committed).is_ok_and(|term| message.log_term < term) =>
        {
            Err("its log contradicts what is committed here")
        }
        // A member cannot have what the leader does not: `next` would leave the log.
        MessageType::MsgAppendResponse
            if raft.state == StateRole::Leader && !message.reject && message.index > log.last_index() =>
        {
            Err("it acknowledges entries that were never sent")
        }
        MessageType::MsgReadIndexResp if message.term == raft.term && message.from != raft.leader_id => {
            Err("only the leader answers reads")
        }
        _ => Ok(()),
    }
}
