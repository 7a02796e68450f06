//! How a member is told to end, and how it says so to its parent; and what other signals do to it: as to a Go program.

use signal_hook::consts::{SIGQUIT, SIGUSR1, SIGUSR2};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::{fs, io, thread};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Terminated,
    Interrupted,
    Removed,
    /// The node failed; what it says of it is the process's error.
    Failed,
}

impl Ended {
    /// Ends the process as etcd does: by the signal itself, which the parent then sees; 0 without a parent (PID 1), or
    /// when the member was removed.
    pub(crate) fn exit(self) -> ExitCode {
        let signal = match self {
            Ended::Removed => return ExitCode::SUCCESS,
            Ended::Failed => return ExitCode::FAILURE,
            Ended::Terminated => signal_hook::consts::SIGTERM,
            Ended::Interrupted => signal_hook::consts::SIGINT,
        };
        if std::process::id() == 1 {
            return ExitCode::SUCCESS;
        }
        // Does not return, for these two end a process.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        ExitCode::FAILURE
    }
}

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on. Must be called inside the runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Ended {
        tokio::select! {
            _ = self.terminate.recv() => Ended::Terminated,
            _ = self.interrupt.recv() => Ended::Interrupted,
        }
    }
}

/// Exit code of a program that was told to quit: that of Go's runtime.
const QUIT: i32 = 2;

/// Handles the signals that Go handles by itself: SIGUSR1 and SIGUSR2 do nothing; SIGQUIT says what every thread is
/// doing and ends the process at once, even with a busy runtime or a signal that the parent ignored.
pub(crate) fn behave_like_go() -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGQUIT, SIGUSR1, SIGUSR2])?;
    let wait = move || {
        for signal in signals.forever() {
            if signal == SIGQUIT {
                // Nothing is left to do when stderr is closed.
                let _ = io::stderr().write_all(state().as_bytes());
                signal_hook::low_level::exit(QUIT);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(|_| ())
}

/// A line a thread: its name, its state, and where in the kernel it waits, as far as the system tells.
fn state() -> String {
    let mut out = "SIGQUIT: quit\n\n".to_owned();
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return out };
    for thread in threads.flatten().map(|entry| entry.path()) {
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?");
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "thread {} [{}]: {} {}",
            thread.file_name().unwrap_or_default().to_string_lossy(),
            read("comm").trim(),
            state.trim(),
            read("wchan").trim(),
        );
    }
    out
}
