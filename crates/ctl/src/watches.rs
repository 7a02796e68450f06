//! Watches on one stream, as clientv3 keeps them: a lost stream is opened again, at the next endpoint, from the next
//! revision.

use crate::client::{Client, RequestError};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// Requests that wait to be sent. Watches are typed by a person, or are a handful.
const REQUESTS_MAX: usize = 1024;
/// The pause between two tries to open the stream.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);
/// The watch ID of answers to a progress request.
const EVERY_WATCH: i64 = -1;

/// What happened to one watch.
#[derive(Debug)]
pub(crate) enum Update {
    /// Events, or a progress notification.
    Answer(pb::WatchResponse),
    /// The last answer, and why the watch ended.
    Lost(pb::WatchResponse, String),
    /// The server cancelled the watch, for no reason that clientv3 passes on.
    Ended,
}

/// All watches, each known by its position.
#[derive(Debug)]
pub(crate) struct Watches<'a> {
    client: &'a Client,
    /// Whether a server without a leader cancels them.
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
    /// Watches that are requested and not yet created; answers come in this order.
    creating: VecDeque<usize>,
}

impl<'a> Watches<'a> {
    pub(crate) fn new(client: &'a Client, require_leader: bool) -> Self {
        Self { client, require_leader, all: Vec::new(), stream: None }
    }

    pub(crate) async fn add(&mut self, create: pb::WatchCreateRequest) {
        let index = self.all.len();
        self.all.push(Watch { create: create.clone(), id: None, over: false });
        if let Some(stream) = &mut self.stream {
            stream.creating.push_back(index);
            // If the stream is gone, `next` opens another and asks again.
            let _ = stream.requests.send(request(RequestUnion::CreateRequest(create))).await;
        }
    }

    /// Requests a progress notification, which comes to every watch.
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

    /// Whether all watches have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.all.iter().all(|watch| watch.over)
    }

    /// The next answers, each with the position of its watch. Cancel safe.
    pub(crate) async fn next(&mut self) -> Vec<(usize, Update)> {
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.answers.message().await {
                    Ok(Some(answer)) => {
                        let updates = self.take(&answer);
                        if !updates.is_empty() {
                            return updates;
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
            self.client.fail_over();
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    fn end_all(&mut self, why: &str) -> Vec<(usize, Update)> {
        let live = self.all.iter_mut().enumerate().filter(|(_, watch)| !watch.over);
        live.map(|(index, watch)| {
            watch.over = true;
            let last = pb::WatchResponse { canceled: true, ..Default::default() };
            (index, Update::Lost(last, why.to_owned()))
        })
        .collect()
    }

    /// Opens the stream with all requests in it: a server may wait for one before it sends response headers.
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

    fn take(&mut self, answer: &pb::WatchResponse) -> Vec<(usize, Update)> {
        if answer.created {
            return self.created(answer);
        }
        let is_for = |watch: &Watch| watch.id == Some(answer.watch_id) || answer.watch_id == EVERY_WATCH;
        let here: Vec<usize> = (0..self.all.len()).filter(|at| is_for(&self.all[*at])).collect();
        let mut updates = Vec::new();
        for index in here {
            let watch = &mut self.all[index];
            if answer.canceled {
                watch.over = true;
                watch.id = None;
                updates.push((
                    index,
                    match answer.compact_revision {
                        0 => Update::Ended,
                        _ => Update::Lost(answer.clone(), COMPACTED.to_owned()),
                    },
                ));
                continue;
            }
            let newest = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            let revision = newest.or_else(|| answer.header.map(|header| header.revision)).unwrap_or(0);
            watch.create.start_revision = watch.create.start_revision.max(revision + 1);
            updates.push((index, Update::Answer(answer.clone())));
        }
        updates
    }

    fn created(&mut self, answer: &pb::WatchResponse) -> Vec<(usize, Update)> {
        let Some(index) = self.stream.as_mut().and_then(|stream| stream.creating.pop_front()) else {
            return Vec::new();
        };
        let watch = &mut self.all[index];
        if answer.watch_id == EVERY_WATCH || (answer.canceled && !answer.cancel_reason.is_empty()) {
            watch.over = true;
            let last = pb::WatchResponse { canceled: true, ..Default::default() };
            return vec![(index, Update::Lost(last, answer.cancel_reason.clone()))];
        }
        watch.id = Some(answer.watch_id);
        if watch.create.start_revision == 0 {
            // "From now on" keeps its meaning when the watch is created again.
            watch.create.start_revision = answer.header.map_or(0, |header| header.revision + 1);
        }
        Vec::new()
    }
}

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// Whether this is a progress notification.
pub(crate) fn is_progress(answer: &pb::WatchResponse) -> bool {
    answer.events.is_empty()
        && !answer.canceled
        && !answer.created
        && answer.compact_revision == 0
        && answer.header.is_some_and(|header| header.revision != 0)
}
