//! `RangeStream`: a range in pieces, all of one View, so that neither side ever holds the whole of a long list.
//!
//! After etcd 3.7's `rangeStream`: the pieces merge into exactly what `Range` answers; header, `more` and `count` come
//! with the last one. A piece begins with ten keys and grows or shrinks by halves towards `--max-request-bytes`. Pieces
//! are read ahead by one while the client takes the one before; a slow client makes its own stream wait and nobody else.

use crate::{
    Api, grpc,
    kv::{self, Deadline},
    parse,
    slow::INLINE_ROWS_MAX,
    status, streams,
};
use bytes::{BufMut, Bytes, BytesMut};
use mvcc::{KeyValue, Query, View};
use proto::{
    etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, range_request::SortTarget},
    mvccpb,
};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;
use tonic::Status;
use types::{KeyRange, RangeEnd};

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
        if let Err(status) = send(&own, request, &pieces).await {
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
    if request.sort_target != SortTarget::Key as i32 {
        // A target without an order sorts what the limit lets through; etcd does so piece by piece. Sorted as a whole,
        // the stream says what `Range` says.
        let own = Arc::clone(api);
        let whole = api.slow.run(move || whole(&own, &request)).await?;
        let _ = pieces.send(Ok(whole)).await; // nobody may be listening any more
        return Ok(());
    }
    let mut next = Some(Cursor::new(api.shared.view(), request, api.limits.max_request_bytes));
    while let Some(cursor) = next {
        let (piece, rest) = if cursor.is_short() {
            cursor.piece(api)?
        } else {
            let own = Arc::clone(api);
            api.slow.run(move || cursor.piece(&own)).await?
        };
        if pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
        next = rest;
    }
    Ok(())
}

/// The whole answer as one piece.
fn whole(api: &Api, request: &RangeRequest) -> Result<Bytes, Status> {
    let mut answer = api.shared.range(request).map_err(|e| status::stop(&e))?;
    api.complete(&mut answer.header);
    Ok(grpc::encode(&RangeStreamResponse { range_response: Some(answer) }))
}

/// Where the next piece begins.
struct Cursor {
    view: Arc<View>,
    query: Query,
    /// What the client wants of the keys still to come; `i64::MAX` is all.
    wanted: i64,
    /// Keys in the whole range, once the first piece has counted them.
    count: Option<i64>,
    keys_only: bool,
    target_bytes: usize,
}

impl Cursor {
    fn new(view: Arc<View>, request: RangeRequest, target_bytes: usize) -> Self {
        let wanted = if request.limit > 0 { request.limit } else { i64::MAX };
        let query = Query {
            range: KeyRange::from_wire(request.key, request.range_end),
            // Fixed, so that the pieces agree: the View cannot move, and now is the View's now.
            revision: if request.revision > 0 { request.revision } else { 0 },
            limit: FIRST_PIECE_KEYS.min(wanted),
            keys_only: request.keys_only,
            count_only: request.count_only,
            ..Query::default()
        };
        Self { view, query, wanted, count: None, keys_only: request.keys_only, target_bytes }
    }

    fn is_short(&self) -> bool {
        self.query.limit <= INLINE_ROWS_MAX && !(self.query.count_only && self.query.revision > 0)
    }

    /// Reads a piece; says it encoded, and where to go on.
    fn piece(mut self, api: &Api) -> Result<(Bytes, Option<Self>), Status> {
        let answer = self.view.range(&self.query).map_err(|e| status::store(&e))?;
        let count = *self.count.get_or_insert(answer.count);
        let sent = answer.kvs.len() as i64;
        self.wanted = self.wanted.saturating_sub(sent);
        let last_key = answer.kvs.last().map(|kv| kv.key.clone());
        let kvs = answer.kvs.into_iter().map(|kv| wire(kv, self.keys_only)).collect();
        let mut piece = RangeResponse { kvs, ..Default::default() };
        let more = answer.more && !self.query.count_only;
        let done = !more || self.wanted == 0;
        if done {
            piece.header = Some(api.header(self.view.revision()));
            piece.more = more;
            piece.count = count;
        }
        let bytes = grpc::encode(&RangeStreamResponse { range_response: Some(piece) });
        let Some(last_key) = last_key.filter(|_| !done) else {
            return Ok((bytes, None));
        };
        self.query.range = after(&last_key, &self.query.range);
        self.query.limit = next_limit(self.query.limit, bytes.len(), self.target_bytes).min(self.wanted);
        Ok((bytes, Some(self)))
    }
}

/// The part of the range behind a key.
fn after(key: &[u8], range: &KeyRange) -> KeyRange {
    let mut start = BytesMut::with_capacity(key.len() + 1);
    start.put_slice(key);
    start.put_u8(0); // the smallest key behind it
    let end = match &range.end {
        // A single key has nothing behind it, and never says that there is more.
        RangeEnd::Point => RangeEnd::Before(start.clone().freeze()),
        other => other.clone(),
    };
    KeyRange { start: start.freeze(), end }
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

/// A key as `Range` shows it: etcd answers `keys_only` from its index, which knows no leases.
fn wire(kv: KeyValue, keys_only: bool) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: if keys_only { Bytes::new() } else { kv.value },
        lease: if keys_only { 0 } else { kv.lease },
    }
}
