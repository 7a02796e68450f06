//! `docker stop` of the leader: it hands over, ends in order and comes back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use harness::Compose;

use crate::support::{no_panic, put, run, said};

/// What docker gives a container whose file says nothing.
const GRACE: Duration = Duration::from_secs(10);

const ELECTION: Duration = Duration::from_secs(20);

#[test]
fn a_stopped_leader_hands_over_within_dockers_grace_and_exits_with_0() {
    run(|| async {
        let compose = Compose::prepare()?;
        compose.up()?;
        let client = compose.client();
        put(&client, 0, "before").await?;
        let leader = client.wait_leader(ELECTION).await?;
        let begun = Instant::now();
        compose.stop(leader)?;
        let taken = begun.elapsed();
        said(&compose, leader, &["leadership handed over"]).await?;
        let code = compose.inspect(leader, "{{.State.ExitCode}}")?;
        println!("docker stop of the leader took {taken:?}, exit code {code}");
        // PID 1 has no default handler to die of: it says that it ended in order.
        ensure!(code == "0", "it ended with {code}");
        ensure!(taken < GRACE, "it took {taken:?}");
        put(&client, (leader + 1) % 3, "during").await?;
        compose.start(leader)?;
        put(&client, leader, "after").await?;
        let revision = client.revision(ELECTION).await?;
        client.same_hash(revision, ELECTION).await?;
        compose.wait_healthy()?;
        no_panic(&compose)
    });
}
