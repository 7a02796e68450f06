//! One child process: its output in a file, its signals, its end.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};

/// How often a wait looks again. Short, because restart times are measured with it.
const POLL: Duration = Duration::from_millis(5);

/// A running (or ended) child. It dies with us, whatever happens to us.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where in `log` this run begins: a log file outlives its processes.
    offset: u64,
}

impl Process {
    /// Starts `binary`, appending its standard output and error to `log`.
    ///
    /// Variables named `ETCD_*` are kept from it: they are flags. Call this from a thread that
    /// outlives the child: Linux ends the child with the thread that started it.
    pub fn start<S: AsRef<OsStr>>(binary: &Path, args: &[S], log: &Path) -> anyhow::Result<Self> {
        Self::start_with(binary, args, &[], log)
    }

    /// [`Self::start`] with variables more in its environment.
    pub fn start_with<S: AsRef<OsStr>>(
        binary: &Path,
        args: &[S],
        variables: &[(String, String)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let offset = out.metadata()?.len();
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ETCD_") {
                command.env_remove(name);
            }
        }
        command.envs(variables.iter().cloned());
        die_with_parent(&mut command);
        let child =
            command.spawn().with_context(|| format!("cannot start the server {}", binary.display()))?;
        Ok(Self { child, log: log.to_path_buf(), offset })
    }

    /// The ID of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; a process that has ended is left in peace.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended()?.is_none() {
            rustix::process::kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("still running after {limit:?}; its last lines:\n{}", self.tail(10));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until its log holds `text`; an end before that is an error that shows the log.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended()?;
            if self.output().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!(
                    "the server ended ({status}) instead of saying {text:?}; its last lines:\n{}",
                    self.tail(10)
                );
            }
            if Instant::now() > deadline {
                bail!("no {text:?} within {limit:?}; its last lines:\n{}", self.tail(10));
            }
            thread::sleep(POLL);
        }
    }

    /// What this run has written so far.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(cannot read {}: {error})", self.log.display()),
        }
    }

    /// The lines of [`Self::output`] that hold all of these words.
    pub fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let output = self.output();
        let holds_all = |line: &&str| words.iter().all(|word| line.contains(word));
        output.lines().filter(holds_all).map(str::to_owned).collect()
    }

    /// The last lines of [`Self::output`].
    pub fn tail(&self, lines: usize) -> String {
        let output = self.output();
        let all: Vec<&str> = output.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A test that is itself killed must not leave servers behind.
#[expect(unsafe_code, reason = "pre_exec: prctl is one system call, safe between fork and exec")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes a single async-signal-safe system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}
