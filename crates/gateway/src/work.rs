//! Where JSON is converted: small messages on the runtime's thread, larger ones on a blocking thread.
//!
//! Short and long work have their own turns, so short work never waits for long work. A turn is held until its work
//! ends, which after a disconnect is at its next write.

use crate::status::{INTERNAL, Status};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::Semaphore;

/// Limits on the conversion of JSON.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// Up to this size, work is done on the runtime's thread, in bytes: 32 KiB, some 200 µs.
    pub inline_bytes: usize,
    /// Up to this size, work is short, in bytes: 1 MiB, some milliseconds.
    pub short_bytes: usize,
    /// Short work at one time: 1.
    pub short_max: usize,
    /// Long work at one time: 1. Each is a long request, held as JSON and as a message, or one piece of a long answer.
    pub long_max: usize,
    /// Up to this size, a message within a larger one is converted at once, with a tree ten times as large: 32 KiB.
    pub part_bytes: usize,
    /// Bytes of a message above `short_bytes` converted at a time: 256 KiB, 2 ms. The JSON may be seven times as long.
    pub piece_bytes: usize,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self {
            inline_bytes: 32 << 10,
            short_bytes: 1 << 20,
            short_max: 1,
            long_max: 1,
            part_bytes: 32 << 10,
            piece_bytes: 256 << 10,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Turns {
    limits: WorkLimits,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

impl Turns {
    pub(crate) fn new(limits: WorkLimits) -> Self {
        let turns = |max| Arc::new(Semaphore::new(max));
        Self { limits, short: turns(limits.short_max), long: turns(limits.long_max) }
    }

    pub(crate) fn limits(&self) -> &WorkLimits {
        &self.limits
    }

    #[cfg(test)]
    pub(crate) fn short(&self) -> &Arc<Semaphore> {
        &self.short
    }

    #[cfg(test)]
    pub(crate) fn long(&self) -> &Arc<Semaphore> {
        &self.long
    }

    pub(crate) fn is_inline(&self, bytes: usize) -> bool {
        bytes <= self.limits.inline_bytes
    }

    /// Runs work whose time is proportional to `bytes`.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        bytes: usize,
        work: impl FnOnce(&Cancelled) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if self.is_inline(bytes) {
            return work(&Cancelled::default());
        }
        let turns = if bytes <= self.limits.short_bytes { self.short } else { self.long };
        Self::run_in(turns, work).await
    }

    pub(crate) async fn run_piece<T: Send + 'static>(
        self,
        bytes: usize,
        work: impl FnOnce(&Cancelled) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if self.is_inline(bytes) { work(&Cancelled::default()) } else { Self::run_in(self.long, work).await }
    }

    async fn run_in<T: Send + 'static>(
        turns: Arc<Semaphore>,
        work: impl FnOnce(&Cancelled) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let cancelled = Cancelled::default();
        let turn = turns.acquire_owned().await.expect("the semaphore is never closed");
        let guard = CancelOnDrop(cancelled.clone());
        let result = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if cancelled.is_set() {
                Err(Status::new(INTERNAL, "nobody waits for it"))
            } else {
                work(&cancelled)
            }
        });
        let ended_early = |error| Status::new(INTERNAL, format!("the gateway's work ended early: {error}"));
        let result = result.await.unwrap_or_else(|error| Err(ended_early(error)));
        drop(guard);
        result
    }
}

/// A buffer that fails to be written once the work is cancelled.
pub(crate) struct Output<'a> {
    pub(crate) bytes: Vec<u8>,
    cancelled: &'a Cancelled,
}

impl<'a> Output<'a> {
    /// With room for the JSON of a message of this many bytes.
    pub(crate) fn new(message_bytes: usize, cancelled: &'a Cancelled) -> Self {
        // Base64 makes four bytes of three, and there are names.
        Self { bytes: Vec::with_capacity(message_bytes + message_bytes / 2), cancelled }
    }
}

impl io::Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancelled.is_set() {
            return Err(io::Error::other("nobody waits for it"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, sync::mpsc, time::Duration};

    fn limits() -> WorkLimits {
        WorkLimits { inline_bytes: 1, short_bytes: 10, ..WorkLimits::default() }
    }

    #[tokio::test]
    async fn what_is_short_does_not_wait_for_what_is_long() {
        let turns = Turns::new(limits());
        let (go, waits) = mpsc::sync_channel::<()>(1);
        let long = tokio::spawn(turns.clone().run(11, move |_| {
            let _ = waits.recv(); // until the test lets go
            Ok(())
        }));
        while turns.long.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.clone().run(10, |_| Ok(7)).await.ok(), Some(7));
        drop(go);
        assert!(long.await.expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_keeps_its_turn_until_then() {
        let turns = Turns::new(limits());
        let (tell, told) = mpsc::sync_channel::<&str>(2);
        let long = tokio::spawn(turns.clone().run(11, move |cancelled| {
            tell.send("begun").expect("the test waits");
            let mut output = Output::new(0, cancelled);
            while output.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            tell.send("ended").expect("the test waits");
            Ok(())
        }));
        let told = tokio::task::spawn_blocking(move || {
            assert_eq!(told.recv(), Ok("begun"));
            told
        });
        let told = told.await.expect("it begins");
        assert_eq!(turns.long.available_permits(), 0);
        long.abort();
        let ended = tokio::task::spawn_blocking(move || told.recv());
        assert_eq!(ended.await.expect("no panic"), Ok("ended"));
        while turns.long.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
    }
}
