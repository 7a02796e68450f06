//! Text as Go's standard library reads and writes it: numbers, booleans, durations, quoted strings, URLs, error messages.
//! The server's flags, its API and `quorate ctl` use it.
//!
//! Invariant: input that Go accepts gives the same value; an error prints Go's message, word for word.
//! Not here: floating point, formatting verbs other than `%q`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod duration;
pub mod number;
pub mod quote;
pub mod url;
