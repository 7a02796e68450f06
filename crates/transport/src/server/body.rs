//! Reads request bodies, bounded in bytes, in time, and all together: anybody who reaches the port can send one slowly.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::context::Context;

/// Bytes of a body in memory, counted until this is dropped.
pub(super) struct Held<'c> {
    all: &'c AtomicUsize,
    bytes: usize,
}

impl<'c> Held<'c> {
    pub(super) fn none(context: &'c Context) -> Self {
        Self { all: &context.bodies, bytes: 0 }
    }

    /// Counts more bytes. Returns false if all bodies together have too many.
    pub(super) fn add(&mut self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= bytes_max
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("request body too large")]
    TooLarge,
    #[error("the bodies of all requests are too large together")]
    Crowded,
    #[error("the body did not come in time")]
    Late,
    #[error("{0}")]
    Broken(String),
}

impl Refused {
    pub(super) fn status(&self, broken: StatusCode) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => broken,
        }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::other(refused.to_string())
    }
}

/// Reads a body of up to this many bytes. They are counted until the [`Held`] is dropped.
pub(super) async fn read(
    context: &Context,
    body: Incoming,
    bytes_max: usize,
) -> Result<(Bytes, Held<'_>), Refused> {
    timeout(context.limits.body, collect(context, body, bytes_max)).await.unwrap_or(Err(Refused::Late))
}

async fn collect(
    context: &Context,
    mut body: Incoming,
    bytes_max: usize,
) -> Result<(Bytes, Held<'_>), Refused> {
    let mut held = Held::none(context);
    // A body of one frame, as of most requests, is not copied.
    let (mut first, mut read) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refused::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if !held.add(data.len(), context.limits.bodies_bytes) {
            return Err(Refused::Crowded);
        }
        if held.bytes > bytes_max {
            return Err(Refused::TooLarge);
        }
        if first.is_empty() && read.is_empty() {
            first = data;
            continue;
        }
        if read.is_empty() {
            read.extend_from_slice(&first);
            first = Bytes::new();
        }
        read.extend_from_slice(&data);
    }
    let bytes = if read.is_empty() { first } else { read.freeze() };
    Ok((bytes, held))
}
