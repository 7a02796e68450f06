//! Looks at the members' memory all the while, and ends what would eat the machine.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use harness::usage::{self, Usage};
use rustix::process::{Pid, Signal, kill_process};

/// Memory of all members together at which an attack is over.
pub(crate) const ABORT_BYTES: u64 = 6 << 30;
/// How often the processes are looked at.
const POLL: Duration = Duration::from_millis(20);

/// A thread that looks until it is told to stop.
pub(crate) struct Watchman {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What it measured, and whether it intervened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The peak memory of each process, by process ID, in bytes.
    pub(crate) peaks: BTreeMap<u32, u64>,
    /// Whether it killed them.
    pub(crate) aborted: bool,
}

impl Watchman {
    /// Peaks count from now.
    pub(crate) fn start(pids: Vec<u32>) -> anyhow::Result<Self> {
        for pid in &pids {
            usage::forget_peak(*pid)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            thread::Builder::new().name("watchman".to_owned()).spawn(move || watch(&pids, &stopped))?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watchman only reads files")
    }
}

fn watch(pids: &[u32], stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    loop {
        let last = stop.load(Ordering::Relaxed);
        let mut resident = 0;
        for pid in pids {
            // A process that has ended has no memory any more.
            let Ok(used) = Usage::of(*pid) else { continue };
            let peak = seen.peaks.entry(*pid).or_default();
            *peak = used.peak_bytes.max(*peak);
            resident += used.resident_bytes;
        }
        if resident > ABORT_BYTES && !seen.aborted {
            seen.aborted = true;
            for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if last {
            return seen;
        }
        thread::sleep(POLL);
    }
}
