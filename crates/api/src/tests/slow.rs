//! Lanes, cancellation and budgets of the slow pool.

use super::*;
use std::sync::mpsc;

fn pool() -> Pool {
    Pool::new(WorkLimits {
        inline: Cost { rows: 10, bytes: 10 },
        short: Cost { rows: 100, bytes: 100 },
        short_max: 1,
        ..WorkLimits::default()
    })
}

fn running(pool: &Pool, lane: Lane) -> i64 {
    pool.running.with_label_values(&[lane.name()]).get()
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes to that");
}

/// Costs one row at a time, as a long list does.
fn rows(effort: &Effort<'_>, rows: u64) -> Result<u64, Stop> {
    for _ in 0..rows {
        effort.spend(1, 0)?;
    }
    Ok(rows)
}

#[tokio::test]
async fn what_is_spent_inline_goes_to_the_lane_where_it_fits() {
    let pool = pool();
    let ask = async |cost: u64| match pool.inline(|effort| rows(effort, cost)) {
        Inline::Done(rows) => rows.expect("read"),
        Inline::TooMuch(spent) => {
            assert!(!pool.is_inline(spent));
            pool.read(spent, move |effort| rows(effort, cost)).await.expect("read")
        }
    };
    let done = |lane: Lane| pool.done.with_label_values(&[lane.name()]).get();
    assert_eq!((ask(10).await, done(Lane::Short), done(Lane::Long)), (10, 0, 0));
    assert_eq!((ask(11).await, done(Lane::Short), done(Lane::Long)), (11, 1, 0));
    assert_eq!(
        (ask(101).await, done(Lane::Short), done(Lane::Long)),
        (101, 2, 1),
        "the short lane gives it up too"
    );
    let foreseen = Cost { rows: 101, bytes: 0 };
    pool.read(foreseen, |effort| rows(effort, 101)).await.expect("read");
    assert_eq!((done(Lane::Short), done(Lane::Long)), (2, 2), "what is known to be long is not tried");
}

#[tokio::test]
async fn who_leaves_gets_no_second_turn_and_the_work_ends_with_all_it_holds() {
    let pool = Arc::new(pool());
    let held = Arc::new(());
    for _ in 0..300 {
        let (own, holds) = (Arc::clone(&pool), Arc::clone(&held));
        let asked = tokio::spawn(async move {
            let work = move |effort: &Effort<'_>| {
                loop {
                    effort.spend(Arc::strong_count(&holds).min(1) as u64, 0)?;
                    std::thread::sleep(Duration::from_micros(100));
                }
            };
            own.read::<()>(Cost::MAX, work).await
        });
        tokio::task::yield_now().await;
        assert!(running(&pool, Lane::Long) <= 2, "{} at work", running(&pool, Lane::Long));
        asked.abort();
    }
    let permits = &pool.turns[Lane::Long as usize];
    until(|| Arc::strong_count(&held) == 1 && permits.available_permits() == 2).await;
    assert_eq!(running(&pool, Lane::Long), 0);
    assert_eq!(pool.waiting.with_label_values(&["long"]).get(), 0);
}

#[tokio::test]
async fn a_turn_lasts_as_long_as_the_work_whoever_has_left() {
    let pool = Arc::new(pool());
    let (go, waits) = mpsc::sync_channel::<()>(1);
    let own = Arc::clone(&pool);
    // Work that ignores the cancellation flag.
    let begun = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&begun);
    let work = move |_: &AtomicBool| {
        begins.store(true, Relaxed);
        let _ = waits.recv(); // until the test drops the sender
    };
    let stubborn = tokio::spawn(async move { own.run(Lane::Short, work).await });
    until(|| begun.load(Relaxed)).await;
    assert_eq!(running(&pool, Lane::Short), 1);
    stubborn.abort();
    let _ = stubborn.await;
    let next = tokio::time::timeout(Duration::from_millis(50), pool.run(Lane::Short, |_| ()));
    assert!(next.await.is_err(), "its turn is not over");
    assert_eq!(pool.run(Lane::Long, |_| 7).await.expect("no panic"), 7, "other lanes are free");
    drop(go);
    pool.run(Lane::Short, |_| ()).await.expect("now it is");
}

#[tokio::test]
async fn work_that_panics_is_answered_and_gives_its_turn_back() {
    let pool = pool();
    let lost = pool.run(Lane::Short, |_| panic!("a broken invariant")).await.expect_err("it panicked");
    assert!(lost.to_string().starts_with("long work ended early: "), "{lost}");
    assert_eq!(pool.turns[Lane::Short as usize].available_permits(), 1);
}
