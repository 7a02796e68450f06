//! Real processes: one test binary, so that it links once. Each module is a kind of trouble,
//! each test a scenario that prints what it saw.
//!
//! * `IT_DAMAGES`: places of each file that [`damaged`] damages, 1 unless said otherwise.
//! * `IT_KILLS`: kills in each test of [`kill`], 20 unless said otherwise.
//! * `IT_LEASES`: leases that end together in a test of [`leases`], 5,000 unless said otherwise.
//! * `IT_POWER_CUTS`: power cuts in each test of [`power`], 30 unless said otherwise.
//! * `IT_QUIET_SECONDS`: how long the load of each test of [`corrupt`] goes on that expects no alarm, 20 unless said otherwise.
//! * `IT_SEED`: where the random choices begin; every test prints its own.
//! * `IT_STALL_KEYS`: keys under which writes are timed beside defragmentation and snapshots, 20,000 unless said otherwise.
//! * `QUORATE_REQUIRE_ALL=1`: a test that cannot run here fails instead of saying so.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests print their figures")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod compose_file;
mod corrupt;
mod ctl;
mod damaged;
mod descriptors;
mod flags;
mod folders;
mod foreign;
mod full_disk;
mod in_place;
mod kill;
mod leases;
mod maintenance;
mod members;
mod memory;
mod mixed;
mod power;
mod quorum_lost;
mod requests;
mod rubbish;
mod runbook;
mod signals;
mod snapshots;
mod support;
