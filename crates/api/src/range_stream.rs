//! `RangeStream`: a range in pieces, all of one revision, so that neither side ever holds the whole of a long list.
//!
//! After etcd 3.7's `rangeStream`: the pieces merge into exactly what `Range` answers; header, `more` and `count` come
//! with the last one. A piece begins with ten keys and grows or shrinks by halves towards `--max-request-bytes`, beyond
//! which none goes by more than a key. Pieces are read ahead by one while the client takes the one before; a slow client
//! makes its own stream wait and nobody else.
//!
//! A client that keeps the pace reads one View, which compaction waits for. Where a piece is not taken for
//! [`crate::Limits::view_hold_max`], the View is let go, and the stream goes on at its revision in newer ones, as etcd
//! does from the start: until a compaction has passed that revision, of which the client is told.

use crate::{
    Api, grpc,
    kv::{self, Deadline},
    parse,
    slow::Inline,
    streams,
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

/// Pieces that may wait for the client: one, while the next is read. Each is about `--max-request-bytes` long.
pub(crate) const PIECES_AHEAD_MAX: usize = 1;

/// Checks the request and makes sure of the quorum; then reads and sends the pieces in a task of their own, until the
/// end, an error, or until nobody listens any more.
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
    streams::spawn_until(deadline, async move {
        // Who goes away is noticed here too, while a piece waits for its turn or is read.
        let sent = tokio::select! {
            sent = own.steps.watch("RangeStream", send(&own, request, &pieces)) => sent,
            () = pieces.closed() => return,
        };
        if let Err(status) = sent {
            // Nobody may be listening any more: then there is nobody to tell.
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
        // A target without an order sorts what the limit lets through; etcd does so piece by piece. Sorted as a whole,
        // the stream says what `Range` says.
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
        // Who is gone needs no error.
        if !deliver(api, piece, &mut source, pieces).await || is_last {
            return Ok(());
        }
    }
}

/// Hands a piece over; whether somebody takes pieces.
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

/// Where the pieces come from.
enum Source {
    Keys(Cursor),
    Found(Found),
}

impl Source {
    /// Reads a piece and moves behind it; says it encoded, and whether it is the last. Given up, nothing has moved.
    fn piece(&mut self, api: &Api, effort: &Effort<'_>) -> Result<(Bytes, bool), Stop> {
        match self {
            Self::Keys(cursor) => cursor.piece(api, effort),
            Self::Found(found) => found.piece(api, effort),
        }
    }

    /// Goes on without the View.
    fn let_go(&mut self) {
        match self {
            Self::Keys(cursor) => cursor.view = None,
            Self::Found(found) => found.view = None,
        }
    }
}

/// Rows that were found and sorted before the first was sent.
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
        Ok((grpc::encode(&RangeStreamResponse { range_response: Some(piece) }), is_last))
    }
}

/// Where the next piece begins.
struct Cursor {
    /// What is read, while the client keeps the pace.
    view: Option<Arc<View>>,
    /// What the header says: the newest revision when the stream began.
    revision: i64,
    query: Query,
    /// What the client wants of the keys still to come; `i64::MAX` is all.
    wanted: i64,
    /// Keys in the whole range, once the first piece has counted them.
    count: Option<i64>,
    target_bytes: usize,
}

impl Cursor {
    fn new(view: Arc<View>, request: RangeRequest, target_bytes: usize) -> Self {
        let wanted = if request.limit > 0 { request.limit } else { i64::MAX };
        let query = Query {
            range: KeyRange::from_wire(request.key, request.range_end),
            // Fixed, so that the pieces agree.
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
        let bytes = grpc::encode(&RangeStreamResponse { range_response: Some(piece) });
        if let Some(last_key) = last_key {
            self.query.range = self.query.range.after(&last_key);
            self.query.limit = next_limit(self.query.limit, bytes.len(), self.target_bytes).min(self.wanted);
        }
        Ok((bytes, is_last))
    }
}

/// etcd's `adjustChunkLimit`: outside half to double the target, a piece gets twice or half as many keys; at least one.
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
