//! The trace of a run: all lines are hashed, the last ones kept.

use crate::Micros;
use std::collections::VecDeque;
use std::fmt;

/// Lines kept for the report of a violation.
const TAIL_LINES: usize = 120;

#[derive(Debug)]
pub(crate) struct Trace {
    now: Micros,
    hash: u64,
    tail: VecDeque<String>,
    all: Option<fn(&str)>,
}

impl Trace {
    pub(crate) fn new(all: Option<fn(&str)>) -> Self {
        Self { now: 0, hash: 0xcbf2_9ce4_8422_2325, tail: VecDeque::new(), all }
    }

    pub(crate) fn at(&mut self, now: Micros) {
        self.now = now;
    }

    pub(crate) fn line(&mut self, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.6} {what}", std::time::Duration::from_micros(self.now).as_secs_f64());
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(print) = self.all {
            print(&line);
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }
}

macro_rules! trace {
    ($trace:expr, $($what:tt)*) => { $trace.line(format_args!($($what)*)) };
}
pub(crate) use trace;
