//! An admitted call: bounds its request, applies etcd's interceptors, compresses and counts.

use crate::{
    answer::Answer,
    budget::{self, Share, Shares},
    deadline::Deadline,
    endings::{self, Phase},
    feed::Feed,
    frame::{self, PREFIX_BYTES},
    long::{self, Long},
    methods::{Kind, Method},
    metrics::{self, Call as Counted, SeenVersion},
    reply::{Ending, Outgoing, Reply},
    requests::{self, Framing, Inbound, Requests},
    socket::Turn,
    state::Api,
    status::EtcdError,
    zip::Zipped,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use prost::Message;
use proto::etcdserverpb::TxnRequest;
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};
use tokio::sync::watch;
use tonic::{Code, Status};

const CLIENT_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const WANTS_LEADER: HeaderName = HeaderName::from_static("hasleader");

pub(crate) struct Connection {
    pub(crate) api: Arc<Api>,
    /// The first client version seen; a client sends the same with every call.
    version: OnceLock<SeenVersion>,
    /// Announces shutdown to streams that do not end by themselves.
    pub(crate) phase: watch::Receiver<Phase>,
    turn: Turn,
    pub(crate) requests: Arc<Share>,
    pub(crate) answers: Arc<Share>,
    values: Arc<Share>,
}

impl Connection {
    pub(crate) fn new(api: Arc<Api>, turn: Turn, phase: watch::Receiver<Phase>) -> Self {
        let (requests, answers, values) = (api.requests.share(), api.answers.share(), api.values.share());
        Self { api, version: OnceLock::new(), turn, phase, requests, answers, values }
    }
}

pub(crate) struct Call<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) method: Method,
    pub(crate) deadline: Deadline,
    headers: &'a HeaderMap,
    counted: Counted,
    framing: Framing,
}

impl<'a> Call<'a> {
    /// Counts the call from now on. With `is_gzip` its messages are compressed, both ways.
    pub(crate) fn new(
        connection: &'a Arc<Connection>,
        method: Method,
        headers: &'a HeaderMap,
        deadline: Deadline,
        is_gzip: bool,
    ) -> Self {
        let api = &connection.api;
        let zip = is_gzip.then(|| Arc::clone(&api.zip));
        let framing = Framing { max_bytes: api.limits.message_bytes_max(), zip, method };
        Self { connection, method, deadline, headers, counted: api.metrics.calls.start(method), framing }
    }

    pub(crate) fn api(&self) -> &'a Arc<Api> {
        &self.connection.api
    }

    pub(crate) fn shares(&self) -> Shares<'a> {
        let Connection { answers, values, .. } = &**self.connection;
        Shares { answers, values }
    }

    /// Reads the message and admits the call. `for_learner` decides whether a learner serves it too.
    pub(crate) async fn read<M: Message + Default>(
        &self,
        body: Requests,
        for_learner: impl FnOnce(&M) -> bool,
    ) -> Result<M, Status> {
        let message = self.framing.decode(&self.bytes(body).await?, |bytes| M::decode(bytes))?;
        self.admit(for_learner(&message))?;
        Ok(message)
    }

    pub(crate) async fn read_txn(&self, body: Requests) -> Result<TxnRequest, Status> {
        let message = self.framing.decode(&self.bytes(body).await?, proto::deep::txn)?;
        self.admit(false)?;
        Ok(message)
    }

    async fn bytes(&self, body: Requests) -> Result<Bytes, Status> {
        let share = &self.connection.requests;
        let read = requests::read(body, &self.framing, self.deadline, &self.counted, share);
        read.await.inspect_err(|status| {
            if status.code() == Code::Cancelled {
                self.connection.turn.given_up();
            }
        })
    }

    pub(crate) fn inbound(&self, body: Requests) -> Result<Inbound, Status> {
        self.admit(false)?;
        let share = &self.connection.requests;
        let (received, turn) = (self.counted.receiver(), self.connection.turn.clone());
        Ok(Inbound::new(body, self.framing.clone(), share, received, turn))
    }

    /// etcd's interceptors, in their order.
    fn admit(&self, for_learner: bool) -> Result<(), Status> {
        let status = self.api().node.status();
        if status.is_learner && !for_learner {
            return Err(EtcdError::NotForLearner.into());
        }
        if self.api().is_distrusted() && self.method.is_of_the_data() {
            return Err(EtcdError::Corrupt.into());
        }
        self.count_version()?;
        if status.leader == 0 && self.wants_leader() {
            return Err(EtcdError::NoLeader.into());
        }
        Ok(())
    }

    fn wants_leader(&self) -> bool {
        self.headers.get(WANTS_LEADER).is_some_and(|value| value.as_bytes() == b"true")
    }

    fn count_version(&self) -> Result<(), Status> {
        let header = self.headers.get(CLIENT_VERSION);
        let look_up = || {
            let text = header.map_or(Ok("unknown"), |h| str::from_utf8(h.as_bytes()));
            let text = text.map_err(|_| Status::from(EtcdError::InvalidClientApiVersion))?;
            Ok::<_, Status>(self.api().metrics.client_version(text))
        };
        let count = |version: &metrics::ClientVersion| match self.method.kind() {
            Kind::Frequent(_) | Kind::Rare(_) => version.unary.inc(),
            Kind::ServerStream(_) | Kind::BidiStream(_) => version.stream.inc(),
        };
        match self.connection.version.get() {
            Some((seen, version)) if seen.as_ref() == header => count(version),
            Some(_) => count(&look_up()?),
            None => {
                let version = look_up()?;
                count(&version);
                // If another call of this connection set it first, that value stays.
                let _ = self.connection.version.set((header.cloned(), version));
            }
        }
        Ok(())
    }

    /// Ends the call without a response. After the deadline every error is `DeadlineExceeded`, as in etcd's transport.
    pub(crate) fn refuse(&mut self, status: Status) -> http::Response<Reply> {
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let status = if is_over { EtcdError::DeadlineExceeded.into() } else { status };
        self.counted.end(status.code());
        Reply::refusal(status)
    }

    pub(crate) async fn answer(&mut self, answer: Result<Answer, Status>) -> http::Response<Reply> {
        let reply = match answer {
            Ok(Answer::Long(long)) => Box::pin(self.send_long(long)).await,
            Ok(Answer::Read(message)) => {
                self.pack(message).await.map(|message| Reply::held(message, self.shares(), budget::exhausted))
            }
            Ok(Answer::Done(message)) => {
                let packed = self.pack(message).await;
                packed.map(|message| Reply::held(message, self.shares(), long::late_after_write))
            }
            Ok(Answer::Other(message)) => {
                self.pack(message).await.map(|message| Reply::unary(self.connection.values.count(message)))
            }
            Err(status) => Err(status),
        };
        match reply {
            Ok(reply) => {
                self.counted.end(Code::Ok);
                if self.framing.zip.is_some() { Reply::compressed(reply) } else { reply }
            }
            Err(status) => self.refuse(status),
        }
    }

    /// Compresses a message if the client wants that, and checks its length against etcd's limit.
    async fn pack(&self, mut message: Bytes) -> Result<Bytes, Status> {
        self.counted.sent(message.len() - PREFIX_BYTES);
        if let Some(zip) = &self.framing.zip {
            message = Box::pin(zip.pack(message)).await?;
        }
        frame::sendable(message, self.api().limits.send_bytes_max)
    }

    async fn send_long(&self, long: Box<Long>) -> Result<http::Response<Reply>, Status> {
        let (api, answers) = (self.api(), &self.connection.answers);
        let length = long.len() - PREFIX_BYTES as u64;
        self.counted.sent(usize::try_from(length).unwrap_or(usize::MAX));
        frame::sendable_length(length, api.limits.send_bytes_max)?;
        if let Some(zip) = &self.framing.zip
            && let Some(packed) = Long::clone(&long).pack(api, zip).await?
        {
            return Ok(Reply::held(packed, self.shares(), long.late()));
        }
        Ok(Reply::fed(long.send(api, answers, self.deadline)))
    }

    pub(crate) fn stream(self, feed: Box<dyn Feed>) -> http::Response<Reply> {
        let ending = self.ending();
        let feed = match &self.framing.zip {
            Some(zip) => Box::new(Zipped::new(feed, Arc::clone(zip))),
            None => feed,
        };
        let max_bytes = self.api().limits.send_bytes_max;
        let outgoing = Outgoing::new(feed, self.counted, ending, self.deadline, max_bytes);
        let response = Reply::stream(outgoing);
        if self.framing.zip.is_some() { Reply::compressed(response) } else { response }
    }

    /// What ends a running stream early: loss of the leader if asked for, shutdown if it does not end by itself, and distrust
    /// of the data that it is about.
    fn ending(&self) -> Option<Ending> {
        let losses = self.wants_leader().then(|| self.api().leader_losses.subscribe());
        let phase = self.method.is_endless().then(|| self.connection.phase.clone());
        let distrusted = self.method.is_of_the_data().then(|| self.api().distrusted.subscribe());
        if losses.is_none() && phase.is_none() && distrusted.is_none() {
            return None;
        }
        Some(Box::pin(async {
            tokio::select! {
                status = if_any(losses.map(endings::leader_lost)) => status,
                status = if_any(phase.map(endings::going_down)) => status,
                status = if_any(distrusted.map(endings::distrusted)) => status,
            }
        }))
    }
}

/// The future, or one that never resolves.
async fn if_any(ending: Option<impl Future<Output = Status>>) -> Status {
    match ending {
        Some(ending) => ending.await,
        None => std::future::pending().await,
    }
}
