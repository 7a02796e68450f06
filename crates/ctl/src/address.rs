//! Endpoints as etcdctl names them: `host:port`, `http://host:port`, `unix:///path`.

use crate::failure::{ERROR, Failure, cause};
use crate::settings::Settings;
use gotext::quote::quote;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// grpc-go raises a shorter keepalive time to this.
const KEEPALIVE_MIN: Duration = Duration::from_secs(10);

/// The longest page, in bytes; metrics are some 100 KB.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    given: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// `host:port`, without a scheme.
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl Address {
    pub(crate) fn read(given: &str) -> Result<Self, Failure> {
        let given = given.trim().to_owned();
        let scheme = given.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.as_deref() == Some("https") || given.starts_with("unixs:") {
            let text = format!("endpoint {given}: TLS is not there yet in this program");
            return Err(Failure::args(text));
        }
        if let Some(path) = given.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return Ok(Self { given, place: Place::Unix(path) });
        }
        if scheme.as_deref().is_some_and(|scheme| scheme != "http") {
            return Err(Failure::new(ERROR, format!("endpoint {} is no host:port", quote(given.as_bytes()))));
        }
        let bare = given.split_once("://").map_or(&given[..], |(_, rest)| rest);
        let authority = bare.split('/').next().unwrap_or_default().to_owned();
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
        });
        if !has_port || Endpoint::from_shared(format!("http://{authority}")).is_err() {
            return Err(Failure::new(ERROR, format!("endpoint {} is no host:port", quote(given.as_bytes()))));
        }
        Ok(Self { given, place: Place::Tcp(authority) })
    }

    /// Sends an HTTP/2 ping: a paused process accepts connections, but does not answer one.
    pub(crate) async fn probe(&self) -> Result<(), String> {
        match &self.place {
            Place::Tcp(authority) => ping(TcpStream::connect(authority).await.map_err(|e| cause(&e))?).await,
            Place::Unix(path) => ping(UnixStream::connect(path).await.map_err(|e| cause(&e))?).await,
        }
    }

    /// Opens a connection for gRPC requests.
    pub(crate) async fn connect(&self, settings: &Settings) -> Result<Channel, String> {
        let endpoint = |authority: &str| {
            Endpoint::from_shared(format!("http://{authority}"))
                .expect("it was read as a host and a port")
                .connect_timeout(settings.dial_timeout)
                .tcp_nodelay(true)
                .http2_adaptive_window(true)
                .http2_keep_alive_interval(settings.keepalive_time.max(KEEPALIVE_MIN))
                .keep_alive_timeout(settings.keepalive_timeout)
        };
        let connected = match &self.place {
            Place::Tcp(authority) => endpoint(authority).connect().await,
            Place::Unix(path) => {
                let path = path.clone();
                let dial = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                endpoint("localhost").connect_with_connector(dial).await
            }
        };
        connected.map_err(|error| cause(&error))
    }
}

impl Address {
    /// Fetches a page over HTTP; returns its body.
    pub(crate) async fn http_get(&self, path: &str) -> Result<String, String> {
        let Place::Tcp(authority) = &self.place else {
            return Err("no pages behind a socket in the file system".to_owned());
        };
        let mut stream = TcpStream::connect(authority).await.map_err(|e| cause(&e))?;
        // HTTP/1.0: the body ends with the connection, in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|e| cause(&e))?;
        let mut answer = Vec::new();
        stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await.map_err(|e| cause(&e))?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
        match head.split_ascii_whitespace().nth(1) {
            Some("200") => Ok(body.to_owned()),
            _ => Err(head.lines().next().unwrap_or_default().to_owned()),
        }
    }
}

async fn ping(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
    let (_requests, mut connection) = h2::client::handshake(stream).await.map_err(|e| cause(&e))?;
    let mut pings = connection.ping_pong().expect("it is taken once");
    tokio::select! {
        pong = pings.ping(h2::Ping::opaque()) => pong.map(|_| ()).map_err(|e| cause(&e)),
        ended = &mut connection => Err(ended.err().map_or_else(|| "connection closed".to_owned(), |e| cause(&e))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Place};

    #[test]
    fn endpoints_as_etcdctl_reads_them() {
        for (given, host) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            (" http://localhost:1/path", "localhost:1"),
            ("HTTP://localhost:1", "localhost:1"),
            ("[::1]:2379", "[::1]:2379"),
        ] {
            match Address::read(given).unwrap().place {
                Place::Tcp(authority) => assert_eq!(authority, host),
                other @ Place::Unix(_) => panic!("{given}: {other:?}"),
            }
        }
        for (given, expected) in
            [("unix:///tmp/a.sock", "/tmp/a.sock"), ("unix://b.sock", "b.sock"), ("unix:c", "c")]
        {
            match Address::read(given).unwrap().place {
                Place::Unix(path) => assert_eq!(path.to_str(), Some(expected)),
                other @ Place::Tcp(_) => panic!("{given}: {other:?}"),
            }
        }
        assert_eq!(Address::read("https://a:1").unwrap_err().code, 128);
        assert_eq!(Address::read("HTTPS://a:1").unwrap_err().code, 128);
        for bad in ["", "host", "host:", ":1", "host:port", "a b:1", "foo://a:1", "://a:1"] {
            assert_eq!(Address::read(bad).unwrap_err().code, 1, "{bad}");
        }
    }
}
