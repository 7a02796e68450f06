//! Lines on their way out: a bounded queue and a thread that writes, since a stopped terminal or a pipe that nobody
//! reads must not stop the member. What does not fit is dropped and counted. Each line is one write, so that lines of
//! several processes on one terminal do not mix.

use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    /// Lines. Default 4,096: what thirty places in the code may say in a second, sampled.
    pub(crate) lines: usize,
    /// Their bytes. Default 4 MiB.
    pub(crate) bytes: usize,
    /// How long the end of the process waits for the output. Default two seconds.
    pub(crate) flush: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { lines: 4_096, bytes: 4 << 20, flush: Duration::from_secs(2) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) sampled: AtomicU64,
    /// Dropped because the output did not keep up.
    pub(crate) dropped: AtomicU64,
}

enum Item {
    Line(Vec<u8>),
    /// Everything before it is written when this is dropped.
    Flush(#[expect(dead_code, reason = "it is dropped, not read")] SyncSender<()>),
}

#[derive(Debug)]
pub(crate) struct Writer {
    items: Mutex<SyncSender<Item>>,
    waiting_bytes: Arc<AtomicUsize>,
    queue: Queue,
    lost: Arc<Lost>,
}

impl Writer {
    /// Starts the thread. It ends when this is dropped and everything is written.
    pub(super) fn start(
        queue: Queue,
        outputs: Vec<Box<dyn Write + Send>>,
        lost: Arc<Lost>,
    ) -> io::Result<Self> {
        let (sender, items) = sync_channel(queue.lines);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(&items, &waiting, outputs))?;
        Ok(Self { items: Mutex::new(sender), waiting_bytes, queue, lost })
    }

    /// Queues a line, or drops it where the queue is full. Never waits.
    pub(super) fn line(&self, line: String) {
        let bytes = line.len();
        let is_full = self.waiting_bytes.fetch_add(bytes, Relaxed) + bytes > self.queue.bytes;
        if is_full || self.sender().try_send(Item::Line(line.into_bytes())).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.lost.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was queued is written, for a while.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(0);
        let mut item = Item::Flush(done);
        let pause = Duration::from_millis(1);
        let mut left = self.queue.flush;
        loop {
            match self.sender().try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if left > pause => item = back,
                Err(_) => return,
            }
            thread::sleep(pause);
            left = left.saturating_sub(pause);
        }
        // Its other end is dropped, not used: an error is what is waited for.
        let _ = wait.recv_timeout(left);
    }

    fn sender(&self) -> SyncSender<Item> {
        types::lock(&self.items).clone()
    }
}

fn write(items: &Receiver<Item>, waiting_bytes: &AtomicUsize, mut outputs: Vec<Box<dyn Write + Send>>) {
    while let Ok(item) = items.recv() {
        let Item::Line(line) = item else { continue };
        for output in &mut outputs {
            // Nobody is left to tell when the log itself cannot be written.
            let _ = output.write_all(&line);
        }
        waiting_bytes.fetch_sub(line.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that waits before each write until it is told to go on.
    struct Stuck(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().expect("one writer").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Output = Arc<Mutex<Vec<u8>>>;

    fn stuck(queue: Queue) -> (Writer, SyncSender<()>, Output, Arc<Lost>) {
        let (go, wait) = sync_channel(1);
        let (written, lost) = (Arc::default(), Arc::new(Lost::default()));
        let output = Box::new(Stuck(wait, Arc::clone(&written)));
        let writer = Writer::start(queue, vec![output], Arc::clone(&lost)).expect("a thread");
        (writer, go, written, lost)
    }

    #[test]
    fn an_output_that_stands_still_stops_nobody_and_what_it_missed_is_counted() {
        let queue = Queue { lines: 8, flush: Duration::from_millis(50), ..Queue::default() };
        let (writer, go, written, lost) = stuck(queue);
        for number in 0..100 {
            writer.line(format!("{number}\n"));
        }
        // It does not wait for ever at the end either.
        writer.flush();
        let dropped = lost.dropped.load(Relaxed);
        assert!((91..=92).contains(&dropped), "{dropped}: one may be in the writer's hand");
        drop(go);
        writer.flush();
        let text = String::from_utf8(written.lock().expect("one writer").clone()).expect("text");
        assert!(text.starts_with("0\n1\n2\n") && text.lines().count() as u64 == 100 - dropped, "{text}");
        assert_eq!(writer.waiting_bytes.load(Relaxed), 0);
    }

    #[test]
    fn long_lines_count_by_their_bytes() {
        let queue = Queue { bytes: 1_000, flush: Duration::from_millis(50), ..Queue::default() };
        let (writer, go, _, lost) = stuck(queue);
        for _ in 0..10 {
            writer.line("x".repeat(300));
        }
        assert_eq!(lost.dropped.load(Relaxed), 7);
        drop(go);
        writer.flush();
        writer.line("x".repeat(300));
        assert_eq!(lost.dropped.load(Relaxed), 7, "there is room again");
    }
}
