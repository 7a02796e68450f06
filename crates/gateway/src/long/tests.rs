//! Long answers, with a gRPC side that counts the frames that were asked for.

use crate::{Answer, Gateway, WorkLimits, large, tests::post};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

const PIECE: usize = 256 << 10;

#[derive(Clone, Copy, Debug)]
enum End {
    Ok,
    Silent,
    Refused,
    Broken,
    Never,
}

#[derive(Debug)]
struct Side {
    frames: VecDeque<Bytes>,
    end: End,
    asked: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl Side {
    fn new(frames: impl IntoIterator<Item = Bytes>, end: End) -> Self {
        let frames = frames.into_iter().collect();
        Self { frames, end, asked: Arc::default(), gone: Arc::default() }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.gone.store(true, Relaxed);
    }
}

impl Body for Side {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let this = self.get_mut();
        if let Some(data) = this.frames.pop_front() {
            this.asked.fetch_add(1, Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = |code| Some(Ok(Frame::trailers(HeaderMap::from_iter([code]))));
        let code = |code| ("grpc-status".parse().expect("a name"), HeaderValue::from_static(code));
        Poll::Ready(match std::mem::replace(&mut this.end, End::Silent) {
            End::Ok => trailers(code("0")),
            End::Silent => None,
            End::Refused => trailers(code("14")),
            End::Broken => Some(Err("broken")),
            End::Never => {
                this.end = End::Never;
                return Poll::Pending;
            }
        })
    }
}

/// A list of `count` values of this many bytes.
fn list(value: usize, count: usize) -> Bytes {
    let kv = mvccpb::KeyValue { key: "key".into(), value: vec![7; value].into(), ..Default::default() };
    pb::RangeResponse { kvs: vec![kv; count], count: 7, ..Default::default() }.encode_to_vec().into()
}

fn framed(message: &Bytes) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("short"));
    out.extend_from_slice(message);
    out.freeze()
}

fn cut(mut bytes: Bytes, size: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        pieces.push(bytes.split_to(size.min(bytes.len())));
    }
    pieces
}

fn whole(message: &Bytes) -> Vec<u8> {
    let mut out = Vec::new();
    let output = crate::routes::routes()["/v3/kv/range"].output();
    large::write(&output, message.clone(), usize::MAX, &mut out).expect("an answer");
    out
}

async fn ask(limits: WorkLimits, side: Side) -> Response<Answer<Side>> {
    let gateway = Gateway::new(2 << 20, limits);
    gateway.serve(post("/v3/kv/range", "{}"), |_| async { Response::new(side) }).await
}

/// The body, and whether it ended without an error.
async fn read(mut body: Answer<Side>) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            assert!(body.frame().await.is_none(), "more behind a failure");
            return (read, false);
        };
        read.extend_from_slice(&frame.into_data().expect("only data"));
    }
    (read, true)
}

#[tokio::test]
async fn a_long_answer_is_the_same_however_it_comes() {
    for (value, count) in [(100, 20_000), (300_000, 7), (3 << 20, 1)] {
        let message = list(value, count);
        let expected = whole(&message);
        for size in [1 << 30, PIECE, 1_000, 7] {
            for end in [End::Ok, End::Silent] {
                let response = ask(WorkLimits::default(), Side::new(cut(framed(&message), size), end)).await;
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()["content-type"], "application/json");
                assert_eq!(response.body().size_hint().exact(), None);
                let (shown, ended) = read(response.into_body()).await;
                assert!(ended && shown == expected, "{value} {size} {end:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_grpc_side_is_asked_no_faster_than_the_client_reads() {
    let message = list(1_000, 8_000);
    let side = Side::new(cut(framed(&message), PIECE), End::Ok);
    let (asked, pieces) = (Arc::clone(&side.asked), side.frames.len());
    assert!(pieces > 20, "{pieces}");
    let mut body = ask(WorkLimits::default(), side).await.into_body();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut read = 0;
    loop {
        assert!(asked.load(Relaxed) <= read + 1, "{} for {read}", asked.load(Relaxed));
        let Some(frame) = body.frame().await else { break };
        let data = frame.expect("an answer").into_data().expect("only data");
        assert!(data.len() < 2 * PIECE);
        read += 1;
    }
    assert_eq!(asked.load(Relaxed), pieces);
}

/// One large frame is still converted piece by piece.
#[tokio::test]
async fn a_large_frame_is_shown_in_pieces() {
    let limits = WorkLimits { piece_bytes: 1_000, ..WorkLimits::default() };
    let message = list(100, 20_000);
    let mut body = ask(limits, Side::new([framed(&message)], End::Ok)).await.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.expect("an answer").into_data().expect("only data");
        assert!(data.len() <= 4_000, "{}", data.len());
        read.extend_from_slice(&data);
    }
    assert!(read == whole(&message));
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_grpc_side_with_it() {
    for read in 0..3 {
        let side = Side::new(cut(framed(&list(1_000, 8_000)), PIECE), End::Ok);
        let gone = Arc::clone(&side.gone);
        let mut body = ask(WorkLimits::default(), side).await.into_body();
        for _ in 0..read {
            body.frame().await.expect("more").expect("an answer");
        }
        assert!(!gone.load(Relaxed));
        drop(body);
        assert!(gone.load(Relaxed));
    }
}

#[tokio::test]
async fn an_answer_that_fails_half_way_breaks_off() {
    let message = list(1_000, 2_000);
    let frames = cut(framed(&message), PIECE);
    assert!(frames.len() > 4);
    // The body ends only after the status: in the last two cases the message is complete.
    let half = || frames[..frames.len() / 2].to_vec();
    let cases = [
        (half(), End::Silent),
        (half(), End::Ok),
        (half(), End::Refused),
        (half(), End::Broken),
        (frames.clone(), End::Refused),
        (frames.clone(), End::Broken),
    ];
    for (frames, end) in cases {
        let sent = frames.len();
        let response = ask(WorkLimits::default(), Side::new(frames, end)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (read, ended) = read(response.into_body()).await;
        assert!(!ended, "{sent} {end:?}");
        assert!(serde_json::from_slice::<serde_json::Value>(&read).is_err(), "{sent} {end:?}");
        assert!(read.len() > PIECE, "{sent} {end:?}");
    }
}

/// The same for a complete message that cannot be converted.
#[tokio::test]
async fn an_answer_that_cannot_be_shown_breaks_off() {
    let good = list(1_000, 2_000);
    let message = Bytes::from([&good[..], &good[..]].concat());
    let response = ask(WorkLimits::default(), Side::new(cut(framed(&message), PIECE), End::Ok)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!read(response.into_body()).await.1);
}

#[tokio::test]
async fn an_answer_that_fails_at_once_is_an_error() {
    let prefix = || framed(&list(1_000, 2_000)).slice(..5);
    let check = async |frames: Vec<Bytes>, end, code: u16, text: &str| {
        let response = ask(WorkLimits::default(), Side::new(frames, end)).await;
        assert_eq!(response.status(), code, "{end:?}");
        let (read, ended) = read(response.into_body()).await;
        let read = String::from_utf8(read).expect("JSON is UTF-8");
        assert!(ended && read.contains(text), "{end:?}: {read}");
    };
    check(vec![], End::Refused, 503, r#"{"code":14}"#).await;
    check(vec![], End::Broken, 500, "broke off").await;
    check(vec![prefix()], End::Refused, 503, r#"{"code":14}"#).await;
    check(vec![prefix()], End::Broken, 500, "broke off").await;
    check(vec![prefix()], End::Silent, 500, "broke off").await;
    let misfit = Bytes::from([&b"\x10\x01"[..], &list(1_000, 2_000)].concat());
    check(cut(framed(&misfit), PIECE), End::Ok, 500, "cannot show").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_for_a_long_answer_than_the_caller_said() {
    let frames = cut(framed(&list(1_000, 2_000)), PIECE);
    for sent in [0, 1, 3] {
        let mut request = post("/v3/kv/range", "{}");
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("50m"));
        let mut frames = frames[..sent.max(1)].to_vec();
        if sent == 0 {
            frames[0].truncate(5);
        }
        let side = Side::new(frames, End::Never);
        let gateway = Gateway::new(2 << 20, WorkLimits::default());
        let begun = tokio::time::Instant::now();
        let response = gateway.serve(request, |_| async { Response::new(side) }).await;
        let status = if sent == 0 { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::OK };
        assert_eq!(response.status(), status);
        let read = tokio::time::timeout(Duration::from_secs(1), read(response.into_body()));
        let (_, ended) = read.await.expect("in time");
        assert_eq!(ended, sent == 0);
        assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_read_longer_than_it_waits() {
    let mut request = post("/v3/kv/range", "{}");
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("50m"));
    let message = list(1_000, 2_000);
    let side = Side::new(cut(framed(&message), PIECE), End::Ok);
    let gateway = Gateway::new(2 << 20, WorkLimits::default());
    let mut body = gateway.serve(request, |_| async { Response::new(side) }).await.into_body();
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(&frame.expect("an answer").into_data().expect("only data"));
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(read == whole(&message));
}

/// Whether the answer comes while other work has all long turns.
async fn is_made_without_a_turn(message: &Bytes, frame: usize) -> bool {
    let limits = WorkLimits { inline_bytes: 1_000, short_bytes: 2_000, ..WorkLimits::default() };
    let gateway = Gateway::new(2 << 20, limits);
    let side = Side::new(cut(framed(message), frame), End::Ok);
    let other = Arc::clone(gateway.turns.long()).acquire_owned().await.expect("open");
    let asked = gateway.serve(post("/v3/kv/range", "{}"), |_| async { Response::new(side) });
    let all = async { read(asked.await.into_body()).await };
    let made = tokio::time::timeout(Duration::from_millis(50), all).await.is_ok();
    drop(other);
    made
}

/// Small pieces of a large value need no turn, except for the last, which converts the value.
#[tokio::test(start_paused = true)]
async fn what_is_more_than_a_little_waits_for_its_turn() {
    assert!(is_made_without_a_turn(&list(100, 300), 500).await);
    assert!(!is_made_without_a_turn(&list(100, 300), 1_001).await);
    assert!(!is_made_without_a_turn(&list(1_500, 2), 100).await);
}

/// A short answer does not wait for pieces of a long one, even short pieces, nor the reverse.
#[tokio::test]
async fn long_answers_and_short_ones_have_turns_of_their_own() {
    let gateway = Gateway::new(2 << 20, WorkLimits::default());
    let ask = async |message: Bytes| {
        let side = Side::new(cut(framed(&message), PIECE), End::Ok);
        let asked = gateway.serve(post("/v3/kv/range", "{}"), |_| async { Response::new(side) });
        let all = async { read(asked.await.into_body()).await.1 };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("in time")
    };
    let other = Arc::clone(gateway.turns.short()).acquire_owned().await.expect("open");
    assert!(ask(list(1_000, 8_000)).await);
    drop(other);
    let _other = Arc::clone(gateway.turns.long()).acquire_owned().await.expect("open");
    assert!(ask(list(1_000, 80)).await);
}

/// A client that does not read holds no turn.
#[tokio::test]
async fn an_answer_that_nobody_reads_has_no_turn() {
    let gateway = Gateway::new(2 << 20, WorkLimits::default());
    let answer = async || {
        let side = Side::new(cut(framed(&list(1_000, 8_000)), PIECE), End::Ok);
        gateway.serve(post("/v3/kv/range", "{}"), |_| async { Response::new(side) }).await.into_body()
    };
    let _unread = [answer().await, answer().await, answer().await];
    assert_eq!((gateway.turns.short().available_permits(), gateway.turns.long().available_permits()), (1, 1));
    assert!(read(answer().await).await.1);
}
