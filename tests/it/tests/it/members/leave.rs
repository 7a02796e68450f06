//! Members that leave: the leader, one that is down, and one that comes back under another ID.

use anyhow::ensure;
use harness::{Client, Member};
use proto::etcdserverpb::{MemberAddRequest, MemberRemoveRequest};
use tonic::Code;

use super::{Growing, Kind, SETTLE, change, joining, put_patiently, refused};
use crate::support::{no_panic, run};

/// As etcd: whoever asks a leader to remove itself is answered, and the others go on.
#[test]
fn a_leader_is_asked_to_remove_itself() {
    run(async {
        let mut growing = Growing::grow(Kind::Ours, 3).await?;
        growing.client().make_leader(0, SETTLE).await?;
        let mut gone = growing.remove(0, 0).await?;
        let process = gone.member.process()?;
        let status = process.wait_end(SETTLE)?;
        ensure!(status.success(), "{status}\n{}", process.tail(8));
        let output = process.output();
        no_panic(&output);
        ensure!(output.contains("data-dir used by this member must be removed"), "{}", process.tail(8));
        put_patiently(&growing.client(), 0, "after").await?;
        put_patiently(&growing.client(), 1, "after").await?;
        growing.agree().await
    });
}

/// The removed one was down meanwhile: its data are no good any more. A new member at its URLs is another one.
#[test]
fn a_member_removed_while_it_was_down_does_not_come_back_but_its_place_does() {
    run(async {
        let mut growing = Growing::grow(Kind::Ours, 3).await?;
        growing.client().make_leader(0, SETTLE).await?;
        growing.at(2).member.kill()?;
        let mut gone = growing.remove(1, 2).await?;
        let again = MemberRemoveRequest { id: gone.id };
        let text = "etcdserver: member not found";
        refused(growing.admin(0).member_remove(again).await, Code::NotFound, text)?;
        gone.member.start()?;
        let process = gone.member.process()?;
        let status = process.wait_end(SETTLE)?;
        ensure!(status.success(), "{status}\n{}", process.tail(8));
        let output = process.output();
        no_panic(&output);
        let words = "the member has been permanently removed from the cluster";
        ensure!(output.contains(words), "{}", process.tail(8));
        // IDs are made of URLs and seconds: within the second in which it was added, its place would give its ID.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let url = gone.member.addresses.peer_url();
        let ask = MemberAddRequest { peer_ur_ls: vec![url], is_learner: false };
        let added = change(&growing.admin(0), async |mut admin| admin.member_add(ask.clone()).await).await?;
        let new = added.member.expect("a member");
        ensure!(new.id != gone.id, "the ID {:x} was used again", new.id);
        let addresses = gone.member.addresses;
        let folder = growing.folder.path().join("again");
        std::fs::create_dir(&folder)?;
        let binary = Kind::Ours.binary()?;
        let flags = joining("m2", &added.members, new.id);
        let mut member = Member::new("m2", &binary, &folder, addresses, &flags);
        member.start()?;
        member.wait_ready()?;
        let urls = [member.addresses.client_url()];
        put_patiently(&Client::new(urls), 0, "back").await?;
        growing.agree().await
    });
}

/// A quorum that is away is told from one member that is.
#[test]
fn what_may_cost_the_quorum_is_refused() {
    run(async {
        let mut growing = Growing::grow(Kind::Ours, 3).await?;
        let unhealthy = "etcdserver: unhealthy cluster";
        growing.client().make_leader(0, SETTLE).await?;
        growing.at(2).member.kill()?;
        // Its connections are known to be gone a moment later.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let add = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: false };
        refused(growing.admin(0).member_add(add.clone()).await, Code::Unavailable, unhealthy)?;
        let remove = MemberRemoveRequest { id: growing.at(1).id };
        refused(growing.admin(0).member_remove(remove).await, Code::Unavailable, unhealthy)?;
        // The one that is down may go; then two are all there is.
        growing.remove(0, 2).await?;
        put_patiently(&growing.client(), 0, "two").await?;
        let added = change(&growing.admin(0), async |mut admin| admin.member_add(add.clone()).await).await?;
        ensure!(added.members.len() == 3, "{:?}", added.members);
        let more = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:2".into()], is_learner: false };
        let text = "etcdserver: re-configuration failed due to not enough started members";
        refused(growing.admin(0).member_add(more).await, Code::Unknown, text)?;
        Ok(())
    });
}
