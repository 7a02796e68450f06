//! Bytes are counted exactly, and freed if they do not move.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::{
    held::{COPIED_BYTES_MIN, FIRST_PIECE_BYTES, PIECE_BYTES},
    *,
};
use std::future::poll_fn;
use tonic::Code;

fn options() -> Options {
    Options {
        total_bytes: 1_000,
        connection_bytes: 600,
        free_bytes: 100,
        stall: Duration::from_millis(100),
        pace_bytes: 200,
        wait: Duration::from_millis(600),
    }
}

/// The next piece, which must be ready.
fn next(held: &mut Held) -> Result<Option<Bytes>, Status> {
    match held.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(piece) => piece,
        Poll::Pending => panic!("it waits"),
    }
}

fn answer(bytes: usize) -> Bytes {
    Bytes::from(vec![7; bytes])
}

#[test]
fn what_is_small_is_not_counted() {
    let budget = Budget::new(options());
    let share = budget.share();
    let mut meter = Meter::new(&share);
    meter.hold(100, 0).unwrap();
    assert!(share.hold(answer(100), exhausted).is_err());
    assert_eq!(budget.used(), 0);
}

#[test]
fn requests_fill_a_connection_and_then_everything_and_leave_nothing_behind() {
    let budget = Budget::new(options());
    let (one, other) = (budget.share(), budget.share());
    let (mut a, mut b, mut c) = (Meter::new(&one), Meter::new(&one), Meter::new(&other));
    a.hold(300, 0).unwrap();
    a.hold(400, 0).unwrap();
    assert_eq!(budget.used(), 400);
    let refused = b.hold(201, 0).unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "etcdserver: too many requests")
    );
    b.hold(200, 0).unwrap();
    c.hold(400, 0).unwrap();
    assert!(c.hold(401, 0).is_err());
    assert_eq!(budget.used(), 600, "who is refused holds nothing");
    // The message is complete; the next one begins.
    a.hold(150, 0).unwrap();
    assert_eq!(budget.used(), 350);
    a.hold(0, 0).unwrap();
    drop(b);
    assert_eq!((budget.used(), one.used.load(Relaxed), budget.refused()), (0, 0, 2));
}

#[test]
fn a_large_request_is_counted_whole_once_it_is_no_longer_small() {
    let budget = Budget::new(options());
    let (one, other) = (budget.share(), budget.share());
    let (mut a, mut b) = (Meter::new(&one), Meter::new(&other));
    a.hold(100, 600).unwrap();
    assert_eq!(budget.used(), 0, "who says that much will come has sent little");
    a.hold(101, 600).unwrap();
    assert_eq!(budget.used(), 600);
    assert!(b.hold(101, 401).is_err(), "refused at its beginning, not at its end");
    a.hold(600, 600).unwrap();
    assert_eq!(budget.used(), 600, "who was let in has room to its end");
    // The next message is smaller.
    a.hold(200, 300).unwrap();
    assert_eq!((budget.used(), budget.refused()), (300, 1));
}

#[test]
fn an_answer_is_counted_until_its_last_piece_is_gone() {
    let budget = Budget::new(Options { total_bytes: usize::MAX, connection_bytes: usize::MAX, ..options() });
    let share = budget.share();
    for size in [101, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, COPIED_BYTES_MIN, COPIED_BYTES_MIN + 77]
    {
        let mut held = share.hold(answer(size), exhausted).unwrap();
        assert_eq!((budget.used(), held.len()), (size, size));
        let (mut got, mut last) = (0, Bytes::new());
        while let Some(piece) = next(&mut held).unwrap() {
            assert!(piece.len() <= PIECE_BYTES && piece.iter().all(|byte| *byte == 7));
            got += piece.len();
            last = piece;
        }
        assert_eq!((got, held.len()), (size, 0));
        // A piece inside HTTP keeps a small answer charged, but no part of a large one; the first piece is always a
        // copy.
        let is_held = (FIRST_PIECE_BYTES + 1..COPIED_BYTES_MIN).contains(&size);
        assert_eq!(budget.used(), if is_held { size } else { 0 }, "{size}");
        drop(last);
        assert_eq!(budget.used(), 0, "{size}");
        // A dropped answer leaves nothing charged.
        let mut held = share.hold(answer(size), exhausted).unwrap();
        next(&mut held).unwrap();
        drop(held);
        assert_eq!(budget.used(), 0, "{size}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_move_gives_room_to_the_one_that_waits() {
    let budget = Budget::new(options());
    let (slow, quick) = (budget.share(), budget.share());
    let mut first = slow.hold(answer(1_000), exhausted).unwrap();
    // Slowness is fine while nobody waits.
    sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    budget.share().large(None).await.unwrap();
    assert_eq!(budget.used(), 0, "it was taken back while the other waited");
    assert!(begun.elapsed() >= options().stall, "what was slow before counts");
    assert_eq!(next(&mut first).unwrap_err().code(), Code::ResourceExhausted);
    budget.share().large(None).await.unwrap();
    quick.large(None).await.unwrap();
}

#[tokio::test]
async fn answers_leave_room_to_requests_and_keep_half_of_their_own() {
    let requests = Budget::new(Options { connection_bytes: 1_000, ..options() });
    let answers = Budget::beside(&requests, options());
    let held = answers.share().hold(answer(501), exhausted).unwrap();
    assert!(answers.has_room());
    let mut meter = Meter::new(&requests.share());
    meter.hold(499, 0).unwrap();
    assert!(!answers.has_room(), "501 and 499 are all that there is");
    // A finished request wakes a waiting read.
    let waiting = tokio::spawn({
        let answers = Arc::clone(&answers);
        async move { answers.share().large(Some((Instant::now() + Duration::from_secs(5)).into_std())).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let begun = Instant::now();
    drop(meter);
    waiting.await.unwrap().unwrap();
    assert!(begun.elapsed() < options().stall);
    drop(held);
    // Answers never limit requests, and requests take half of the answers' total at most.
    let held = answers.share().hold(answer(499), exhausted).unwrap();
    let mut meter = Meter::new(&requests.share());
    meter.hold(1_000, 0).unwrap();
    assert!(answers.has_room());
    drop(held);
    assert!(answers.has_much_room());
}

#[tokio::test]
async fn a_connection_that_does_not_read_waits_for_itself_alone() {
    let budget = Budget::new(options());
    let (one, other, third) = (budget.share(), budget.share(), budget.share());
    let unread: Vec<_> = (0..6).map(|_| one.count(answer(101))).collect();
    assert_eq!(budget.used(), 606);
    let soon = || Some((Instant::now() + Duration::from_millis(30)).into_std());
    assert_eq!(one.room(soon()).await.unwrap_err().code(), Code::DeadlineExceeded);
    other.room(soon()).await.unwrap();
    // With the total exhausted, connections that hold answers wait; others do not.
    let more: Vec<_> = (0..4).map(|_| other.count(answer(101))).collect();
    assert!(other.room(soon()).await.is_err());
    third.room(soon()).await.unwrap();
    drop((unread, more));
    one.room(soon()).await.unwrap();
    assert_eq!(budget.used(), 0);
    assert_eq!(one.count(answer(100)).len(), 100);
    assert_eq!(budget.used(), 0, "small ones are free");
}

#[tokio::test]
async fn no_connection_holds_more_answers_than_it_leaves_to_all_others() {
    let budget = Budget::new(options());
    let shares: Vec<_> = (0..4).map(|_| budget.share()).collect();
    let mut held = Vec::new();
    // Each takes all it can get, and reads nothing.
    for share in &shares {
        while share.has_room() {
            held.push(share.hold(answer(101), exhausted).unwrap());
        }
    }
    let used = shares.iter().map(|share| share.used.load(Relaxed));
    assert_eq!(used.collect::<Vec<_>>(), [505, 303, 101, 101]);
    // A smaller limit for each connection applies as well.
    let small = Budget::new(Options { connection_bytes: 200, ..options() });
    let share = small.share();
    let held = [share.hold(answer(101), exhausted).unwrap(), share.hold(answer(101), exhausted).unwrap()];
    let soon = Some((Instant::now() + Duration::from_millis(30)).into_std());
    assert_eq!(share.large(soon).await.unwrap_err().code(), Code::DeadlineExceeded);
    small.share().large(None).await.unwrap();
    drop(held);
    share.large(None).await.unwrap();
}

#[test]
fn a_whole_request_is_counted_as_long_as_anybody_has_a_part_of_it() {
    let budget = Budget::new(options());
    let share = budget.share();
    let mut meter = Meter::new(&share);
    meter.hold(200, 405).unwrap();
    let message = meter.keep(answer(400)).unwrap();
    assert_eq!(budget.used(), 400);
    let part = message.slice(7..9);
    drop(message);
    assert_eq!(budget.used(), 400);
    // A message that grew when decompressed is refused if there is no room.
    let mut meter = Meter::new(&share);
    meter.hold(110, 110).unwrap();
    assert_eq!(meter.keep(answer(300)).unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(budget.used(), 400);
    drop(part);
    assert_eq!(budget.used(), 0);
    assert_eq!(Meter::new(&share).keep(answer(100)).unwrap().len(), 100);
    assert_eq!(budget.used(), 0, "small ones are free");
}

#[tokio::test]
async fn whoever_waits_does_so_for_a_while_or_until_its_deadline() {
    let budget = Budget::new(Options { pace_bytes: 0, ..options() });
    let share = budget.share();
    let held = share.hold(answer(1_000), exhausted).unwrap();
    let begun = Instant::now();
    assert_eq!(budget.share().large(None).await.unwrap_err().code(), Code::ResourceExhausted);
    assert!(begun.elapsed() >= options().wait);
    let deadline = (Instant::now() + Duration::from_millis(30)).into_std();
    assert_eq!(share.room(Some(deadline)).await.unwrap_err().code(), Code::DeadlineExceeded);
    // Freed bytes make room.
    let waiting = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.share().large(None).await }
    });
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    drop(held);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_stops_is_refused_when_there_is_little_room() {
    let budget = Budget::new(options());
    let (one, other) = (budget.share(), budget.share());
    let (mut stopped, mut others) = (Meter::new(&one), Meter::new(&other));
    stopped.hold(300, 0).unwrap();
    let patient = tokio::time::timeout(Duration::from_millis(400), poll_fn(|cx| stopped.poll_stalled(cx)));
    assert!(patient.await.is_err(), "nobody needs the room");
    others.hold(400, 0).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), poll_fn(|cx| stopped.poll_stalled(cx)));
    assert_eq!(status.await.unwrap().code(), Code::ResourceExhausted);
    assert_eq!(budget.used(), 400);
    // A request that makes progress continues.
    let mut moving = Meter::new(&one);
    for piece in 2..5 {
        moving.hold(piece * 110, 500).unwrap();
        let beside = tokio::time::timeout(Duration::from_millis(60), poll_fn(|cx| moving.poll_stalled(cx)));
        assert!(beside.await.is_err(), "{piece}");
    }
}

#[tokio::test]
async fn a_reader_that_stops_halfway_loses_its_connection() {
    let budget = Budget::new(Options { total_bytes: 100 << 10, ..options() });
    let share = budget.share();
    let mut held = share.hold(answer(300 << 10), exhausted).unwrap();
    next(&mut held).unwrap();
    let taken_by_http = next(&mut held).unwrap();
    let waiting = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.share().large(None).await }
    });
    tokio::time::timeout(Duration::from_secs(20), share.cut().notified()).await.unwrap();
    assert_eq!(next(&mut held).unwrap_err().code(), Code::ResourceExhausted);
    assert!(budget.used() > 0 && !waiting.is_finished());
    drop((held, taken_by_http));
    waiting.await.unwrap().unwrap();
}

async fn all(held: &mut Held) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(piece) = poll_fn(|cx| held.poll_next(cx)).await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_answer_that_is_fed_holds_a_piece_at_a_time() {
    let budget = Budget::new(Options { total_bytes: usize::MAX, connection_bytes: usize::MAX, ..options() });
    let share = budget.share();
    let size = FIRST_PIECE_BYTES + 1;
    let (mut held, feeder) = share.feed(3 * size, exhausted);
    let feeding = {
        let budget = Arc::clone(&budget);
        tokio::spawn(async move {
            for number in 0..3 {
                let piece = feeder.count(Bytes::from(vec![number; size]));
                assert!(feeder.ready().await);
                feeder.put(piece);
                assert!(budget.used() <= 2 * size, "one is in the slot, and one with its reader");
            }
            feeder.end(Ok(()));
        })
    };
    let bytes = all(&mut held).await.unwrap();
    let expected: Vec<u8> = (0..3).flat_map(|number| vec![number; size]).collect();
    assert_eq!((bytes == expected, held.len(), held.is_over()), (true, 0, true));
    feeding.await.unwrap();
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn who_feeds_learns_that_nobody_wants_more() {
    let budget = Budget::new(options());
    let share = budget.share();
    let (held, feeder) = share.feed(1_000, exhausted);
    feeder.put(feeder.count(answer(500)));
    let waiting = tokio::spawn(async move {
        let is_wanted = feeder.ready().await;
        feeder.unwanted().await;
        is_wanted
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "the piece is there still");
    drop(held);
    assert!(!waiting.await.unwrap());
    assert_eq!(budget.used(), 0, "what was not taken is gone");
}

#[tokio::test]
async fn an_answer_that_is_fed_ends_as_its_feeder_says() {
    let share = Budget::new(options()).share();
    let (mut held, feeder) = share.feed(1_000, exhausted);
    feeder.put(answer(500));
    feeder.end(Err(Status::out_of_range("compacted")));
    assert_eq!(next(&mut held).unwrap().unwrap().len(), 500, "what is there comes first");
    assert_eq!(next(&mut held).unwrap_err().code(), Code::OutOfRange);
    let (mut held, feeder) = share.feed(1_000, exhausted);
    drop(feeder);
    assert_eq!(next(&mut held).unwrap_err().code(), Code::Internal, "it is not whole");
}

#[tokio::test]
async fn a_fed_reader_that_does_not_move_gives_room_and_one_that_waits_for_its_feeder_does_not() {
    let budget = Budget::new(Options { total_bytes: 500, ..options() });
    let share = budget.share();
    let (mut slow, slow_feeder) = share.feed(1_000, exhausted);
    let (mut waiting, waiting_feeder) = share.feed(1_000, exhausted);
    slow_feeder.put(slow_feeder.count(answer(500)));
    budget.share().large(None).await.unwrap();
    assert_eq!(next(&mut slow).unwrap_err().code(), Code::ResourceExhausted);
    assert!(!slow_feeder.ready().await);
    assert_eq!(budget.used(), 0);
    waiting_feeder.put(answer(7));
    assert_eq!(next(&mut waiting).unwrap().unwrap().len(), 7);
}
