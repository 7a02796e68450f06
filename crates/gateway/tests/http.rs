//! A long answer on the wire, complete or broken off.

use bytes::Bytes;
use gateway::{Gateway, WorkLimits};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use std::{convert::Infallible, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The response to a request whose gRPC side sends `message` and then the status `code`.
async fn ask(message: Bytes, code: &'static str) -> String {
    let gateway = Arc::new(Gateway::new(2 << 20, WorkLimits::default()));
    let serve = service_fn(move |request: Request<Incoming>| {
        let mut frames = Vec::new();
        let mut rest = message.clone();
        while !rest.is_empty() {
            frames.push(Ok::<_, Infallible>(Frame::data(rest.split_to(rest.len().min(256 << 10)))));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        frames.push(Ok(Frame::trailers(trailers)));
        let side = Response::new(StreamBody::new(tokio_stream::iter(frames)));
        let gateway = Arc::clone(&gateway);
        async move { Ok::<_, Infallible>(gateway.serve(request, |_| async { side }).await) }
    });
    let (mut client, server) = duplex(16 << 10);
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), serve));
    let request = "POST /v3/kv/range HTTP/1.1\r\nhost: q\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    client.write_all(request.as_bytes()).await.expect("the server listens");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("an end");
    String::from_utf8(answer).expect("a head and JSON")
}

fn framed(count: usize) -> Bytes {
    let kv = mvccpb::KeyValue { value: vec![7; 1_000].into(), ..Default::default() };
    let message = pb::RangeResponse { kvs: vec![kv; count], ..Default::default() }.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

#[tokio::test]
async fn a_long_answer_comes_in_chunks_and_one_that_fails_has_no_last_chunk() {
    let whole = framed(5_000);
    let answer = ask(whole.clone(), "0").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("transfer-encoding: chunked"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert!(body.ends_with("]}\r\n0\r\n\r\n"), "{}", &body[body.len() - 40..]);
    for (sent, code) in [(whole.len() / 2, "0"), (whole.len() / 2, "14"), (whole.len(), "14")] {
        let answer = ask(whole.slice(..sent), code).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.len() > sent, "{sent} {code}");
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{sent} {code}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_long_has_a_length() {
    let answer = ask(framed(1_000), "0").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("content-length: {}", body.len())) && body.ends_with("]}"), "{head}");
    assert!(ask(Bytes::new(), "14").await.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
}
