//! Watches over one stream, as clientv3 keeps them: lost streams are opened again, at the next endpoint, from the
//! revision that was not seen yet.

use crate::client::{Client, RequestError};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// Requests that wait for the stream: watches are made by people, or a handful at once.
const REQUESTS_MAX: usize = 1024;
/// Between two tries to open the stream.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);
/// Answers to a progress request belong to every watch of the stream.
const EVERY_WATCH: i64 = -1;

/// What happened to one watch.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Events, or progress.
    Answer(pb::WatchResponse),
    /// Its last answer, and why it is the last one.
    Lost(pb::WatchResponse, String),
    /// The server ended it without a reason that clientv3 passes on.
    Ended,
}

/// Watches by their number, from 0.
#[derive(Debug)]
pub(crate) struct Watches<'a> {
    client: &'a Client,
    /// Whether a server without a leader ends them.
    require_leader: bool,
    all: Vec<Watch>,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Watch {
    create: pb::WatchCreateRequest,
    id: Option<i64>,
    over: bool,
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
    /// Watches asked for and not answered yet: answers come in this order.
    creating: VecDeque<usize>,
}

impl<'a> Watches<'a> {
    /// No watch yet.
    pub(crate) fn new(client: &'a Client, require_leader: bool) -> Self {
        Self { client, require_leader, all: Vec::new(), stream: None }
    }

    /// One more watch.
    pub(crate) async fn add(&mut self, create: pb::WatchCreateRequest) {
        let index = self.all.len();
        self.all.push(Watch { create: create.clone(), id: None, over: false });
        if let Some(stream) = &mut self.stream {
            stream.creating.push_back(index);
            // A stream that is gone is seen by `next`, which asks again.
            let _ = stream.requests.send(request(RequestUnion::CreateRequest(create))).await;
        }
    }

    /// Asks how far the server has come; the answer comes to every watch.
    pub(crate) async fn ask_progress(&mut self) -> Result<(), RequestError> {
        let progress = request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        match &self.stream {
            Some(stream) => {
                let _ = stream.requests.send(progress).await;
                Ok(())
            }
            None => self.open(Some(progress)).await,
        }
    }

    /// Whether nothing more will be seen.
    pub(crate) fn is_over(&self) -> bool {
        self.all.iter().all(|watch| watch.over)
    }

    /// What happens next. Dropped half-way, it loses nothing.
    pub(crate) async fn next(&mut self) -> Vec<(usize, Seen)> {
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.answers.message().await {
                    Ok(Some(answer)) => {
                        let seen = self.take(&answer);
                        if !seen.is_empty() {
                            return seen;
                        }
                        continue;
                    }
                    Ok(None) => RequestError::status(&Status::unavailable("EOF")),
                    Err(status) => RequestError::status(&status),
                },
                None => match self.open(None).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            self.stream = None;
            if error.is_final() {
                return self.end_all(&error.text);
            }
            self.client.leave();
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    fn end_all(&mut self, why: &str) -> Vec<(usize, Seen)> {
        let live = self.all.iter_mut().enumerate().filter(|(_, watch)| !watch.over);
        live.map(|(index, watch)| {
            watch.over = true;
            let last = pb::WatchResponse { canceled: true, ..Default::default() };
            (index, Seen::Lost(last, why.to_owned()))
        })
        .collect()
    }

    /// Opens the stream with everything that is asked for in it: a server may say nothing before it has read a request.
    async fn open(&mut self, more: Option<pb::WatchRequest>) -> Result<(), RequestError> {
        let channel = self.client.channel(None).await?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut creating = VecDeque::new();
        for (index, watch) in self.all.iter_mut().enumerate().filter(|(_, watch)| !watch.over) {
            watch.id = None;
            creating.push_back(index);
            let union = RequestUnion::CreateRequest(watch.create.clone());
            requests.try_send(request(union)).expect("as many as people type");
        }
        if let Some(more) = more {
            requests.try_send(more).expect("as many as people type");
        }
        let mut opening = Request::new(ReceiverStream::new(receiver));
        if self.require_leader {
            opening.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
        }
        let limit = self.client.settings().receive_bytes_max;
        let mut service = WatchClient::new(channel).max_decoding_message_size(limit);
        let answers = service.watch(opening).await.map_err(|status| RequestError::status(&status))?;
        self.stream = Some(Stream { requests, answers: answers.into_inner(), creating });
        Ok(())
    }

    fn take(&mut self, answer: &pb::WatchResponse) -> Vec<(usize, Seen)> {
        if answer.created {
            return self.created(answer);
        }
        let is_for = |watch: &Watch| watch.id == Some(answer.watch_id) || answer.watch_id == EVERY_WATCH;
        let here: Vec<usize> = (0..self.all.len()).filter(|at| is_for(&self.all[*at])).collect();
        let mut seen = Vec::new();
        for index in here {
            let watch = &mut self.all[index];
            if answer.canceled {
                watch.over = true;
                watch.id = None;
                seen.push((
                    index,
                    match answer.compact_revision {
                        0 => Seen::Ended,
                        _ => Seen::Lost(answer.clone(), COMPACTED.to_owned()),
                    },
                ));
                continue;
            }
            let newest = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            let revision = newest.or_else(|| answer.header.map(|header| header.revision)).unwrap_or(0);
            watch.create.start_revision = watch.create.start_revision.max(revision + 1);
            seen.push((index, Seen::Answer(answer.clone())));
        }
        seen
    }

    fn created(&mut self, answer: &pb::WatchResponse) -> Vec<(usize, Seen)> {
        let Some(index) = self.stream.as_mut().and_then(|stream| stream.creating.pop_front()) else {
            return Vec::new();
        };
        let watch = &mut self.all[index];
        if answer.watch_id == EVERY_WATCH || (answer.canceled && !answer.cancel_reason.is_empty()) {
            watch.over = true;
            let last = pb::WatchResponse { canceled: true, ..Default::default() };
            return vec![(index, Seen::Lost(last, answer.cancel_reason.clone()))];
        }
        watch.id = Some(answer.watch_id);
        if watch.create.start_revision == 0 {
            // From now on, also when it has to be made again.
            watch.create.start_revision = answer.header.map_or(0, |header| header.revision + 1);
        }
        Vec::new()
    }
}

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// Whether this answer says only how far the server has come.
pub(crate) fn is_progress(answer: &pb::WatchResponse) -> bool {
    answer.events.is_empty()
        && !answer.canceled
        && !answer.created
        && answer.compact_revision == 0
        && answer.header.is_some_and(|header| header.revision != 0)
}

/// Whether an event is the end of a key.
pub(crate) fn is_delete(event: &mvccpb::Event) -> bool {
    event.r#type == i32::from(mvccpb::event::EventType::Delete)
}
