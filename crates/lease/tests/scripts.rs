//! Stories of leases: the files in `scripts`, with their expected output.
//!
//! ```text
//! at SECONDS               the time, which only goes on       lead TERM, demote       begins to lead, or ends
//! grant ID TTL [count=N]   so many IDs in a row               confirm [SECONDS]       began now, or then
//! revoke ID [later]                                           renew ID                a keepalive
//! attach ID KEY…, detach ID KEY…                              left ID…                when they end
//! checkpoint ID SECONDS                                       allow, forbid, undecide checkpoints
//! restore ID TTL [SECONDS] from a row                         tick     does and logs what is due
//! leases                   the table                          apply    what was logged; lose: raft did not take it
//! ```
//!
//! There is one table, the same on all members, and one log. A word before a command (`a: renew 7`) names the member
//! whose expirer is meant; it may wake up for a lease that is gone. Client requests are applied at once, except a
//! revoke that comes `later`. `UPDATE_GOLDENFILES=1 cargo test -p lease --test scripts` rewrites the expected output:
//! read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use goldenscript::{Context, Runner};
use lease::{Change, Checkpoint, Checkpoints, Deadlines, Expirer, Info, Lease, Pace, Renewal, Table};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::error::Error;
use std::time::{Duration, Instant};
use types::{LeaseId, Term};

/// The number of files in `scripts`, so that none gets lost.
const STORIES: usize = 8;

/// The election timeout, which a new leader adds to every deadline.
const ELECTION: Duration = Duration::from_secs(1);

/// The shortest lease, seconds: etcd's with its default election timeout.
const TTL_MIN: i64 = 2;

const SHOWN_MAX: usize = 8;

/// An entry logged but not applied, with the term that logged it.
#[derive(Clone, Copy)]
enum Entry {
    Revoke(LeaseId),
    Checkpoint(Term, Checkpoint),
    /// A clearing checkpoint for a client that renews.
    Clear(Term, LeaseId),
}

struct Story {
    start: Instant,
    now: Instant,
    table: Table,
    log: VecDeque<Entry>,
    members: BTreeMap<String, Expirer>,
}

impl Story {
    fn new() -> Self {
        let now = Instant::now();
        Self { start: now, now, table: Table::new(TTL_MIN), log: VecDeque::new(), members: BTreeMap::new() }
    }

    fn member(&mut self, context: &Context) -> &mut Expirer {
        let name = context.prefix.clone().unwrap_or_default();
        self.members.entry(name).or_insert_with(|| Expirer::new(Pace::of(ELECTION)))
    }

    fn time(&self, seconds: f64) -> Result<Instant, Box<dyn Error>> {
        Ok(self.start + Duration::try_from_secs_f64(seconds)?)
    }

    fn seconds(&self, time: Instant) -> f64 {
        time.duration_since(self.start).as_secs_f64()
    }

    /// Applies a change at all members; returns whether the leader takes it for the end of an expired lease.
    fn tell(&mut self, change: &Change) -> bool {
        let now = self.now;
        // All members must see it: no short circuit.
        self.members.values_mut().fold(false, |expired, member| member.applied(now, change) | expired)
    }

    fn grant(&mut self, id: LeaseId, ttl: i64, count: i64) -> Result<String, Box<dyn Error>> {
        for id in id..id + count {
            let ttl = self.table.grant(id, ttl)?.ttl;
            self.tell(&Change::Granted { id, ttl });
        }
        let ttl = self.table.get(id).ok_or("nothing is granted")?.ttl;
        Ok(format!("{} for {ttl} s", list(&(id..id + count).collect::<Vec<_>>())))
    }

    fn revoke(&mut self, id: LeaseId) -> Result<String, Box<dyn Error>> {
        let keys = self.table.revoke(id)?;
        let how = if self.tell(&Change::Revoked { id }) { "has expired" } else { "is revoked" };
        Ok(if keys.is_empty() {
            format!("{id} {how}")
        } else {
            format!("{id} {how}, and takes along {}", words(&keys))
        })
    }

    fn checkpoint(&mut self, id: LeaseId, remaining_ttl: i64) {
        if self.table.checkpoint(id, remaining_ttl).is_some() {
            self.tell(&Change::Checkpointed { id, remaining_ttl });
        }
    }

    fn apply(&mut self) -> String {
        let (mut revoked, mut lines) = (Vec::new(), Vec::new());
        while let Some(entry) = self.log.pop_front() {
            match entry {
                Entry::Revoke(id) => {
                    let result = self.revoke(id);
                    revoked.extend(result.is_ok().then_some(id));
                    lines.push(result.unwrap_or_else(|error| error.to_string()));
                }
                Entry::Checkpoint(_, Checkpoint { id, remaining_ttl }) => self.checkpoint(id, remaining_ttl),
                Entry::Clear(_, id) => self.checkpoint(id, 0),
            }
        }
        let is_long = lines.len() > SHOWN_MAX && revoked.len() == lines.len();
        if is_long { format!("applied: {}", list(&revoked)) } else { lines.join("\n") }
    }

    /// Raft refused what was logged. A lost revoke is noticed only by waiting.
    fn lose(&mut self) {
        for entry in std::mem::take(&mut self.log) {
            for member in self.members.values_mut() {
                match entry {
                    Entry::Revoke(_) => {}
                    Entry::Checkpoint(term, checkpoint) => member.not_logged(term, &[checkpoint]),
                    Entry::Clear(term, id) => member.not_cleared(term, id),
                }
            }
        }
    }

    fn lead(&mut self, term: Term, context: &Context) {
        let info = |lease: &Lease| Info { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining_ttl };
        let deadlines = Deadlines::new(Pace::of(ELECTION), self.now, term, self.table.iter().map(info));
        drop(self.member(context).promote(deadlines));
    }

    fn renew(&mut self, id: LeaseId, context: &Context) -> String {
        let now = self.now;
        match self.member(context).renew(now, id) {
            Renewal::Renewed(ttl) => format!("{id} lasts {ttl} s from now"),
            Renewal::NotPrimary => "not the leader".to_owned(),
            Renewal::Unknown => format!("{id} is unknown"),
            Renewal::Expired => format!("too late for {id}"),
            Renewal::Unconfirmed(term) => format!("term {term} must be confirmed first"),
            Renewal::Checkpointed(term) => {
                self.log.push_back(Entry::Clear(term, id));
                format!("what is left of {id} must be cleared first")
            }
        }
    }

    fn left(&mut self, ids: &[LeaseId], context: &Context) -> String {
        let (now, start) = (self.now, self.start);
        let member = self.member(context);
        let line = |id: &LeaseId| match (member.remaining(now, *id), member.deadline(*id)) {
            (Some(left), Some(end)) => {
                format!("{id} ends at {:.3}: {left} s left", end.duration_since(start).as_secs_f64())
            }
            _ => format!("{id} has no end here"),
        };
        ids.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn tick(&mut self, context: &Context) -> String {
        let now = self.now;
        let revoking: HashSet<LeaseId> = self.log.iter().filter_map(Entry::revokes).collect();
        let member = self.member(context);
        member.tick(now);
        let term = member.term().unwrap_or_default();
        let revokes = member.take_revokes(now, &revoking);
        let checkpoints = member.take_checkpoints(now, &revoking);
        let (waits, wake) = (member.wants_confirmation(), member.wake_at());
        let mut lines = Vec::new();
        if !revokes.is_empty() {
            lines.push(format!("revokes {}", list(&revokes)));
        }
        lines.extend(checkpoints.iter().map(|Checkpoint { id, remaining_ttl }| match remaining_ttl {
            0 => format!("clears what is left of {id}"),
            left => format!("logs {left} s left of {id}"),
        }));
        if waits {
            lines.push("waits for a confirmation that begins now".to_owned());
        }
        lines.push(wake.map_or("sleeps".to_owned(), |at| format!("sleeps until {:.3}", self.seconds(at))));
        self.log.extend(revokes.into_iter().map(Entry::Revoke));
        self.log.extend(checkpoints.into_iter().map(|checkpoint| Entry::Checkpoint(term, checkpoint)));
        lines.join("\n")
    }

    fn show(&self) -> String {
        let line = |lease: &Lease| {
            let left = Some(lease.remaining_ttl).filter(|left| *left > 0);
            let left = left.map_or(String::new(), |left| format!(", {left} left"));
            let mut keys: Vec<_> = lease.keys().collect();
            keys.sort_unstable();
            format!("{}: {} s{left} {}", lease.id, lease.ttl, words(&keys)).trim_end().to_owned()
        };
        let lines: Vec<_> = self.table.iter().map(line).collect();
        if lines.is_empty() { "none".to_owned() } else { lines.join("\n") }
    }
}

impl Entry {
    fn revokes(&self) -> Option<LeaseId> {
        match self {
            Self::Revoke(id) => Some(*id),
            Self::Checkpoint(..) | Self::Clear(..) => None,
        }
    }
}

fn words<T: AsRef<[u8]>>(keys: &[T]) -> String {
    let words: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key.as_ref())).collect();
    words.join(" ")
}

/// Long lists are shown by their first and last items.
fn list(ids: &[LeaseId]) -> String {
    match ids {
        [first, .., last] if ids.len() > SHOWN_MAX => format!("{first} to {last} ({} leases)", ids.len()),
        _ => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

#[derive(goldenscript::Command)]
enum Act {
    At(f64),
    Grant {
        id: LeaseId,
        ttl: i64,
        #[arg(key)]
        count: Option<i64>,
    },
    Revoke(LeaseId, Option<String>),
    Attach(LeaseId, Vec<String>),
    Detach(LeaseId, Vec<String>),
    Checkpoint(LeaseId, i64),
    Restore(LeaseId, i64, Option<i64>),
    Leases,
    Lead(Term),
    Demote,
    Confirm(Option<f64>),
    Renew(LeaseId),
    Left(Vec<LeaseId>),
    Allow,
    Forbid,
    Undecide,
    Tick,
    Apply,
    Lose,
}

impl Act {
    fn comes_after_the_log(&self) -> bool {
        matches!(
            self,
            Self::Grant { .. }
                | Self::Revoke(_, None)
                | Self::Attach(..)
                | Self::Detach(..)
                | Self::Checkpoint(..)
                | Self::Lead(_)
        )
    }
}

impl Runner for Story {
    type Command = Act;

    fn run(&mut self, act: &Act, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        if act.comes_after_the_log() && !self.log.is_empty() {
            return Err("what was logged must be applied or lost first".into());
        }
        match act {
            Act::At(seconds) => {
                let time = self.time(*seconds)?;
                if time < self.now {
                    return Err("time only goes on".into());
                }
                self.now = time;
            }
            Act::Grant { id, ttl, count } => out = self.grant(*id, *ttl, count.unwrap_or(1))?,
            Act::Revoke(id, None) => out = self.revoke(*id)?,
            Act::Revoke(id, Some(when)) if when == "later" => self.log.push_back(Entry::Revoke(*id)),
            Act::Revoke(_, Some(when)) => return Err(format!("no option {when}").into()),
            Act::Attach(id, keys) => {
                for key in keys {
                    self.table.attach(*id, key.clone().into())?;
                }
            }
            Act::Detach(id, keys) => keys.iter().for_each(|key| self.table.detach(*id, key.as_bytes())),
            Act::Checkpoint(id, left) => self.checkpoint(*id, *left),
            Act::Restore(id, ttl, left) => self.table.restore(Lease::new(*id, *ttl, left.unwrap_or(0))),
            Act::Leases => out = self.show(),
            Act::Lead(term) => self.lead(*term, context),
            Act::Demote => drop(self.member(context).demote()),
            Act::Confirm(seconds) => {
                let began = seconds.map_or(Ok(self.now), |seconds| self.time(seconds))?;
                let member = self.member(context);
                let term = member.term().ok_or("not the leader")?;
                member.confirm(term, began);
            }
            Act::Renew(id) => out = self.renew(*id, context),
            Act::Left(ids) => out = self.left(ids, context),
            Act::Allow => drop(self.member(context).set_checkpoints(Checkpoints::Allowed)),
            Act::Forbid => drop(self.member(context).set_checkpoints(Checkpoints::Forbidden)),
            Act::Undecide => drop(self.member(context).set_checkpoints(Checkpoints::Undecided)),
            Act::Tick => out = self.tick(context),
            Act::Apply => out = self.apply(),
            Act::Lose => self.lose(),
        }
        Ok(out)
    }
}

#[test]
fn stories() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), STORIES, "{files:?}");
    for file in files {
        goldenscript::run(&mut Story::new(), file).unwrap();
    }
}
