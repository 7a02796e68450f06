//! One client for one or several endpoints: requests go to the first that lives, and on to the next when it does not.
//!
//! What is tried again is what clientv3 tries again: a read whenever the cluster was only unavailable, a write only
//! while no connection was there to carry it, for a write that was sent may have happened.

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

/// How long one endpoint may keep the next one waiting for its turn.
const STAGGER: Duration = Duration::from_millis(100);
/// Between two rounds in which no endpoint was there.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Between two tries of a read, as in clientv3.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Tries of a read, as in clientv3.
const TRIES_MAX: u32 = 100;

/// What may be done once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Asking twice changes nothing.
    Read,
    /// It may have happened although no answer came.
    Write,
}

/// A request that failed, in clientv3's words.
#[derive(Debug)]
pub(crate) struct RequestError {
    /// What clientv3 says.
    pub(crate) text: String,
    /// What stood in the way, where those words do not say it.
    pub(crate) why: Option<String>,
    /// gRPC's code.
    pub(crate) code: Code,
}

impl RequestError {
    /// An answer of the server's.
    pub(crate) fn status(status: &Status) -> Self {
        Self { text: said(status), why: None, code: status.code() }
    }

    /// A failure that no server reported.
    pub(crate) fn said(text: String) -> Self {
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

/// What the server said: etcd's own errors as they are, others with their code.
fn said(status: &Status) -> String {
    /// Errors of etcd's that clientv3 does not know as such.
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
    pub(crate) fn of(settings: &Settings, endpoint: &str) -> Result<Self, Failure> {
        Self::new(&Settings { endpoints: vec![endpoint.to_owned()], ..settings.clone() })
    }

    /// How it was told to connect.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When a request that begins now has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.command_timeout
    }

    /// Sends one request; `deadline` `None` waits for ever.
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
            self.say(|| format!("try {tries}: {status}"));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(RequestError::deadline(None));
            }
            if !self.again(kind, &status) || tries == TRIES_MAX {
                return Err(RequestError::status(&status));
            }
            self.leave();
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether this answer is worth another try.
    fn again(&self, kind: Kind, status: &Status) -> bool {
        let is_lost = status.source().is_some();
        let is_learner = status.message() == "etcdserver: rpc not supported for learner";
        (is_learner && self.addresses.len() > 1)
            || (kind == Kind::Read && (is_lost || status.code() == Code::Unavailable))
    }

    /// Turns to the next endpoint.
    pub(crate) fn leave(&self) {
        self.live.take();
        self.first.set((self.first.get() + 1) % self.addresses.len());
    }

    /// The connection, made if there is none; waits until an endpoint is there.
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
                    self.say(|| why.clone());
                    refusal = Some(why);
                }
                None => return Err(RequestError::deadline(refusal)),
            }
            if within(deadline, sleep(RECONNECT_PAUSE)).await.is_none() {
                return Err(RequestError::deadline(refusal));
            }
        }
    }

    /// Connects to the first endpoint that answers. Each has [`STAGGER`] before the next one is asked too.
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
        // One endpoint needs no proof of life before the request itself.
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
    fn say(&self, what: impl FnOnce() -> String) {
        if self.settings.debug {
            eprintln!("{}", what());
        }
    }
}

/// The future's value, or `None` when the deadline came first.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::said;
    use tonic::Status;

    #[test]
    fn errors_in_clientv3s_words() {
        let known = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(said(&Status::out_of_range(known)), known);
        assert_eq!(said(&Status::cancelled("x")), "rpc error: code = Canceled desc = x");
        assert_eq!(said(&Status::unimplemented("")), "rpc error: code = Unimplemented desc = ");
    }
}
