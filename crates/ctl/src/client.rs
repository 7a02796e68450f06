//! A client of one or more endpoints. It uses the first that answers, and fails over to the next.
//!
//! It retries as clientv3 does: a read whenever the cluster was unavailable; a write only while there was no connection,
//! because a write that was sent may have been applied.

mod kv;

use crate::address::Address;
use crate::failure::{ERROR, Failure};
use crate::settings::Settings;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// How long to wait for one endpoint before dialling the next one too.
const STAGGER: Duration = Duration::from_millis(100);
/// The pause after every endpoint has failed.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two tries of a read, as in clientv3.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Tries of a read, as in clientv3.
const TRIES_MAX: u32 = 100;

/// Whether a request may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Retried: it changes nothing.
    Read,
    /// Not retried once sent: it may have been applied although no answer came.
    Write,
}

/// A request that failed, in clientv3's words.
#[derive(Debug)]
pub(crate) struct RequestError {
    pub(crate) text: String,
    /// The cause, where `text` does not tell it.
    pub(crate) why: Option<String>,
    pub(crate) code: Code,
}

impl RequestError {
    /// From the server's answer.
    pub(crate) fn status(status: &Status) -> Self {
        Self { text: clientv3_text(status), why: None, code: status.code() }
    }

    /// A failure that no server reported.
    pub(crate) fn local(text: String) -> Self {
        Self { text, why: None, code: Code::Aborted }
    }

    /// Whether trying again on another stream cannot help.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.code, Code::Unavailable | Code::Internal | Code::Unknown)
            || self.text == "etcdserver: no leader"
    }

    fn deadline(why: Option<String>) -> Self {
        Self { text: "context deadline exceeded".to_owned(), why, code: Code::DeadlineExceeded }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self { code: ERROR, text: Some(error.text), hint: error.why }
    }
}

/// The text that clientv3 shows: etcd's own errors as they are, others with their code.
fn clientv3_text(status: &Status) -> String {
    /// Errors of etcd's server that clientv3 does not know.
    const STRANGE: &[&str] = &[
        "etcdserver: invalid client api version",
        "etcdserver: watch canceled",
        "etcdserver: permission not given",
        "etcdserver: request timed out, waiting for the applied index took too long",
        "etcdserver: request canceled",
        "etcdserver: context deadline exceeded",
    ];
    let text = status.message();
    if text.starts_with("etcdserver: ") && !STRANGE.contains(&text) {
        return text.to_owned();
    }
    let code = match status.code() {
        Code::Cancelled => "Canceled".to_owned(),
        Code::Ok => "OK".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {text}")
}

/// Endpoints, and the connection to one of them.
#[derive(Debug)]
pub(crate) struct Client {
    addresses: Vec<Address>,
    settings: Settings,
    live: RefCell<Option<Channel>>,
    /// The endpoint that is tried first.
    first: Cell<usize>,
}

impl Client {
    /// A client of the endpoints in `settings`; it connects when first used.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let addresses =
            settings.endpoints.iter().map(|text| Address::read(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { addresses, settings: settings.clone(), live: RefCell::new(None), first: Cell::new(0) })
    }

    /// A client of one endpoint.
    pub(crate) fn for_endpoint(settings: &Settings, endpoint: &str) -> Result<Self, Failure> {
        Self::new(&Settings { endpoints: vec![endpoint.to_owned()], ..settings.clone() })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The deadline of a request that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.command_timeout
    }

    /// Sends one request, and retries it by the rules of `kind`. Without a deadline it waits for ever.
    pub(crate) async fn call<Q: prost::Message + Clone, A>(
        &self,
        deadline: Option<Instant>,
        kind: Kind,
        message: Q,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, RequestError> {
        let (size, limit) = (message.encoded_len(), self.settings.send_bytes_max);
        if size > limit {
            let text = format!("trying to send message larger than max ({size} vs. {limit})");
            return Err(RequestError::status(&Status::resource_exhausted(text)));
        }
        let mut tries = 0;
        loop {
            let channel = self.channel(deadline).await?;
            let mut request = Request::new(message.clone());
            if let Some(deadline) = deadline {
                request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            let answer = within(deadline, send(channel, request)).await;
            let status = match answer {
                Some(Ok(answer)) => return Ok(answer.into_inner()),
                Some(Err(status)) => status,
                None => return Err(RequestError::deadline(None)),
            };
            tries += 1;
            self.debug(|| format!("try {tries}: {status}"));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(RequestError::deadline(None));
            }
            if !self.may_retry(kind, &status) || tries == TRIES_MAX {
                return Err(RequestError::status(&status));
            }
            self.fail_over();
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Calls a method that may change something, within the command's timeout.
    pub(crate) async fn write<Q: prost::Message + Clone, A>(
        &self,
        message: Q,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, RequestError> {
        self.call(Some(self.deadline()), Kind::Write, message, send).await
    }

    fn may_retry(&self, kind: Kind, status: &Status) -> bool {
        let is_lost = status.source().is_some();
        let is_learner = status.message() == "etcdserver: rpc not supported for learner";
        (is_learner && self.addresses.len() > 1)
            || (kind == Kind::Read && (is_lost || status.code() == Code::Unavailable))
    }

    /// Drops the connection; the next one goes to the next endpoint.
    pub(crate) fn fail_over(&self) {
        self.live.take();
        self.first.set((self.first.get() + 1) % self.addresses.len());
    }

    /// The open connection, or a new one; waits until an endpoint answers.
    pub(crate) async fn channel(&self, deadline: Option<Instant>) -> Result<Channel, RequestError> {
        if let Some(channel) = self.live.borrow().as_ref() {
            return Ok(channel.clone());
        }
        let mut refusal = None;
        loop {
            match within(deadline, self.connect()).await {
                Some(Ok(channel)) => {
                    *self.live.borrow_mut() = Some(channel.clone());
                    return Ok(channel);
                }
                Some(Err(why)) => {
                    self.debug(|| why.clone());
                    refusal = Some(why);
                }
                None => return Err(RequestError::deadline(refusal)),
            }
            if within(deadline, sleep(RECONNECT_PAUSE)).await.is_none() {
                return Err(RequestError::deadline(refusal));
            }
        }
    }

    /// Connects to the first endpoint that answers. Dials the next one each [`STAGGER`].
    async fn connect(&self) -> Result<Channel, String> {
        let count = self.addresses.len();
        let mut order = (0..count).map(|step| (self.first.get() + step) % count);
        let mut tries = FuturesUnordered::new();
        let mut refusals = Vec::new();
        loop {
            let more = match order.next() {
                Some(at) => {
                    tries.push(self.try_one(at));
                    true
                }
                None => false,
            };
            tokio::select! {
                done = tries.next() => match done {
                    Some(Ok((at, channel))) => {
                        self.first.set(at);
                        return Ok(channel);
                    }
                    Some(Err(why)) => refusals.push(why),
                    None => return Err(refusals.join("; ")),
                },
                () = sleep(STAGGER), if more => {}
            }
        }
    }

    async fn try_one(&self, at: usize) -> Result<(usize, Channel), String> {
        let address = &self.addresses[at];
        // With one endpoint, the request itself shows whether it answers.
        let connected = async {
            if self.addresses.len() > 1 {
                address.probe().await?;
            }
            address.connect(&self.settings).await
        };
        match tokio::time::timeout(self.settings.dial_timeout, connected).await {
            Ok(Ok(channel)) => Ok((at, channel)),
            Ok(Err(why)) => Err(format!("{address}: {why}")),
            Err(_) => Err(format!("{address}: no answer within {:?}", self.settings.dial_timeout)),
        }
    }

    #[allow(clippy::print_stderr, reason = "the user asked with --debug")]
    fn debug(&self, what: impl FnOnce() -> String) {
        if self.settings.debug {
            eprintln!("{}", what());
        }
    }
}

/// The future's value, or `None` if the deadline came first.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::clientv3_text;
    use tonic::Status;

    #[test]
    fn errors_in_clientv3s_words() {
        let known = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(clientv3_text(&Status::out_of_range(known)), known);
        assert_eq!(clientv3_text(&Status::cancelled("x")), "rpc error: code = Canceled desc = x");
        assert_eq!(clientv3_text(&Status::unimplemented("")), "rpc error: code = Unimplemented desc = ");
    }
}
