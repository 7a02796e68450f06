//! An HTTP/1.1 client with one connection that is kept, for POSTs, probes and other small requests.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, error::Elapsed, timeout, timeout_at},
};

use crate::{limits::Limits, urls};

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as text, without a line feed at its end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

struct Open {
    url: String,
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    used: Instant,
}

/// Connects on first use, and again after an error or a long idle time.
pub(crate) struct Client {
    open: Option<Open>,
    answer_bytes_max: usize,
    dial: Duration,
    /// A connection idle for longer is not used again.
    idle: Duration,
}

impl Client {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { open: None, answer_bytes_max: limits.answer_bytes, dial: limits.dial, idle: limits.idle }
    }

    pub(crate) fn reading(self, answer_bytes_max: usize) -> Self {
        Self { answer_bytes_max, ..self }
    }

    /// Sends a request to `url` + path, reads the whole response, and keeps the connection on success. Sent at most
    /// once: it is repeated on a new connection only if hyper knows that nothing of it has left.
    pub(crate) async fn call(&mut self, url: &str, call: &Call<'_>, limit: Duration) -> io::Result<Reply> {
        if let Ok(outcome) = timeout(limit, self.attempt(url, call)).await {
            return outcome;
        }
        self.open = None;
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))
    }

    async fn attempt(&mut self, url: &str, call: &Call<'_>) -> io::Result<Reply> {
        let max = self.answer_bytes_max;
        if let Some(open) = self.reusable(url) {
            match exchange(open, call, max).await {
                Ok(reply) => return Ok(self.keep(reply)),
                Err(e) if e.canceled => {} // not sent
                Err(e) => {
                    self.open = None;
                    return Err(other(&e));
                }
            }
        }
        self.open = None;
        let open = self.open.insert(connect(url, self.dial).await?);
        match exchange(open, call, max).await {
            Ok(reply) => Ok(self.keep(reply)),
            Err(e) => {
                self.open = None;
                Err(other(&e))
            }
        }
    }

    fn reusable(&mut self, url: &str) -> Option<&mut Open> {
        self.open.as_mut().filter(|o| o.url == url && o.used.elapsed() < self.idle && !o.sender.is_closed())
    }

    fn keep(&mut self, reply: Reply) -> Reply {
        if let Some(open) = &mut self.open {
            open.used = Instant::now();
        }
        reply
    }
}

/// Connects to a peer URL, with `TCP_NODELAY`. The error tells whether the lookup or the connect failed.
pub(crate) async fn dial(authority: &str, limit: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let found = timeout_at(deadline, lookup_host(authority)).await;
    let found: Vec<SocketAddr> = named("look up", authority, found)?.collect();
    let stream = named("dial", authority, timeout_at(deadline, TcpStream::connect(&found[..])).await)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn named<T>(what: &str, authority: &str, outcome: Result<io::Result<T>, Elapsed>) -> io::Result<T> {
    let outcome = outcome.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")));
    outcome.map_err(|e| io::Error::new(e.kind(), format!("{what} {authority}: {e}")))
}

async fn connect(url: &str, limit: Duration) -> io::Result<Open> {
    let authority = urls::authority(url)?;
    let stream = dial(&authority, limit).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| other(&e))?;
    // Ends when the sender is dropped or the other end closes. The sender sees errors.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Open { url: url.to_owned(), authority, sender, used: Instant::now() })
}

async fn exchange(open: &mut Open, call: &Call<'_>, answer_bytes_max: usize) -> Result<Reply, ExchangeError> {
    open.sender.ready().await.map_err(|e| ExchangeError { canceled: true, text: e.to_string() })?;
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.path.parse().map_err(|_| ExchangeError::of("malformed path"))?;
    *request.headers_mut() = call.headers.clone();
    let host = open.authority.parse().map_err(|_| ExchangeError::of("malformed host"))?;
    request.headers_mut().insert(header::HOST, host);
    let response = open
        .sender
        .send_request(request)
        .await
        .map_err(|e| ExchangeError { canceled: e.is_canceled(), text: e.to_string() })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, answer_bytes_max)
        .collect()
        .await
        .map_err(|e| ExchangeError::of(&format!("reading the answer: {e}")))?
        .to_bytes();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// Why a request failed. `canceled` if it is known not to have been sent.
struct ExchangeError {
    canceled: bool,
    text: String,
}

impl ExchangeError {
    fn of(text: &str) -> Self {
        Self { canceled: false, text: text.to_owned() }
    }
}

impl std::fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn other(error: &impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
