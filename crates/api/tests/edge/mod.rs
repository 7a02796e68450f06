//! gRPC's edge cases, as seen by a client other than tonic: headers, compression, deadlines, and truncated calls.
//!
//! [`wire`] tests headers that no library sends, byte by byte.

mod wire;

use super::{
    frames::{KEEP_ALIVE, PUT, RANGE, WATCH, framed},
    long::long,
    *,
};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression as Level, read::GzDecoder, write::GzEncoder};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Request as HttpRequest};
use prost::Message;
use std::{
    io::{Read, Write},
    time::Instant,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Level::default());
    out.write_all(message).unwrap();
    out.finish().unwrap()
}

struct Answer {
    http: u16,
    head: HeaderMap,
    messages: Vec<(u8, Bytes)>,
    /// gRPC's status and text, from headers or trailers; 99 if the stream was reset.
    status: (u16, String),
}

impl Answer {
    fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name).map(|value| value.to_str().unwrap())
    }

    /// The messages, which must all be compressed.
    fn unpacked<M: Message + Default>(&self) -> Vec<M> {
        let message = |(flag, packed): &(u8, Bytes)| {
            assert_eq!(*flag, 1, "compressed");
            let mut out = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut out).unwrap();
            M::decode(&out[..]).unwrap()
        };
        self.messages.iter().map(message).collect()
    }
}

async fn connect(server: &Server) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// Makes a call; `end` closes the client's half with the message.
async fn call(server: &Server, path: &str, headers: &[(&str, &str)], body: Bytes, end: bool) -> Answer {
    let client = connect(server).await;
    let answer = tokio::time::timeout(PATIENCE, call_on(client, path, headers, body, end)).await;
    answer.unwrap_or_else(|_| panic!("{path} {headers:?}: no answer"))
}

async fn call_on(
    client: SendRequest<Bytes>,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
    end: bool,
) -> Answer {
    let mut client = client.ready().await.unwrap();
    let mut request = HttpRequest::post(format!("http://a:1{path}")).body(()).unwrap();
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        let name: http::HeaderName = name.parse().unwrap();
        if name == "content-type" {
            request.headers_mut().insert(name, value.parse().unwrap());
        } else {
            request.headers_mut().append(name, value.parse().unwrap());
        }
    }
    let (response, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(body, end).unwrap();
    let answer = match response.await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let (data, trailers) = gather(body).await;
            let status = head.headers.get("grpc-status").map(|_| &head.headers).or(trailers.as_ref());
            let status = status.map_or((99, String::new()), status_of);
            Answer { http: head.status.as_u16(), head: head.headers, messages: messages(&data), status }
        }
        Err(_) => Answer { http: 0, head: HeaderMap::new(), messages: vec![], status: (99, String::new()) },
    };
    drop(sending);
    answer
}

async fn gather(mut body: RecvStream) -> (Bytes, Option<HeaderMap>) {
    let mut data = BytesMut::new();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        data.put(piece);
    }
    (data.freeze(), body.trailers().await.ok().flatten())
}

fn messages(mut data: &[u8]) -> Vec<(u8, Bytes)> {
    let mut messages = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = data {
        let (message, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        messages.push((*flag, Bytes::copy_from_slice(message)));
        data = rest;
    }
    messages
}

fn status_of(headers: &HeaderMap) -> (u16, String) {
    let text = headers.get("grpc-message").map_or("", |value| value.to_str().unwrap());
    let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    (headers["grpc-status"].to_str().unwrap().parse().unwrap(), text)
}

fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

fn a_range() -> Vec<u8> {
    range("k", "").encode_to_vec()
}

#[tokio::test]
async fn heads_are_checked_as_grpc_go_checks_them() {
    let server = Server::start().await;
    let check = async |path: &str, headers: &[(&str, &str)], http: u16, status: u16, text: &str| {
        let answer = call(&server, path, headers, framed(0, &a_range()), true).await;
        assert_eq!(answer.http, http, "{path} {headers:?}");
        assert_eq!((answer.status.0, &*answer.status.1), (status, text), "{path} {headers:?}");
    };
    check(RANGE, &[], 200, 0, "").await;
    check(RANGE, &[("te", "gzip")], 200, 0, "").await;
    check(RANGE, &[("host", "b")], 200, 0, "").await;
    let hosts =
        "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec";
    check(RANGE, &[("host", "b"), ("host", "c")], 400, 13, hosts).await;
    let web = "invalid gRPC request content-type \"application/grpc-web\"";
    check(RANGE, &[("content-type", "application/grpc-web")], 415, 3, web).await;
    let timeout = "malformed grpc-timeout: transport: timeout unit is not recognized: \"1X\"";
    check(RANGE, &[("grpc-timeout", "1X")], 400, 13, timeout).await;
    let binary =
        "malformed binary metadata \"a*==\" in header \"x-bin\": illegal base64 data at input byte 1";
    check(RANGE, &[("x-bin", "a*==")], 400, 13, binary).await;
    let method = "unknown method Range?a=b for service etcdserverpb.KV";
    check("/etcdserverpb.KV/Range?a=b", &[], 200, 12, method).await;
    let encoding = "grpc: Decompressor is not installed for grpc-encoding \"br\"";
    check(RANGE, &[("grpc-encoding", "br")], 200, 12, encoding).await;
    check(WATCH, &[("grpc-encoding", "br")], 200, 12, encoding).await;
    for path in [RANGE, PUT, WATCH] {
        for over in ["0n", "1n", "0S"] {
            check(path, &[("grpc-timeout", over)], 200, 4, "context deadline exceeded").await;
        }
    }
    let answer =
        call(&server, RANGE, &[("content-type", "application/grpc+json")], framed(0, &a_range()), true);
    assert_eq!(answer.await.get("content-type"), Some("application/grpc+json"));
    let refused =
        call(&server, "/no.Such/Method", &[("content-type", "application/grpc+proto")], framed(0, b""), true);
    assert_eq!(refused.await.get("content-type"), Some("application/grpc+proto"));
}

#[tokio::test]
async fn a_unary_call_begins_when_its_message_is_whole() {
    let server = Server::start().await;
    let two = [framed(0, &a_range()), framed(0, &a_range())].concat();
    let check = async |body: &[u8], end: bool, status: u16, text: &str| {
        let answer = call(&server, RANGE, &[], Bytes::copy_from_slice(body), end).await;
        assert_eq!((answer.status.0, &*answer.status.1), (status, text), "{body:?} {end}");
        assert_eq!(answer.messages.len(), usize::from(status == 0));
    };
    let whole = framed(0, &a_range());
    check(&whole, true, 0, "").await;
    check(&whole, false, 0, "").await;
    check(&two, true, 0, "").await;
    check(&two, false, 0, "").await;
    check(&[&whole[..], b"rubbish"].concat(), true, 0, "").await;
    check(b"", true, 2, "EOF").await;
    check(&whole[..3], true, 2, "EOF").await;
    check(&whole[..6], true, 2, "unexpected EOF").await;
    for flag in [2, 255] {
        let text = format!("grpc: received unexpected payload format {flag}");
        check(&framed(flag, &a_range()), true, 13, &text).await;
    }
    let text = "grpc: compressed flag set with identity or empty encoding";
    check(&framed(1, &a_range()), true, 13, text).await;
}

#[tokio::test]
async fn a_field_of_a_wrong_wire_type_is_unknown() {
    let server = Server::start().await;
    server.put("k", "v").await;
    let misfit = |request: Vec<u8>| framed(0, &[&request[..], b"\x08\x01"].concat());
    let answer = call(&server, RANGE, &[], misfit(a_range()), true).await;
    assert_eq!(answer.status, (0, String::new()));
    let range = pb::RangeResponse::decode(&answer.messages[0].1[..]).unwrap();
    assert_eq!(range.kvs.len(), 1);
    let txn = pb::TxnRequest::default().encode_to_vec();
    assert_eq!(call(&server, "/etcdserverpb.KV/Txn", &[], misfit(txn), true).await.status.0, 0);
    let renew = pb::LeaseKeepAliveRequest::default().encode_to_vec();
    let renew = [&renew[..], b"\x0a\x01x"].concat();
    let answer = call(&server, KEEP_ALIVE, &[], framed(0, &renew), true).await;
    assert_eq!((answer.status.0, answer.messages.len()), (0, 1));
}

#[tokio::test]
async fn compressed_calls_are_answered_compressed() {
    let server = Server::start().await;
    let value = "v".repeat(100_000);
    server.put("k", &value).await;
    for body in [framed(1, &gzip(&a_range())), framed(0, &a_range())] {
        let answer = call(&server, RANGE, &[("grpc-encoding", "gzip")], body, true).await;
        assert_eq!((answer.status.0, answer.get("grpc-encoding")), (0, Some("gzip")));
        assert!(answer.messages[0].1.len() < 5_000, "{}", answer.messages[0].1.len());
        let range: Vec<pb::RangeResponse> = answer.unpacked();
        assert_eq!(range[0].kvs[0].value, value.as_bytes());
    }
    let plain = call(&server, RANGE, &[("grpc-accept-encoding", "gzip")], framed(0, &a_range()), true).await;
    assert_eq!((plain.get("grpc-encoding"), plain.messages[0].0), (None, 0));
    // A refusal has no message, and names no encoding.
    let refused = call(&server, PUT, &[("grpc-encoding", "gzip")], framed(1, &gzip(b"")), true).await;
    assert_eq!((refused.status.0, refused.get("grpc-encoding")), (3, None));
    let check = async |body: &[u8], status: u16, text: &str| {
        for path in [RANGE, WATCH] {
            let answer = call(&server, path, &[("grpc-encoding", "gzip")], framed(1, body), true).await;
            assert_eq!((answer.status.0, &*answer.status.1), (status, text), "{path}");
        }
    };
    let bomb = "grpc: received message after decompression larger than max 2097152";
    check(&gzip(&vec![0; 50 << 20]), 8, bomb).await;
    let rubbish = "grpc: failed to decompress the message: gzip: invalid header";
    check(b"neither gzip nor anything else", 13, rubbish).await;
    check(&gzip(&noise(100))[..40], 13, "grpc: failed to read decompressed data: unexpected EOF").await;
}

/// A response read while it is sent is compressed while it is read, unless the result is too large to hold.
#[tokio::test]
async fn long_answers_are_packed_as_far_as_they_may_be_held() {
    let server = Server::start().await;
    let mut compression = api::Compression { held_bytes_max: 10_000, ..api::Compression::default() };
    let packing =
        Server::of(server.node.clone(), Limits { compression: compression.clone(), ..long() }).await;
    compression.held_bytes_max = 1_000;
    let sending = Server::of(server.node.clone(), Limits { compression, ..long() }).await;
    for number in 0..40 {
        server.put(&format!("{number}"), &format!("{number}").repeat(5_000)).await;
    }
    let expected = server.kv().range(range("0", "9")).await.unwrap().into_inner();
    let gzipped: &[(&str, &str)] = &[("grpc-encoding", "gzip")];
    let list = framed(1, &gzip(&range("0", "9").encode_to_vec()));
    let packed = call(&packing, RANGE, gzipped, list.clone(), true).await;
    assert_eq!((packed.status.0, packed.get("grpc-encoding")), (0, Some("gzip")));
    assert_eq!(packed.unpacked::<pb::RangeResponse>().pop().as_ref(), Some(&expected));
    let sent = call(&sending, RANGE, gzipped, list, true).await;
    assert_eq!((sent.status.0, sent.messages.len(), sent.messages[0].0), (0, 1, 0));
    assert_eq!(pb::RangeResponse::decode(sent.messages[0].1.clone()).unwrap(), expected);
}

#[tokio::test]
async fn compressed_streams_are_compressed_both_ways() {
    let server = Server::start().await;
    for i in 0..40 {
        server.put(&format!("k{i}"), &"v".repeat(50_000)).await;
    }
    let gzipped: &[(&str, &str)] = &[("grpc-encoding", "gzip"), ("grpc-timeout", "1S")];
    let request = range("k", "l").encode_to_vec();
    let stream = "/etcdserverpb.KV/RangeStream";
    let answer = call(&server, stream, gzipped, framed(1, &gzip(&request)), true).await;
    let pieces: Vec<pb::RangeStreamResponse> = answer.unpacked();
    let kvs: usize = pieces.iter().map(|p| p.range_response.as_ref().unwrap().kvs.len()).sum();
    assert_eq!((answer.status.0, kvs), (0, 40));
    assert!(answer.messages.iter().map(|m| m.1.len()).sum::<usize>() < 50_000);

    let create = pb::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 2,
        ..Default::default()
    };
    let create =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let create = create.encode_to_vec();
    // Two requests, only the first compressed.
    let body = [framed(1, &gzip(&create)), framed(0, &create)].concat().into();
    let answer = call(&server, WATCH, gzipped, body, false).await;
    let told: Vec<pb::WatchResponse> = answer.unpacked();
    assert_eq!(told.iter().map(|r| r.events.len()).sum::<usize>(), 80, "both are told all");
    assert_eq!(answer.status.0, 4, "a stream ends with its deadline");

    let renew = pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
    let answer = call(&server, KEEP_ALIVE, gzipped, framed(1, &gzip(&renew)), true).await;
    assert_eq!(answer.unpacked::<pb::LeaseKeepAliveResponse>()[0].id, 7);

    let snapshot = "/etcdserverpb.Maintenance/Snapshot";
    let answer = call(&server, snapshot, &gzipped[..1], framed(0, b""), true).await;
    let pieces: Vec<pb::SnapshotResponse> = answer.unpacked();
    assert!(pieces.len() > 40 && pieces.last().unwrap().remaining_bytes == 0, "{}", pieces.len());
}

#[tokio::test]
async fn every_kind_of_call_ends_with_its_deadline() {
    let server = Server::start().await;
    server.put("k", "v").await;
    let lock = proto::v3lockpb::LockRequest { name: "l".into(), lease: 0 }.encode_to_vec();
    let first = call(&server, "/v3lockpb.Lock/Lock", &[], framed(0, &lock), true).await;
    assert_eq!(first.status.0, 0);
    let observe = proto::v3electionpb::LeaderRequest { name: "e".into() }.encode_to_vec();
    let cases: &[(&str, Vec<u8>, bool)] = &[
        (WATCH, framed(0, b"").to_vec(), false),
        (WATCH, vec![], false),
        (KEEP_ALIVE, vec![], false),
        (KEEP_ALIVE, framed(0, b"")[..2].to_vec(), false),
        ("/grpc.health.v1.Health/Watch", framed(0, b"").to_vec(), true),
        ("/v3electionpb.Election/Observe", framed(0, &observe).to_vec(), true),
        ("/v3lockpb.Lock/Lock", framed(0, &lock).to_vec(), true),
        // Messages that never become complete.
        (RANGE, vec![], false),
        (PUT, framed(0, &a_range())[..6].to_vec(), false),
        ("/etcdserverpb.Maintenance/Status", vec![0], false),
        ("/etcdserverpb.Maintenance/Snapshot", vec![], false),
        ("/etcdserverpb.KV/RangeStream", framed(0, &a_range())[..6].to_vec(), false),
        ("/grpc.health.v1.Health/Watch", vec![], false),
    ];
    for (path, body, end) in cases {
        let begun = Instant::now();
        let headers = &[("grpc-timeout", "200m")];
        let answer = call(&server, path, headers, Bytes::copy_from_slice(body), *end).await;
        assert_eq!(answer.status, (4, "context deadline exceeded".to_owned()), "{path} {body:?}");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{path} {body:?}: too early");
    }
}

/// A slow reader gets its deadline's status in time, not after all data.
#[tokio::test]
async fn a_stream_that_always_has_something_to_say_ends_with_its_deadline() {
    let server = Server::start().await;
    for i in 0..16 {
        server.put(&format!("k{i}"), &"v".repeat(1 << 20)).await;
    }
    let body = framed(0, &range("k", "l").encode_to_vec());
    let request = HttpRequest::post(format!("http://a:1{}", "/etcdserverpb.KV/RangeStream"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "300m")
        .body(())
        .unwrap();
    let mut client = connect(&server).await.ready().await.unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(body, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let first = body.data().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    body.flow_control().release_capacity(first.len()).unwrap();
    let (data, trailers) = gather(body).await;
    assert_eq!(status_of(&trailers.unwrap()).0, 4);
    assert!(data.len() < 15 << 20, "{}", data.len());
}

#[tokio::test]
async fn an_answer_above_the_limit_is_refused_in_grpc_gos_words() {
    let limits = Limits { send_bytes_max: 10_000, ..Limits::default() };
    let server = Server::with(0, limits).await;
    server.put("k", &"v".repeat(9_000)).await;
    server.put("l", &"v".repeat(11_000)).await;
    assert_eq!(server.kv().range(range("k", "")).await.unwrap().into_inner().kvs.len(), 1);
    let status = server.kv().range(range("l", "")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let text = status.message();
    assert!(text.starts_with("grpc: trying to send message larger than max (110"), "{text}");
    assert!(text.ends_with(" vs. 10000)"), "{text}");
    let mut pieces = server.kv().range_stream(range("l", "")).await.unwrap().into_inner();
    assert_eq!(pieces.message().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn where_authentication_is_off_clients_are_told_so() {
    let server = Server::start().await;
    server.put("k", "v").await;
    let mut auth = AuthClient::new(server.channel.clone());
    refused(
        auth.authenticate(pb::AuthenticateRequest { name: "root".into(), password: "x".into() }).await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.enabled, status.auth_revision, status.header.unwrap().revision), (false, 1, 2));
    let users = auth.user_list(pb::AuthUserListRequest {}).await.unwrap().into_inner();
    assert_eq!((users.users.len(), users.header.unwrap().member_id), (0, MEMBER));
    let roles = auth.role_list(pb::AuthRoleListRequest {}).await.unwrap().into_inner();
    assert_eq!((roles.roles.len(), roles.header.unwrap().cluster_id), (0, CLUSTER));
    let refused = auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("etcdserverpb.Auth/AuthEnable"), "{}", refused.message());
    let json = server.http("POST /v3/auth/authenticate").await;
    assert!(json.starts_with("HTTP/1.1 400 "), "{json}");
    assert!(json.ends_with(r#"{"code":9,"message":"etcdserver: authentication is not enabled"}"#), "{json}");
}
