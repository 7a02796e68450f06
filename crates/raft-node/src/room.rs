//! Bounded room for queued items: a limit, and a permit for each item.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The queue space for one kind of item, counted in items and bytes.
#[derive(Debug)]
pub struct Room {
    count: AtomicUsize,
    bytes: AtomicUsize,
    count_max: usize,
    bytes_max: usize,
}

impl Room {
    /// Room for this many items, at least one, and this many bytes.
    pub fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        let (count, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { count, bytes, count_max: count_max.max(1), bytes_max: bytes_max.max(1) })
    }

    /// Whether the room is used up.
    pub fn is_full(&self) -> bool {
        self.count.load(Relaxed) >= self.count_max || self.bytes.load(Relaxed) >= self.bytes_max
    }

    /// Takes room for one more item of this size, even if there is none left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        Permit { room: Arc::clone(self), bytes }
    }

    /// The number of items that hold room.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
}

/// The room that an item holds; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.count.fetch_sub(1, Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Relaxed);
    }
}
