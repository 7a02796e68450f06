//! Requests that cannot be served: etcd's code and etcd's words.

use anyhow::ensure;
use bytes::Bytes;
use harness::{Client, Cluster, txn_of_puts};
use proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use tonic::{Code, Status};

use crate::support::{PATIENT, no_panic, put, run, talk};

#[test]
fn requests_that_cannot_be_served_get_etcds_errors() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        for value in ["1", "2", "3", "4"] {
            put(&client, 0, "key", value).await?;
        }
        client.kv(0).compact(CompactionRequest { revision: 4, physical: true }).await?;
        let range = |key: &'static str, revision| RangeRequest {
            key: Bytes::from_static(key.as_bytes()),
            revision,
            ..Default::default()
        };
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let future = "etcdserver: mvcc: required revision is a future revision";
        let ask = async |range| client.range(0, range, PATIENT).await.err();
        expect(ask(range("", 0)).await, Code::InvalidArgument, "etcdserver: key is not provided")?;
        expect(ask(range("key", 2)).await, Code::OutOfRange, compacted)?;
        expect(ask(range("key", 99)).await, Code::OutOfRange, future)?;
        let compact = async |revision| {
            client.kv(0).compact(CompactionRequest { revision, physical: false }).await.err()
        };
        expect(compact(3).await, Code::OutOfRange, compacted)?;
        expect(compact(99).await, Code::OutOfRange, future)?;
        puts(&client).await?;
        put(&client, 0, "after", "1").await?;
        no_panic(&cluster.member(0).process()?.output());
        Ok(())
    });
}

async fn puts(client: &Client) -> anyhow::Result<()> {
    let put = |key: &'static str, size| PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        value: vec![b'v'; size].into(),
        ..Default::default()
    };
    let ask = async |put| client.put(0, put, PATIENT).await.err();
    expect(ask(put("", 1)).await, Code::InvalidArgument, "etcdserver: key is not provided")?;
    // Above 1.5 MiB etcd refuses; above that and 512 KiB more its gRPC does, before etcd sees it.
    expect(ask(put("k", 1_700_000)).await, Code::InvalidArgument, "etcdserver: request is too large")?;
    expect(ask(put("k", 4_000_000)).await, Code::ResourceExhausted, "")?;
    let no_value = PutRequest { ignore_value: true, ..put("k", 1) };
    expect(ask(no_value).await, Code::InvalidArgument, "etcdserver: value is provided")?;
    let absent = PutRequest { ignore_value: true, ..put("absent", 0) };
    expect(ask(absent).await, Code::InvalidArgument, "etcdserver: key not found")?;
    let leased = PutRequest { lease: 77, ..put("k", 1) };
    expect(ask(leased).await, Code::NotFound, "etcdserver: requested lease not found")?;

    let ask = async |keys: Vec<&'static str>| {
        let txn = txn_of_puts(keys.into_iter().map(|key| put(key, 1)));
        client.txn(0, txn, PATIENT).await.err()
    };
    let duplicate = "etcdserver: duplicate key given in txn request";
    expect(ask(vec!["a", "a"]).await, Code::InvalidArgument, duplicate)?;
    expect(ask(vec![""]).await, Code::InvalidArgument, "etcdserver: key is not provided")?;
    expect(
        ask(vec!["a"; 129]).await,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    )?;
    Ok(())
}

fn expect(got: Option<Status>, code: Code, words: &str) -> anyhow::Result<()> {
    let status = got.ok_or_else(|| anyhow::anyhow!("served, but expected {code:?} {words:?}"))?;
    println!("{:?}: {}", status.code(), status.message());
    ensure!(
        status.code() == code && status.message().contains(words),
        "{status:?}, expected {code:?} {words:?}"
    );
    Ok(())
}

#[test]
fn a_message_that_is_no_protobuf_is_an_internal_error_and_nothing_more() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        let port = cluster.members()[0].addresses.client.number();
        // Length-prefixed rubbish where a PutRequest belongs: field 1 says 100 bytes and has two.
        let status = raw::unary(port, "/etcdserverpb.KV/Put", b"\x0a\x64ab").await?;
        println!("grpc-status {status}");
        ensure!(status == Code::Internal, "malformed protobuf: {status:?}");
        ensure!(
            raw::unary(port, "/etcdserverpb.KV/Nothing", b"").await? == Code::Unimplemented,
            "unknown method"
        );
        ensure!(raw::unary(port, "/nothing.At/All", b"").await? == Code::Unimplemented, "unknown service");
        let answer = talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure!(String::from_utf8_lossy(&answer).contains("\"health\":\"true\""), "it is not healthy");
        put(&client, 0, "after", "1").await?;
        no_panic(&cluster.member(0).process()?.output());
        Ok(())
    });
}

/// gRPC calls whose message is given as bytes.
mod raw {
    use bytes::{Buf, BufMut, Bytes};
    use tonic::{
        Code, Request, Status,
        client::Grpc,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
        codegen::http::uri::PathAndQuery,
        transport::Endpoint,
    };

    #[derive(Clone, Copy, Default)]
    struct Raw;

    impl Codec for Raw {
        type Encode = Bytes;
        type Decode = Bytes;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            *self
        }

        fn decoder(&mut self) -> Self {
            *self
        }
    }

    impl Encoder for Raw {
        type Item = Bytes;
        type Error = Status;

        fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
            into.put(item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Bytes;
        type Error = Status;

        fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
            let length = from.remaining();
            Ok(Some(from.copy_to_bytes(length)))
        }
    }

    /// The code that a call of `path` with these bytes as its message ends with.
    pub(super) async fn unary(port: u16, path: &'static str, message: &'static [u8]) -> anyhow::Result<Code> {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.connect().await?;
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let request = Request::new(Bytes::from_static(message));
        let answer = grpc.unary(request, PathAndQuery::from_static(path), Raw).await;
        Ok(answer.err().map_or(Code::Ok, |status| status.code()))
    }
}
