//! `RangeStream`: a range in pieces of one revision, so that neither side holds all of a long list.
//!
//! After etcd 3.7's `rangeStream`: the pieces merge into exactly `Range`'s response; header, `more` and `count` come
//! with the last. A piece starts at ten keys, and doubles or halves towards `--max-request-bytes`, which it exceeds by
//! one key at most. One piece is read ahead. Views are held and released as for long responses ([`crate::long`]); once
//! a compaction passes the revision, the stream fails with etcd's error for that.

use crate::{
    deadline::{self, Deadline},
    frame, kv, parse,
    slow::Inline,
    state::Api,
};
use bytes::Bytes;
use machine::Stop;
use mvcc::{Effort, Outline, Query, View};
use proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, range_request::SortTarget};
use std::sync::Arc;
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    time::timeout,
};
use tonic::Status;
use types::KeyRange;

/// Keys in the first piece (etcd's `initialStreamChunkLimit`).
const FIRST_PIECE_KEYS: i64 = 10;

/// Pieces queued for the client while the next is read. Each is about `--max-request-bytes` long.
pub(crate) const PIECES_AHEAD_MAX: usize = 1;

/// Checks the request and waits for its barrier, then spawns a task that sends the pieces.
pub(crate) async fn start(
    api: &Arc<Api>,
    deadline: Deadline,
    request: RangeRequest,
    pieces: Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    parse::range_stream(&request)?;
    if !request.serializable {
        kv::barrier(api, deadline).await?;
    }
    let own = Arc::clone(api);
    deadline::spawn_until(deadline, async move {
        // Notices a disconnect also while a piece is read or waits for its turn.
        let sent = tokio::select! {
            sent = own.steps.watch("RangeStream", send(&own, request, &pieces)) => sent,
            () = pieces.closed() => return,
        };
        if let Err(status) = sent {
            // The client may be gone.
            let _ = pieces.send(Err(status)).await;
        }
    });
    Ok(())
}

async fn send(
    api: &Arc<Api>,
    request: RangeRequest,
    pieces: &Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    let target_bytes = api.limits.max_request_bytes;
    let mut source = if request.sort_target == SortTarget::Key as i32 {
        Source::Keys(Cursor::new(api.shared.view(), request, target_bytes))
    } else {
        // A sort target without an order: etcd sorts the rows piece by piece; sorting all makes it equal to `Range`.
        let own = Arc::clone(api);
        let find = move |effort: &Effort<'_>| own.shared.outline_range(&request, 0, effort);
        let (view, outline) = api.slow.long(None, find).await?;
        Source::Found(Found { revision: view.revision(), view: Some(view), outline, target_bytes })
    };
    loop {
        let (piece, is_last) = match api.slow.inline(|effort| source.piece(api, effort)) {
            Inline::Done(piece) => piece?,
            Inline::TooMuch(spent) => {
                let (own, mut away) = (Arc::clone(api), Some(source));
                let read = move |effort: &Effort<'_>| -> Result<_, Stop> {
                    let piece = away.as_mut().map(|source| source.piece(&own, effort)).transpose()?;
                    Ok(away.take().zip(piece))
                };
                let read = api.slow.read(spent, read).await?;
                let (back, piece) = read.ok_or_else(|| Status::internal("a piece was read twice"))?;
                source = back;
                piece
            }
        };
        // A disconnect is no error.
        if !deliver(api, piece, &mut source, pieces).await || is_last {
            return Ok(());
        }
    }
}

/// Hands a piece over; returns whether the client still listens.
async fn deliver(
    api: &Api,
    piece: Bytes,
    source: &mut Source,
    pieces: &Sender<Result<Bytes, Status>>,
) -> bool {
    let piece = match pieces.try_send(Ok(piece)) {
        Ok(()) => return true,
        Err(TrySendError::Closed(_)) => return false,
        Err(TrySendError::Full(piece)) => piece,
    };
    let room = if let Ok(room) = timeout(api.limits.view_hold_max, pieces.reserve()).await {
        room
    } else {
        source.let_go();
        pieces.reserve().await
    };
    room.map(|room| room.send(piece)).is_ok()
}

enum Source {
    Keys(Cursor),
    Found(Found),
}

impl Source {
    /// Reads and encodes the next piece; returns whether it is the last. Beyond the budget the position stays.
    fn piece(&mut self, api: &Api, effort: &Effort<'_>) -> Result<(Bytes, bool), Stop> {
        match self {
            Self::Keys(cursor) => cursor.piece(api, effort),
            Self::Found(found) => found.piece(api, effort),
        }
    }

    fn let_go(&mut self) {
        match self {
            Self::Keys(cursor) => cursor.view = None,
            Self::Found(found) => found.view = None,
        }
    }
}

/// Rows found and sorted before the first was sent.
struct Found {
    view: Option<Arc<View>>,
    revision: i64,
    outline: Outline,
    target_bytes: usize,
}

impl Found {
    fn piece(&mut self, api: &Api, effort: &Effort<'_>) -> Result<(Bytes, bool), Stop> {
        let Outline { rows, count, more, .. } = &mut self.outline;
        let view = self.view.clone().unwrap_or_else(|| api.shared.view());
        let kvs = rows.next(&view, effort, self.target_bytes)?.into_iter().map(machine::kv::wire).collect();
        let mut piece = RangeResponse { kvs, ..Default::default() };
        let is_last = rows.is_empty();
        if is_last {
            piece = RangeResponse {
                header: Some(api.header(self.revision)),
                more: *more,
                count: *count,
                ..piece
            };
        }
        Ok((frame::encode(&RangeStreamResponse { range_response: Some(piece) }), is_last))
    }
}

struct Cursor {
    /// `None` once the client has been too slow.
    view: Option<Arc<View>>,
    /// The header's revision: the newest when the stream began.
    revision: i64,
    query: Query,
    /// Keys still wanted; `i64::MAX` means all.
    wanted: i64,
    /// Keys in the whole range, counted by the first piece.
    count: Option<i64>,
    target_bytes: usize,
}

impl Cursor {
    fn new(view: Arc<View>, request: RangeRequest, target_bytes: usize) -> Self {
        let wanted = if request.limit > 0 { request.limit } else { i64::MAX };
        let query = Query {
            range: KeyRange::from_wire(request.key, request.range_end),
            // Fixed, so that all pieces show the same revision.
            revision: if request.revision > 0 { request.revision } else { view.revision() },
            limit: FIRST_PIECE_KEYS.min(wanted),
            keys_only: request.keys_only,
            count_only: request.count_only,
            max_bytes: target_bytes,
            ..Query::default()
        };
        let revision = view.revision();
        Self { view: Some(view), revision, query, wanted, count: None, target_bytes }
    }

    fn piece(&mut self, api: &Api, effort: &Effort<'_>) -> Result<(Bytes, bool), Stop> {
        let view = self.view.clone().unwrap_or_else(|| api.shared.view());
        let answer = view.bounded(effort).range(&self.query)?;
        drop(view);
        let count = *self.count.get_or_insert(answer.count);
        self.query.uncounted = true;
        let sent = answer.kvs.len() as i64;
        self.wanted = self.wanted.saturating_sub(sent);
        let last_key = answer.kvs.last().map(|kv| kv.key.clone());
        let kvs = answer.kvs.into_iter().map(machine::kv::wire).collect();
        let mut piece = RangeResponse { kvs, ..Default::default() };
        let more = answer.more && !self.query.count_only;
        let is_last = !more || self.wanted == 0 || last_key.is_none();
        if is_last {
            piece.header = Some(api.header(self.revision));
            piece.more = more;
            piece.count = count;
        }
        let bytes = frame::encode(&RangeStreamResponse { range_response: Some(piece) });
        if let Some(last_key) = last_key {
            self.query.range = self.query.range.after(&last_key);
            self.query.limit = next_limit(self.query.limit, bytes.len(), self.target_bytes).min(self.wanted);
        }
        Ok((bytes, is_last))
    }
}

/// etcd's `adjustChunkLimit`: twice as many keys below half the target, half as many above twice; at least one.
fn next_limit(limit: i64, piece_bytes: usize, target_bytes: usize) -> i64 {
    let next = if piece_bytes < target_bytes / 2 {
        limit.saturating_mul(2)
    } else if piece_bytes > target_bytes.saturating_mul(2) {
        limit / 2
    } else {
        limit
    };
    next.max(1)
}
