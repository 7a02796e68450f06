//! Ours beyond etcd, on by default: members of ours compare what they hold, a slice at a time, and one that holds something
//! else than the majority stops serving. It costs little because a slice is small: nothing is hashed as a whole.
//!
//! ```text
//! every --divergence-check-time:
//!   follow   what the newest revisions changed, up to where this member was a round ago   (the history, from the engine)
//!   walk     the next older changes, and the next keys, in turn                           (all that clients can read)
//!                │ own hash, and the others' from their peer ports (`/quorate/slice`); never through the log
//!                ▼
//!   same ─▶ on      differs, three times ─┬─ this one is of the majority  ─▶ a line that names who differs
//!                                         ├─ a majority against this one  ─▶ it stops serving, across restarts
//!                                         └─ no majority                  ─▶ a line, and the alarm CORRUPT for member 0
//! ```
//!
//! * A slice is of revisions, not of entries: two members answer of the same, whenever they started, from whatever
//!   snapshot, and however far each has compacted ([`mvcc::SliceHash`]). What is compacted on one of them is not
//!   compared.
//! * Every member judges itself, so it does not matter who leads, and nobody tells another one to stop.
//! * etcd's members have no such page. Without a majority among ours they are asked for a `HashKV`.
//!
//! Not compared: leases, alarms and members, which no slice holds.

mod judge;
mod limits;
mod quarantine;
mod slices;
mod walk;

pub(crate) use limits::Limits;
pub(crate) use quarantine::{Quarantine, is_noted};
pub(crate) use slices::Slices;

use crate::corruption::{self, Asker};
use bytes::Bytes;
use judge::{Answer, Verdict, judge};
use prometheus::{IntCounterVec, Opts};
use raft_node::Handle;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use transport::{HashError, Slice, SliceHash, SliceQuestion};
use walk::Walk;

/// What the comparison of one member needs of its other parts.
pub(crate) struct Parts {
    pub(crate) node: Handle,
    pub(crate) slices: Arc<Slices>,
    /// Asks for whole hashes, where slices leave it open.
    pub(crate) asker: Arc<Asker>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) log: slog::Logger,
}

/// Compares this member with the others, from now on until the node ends or this member is found wrong.
pub(crate) struct Comparison {
    parts: Parts,
    limits: Limits,
    walk: Walk,
    compared: IntCounterVec,
    /// Where this member was a round ago: the others have most likely come as far by now.
    settled: i64,
    round: u64,
    /// Members that have no such page, and the round in which they said so.
    foreign: BTreeMap<u64, u64>,
    /// Members that were told of as different, once each.
    told: BTreeSet<u64>,
    is_split_told: bool,
}

impl Comparison {
    pub(crate) fn new(parts: Parts, limits: Limits) -> Self {
        let help = "Slices that were compared with other members, by result: same, unanswered, compacted, other \
                    (another member differs), own (this one does), split (no majority).";
        let options = Opts::new("quorate_slices_compared_total", help);
        let compared = IntCounterVec::new(options, &["result"]).expect("a constant, valid name and label");
        Self {
            walk: Walk::new(&limits),
            parts,
            limits,
            compared,
            settled: 0,
            round: 0,
            foreign: BTreeMap::new(),
            told: BTreeSet::new(),
            is_split_told: false,
        }
    }

    /// The counter of compared slices, to be registered.
    pub(crate) fn metric(&self) -> IntCounterVec {
        self.compared.clone()
    }

    pub(crate) async fn run(mut self, every: Duration) {
        let mut ended = self.parts.node.watch_ended();
        loop {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return,
                () = tokio::time::sleep(every) => {}
            }
            if self.parts.quarantine.is_on() {
                self.step_down().await;
                continue;
            }
            self.round += 1;
            self.round_of(self.parts.asker.shared().view().revision()).await;
        }
    }

    /// A wrong state ends no lease and compacts nothing for the others.
    async fn step_down(&self) {
        let is_alone = self.parts.asker.shared().membership().members.len() == 1;
        if !self.parts.node.status().is_leader || is_alone {
            return;
        }
        if let Err(error) = self.parts.node.transfer_leader(0).await {
            slog::warn!(self.parts.log, "a member that differs still leads"; "error" => %error);
        }
    }

    async fn round_of(&mut self, revision: i64) {
        let settled = std::mem::replace(&mut self.settled, revision).min(revision);
        if settled == 0 || self.asked().is_empty() {
            self.walk.skip_to(revision);
            return;
        }
        let mut largest = 0;
        for _ in 0..self.limits.slices_a_round {
            let compact = self.parts.asker.shared().view().compact_revision();
            let Some((after, to)) = self.walk.newest(settled, compact, largest) else { break };
            let done = self.changes(after, to).await;
            self.walk.followed(done);
            largest = largest.max(done - after);
        }
        if !self.walk.is_due(self.round) {
            return;
        }
        let compact = self.parts.asker.shared().view().compact_revision();
        if let Some((after, to)) = self.walk.older(settled, compact) {
            let done = self.changes(after, to).await;
            self.walk.walked(done);
        }
        if let Some(from) = self.walk.key() {
            let rest = self.keys(from, settled).await;
            self.walk.keys_walked(rest);
        }
        self.walk.end_pass(self.round);
    }

    /// Compares what these revisions changed, or as many of them as one slice may be; returns the last one.
    async fn changes(&mut self, after: i64, mut to: i64) -> i64 {
        loop {
            let slice = Slice::Changes(after, to);
            match self.own(&slice, false).await {
                Ok(own) => {
                    self.compare(slice, own).await;
                }
                // A single revision that is too much is left to the walk of the keys.
                Err(HashError::Other(text)) if text == slices::TOO_LARGE && to - after > 1 => {
                    to = after + (to - after) / 2;
                    continue;
                }
                Err(_) => {}
            }
            return to;
        }
    }

    /// Compares the next keys; returns where the rest of them begins.
    async fn keys(&mut self, from: Bytes, revision: i64) -> Option<Bytes> {
        let found = self.parts.slices.first_keys(from.clone(), revision, &self.limits).await;
        let (own, rest) = match found {
            Ok(found) => found,
            Err(HashError::Compacted) => return Some(from),
            // Very many keys that are gone and not compacted yet.
            Err(HashError::Other(text)) if text == slices::TOO_LARGE => return None,
            Err(error) => {
                slog::error!(self.parts.log, "cannot read this member's own keys"; "error" => %error);
                return None;
            }
        };
        let slice = Slice::Keys { revision, from: from.clone(), to: rest.clone(), rows: own.rows };
        // The same keys again, as of a later revision: where much is compacted, the walk would else compare nothing.
        if self.compare(slice, own).await == Verdict::Compacted {
            return Some(from);
        }
        rest.filter(|key| key.len() <= self.limits.key_bytes_max)
    }

    async fn own(&self, slice: &Slice, anew: bool) -> Result<SliceHash, HashError> {
        let question = SliceQuestion { slice: slice.clone(), anew };
        let own = Arc::clone(&self.parts.slices).hash(question).await;
        if let Err(HashError::Other(error)) = &own
            && error != slices::TOO_LARGE
        {
            slog::error!(self.parts.log, "cannot read this member's own history"; "error" => error);
        }
        own
    }

    /// Asks the others, and again if anybody differs: what one of them did meanwhile is no difference.
    async fn compare(&mut self, slice: Slice, mut own: SliceHash) -> Verdict {
        let mut attempt = 1;
        loop {
            let answers = self.ask(&slice, attempt > 1).await;
            let members = self.parts.asker.shared().membership().members.len();
            let verdict = judge(self.parts.asker.member(), own, &answers, members);
            self.compared.with_label_values(&[verdict.name()]).inc();
            if matches!(verdict, Verdict::Same | Verdict::Unanswered | Verdict::Compacted) {
                return verdict;
            }
            // Where two differ and a third one is away, it may come back and decide.
            let is_open = verdict == Verdict::Split && answers.iter().any(|(_, a)| *a == Answer::Silent);
            let needed = if is_open { self.limits.patience } else { self.limits.confirmations };
            if attempt >= needed {
                self.act(verdict.clone(), &slice).await;
                return verdict;
            }
            tokio::time::sleep(self.limits.pause).await;
            own = match self.own(&slice, true).await {
                Ok(own) => own,
                Err(_) => return verdict,
            };
            attempt += 1;
        }
    }

    /// The others' answers; of those who have no such page only now and then.
    async fn ask(&mut self, slice: &Slice, anew: bool) -> Vec<(u64, Answer)> {
        let question = SliceQuestion { slice: slice.clone(), anew };
        let (cluster, limit) = (self.parts.asker.cluster(), self.limits.answer);
        let asked = self.asked().into_iter().map(|(member, urls)| {
            let question = &question;
            async move {
                let mut answer = Err(HashError::Other("it has no URL".to_owned()));
                for url in &urls {
                    answer = transport::fetch_slice_hash(url, cluster, question, limit).await;
                    if !matches!(answer, Err(HashError::Other(_))) {
                        break;
                    }
                }
                (member, answer)
            }
        });
        let answers: Vec<_> = futures::future::join_all(asked).await;
        let mut found = Vec::new();
        for (member, answer) in answers {
            if answer == Err(HashError::NotServed) {
                self.foreign.insert(member, self.round);
            }
            found.push((member, Answer::of(&answer)));
        }
        found
    }

    /// Who is to be asked, with their URLs.
    fn asked(&self) -> Vec<(u64, Vec<String>)> {
        let is_due = |member: &u64| {
            let said = self.foreign.get(member);
            said.is_none_or(|said| self.round >= said + self.limits.ask_again_rounds)
        };
        let mut asked = self.parts.asker.others();
        asked.retain(|(member, _)| is_due(member));
        asked
    }

    async fn act(&mut self, verdict: Verdict, slice: &Slice) {
        let verdict = match verdict {
            Verdict::Split => self.arbitrate().await.unwrap_or(Verdict::Split),
            decided => decided,
        };
        let (log, me) = (&self.parts.log, self.parts.asker.me());
        let slice = format!("{slice:?}");
        match verdict {
            Verdict::Same | Verdict::Unanswered | Verdict::Compacted => {}
            Verdict::Other(members) => {
                for member in members.into_iter().filter(|member| self.told.insert(*member)) {
                    slog::error!(log, "another member's data differs from the majority's: that member is wrong";
                        "local-member-id" => &me, "wrong-member-id" => format!("{member:x}"), "slice" => &slice);
                }
            }
            Verdict::Own(members) => {
                let right = members.iter().map(|member| format!("{member:x}")).collect::<Vec<_>>().join(",");
                slog::error!(log, "this member's data differs from the majority's: it is wrong and stops serving";
                    "local-member-id" => me, "right-member-ids" => &right, "slice" => &slice);
                self.parts.quarantine.begin(&format!("differs from {right} in {slice}"), log).await;
                self.step_down().await;
            }
            Verdict::Split => {
                if !std::mem::replace(&mut self.is_split_told, true) {
                    slog::error!(log, "members' data differs and no majority shows which of them is right";
                        "local-member-id" => me, "slice" => slice);
                }
                corruption::raise_unless_raised(&self.parts.node, 0, log);
            }
        }
    }

    /// What a hash of the whole history shows, which etcd's members can answer, too.
    async fn arbitrate(&self) -> Option<Verdict> {
        if self.foreign.is_empty() {
            return None;
        }
        let asker = &self.parts.asker;
        let own = asker.own(self.settled).await.ok()?;
        let peers = asker.peers(own.hash_revision).await;
        let answers: Vec<(u64, Answer)> = peers
            .iter()
            .filter_map(|peer| Some((peer.member, peer.answer.as_ref().ok()?)))
            .filter(|(_, theirs)| theirs.compact_revision == own.compact_revision)
            .map(|(member, theirs)| (member, Answer::Hash(SliceHash { hash: theirs.hash, rows: 0 })))
            .collect();
        let members = asker.shared().membership().members.len();
        let verdict = judge(asker.member(), SliceHash { hash: own.hash, rows: 0 }, &answers, members);
        matches!(verdict, Verdict::Own(_) | Verdict::Other(_)).then_some(verdict)
    }
}
