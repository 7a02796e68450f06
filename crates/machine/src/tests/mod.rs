//! Scenarios: scripts of log entries and reads, one a line, with their expected results.

mod confs;
mod groups;
mod keys;
mod leases;
mod parse;
mod render;
mod replace;
mod restore;
mod script;
mod shared;
mod txns;
mod v2store;

use script::check;
