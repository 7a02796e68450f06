//! Scenarios: scripts of log entries and reads, a line each, with what must come out.

mod confs;
mod groups;
mod keys;
mod leases;
mod parse;
mod render;
mod restore;
mod script;
mod shared;
mod txns;

use script::check;
