//! The network between members: loses, delays, repeats and cuts off messages.
//!
//! As in the transport: appends use one stream, everything else another, each in order; while a stream is down, its
//! messages are single POSTs, which may overtake each other and arrive twice. (Except forwarded proposals: an HTTP
//! client never repeats a POST whose bytes have left.)

use crate::Micros;
use crate::rng::Rng;
use proto::raftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};

/// The longest that a snapshot takes, microseconds: several elections.
const SNAPSHOT_MAX: Micros = 8_000_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) loss_per_mille: u64,
    pub(crate) double_per_mille: u64,
    pub(crate) slow_per_mille: u64,
    pub(crate) delay: Micros,
}

impl Conditions {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            loss_per_mille: *rng.pick(&[0, 2, 10, 50]),
            double_per_mille: *rng.pick(&[0, 50, 300]),
            slow_per_mille: *rng.pick(&[0, 5, 30]),
            delay: *rng.pick(&[300, 2_000, 20_000]),
        }
    }

    /// Many messages are late, and arrive twice.
    pub(crate) const ROUGH: Self =
        Self { loss_per_mille: 5, double_per_mille: 500, slow_per_mille: 100, delay: 5_000 };

    pub(crate) const FAIR: Self =
        Self { loss_per_mille: 0, double_per_mille: 0, slow_per_mille: 0, delay: 500 };
}

#[derive(Debug, Default)]
struct Link {
    streams: [Stream; 2],
}

#[derive(Debug, Default)]
struct Stream {
    /// The last arrival: nothing overtakes on a stream.
    last: Micros,
    down_until: Micros,
    /// Counts breaks: messages in transit are lost.
    breaks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Stream { which: usize, breaks: u64 },
    Post,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) conditions: Conditions,
    links: BTreeMap<(u64, u64), Link>,
    cut: BTreeSet<(u64, u64)>,
}

impl Network {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, links: BTreeMap::new(), cut: BTreeSet::new() }
    }

    /// When and how a message sent now arrives: never, once or twice.
    pub(crate) fn send(&mut self, rng: &mut Rng, now: Micros, message: &Message) -> Vec<(Micros, Way)> {
        let pair = (message.from(), message.to());
        if self.cut.contains(&pair) || rng.per_mille(self.conditions.loss_per_mille) {
            return Vec::new();
        }
        let delay = delay(rng, &self.conditions);
        let which = usize::from(message.r#type() != MessageType::MsgApp);
        let stream = &mut self.links.entry(pair).or_default().streams[which];
        if stream.down_until <= now {
            stream.last = stream.last.max(now + delay);
            return vec![(stream.last, Way::Stream { which, breaks: stream.breaks })];
        }
        let mut arrivals = vec![(now + delay, Way::Post)];
        if message.r#type() != MessageType::MsgProp && rng.per_mille(self.conditions.double_per_mille) {
            arrivals.push((now + 2 * super::network::delay(rng, &self.conditions), Way::Post));
        }
        arrivals
    }

    /// When a snapshot sent now arrives: never, once or twice, the second time perhaps long after.
    pub(crate) fn send_snapshot(&self, rng: &mut Rng, now: Micros, from: u64, to: u64) -> Vec<Micros> {
        let Conditions { loss_per_mille, double_per_mille, slow_per_mille, delay } = self.conditions;
        // It has many parts, and each may be lost.
        if self.is_cut(from, to) || rng.per_mille(10 * loss_per_mille) {
            return Vec::new();
        }
        let longest = if rng.per_mille(10 * slow_per_mille) { SNAPSHOT_MAX } else { 20 * delay };
        let first = now + rng.between(delay, longest);
        let second = rng.per_mille(double_per_mille).then(|| first + rng.below(SNAPSHOT_MAX));
        [first].into_iter().chain(second).collect()
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether a message that travelled this way arrives.
    pub(crate) fn arrives(&self, from: u64, to: u64, way: Way) -> bool {
        if self.cut.contains(&(from, to)) {
            return false;
        }
        let Way::Stream { which, breaks } = way else { return true };
        self.links.get(&(from, to)).is_some_and(|link| link.streams[which].breaks == breaks)
    }

    pub(crate) fn break_stream(&mut self, from: u64, to: u64, which: usize, until: Micros) {
        let stream = &mut self.links.entry((from, to)).or_default().streams[which];
        stream.breaks += 1;
        stream.last = 0;
        stream.down_until = until;
    }

    pub(crate) fn cut(&mut self, pairs: &[(u64, u64)]) {
        self.cut.extend(pairs);
    }

    pub(crate) fn mend(&mut self, pairs: &[(u64, u64)]) {
        for pair in pairs {
            self.cut.remove(pair);
        }
    }

    pub(crate) fn mend_all(&mut self) {
        self.cut.clear();
        self.conditions = Conditions::FAIR;
    }
}

fn delay(rng: &mut Rng, conditions: &Conditions) -> Micros {
    if rng.per_mille(conditions.slow_per_mille) {
        return rng.between(50_000, 3_000_000);
    }
    rng.between(conditions.delay / 4, conditions.delay)
}
