//! Snapshots as etcd's databases, judged by etcd's own tools.
//!
//! The judges are `bboltcheck` (crates/bbolt/tests/go) and `etcdutl` 3.7.3; `QUORATE_BBOLTCHECK` and `QUORATE_ETCDUTL` are
//! their paths. Without one its tests do nothing, and fail if `QUORATE_REQUIRE_JUDGES=1`, as in `make test`.

mod exports;
mod files;
mod imports;
mod members;
mod world;
