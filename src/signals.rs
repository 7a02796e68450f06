//! How a member is told to end, and how it says so to its parent.

use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What ended the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// SIGTERM.
    Terminated,
    /// SIGINT.
    Interrupted,
    /// It was removed from the cluster.
    Removed,
    /// The node failed; what it says of it is the process's error.
    Failed,
}

impl Ended {
    /// Ends the process as etcd does: by the signal itself, so that the parent sees what happened; 0 when there is no
    /// parent to see it (PID 1), and when the member was removed.
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

/// The signals that end a member.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on. Must be called inside the runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
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
