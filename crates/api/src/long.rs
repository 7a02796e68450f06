//! Long responses. Their length is known before their values are read, so values are read as the client takes them and
//! never all held.
//!
//! ```text
//! outline ─▶ prefix · head · first rows ─┐   a list of hundreds of MiB
//!            Rows (places, no values)    ├─▶ piece ─▶ Feeder ─▶ HTTP
//!            tail                       ─┘     ▲         │ waits until the last piece was taken
//!                                              └─────────┘ one turn in the long lane each
//! ```
//!
//! A client that keeps pace is served from one View, which compaction waits for. If it leaves a piece for
//! [`crate::Limits::view_hold_max`], the View is released, and the response goes on at its revision in newer Views
//! until a compaction passes that revision. Then, and if the response is taken back for others ([`crate::budget`]), the
//! call ends with an error before its message is complete.
//!
//! Rows that a writing transaction left unread ([`machine::Unread`]) are sent the same way. No newer View shows the
//! states between its operations, so such a call ends once a piece is left for that long; the transaction stays
//! applied.

mod making;

use crate::{
    budget::{self, Feeder, Held, Late, Room, Share},
    deadline::{self, Deadline},
    frame, parts,
    slow::{Lane, Lost},
    state::Api,
    status::{self, after_write},
    zip::{Added, Zip},
};
use bytes::{Bytes, BytesMut};
use machine::{Fault, Later, Response, Stop, Unread, kv};
use making::{Found, Making, Rest, put_rows};
use mvcc::{Cost, Effort, KeyValue, Outline, Rows, View};
use proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::timeout;
use tonic::Status;

pub(crate) enum Made {
    /// The complete message with its prefix.
    Whole(Bytes),
    /// Larger than may be held at once.
    Long(Long),
}

#[derive(Clone)]
pub(crate) struct Long {
    /// The View for segments that name none; `None` once the client has been too slow.
    view: Option<Arc<View>>,
    segments: VecDeque<Segment>,
    /// Unsent bytes, including the prefix.
    left: u64,
    /// Whether it answers a write, which stays applied.
    is_done: bool,
}

#[derive(Clone)]
enum Segment {
    Bytes(Bytes),
    /// Rows of a repeated field, with their field number and their View if it is not the response's.
    Rows(Rows, u32, Option<Arc<View>>),
    /// Rows whose places take too much memory: found again when their turn comes.
    Again(Later, u32),
}

/// Serves a range; complete at once up to `WorkLimits::short`.
pub(crate) fn range(api: &Api, request: &RangeRequest, effort: &Effort<'_>) -> Result<Made, Stop> {
    let (view, mut outline) = api.shared.outline_range(request, api.slow.whole_bytes(), effort)?;
    let header = Some(api.header(view.revision()));
    if outline.rows.is_empty() {
        return Ok(Made::Whole(parts::encode_range(whole(header, &mut outline))));
    }
    if !api.answers.has_much_room() {
        outline.keep(api.slow.piece_bytes());
    }
    let mut making = Making::new(api.slow.piece_bytes());
    making.range(header, Found { op: 0, outline, view: None, again: None });
    Ok(Made::Long(making.finish(Some(view))))
}

/// Reads an entry's deferred rows: a few in each turn of the long lane, once there is room for the response.
pub(crate) async fn unread(
    api: &Arc<Api>,
    room: Option<Room<'_>>,
    unread: Arc<Unread>,
) -> Result<Made, Status> {
    let left = api.slow.whole_bytes();
    let mut finding = Finding { unread, found: Vec::new(), left, remembered: 0 };
    loop {
        let own = Arc::clone(api);
        let step = move |effort: &Effort<'_>| {
            let is_over = finding.step(&own, effort)?;
            Ok(if is_over { Step::Made(finding.made(own.slow.piece_bytes())?) } else { Step::Again(finding) })
        };
        match api.slow.long(room, step).await? {
            Step::Made(made) => return Ok(made),
            Step::Again(again) => finding = again,
        }
    }
}

enum Step {
    Made(Made),
    Again(Finding),
}

struct Finding {
    unread: Arc<Unread>,
    found: Vec<Found>,
    /// Bytes of values that may still be read ahead.
    left: usize,
    /// Bytes taken by the remembered places.
    remembered: usize,
}

impl Finding {
    /// One turn: as much as is short. Returns whether it was the last.
    fn step(&mut self, api: &Api, effort: &Effort<'_>) -> Result<bool, Stop> {
        while let Some(later) = self.unread.reads.get(self.found.len()) {
            if !api.slow.is_short(effort.spent()) {
                return Ok(false);
            }
            let mut outline = later.outline(self.left, effort)?;
            let read: usize = outline.first.iter().map(KeyValue::encoded_len).sum();
            self.left = self.left.saturating_sub(read);
            let places = outline.rows.heap_len();
            let is_long = !outline.rows.is_empty();
            let forgets = is_long && self.remembered + places > api.slow.remembered_bytes();
            if forgets {
                outline.forget();
            } else if is_long && !api.answers.has_much_room() {
                // Read values ahead only if there is much room.
                outline.keep(0);
            }
            let again = forgets.then(|| later.clone());
            self.remembered += if forgets { 0 } else { places };
            self.found.push(Found { op: later.op, outline, view: Some(Arc::clone(later.view())), again });
        }
        Ok(true)
    }

    fn made(self, piece_bytes: usize) -> Result<Made, Stop> {
        let mut rest = Rest::of(self.found);
        let mut making = Making::new(piece_bytes);
        match &self.unread.answer {
            Response::Put(answer) => making.put(answer, rest.next()?),
            Response::DeleteRange(answer) => making.delete(answer, rest.next()?),
            Response::Txn(answer) => making.txn(answer.clone(), &mut rest)?,
            _ => return Err(UNLIKE_OUTLINE),
        }
        if !rest.is_empty() {
            return Err(UNLIKE_OUTLINE);
        }
        Ok(making.made())
    }
}

pub(crate) fn unread_now(unread: &Unread, effort: &Effort<'_>) -> Result<Bytes, Stop> {
    match unread.whole(effort)? {
        Response::Put(answer) => Ok(frame::encode(&answer)),
        Response::DeleteRange(answer) => Ok(frame::encode(&answer)),
        Response::Txn(answer) => Ok(parts::encode_txn(answer)),
        _ => Err(UNLIKE_OUTLINE),
    }
}

/// The error for a client that reads the response to a write too slowly.
pub(crate) fn late_after_write() -> Status {
    after_write(budget::exhausted())
}

fn whole(header: Option<ResponseHeader>, outline: &mut Outline) -> RangeResponse {
    let kvs = std::mem::take(&mut outline.first).into_iter().map(kv::wire).collect();
    RangeResponse { header, kvs, more: outline.more, count: outline.count }
}

impl Long {
    pub(crate) fn late(&self) -> Late {
        if self.is_done { late_after_write } else { budget::exhausted }
    }

    pub(crate) fn done(self) -> Self {
        Self { is_done: true, ..self }
    }

    /// Maps an error to what the client must see: a write stays applied even if its response fails.
    fn told(&self) -> impl Fn(Status) -> Status + use<> {
        let is_done = self.is_done;
        move |status| if is_done { after_write(status) } else { status }
    }

    /// Releases the Views so that compaction can go on; returns whether the response can continue without them.
    fn let_go(&mut self) -> bool {
        self.view = None;
        self.segments.iter_mut().all(|segment| match segment {
            Segment::Bytes(_) => true,
            Segment::Rows(_, _, view) => {
                view.take_if(|view| view.is_whole());
                view.is_none()
            }
            Segment::Again(..) => false,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.left
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.segments.is_empty()
    }

    /// Bytes held in addition to the View.
    fn heap_len(&self) -> usize {
        let held = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Rows(rows, ..) => rows.heap_len(),
            Segment::Again(..) => size_of::<Later>(),
        };
        self.segments.iter().map(held).sum()
    }

    /// The next piece of about `target` bytes, which a single row may exceed; `None` at the end.
    pub(crate) fn piece(
        &mut self,
        api: &Api,
        effort: &Effort<'_>,
        target: usize,
    ) -> Result<Option<Bytes>, Stop> {
        let newest = self.view.clone().unwrap_or_else(|| api.shared.view());
        let mut out = BytesMut::new();
        while out.len() < target
            && let Some(segment) = self.segments.front_mut()
        {
            let is_over = match segment {
                Segment::Bytes(bytes) => {
                    out.extend_from_slice(&bytes.split_to(bytes.len().min(target - out.len())));
                    bytes.is_empty()
                }
                Segment::Rows(rows, field, view) => {
                    let view = view.as_ref().unwrap_or(&newest);
                    put_rows(*field, &rows.next(view, effort, target - out.len())?, &mut out);
                    rows.is_empty()
                }
                Segment::Again(later, field) => {
                    let rows = later.outline(0, effort)?.rows;
                    *segment = Segment::Rows(rows, *field, Some(Arc::clone(later.view())));
                    false
                }
            };
            if is_over {
                self.segments.pop_front();
            }
        }
        if out.is_empty() {
            return if self.is_over() { Ok(None) } else { Err(UNLIKE_OUTLINE) };
        }
        self.sent(out.freeze()).map(Some)
    }

    /// Counts a sent piece; the message must not exceed its announced length.
    fn sent(&mut self, piece: Bytes) -> Result<Bytes, Stop> {
        self.left = self.left.checked_sub(piece.len() as u64).ok_or(UNLIKE_OUTLINE)?;
        Ok(piece)
    }

    /// Reads and compresses the whole response; `None` if the result is larger than may be held.
    pub(crate) async fn pack(mut self, api: &Arc<Api>, zip: &Zip) -> Result<Option<Bytes>, Status> {
        let mut packing = None;
        loop {
            let told = self.told();
            let (back, piece) = self.read(api).await.map_err(|lost| told(lost.into()))?;
            self = back;
            let piece = piece.map_err(|stop| told(status::stop(&stop)))?.unwrap_or_default();
            match zip.add(packing.take(), piece, self.is_over()).await.map_err(told)? {
                Added::More(more) => packing = Some(more),
                Added::Whole(packed) => return Ok(Some(packed)),
                Added::TooMuch => return Ok(None),
            }
        }
    }

    async fn read(mut self, api: &Arc<Api>) -> Result<(Self, Result<Option<Bytes>, Stop>), Lost> {
        let (own, target) = (Arc::clone(api), api.slow.piece_bytes());
        let read = api.slow.run(Lane::Long, move |gone| {
            let piece = self.piece(&own, &Effort::within(Cost::MAX).unless(gone), target);
            (self, piece)
        });
        read.await
    }

    /// Sends the response as the client reads it, until the deadline at most.
    pub(crate) fn send(self, api: &Arc<Api>, answers: &Arc<Share>, deadline: Deadline) -> Held {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (held, feeder) = answers.feed(length, self.late());
        deadline::spawn_until(deadline, feed(Arc::clone(api), self, feeder));
        held
    }
}

const UNLIKE_OUTLINE: Stop = Stop::Fault(Fault::Broken("a long answer is not what its outline says"));

/// Reads one piece ahead of the client, each in its own turn.
async fn feed(api: Arc<Api>, mut long: Long, feeder: Feeder) {
    let told = long.told();
    loop {
        let _remembered = feeder.charge(long.heap_len());
        let read = tokio::select! {
            read = long.read(&api) => read,
            () = feeder.unwanted() => return,
        };
        let piece = match read {
            Ok((back, piece)) => {
                long = back;
                piece
            }
            Err(lost) => return feeder.end(Err(told(lost.into()))),
        };
        match piece {
            Ok(Some(piece)) => {
                let piece = feeder.count(piece);
                let is_slow = timeout(api.limits.view_hold_max, feeder.ready()).await.is_err();
                if is_slow && !long.let_go() {
                    return feeder.end(Err(told(budget::exhausted())));
                }
                if !feeder.ready().await {
                    return;
                }
                feeder.put(piece);
                if long.is_over() {
                    return feeder.end(Ok(()));
                }
            }
            Ok(None) => return feeder.end(Ok(())),
            Err(stop) => return feeder.end(Err(told(status::stop(&stop)))),
        }
    }
}
