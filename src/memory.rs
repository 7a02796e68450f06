//! Memory that nobody uses any more goes back to the system, and soon.
//!
//! Two allocators are at work: mimalloc for all of ours, the C library's for RocksDB. Both keep what a thread has freed
//! for that thread, and most threads here live for a burst of long requests.
//!
//! ```text
//! mimalloc: a heap a thread ─ ends with it ─▶ threads without work end after Options::idle
//!           what all have freed ─────────────▶ given back every Options::returned, by a thread that does nothing else:
//!                                               mimalloc itself looks only where much is allocated again
//! glibc:    the same ───────────────────────▶ in the same step, where the process is quiet
//!           an arena a thread, up to 8 a core ─▶ Options::arenas in all
//! ```
//!
//! None of it costs a small request anything: it runs on a thread that stays, with a heap and an arena of its own.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tokio::runtime::Builder;

/// What is kept for later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long a thread for long work waits for more. Default 1 s: a busy lane never waits for a new thread, and a storm of
    /// short reads leaves none of its dozens of heaps behind. With tokio's 10 s those that are awake four times a second for
    /// the disk's free space kept forty of them for ever.
    pub(crate) idle: Duration,
    /// Threads for long work at one time; more work waits. Default 16: all that can be at work at once (nine turns of the
    /// lanes, of JSON and of gzip, two of peers, one each for the history of watchers, defragmentation, leases and the disk's
    /// space), and one more. Each takes some MiB, so that eight long lists took 40 MiB more with 32.
    pub(crate) threads_max: usize,
    /// How often freed memory goes back to the system. Default 2 s: what is needed all the time is taken again at the cost of
    /// its page faults, at most some percent of a core where hundreds of MiB come and go.
    pub(crate) returned: Duration,
    /// Arenas of the C library, unless `MALLOC_ARENA_MAX` says it. Default 4: the runtime's thread, the consensus thread,
    /// RocksDB's and all others. Each block that RocksDB caches is taken from the arena of the thread that read it, so a
    /// cache of 24 MiB took 85 MiB of a dozen arenas.
    pub(crate) arenas: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self { idle: Duration::from_secs(1), threads_max: 16, returned: Duration::from_secs(2), arenas: 4 }
    }
}

impl Options {
    /// For the whole process. Call it before there are threads: those that are keep the arenas that they have.
    pub(crate) fn bound_arenas(self) {
        if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
            arenas(self.arenas);
        }
    }

    /// For as long as the process lives.
    ///
    /// # Errors
    /// Where there can be no thread for it.
    pub(crate) fn give_back(self) -> std::io::Result<()> {
        let work = move || {
            let mut used = cpu_time();
            loop {
                std::thread::sleep(self.returned);
                let before = std::mem::replace(&mut used, cpu_time());
                collect();
                if used.saturating_sub(before) < self.returned / QUIET_PART {
                    trim();
                }
            }
        };
        std::thread::Builder::new().name("memory".to_owned()).stack_size(STACK_BYTES).spawn(work).map(drop)
    }

    /// For a runtime's threads.
    pub(crate) fn bound_threads(self, runtime: &mut Builder) {
        runtime.thread_keep_alive(self.idle).max_blocking_threads(self.threads_max);
    }
}

/// Enough for a thread that calls one function, in bytes.
const STACK_BYTES: usize = 64 << 10;

/// A process that uses less than this part of a core is quiet.
const QUIET_PART: u32 = 4;

/// What all threads have used of the processors.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Never negative.
    Duration::try_from(time).unwrap_or_default()
}

#[expect(unsafe_code, reason = "one call of the allocator's own, which takes a flag")]
fn collect() {
    // SAFETY: it takes no pointers, and any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Holds each arena for as long as it takes, up to 70 ms where processors are few and busy: RocksDB's writers would wait.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "one call of the C library, which takes a number")]
fn trim() {
    // SAFETY: it takes no pointers, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt is one call that takes numbers only")]
fn arenas(max: i32) {
    // SAFETY: it takes no pointers, and no thread but this one runs yet. Where it fails the default stays.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, max);
    }
}

#[cfg(not(target_env = "gnu"))]
fn arenas(_: i32) {}
