//! Each member is replaced by one with an empty disk, again and again, while a client writes: what the newcomer lacks comes
//! as a snapshot, because the log is short.
//!
//! `IT_REPLACED`: members that are replaced, 6 unless said otherwise.

use anyhow::{Context as _, ensure};

use super::grow::{Writer, keys};
use super::{Growing, Kind};
use crate::snapshots::{INSTALLING, SHORT_LOG};
use crate::support::{number, run};

#[test]
fn members_are_replaced_one_after_another_and_nothing_is_lost() {
    run(async {
        let count = number("IT_REPLACED", 6);
        let mut growing = Growing::start_with(Kind::Ours, &SHORT_LOG).await?;
        for _ in 0..2 {
            growing.join(Kind::Ours).await?;
        }
        let writer = Writer::start(growing.client());
        let mut snapshots = 0;
        for n in 0..count {
            let present = growing.present();
            // The oldest, which may lead; every other time it is killed first.
            let (victim, rest) = (present[0], &present[1..]);
            writer.ask(growing.client_of(rest));
            if n % 2 == 1 {
                growing.at(victim).member.kill()?;
                growing.client_of(rest).wait_leader(super::SETTLE).await?;
            }
            let mut gone = growing.remove(rest[0], victim).await.with_context(|| format!("in round {n}"))?;
            if n % 2 == 0 {
                ensure!(gone.member.process()?.wait_end(super::SETTLE)?.success(), "it failed");
            }
            let at = growing.join(Kind::Ours).await.with_context(|| format!("in round {n}"))?;
            writer.ask(growing.client());
            snapshots += usize::from(growing.at(at).member.process()?.output().contains(INSTALLING));
        }
        growing.agree().await?;
        let written = writer.stop().await?;
        let found = keys(&growing.client(), 0).await?;
        let lost = written.difference(&found).count();
        println!(
            "{count} members replaced, {snapshots} by a snapshot; {} writes, {lost} lost",
            written.len()
        );
        ensure!(lost == 0 && snapshots > 0, "{lost} writes lost, {snapshots} snapshots");
        Ok(())
    });
}
