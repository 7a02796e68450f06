//! What the scenarios share.

use std::{
    future::Future,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, ExitStatus},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bytes::Bytes;
use harness::{Client, Process, server_binary};
use proto::etcdserverpb::{PutRequest, RangeRequest};

/// For single requests to a healthy cluster.
pub(crate) const PATIENT: Duration = Duration::from_secs(10);

/// How long a server may take to see that it cannot start.
pub(crate) const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// Runs a scenario; servers are started from this very thread (see `Process::start`).
pub(crate) fn run<T>(scenario: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(scenario) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

/// An unsigned number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// `IT_SEED`, or the clock.
pub(crate) fn seed() -> u64 {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos();
    number("IT_SEED", u64::from(clock))
}

/// A test that needs what this machine lacks: said loudly, and a failure where all is required.
pub(crate) fn cannot(what: &str) {
    assert!(
        std::env::var("QUORATE_REQUIRE_ALL").as_deref() != Ok("1"),
        "NOT RUN, and all is required: {what}"
    );
    println!("NOT RUN: {what}");
}

/// Puts one key at one member; its revision.
pub(crate) async fn put(client: &Client, at: usize, key: &str, value: &str) -> anyhow::Result<i64> {
    let put = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    Ok(client.put(at, put, PATIENT).await?.header.map_or(0, |header| header.revision))
}

/// The value of one key, read linearizably at one member.
pub(crate) async fn get(client: &Client, at: usize, key: &str) -> anyhow::Result<Option<String>> {
    let range = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    let kv = client.range(at, range, PATIENT).await?.kvs.pop();
    Ok(kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
}

/// Starts the server with `args`, expects it to give up by itself, and returns how and with what words.
pub(crate) fn refused(args: &[String], folder: &Path) -> anyhow::Result<(ExitStatus, String)> {
    let mut process = Process::start(&server_binary()?, args, &folder.join("refused.log"))?;
    let status = process.wait_end(REFUSAL_LIMIT)?;
    Ok((status, process.output()))
}

/// A copy of a directory. Segments of the log are mostly zeros, which take no space in it.
pub(crate) fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status()?;
    anyhow::ensure!(done.success(), "cannot copy {} to {}", from.display(), to.display());
    Ok(())
}

/// Whether the server under test is not ours: then what we promise beyond etcd is not asked of it.
pub(crate) fn is_etcd() -> bool {
    server_binary().is_ok_and(|path| path.file_name().is_some_and(|name| name == "etcd"))
}

/// No program of ours ever shows a user this.
pub(crate) fn no_panic(output: &str) {
    for text in ["panicked at", "RUST_BACKTRACE", "thread 'main'", "internal error: entered unreachable code"]
    {
        assert!(!output.contains(text), "panic text in the output:\n{output}");
    }
}

/// Sends bytes to a port of ours and returns what came back until the other side closed or a second passed.
pub(crate) fn talk(port: u16, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    // A server may hang up before it has read everything: that is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..length]);
    }
    Ok(answer)
}

/// A metric's value at a member.
pub(crate) fn metric(port: u16, name: &str) -> anyhow::Result<f64> {
    let page = talk(port, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let page = String::from_utf8_lossy(&page).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    let family = name.split('{').next().unwrap_or(name);
    let like = || page.lines().filter(|line| line.starts_with(family)).collect::<Vec<_>>().join("\n");
    Ok(line.with_context(|| format!("no {name} in\n{}", like()))?.trim().parse()?)
}
