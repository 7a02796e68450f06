//! Containers: what `deploy/compose.yaml` promises, and what becomes of it when somebody edits it badly.
//!
//! Each test has a project of its own: three containers, volumes, a network, free ports. Without an engine they say so,
//! and fail where `QUORATE_REQUIRE_ALL=1`.

#![allow(clippy::print_stdout, reason = "tests print their figures")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod edited;
mod stop;
mod support;
