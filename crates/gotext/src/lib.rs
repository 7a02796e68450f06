//! Text as Go's standard library reads and writes it: numbers, booleans, durations, quoted strings, error messages.
//! The server's flags and `quorate ctl` both use it.
//!
//! Invariant: input that Go accepts gives the same value; an error prints Go's message, word for word.
//! Not here: floating point, formatting verbs other than `%q`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod duration;
pub mod number;
pub mod quote;
