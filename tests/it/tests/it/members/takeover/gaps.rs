//! How long nobody's writes were acknowledged, and how much of it was without a leader.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::load::Stage;

/// Between two looks at the members.
const LOOK: Duration = Duration::from_millis(20);

/// Times without a leader: from the last look that saw the old one to the first that saw the next.
pub(super) type Elections = Vec<(Instant, Instant)>;

/// Notes when leaders change.
pub(super) struct Lookout {
    task: tokio::task::JoinHandle<()>,
    elections: Arc<Mutex<Elections>>,
}

impl Lookout {
    pub(super) fn start(stage: &Arc<Stage>) -> Self {
        let elections = Arc::new(Mutex::new(Elections::new()));
        let task = tokio::spawn(look(Arc::clone(stage), Arc::clone(&elections)));
        Self { task, elections }
    }

    pub(super) fn stop(self) -> Elections {
        self.task.abort();
        std::mem::take(&mut *self.elections.lock().unwrap())
    }
}

async fn look(stage: Arc<Stage>, elections: Arc<Mutex<Elections>>) {
    let (mut known, mut seen) = ((0, 0), Instant::now());
    loop {
        let before = Instant::now();
        let client = stage.client();
        let asks: Vec<_> = (0..client.size())
            .map(|at| {
                let client = Arc::clone(&client);
                tokio::spawn(tokio::time::timeout(Duration::from_millis(500), async move {
                    client.status(at).await
                }))
            })
            .collect();
        let mut answers = Vec::new();
        for ask in asks {
            if let Ok(Ok(Ok(status))) = ask.await {
                answers.push((status.raft_term, status.leader));
            }
        }
        // In the words of those with the newest term; none of them may know nobody.
        let newest = answers.iter().map(|(term, _)| *term).max().unwrap_or(0);
        let least = answers.iter().filter(|(term, _)| *term == newest).min();
        if let Some((term, leader)) = least.copied()
            && leader != 0
        {
            if (term, leader) != known && known.0 != 0 {
                elections.lock().unwrap().push((seen, Instant::now()));
            } else {
                // No one that knew otherwise: the leader was there at the time of the first question.
                seen = before;
            }
            if (term, leader) != known {
                (known, seen) = ((term, leader), Instant::now());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gap {
    /// When it began; `None` without any.
    pub(super) from: Option<Instant>,
    pub(super) whole: Duration,
    /// The part of it that was without a leader.
    pub(super) election: Duration,
}

impl Gap {
    pub(super) fn beyond(&self) -> Duration {
        self.whole.saturating_sub(self.election)
    }
}

/// The longest gap, and the longest beyond elections.
pub(super) fn longest(mut times: Vec<Instant>, elections: &Elections) -> (Gap, Gap) {
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| {
        let (from, to) = (pair[0], pair[1]);
        let overlap =
            |(begin, end): &(Instant, Instant)| (*end).min(to).saturating_duration_since((*begin).max(from));
        Gap { from: Some(from), whole: to - from, election: elections.iter().map(overlap).sum() }
    });
    gaps.fold((Gap::default(), Gap::default()), |(whole, beyond), gap| {
        let whole = if gap.whole > whole.whole { gap } else { whole };
        (whole, if gap.beyond() > beyond.beyond() { gap } else { beyond })
    })
}

#[test]
fn a_gap_is_counted_without_its_elections() {
    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let elections = vec![(at(150), at(400)), (at(900), at(2_000))];
    let (whole, beyond) = longest(vec![at(1_100), at(0), at(500), at(700), at(790)], &elections);
    assert_eq!(whole.whole, Duration::from_millis(500));
    assert_eq!(whole.election, Duration::from_millis(250));
    assert_eq!(beyond.beyond(), Duration::from_millis(250));
    let (_, beyond) = longest(vec![at(700), at(1_100), at(1_300)], &elections);
    assert_eq!(beyond.beyond(), Duration::from_millis(200));
}
