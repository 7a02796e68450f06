//! Threads for long work, which give way to all others.

use rustix::process::setpriority_process;
use std::io;

/// Niceness of threads that do long work: 5 is a third of the share of serving and writing ones when cores are short.
const LONG_WORK_NICENESS: i32 = 5;

/// Lowers the priority of the current thread.
pub(crate) fn give_way() {
    // Where it is forbidden they are only less polite.
    let _ = setpriority_process(None, LONG_WORK_NICENESS);
}

/// Runs long work on a thread of its own.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work = move || {
        give_way();
        work();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
