//! Files written, read, damaged and judged.
//!
//! `BBOLT_CASES` is the number of damaged files (3,000), `BBOLT_SEEDS` that of files which bbolt makes (10). The rate:
//! `cargo test --release -p bbolt -- --ignored --nocapture speed`.

mod attacks;
mod damage;
mod judges;
mod rounds;
mod speed;
mod support;
