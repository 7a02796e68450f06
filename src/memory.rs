//! Memory that nobody uses any more goes back to the system, and soon.
//!
//! One allocator, jemalloc, serves ours and RocksDB's (docs/adr/004-jemalloc.md):
//!
//! ```text
//! a thread ─▶ its cache ─▶ an arena, SETTINGS.narenas in all ─▶ pages ─▶ system
//!               │                                              ▲ those that nobody has used for
//!               └ goes as the thread ends: those without       │ SETTINGS.dirty_decay_ms, by a
//!                 work do after Options::idle                  │ thread of jemalloc's own; at once
//!                                                              │ while clients hold much
//! ```

use std::time::Duration;
use tikv_jemalloc_ctl::{Access as _, AsName as _};
use tokio::{runtime::Builder, task::spawn_blocking, time::sleep};

/// For all of this process: it takes the place of `malloc` for C and C++ too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How jemalloc keeps memory; `MALLOC_CONF` in the environment is read after it, and wins.
/// * `narenas`: 4 (runtime, consensus, RocksDB, others): freed memory is reused only within its arena, so that each
///   holds some MiB; jemalloc's default is four a core.
/// * `dirty_decay_ms`: freed pages go back within half a second. At once (0), a list of 10,000 keys would cost twice
///   its processor time, in page faults; with jemalloc's ten seconds a burst of large requests keeps what it took.
/// * `muzzy_decay_ms`: 0, given back means that it no longer counts as resident.
/// * `background_thread`, one of them: serving threads never give back themselves.
/// * `thp:never`: a few bytes in use would hold a huge page of 2 MiB.
const SETTINGS: &[u8] = b"narenas:4,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true,max_background_threads:1,thp:never\0";

/// Where jemalloc looks for its settings before `main`: a C string by this name.
#[expect(unsafe_code, reason = "a symbol of C's must be exported by name")]
// SAFETY: jemalloc declares it as `const char *`, reads it up to the zero byte at its end, and never writes to it.
#[unsafe(export_name = "malloc_conf")]
pub(crate) static MALLOC_CONF: Option<&'static u8> = SETTINGS.first();

/// `dirty_decay_ms` of [`SETTINGS`], or of who has set another.
const DECAY: &str = "opt.dirty_decay_ms\0";
/// That of arenas that are to come, and of one that is there.
const DECAY_OF_NEXT: &str = "arenas.dirty_decay_ms\0";
const DECAY_OF_FIRST: &str = "arena.0.dirty_decay_ms\0";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long an idle thread for long work waits. Default 1 s: a busy lane never waits for a new thread, while
    /// tokio's 10 s kept forty of them, with their caches, for ever: four looks a second at the disk's free space woke
    /// them in turn.
    pub(crate) idle: Duration,
    /// Threads for long work at one time; more work waits. Default 16: all that can be busy at once (nine turns of
    /// lanes, JSON and gzip, two of peers, one each for watch history, defragmentation, leases and the disk's space),
    /// and one more.
    pub(crate) threads_max: usize,
    /// How often it is asked whether memory is short. Default 100 ms: little can be taken in between.
    pub(crate) looked: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { idle: Duration::from_secs(1), threads_max: 16, looked: Duration::from_millis(100) }
    }
}

impl Options {
    /// For a runtime's threads.
    pub(crate) fn bound_threads(self, runtime: &mut Builder) {
        runtime.thread_keep_alive(self.idle).max_blocking_threads(self.threads_max);
    }

    /// While memory is short, freed memory goes back at once, at the price of page faults. Ends if jemalloc refuses.
    pub(crate) async fn give_back(self, is_short: impl Fn() -> bool + Send, log: slog::Logger) {
        let mut was_short = false;
        loop {
            sleep(self.looked).await;
            let now = is_short();
            if std::mem::replace(&mut was_short, now) == now {
                continue;
            }
            // Giving back a hundred MiB takes some ten milliseconds.
            let Ok(Err(error)) = spawn_blocking(move || keep(now)).await else { continue };
            slog::warn!(log, "cannot tell the allocator when to give memory back"; "error" => error.to_string());
            return;
        }
    }
}

fn keep(is_short: bool) -> Result<(), tikv_jemalloc_ctl::Error> {
    let long: isize = DECAY.name().read()?;
    let decay = if is_short { 0 } else { long };
    DECAY_OF_NEXT.name().write(decay)?;
    let mut place = DECAY_OF_FIRST.name().mib::<[usize; 3]>()?;
    for arena in 0..usize::try_from(tikv_jemalloc_ctl::arenas::narenas::read()?).unwrap_or(usize::MAX) {
        place[1] = arena;
        // One that nobody has used yet is none: it will begin as the next do.
        let _ = place.write(decay);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting that jemalloc does not know, or a symbol that it does not find, would only be a line on standard
    /// error.
    #[test]
    fn jemalloc_has_our_settings() -> Result<(), tikv_jemalloc_ctl::Error> {
        assert!(std::ffi::CStr::from_bytes_with_nul(SETTINGS).is_ok());
        assert_eq!(tikv_jemalloc_ctl::opt::narenas::read()?, 4);
        assert!(tikv_jemalloc_ctl::background_thread::read()?);
        assert_eq!(tikv_jemalloc_ctl::max_background_threads::read()?, 1);
        Ok(())
    }

    #[test]
    fn nothing_is_kept_while_memory_is_short() -> Result<(), tikv_jemalloc_ctl::Error> {
        let decay = || -> Result<isize, _> { DECAY_OF_FIRST.name().read() };
        assert_eq!(decay()?, 500);
        keep(true)?;
        assert_eq!(decay()?, 0);
        keep(false)?;
        assert_eq!(decay()?, 500);
        Ok(())
    }
}
