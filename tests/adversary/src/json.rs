//! A client of the JSON gateway, one connection a request.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The size of one read, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// One request under way. Dropped, its connection is closed.
#[derive(Debug)]
pub(crate) struct Request {
    socket: TcpStream,
}

impl Request {
    /// Posts `body` to a path, `/v3/kv/put`.
    pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        Ok(Self { socket })
    }

    /// Reads and forgets the answer: how many bytes it had. An answer that is not 200 is an error.
    pub(crate) async fn end(mut self) -> anyhow::Result<usize> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut total = self.socket.read(&mut buffer).await?;
        let start = String::from_utf8_lossy(&buffer[..total.min(200)]).into_owned();
        ensure!(start.starts_with("HTTP/1.1 200"), "not 200: {start:?}");
        loop {
            match self.socket.read(&mut buffer).await {
                Ok(0) => return Ok(total),
                Ok(read) => total += read,
                Err(error) => bail!("after {total} bytes: {error}"),
            }
        }
    }
}

/// Bytes as the gateway reads them.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
