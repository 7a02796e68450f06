//! Permits for maintenance work with limited concurrency.

use engine::Snapshot;
use futures::future::{BoxFuture, WeakShared};
use std::sync::{Arc, Mutex};
use tokio::sync::{Mutex as Turn, Semaphore};
use tonic::Status;

/// A snapshot of the engine, and the layout of the file that it becomes.
pub(crate) type Measured = Result<(Arc<Snapshot>, snapshot::Measured), Status>;

pub(crate) struct Turns {
    /// One defragmentation at a time, as in etcd.
    pub(crate) defragment: Arc<Turn<()>>,
    pub(crate) snapshots: Semaphore,
    /// One snapshot is measured at a time, since that reads all of it.
    pub(crate) measure: Turn<()>,
    /// The next measurement, shared by all that request a snapshot before it begins. Dropped if nobody waits for it.
    pub(crate) next_measure: Mutex<Option<WeakShared<BoxFuture<'static, Measured>>>>,
}

impl Turns {
    pub(crate) fn new(snapshots_max: usize) -> Self {
        Self {
            defragment: Arc::default(),
            snapshots: Semaphore::new(snapshots_max),
            measure: Turn::default(),
            next_measure: Mutex::default(),
        }
    }
}
