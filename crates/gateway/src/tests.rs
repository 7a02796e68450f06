//! The gateway with a gRPC side that the tests implement.

use super::*;
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use prost::Message;
use proto::etcdserverpb as pb;
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

const MAX_BYTES: usize = 2 << 20;
/// The default of [`WorkLimits::inline_bytes`].
const INLINE_BYTES: usize = 32 << 10;

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;
type Side = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut out = BytesMut::new();
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(bytes.len()).expect("short").to_be_bytes());
    out.extend_from_slice(&bytes);
    out.freeze()
}

fn trailers(code: &'static str, message: &'static str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static(code));
    map.insert("grpc-message", HeaderValue::from_static(message));
    Frame::trailers(map)
}

fn answers(frames: Vec<Frame<Bytes>>) -> Response<Side> {
    let frames: Frames = frames.into_iter().map(Ok).collect();
    Response::new(StreamBody::new(tokio_stream::iter(frames)))
}

fn refuses(code: &'static str, message: &'static str) -> Response<Side> {
    let mut response = answers(Vec::new());
    response.headers_mut().insert("grpc-status", HeaderValue::from_static(code));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    response
}

pub(crate) fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().expect("a path");
    request
}

/// The status and the body of an answer.
async fn ask(request: Request<Full<Bytes>>, side: Response<Side>) -> (u16, String) {
    let response = Gateway::new(MAX_BYTES, WorkLimits::default()).serve(request, |_| async { side }).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("infallible").to_bytes();
    (code, String::from_utf8(body.to_vec()).expect("JSON is UTF-8"))
}

fn put_answer() -> pb::PutResponse {
    let header = pb::ResponseHeader { revision: 2, ..Default::default() };
    pb::PutResponse { header: Some(header), prev_kv: None }
}

#[tokio::test]
async fn a_call_reaches_its_method_with_its_message_and_its_metadata() {
    let mut request = post("/v3/kv/put", r#"{"key":"Zm9v"} and the rest"#);
    request.headers_mut().insert("grpc-metadata-hasleader", HeaderValue::from_static("true"));
    let side = |request: Request<Messages>| async move {
        assert_eq!(request.uri().path(), "/etcdserverpb.KV/Put");
        assert_eq!(request.headers()["hasleader"], "true");
        let body = request.into_body().collect().await.expect("infallible").to_bytes();
        assert_eq!(body, framed(&pb::PutRequest { key: "foo".into(), ..Default::default() }));
        answers(vec![Frame::data(framed(&put_answer())), trailers("0", "")])
    };
    let response = Gateway::new(MAX_BYTES, WorkLimits::default()).serve(request, side).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["grpc-metadata-content-type"], "application/grpc");
    let body = response.into_body().collect().await.expect("infallible").to_bytes();
    assert_eq!(body, r#"{"header":{"revision":"2"}}"#);
}

#[tokio::test]
async fn refusals_have_grpc_gateways_statuses() {
    let check = async |path: &str, body: &str, side, code: u16, text: &str| {
        assert_eq!(ask(post(path, body), side).await, (code, text.to_owned()), "{path} {body}");
    };
    let never = || answers(Vec::new());
    check("/v3/kv/nope", "{}", never(), 404, r#"{"code":5,"message":"Not Found"}"#).await;
    check("/v3/kv/put/", "{}", never(), 404, r#"{"code":5,"message":"Not Found"}"#).await;
    let text = r#"{"code":3,"message":"invalid character 'h' looking for beginning of value"}"#;
    check("/v3/kv/put", "hello", never(), 400, text).await;
    check("/v3/kv/put", "{", never(), 400, r#"{"code":3,"message":"unexpected EOF"}"#).await;
    let side = refuses("3", "etcdserver: key is not provided");
    check("/v3/kv/put", "", side, 400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#).await;
    let side = answers(vec![trailers("14", "etcdserver: no leader")]);
    check("/v3/kv/put", "{}", side, 503, r#"{"code":14,"message":"etcdserver: no leader"}"#).await;
    let side = refuses("12", "unknown service etcdserverpb.Auth");
    let text = r#"{"code":12,"message":"unknown service etcdserverpb.Auth"}"#;
    check("/v3/auth/enable", "{}", side, 501, text).await;
    let large = format!(r#"{{"key":"{}"}}"#, "A".repeat(2 * MAX_BYTES));
    assert_eq!(ask(post("/v3/kv/put", &large), never()).await.0, 429);
    let mut get = post("/v3/kv/put", "");
    *get.method_mut() = Method::GET;
    assert_eq!(ask(get, never()).await, (501, r#"{"code":12,"message":"Method Not Allowed"}"#.to_owned()));
}

#[tokio::test]
async fn a_stream_is_a_line_a_message_and_an_error_at_its_end() {
    let message = |id| Frame::data(framed(&pb::WatchResponse { watch_id: id, ..Default::default() }));
    let side = answers(vec![message(0), message(7), trailers("0", "")]);
    let (code, body) = ask(post("/v3/watch", "{}"), side).await;
    assert_eq!((code, &*body), (200, "{\"result\":{}}\n{\"result\":{\"watch_id\":\"7\"}}\n"));

    let side = answers(vec![message(1), trailers("1", "etcdserver: watch canceled")]);
    let (code, body) = ask(post("/v3/watch", "{}"), side).await;
    let expected = "{\"result\":{\"watch_id\":\"1\"}}\n{\"error\":{\"code\":1,\"message\":\"etcdserver: watch canceled\"}}\n";
    assert_eq!((code, &*body), (200, expected));

    let expected = (503, "{\"error\":{\"code\":14,\"message\":\"etcdserver: no leader\"}}\n".to_owned());
    assert_eq!(ask(post("/v3/watch", "{}"), refuses("14", "etcdserver: no leader")).await, expected);
    assert_eq!(
        ask(post("/v3/watch", "{}"), answers(vec![trailers("14", "etcdserver: no leader")])).await,
        expected
    );
    assert_eq!(ask(post("/v3/watch", "{}"), answers(vec![trailers("0", "")])).await, (200, String::new()));
}

/// A client that sends faster than the gRPC side reads is slowed down.
#[tokio::test]
async fn a_client_that_streams_is_read_only_a_few_messages_ahead() {
    const SENT: usize = 500;
    let read = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&read);
    let frames = (0..SENT).map(move |_| {
        counter.fetch_add(1, Relaxed);
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}")))
    });
    let request = post("/v3/watch", "").map(|_| StreamBody::new(tokio_stream::iter(frames)));
    let side = |request: Request<Messages>| async move {
        for _ in 0..SENT {
            tokio::task::yield_now().await;
        }
        // One more message waits to be queued, and one is being read.
        assert!(read.load(Relaxed) <= MESSAGES_AHEAD_MAX + 2, "{} were read", read.load(Relaxed));
        let messages = request.into_body().collect().await.expect("infallible").to_bytes();
        assert_eq!(messages.len(), SENT * 5, "empty messages in their frames");
        answers(vec![trailers("0", "")])
    };
    let response = Gateway::new(MAX_BYTES, WorkLimits::default()).serve(request, side).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_streams_is_heard_value_by_value_until_one_is_none() {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(8);
    let request = post("/v3/lease/keepalive", r#"{"ID":"1"}{"ID":2} x {"ID":3}"#);
    let side = |request: Request<Messages>| async move {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            let data = frame.expect("infallible").into_data().expect("only data");
            sender.send(data).await.expect("the test listens");
        }
        answers(vec![trailers("0", "")])
    };
    let response = Gateway::new(MAX_BYTES, WorkLimits::default()).serve(request, side).await;
    assert_eq!(response.status(), StatusCode::OK);
    for id in [1, 2] {
        let expected = framed(&pb::LeaseKeepAliveRequest { id });
        assert_eq!(receiver.recv().await, Some(expected));
    }
    assert_eq!(receiver.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_caller_said() {
    for path in ["/v3/kv/put", "/v3/watch"] {
        let mut request = post(path, "{}");
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("50m"));
        let side = |_| std::future::pending::<Response<Side>>();
        let response = Gateway::new(MAX_BYTES, WorkLimits::default()).serve(request, side).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT, "{path}");
    }
}

#[tokio::test]
async fn a_large_answer_is_shown_as_a_small_one() {
    let kv = proto::mvccpb::KeyValue { key: vec![b'k'; 2 * INLINE_BYTES].into(), ..Default::default() };
    let answer = pb::RangeResponse { kvs: vec![kv], ..Default::default() };
    let frame = framed(&answer);
    let (front, back) = (frame.slice(..1000), frame.slice(1000..));
    let side = answers(vec![Frame::data(front), Frame::data(back), trailers("0", "")]);
    let (code, body) = ask(post("/v3/kv/range", r#"{"key":"AA=="}"#), side).await;
    assert_eq!(code, 200);
    assert!(
        body.starts_with(r#"{"kvs":[{"key":"a2tra2tr"#) && body.len() > 2 * INLINE_BYTES,
        "{}",
        body.len()
    );
}
