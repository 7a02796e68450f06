//! Deadlines of calls, and waiting within them.

use proto::EtcdError;
use std::time::Instant;
use tokio::time::timeout_at;
use tonic::Status;

/// When the caller stops waiting; `None` means the node's own request timeout.
pub(crate) type Deadline = Option<Instant>;

pub(crate) async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => match timeout_at(deadline.into(), work).await {
            Ok(answer) => answer,
            Err(_) => Err(EtcdError::DeadlineExceeded.into()),
        },
    }
}

/// Spawns a task that feeds a stream until the deadline, which the stream itself misses while nobody reads.
pub(crate) fn spawn_until(deadline: Deadline, work: impl Future<Output = ()> + Send + 'static) {
    match deadline {
        None => tokio::spawn(work),
        Some(deadline) => tokio::spawn(async move { drop(timeout_at(deadline.into(), work).await) }),
    };
}
