//! Epochs, which protect views from compaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The time between two logical compactions. A view holds its epoch, and with it the versions it may read.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) compact: i64,
    expired: AtomicBool,
}

impl Epoch {
    pub(crate) fn new(compact: i64) -> Arc<Self> {
        Arc::new(Self { compact, expired: AtomicBool::new(false) })
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Release);
    }
}
