//! The network between members: what is lost, late, doubled, cut off.
//!
//! As the transport: appends go over one stream, everything else over another, each in order; a stream that is down
//! leaves its messages to single POSTs, which overtake each other and may arrive twice. (Forwarded proposals never do:
//! no client of HTTP repeats a POST whose bytes have left.)

use crate::Micros;
use crate::rng::Rng;
use proto::raftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};

/// How bad the network of a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss_per_mille: u64,
    pub(crate) double_per_mille: u64,
    pub(crate) slow_per_mille: u64,
    pub(crate) delay: Micros,
}

impl Weather {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            loss_per_mille: *rng.pick(&[0, 2, 10, 50]),
            double_per_mille: *rng.pick(&[0, 50, 300]),
            slow_per_mille: *rng.pick(&[0, 5, 30]),
            delay: *rng.pick(&[300, 2_000, 20_000]),
        }
    }

    pub(crate) const FAIR: Self =
        Self { loss_per_mille: 0, double_per_mille: 0, slow_per_mille: 0, delay: 500 };
}

/// A way from one member to another.
#[derive(Debug, Default)]
struct Link {
    streams: [Stream; 2],
}

#[derive(Debug, Default)]
struct Stream {
    /// Nothing overtakes on a stream: the last arrival.
    last: Micros,
    down_until: Micros,
    /// Counts breaks: what was on the way is lost.
    breaks: u64,
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Stream { which: usize, breaks: u64 },
    Post,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    links: BTreeMap<(u64, u64), Link>,
    cut: BTreeSet<(u64, u64)>,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Self {
        Self { weather, links: BTreeMap::new(), cut: BTreeSet::new() }
    }

    /// When a message sent now arrives, and how: never, once or twice.
    pub(crate) fn send(&mut self, rng: &mut Rng, now: Micros, message: &Message) -> Vec<(Micros, Way)> {
        let pair = (message.from(), message.to());
        if self.cut.contains(&pair) || rng.per_mille(self.weather.loss_per_mille) {
            return Vec::new();
        }
        let delay = delay(rng, &self.weather);
        let which = usize::from(message.r#type() != MessageType::MsgApp);
        let stream = &mut self.links.entry(pair).or_default().streams[which];
        if stream.down_until <= now {
            stream.last = stream.last.max(now + delay);
            return vec![(stream.last, Way::Stream { which, breaks: stream.breaks })];
        }
        let mut arrivals = vec![(now + delay, Way::Post)];
        if message.r#type() != MessageType::MsgProp && rng.per_mille(self.weather.double_per_mille) {
            arrivals.push((now + 2 * super::network::delay(rng, &self.weather), Way::Post));
        }
        arrivals
    }

    /// Whether what travelled this way arrives.
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
        self.weather = Weather::FAIR;
    }
}

fn delay(rng: &mut Rng, weather: &Weather) -> Micros {
    if rng.per_mille(weather.slow_per_mille) {
        return rng.between(50_000, 3_000_000);
    }
    rng.between(weather.delay / 4, weather.delay)
}
