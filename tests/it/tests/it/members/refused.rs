//! Members that cannot join: each says why in etcd's words, and leaves no data behind.

use anyhow::ensure;
use harness::{Addresses, Member, Port};
use proto::etcdserverpb::{MemberAddRequest, MemberUpdateRequest};
use tonic::Code;

use super::{Growing, Kind, refused};
use crate::support::{REFUSAL_LIMIT, no_panic, run};

/// Starts a member that shall give up, and looks for the words.
fn gives_up(
    growing: &Growing,
    name: &str,
    cluster: &str,
    more: &[String],
    words: &str,
) -> anyhow::Result<()> {
    for kind in [Kind::Ours, Kind::Etcd("3.7")] {
        let mut flags =
            vec![format!("--initial-cluster={cluster}"), "--initial-cluster-state=existing".to_owned()];
        flags.extend_from_slice(more);
        let folder = tempfile::tempdir_in(growing.folder.path())?;
        let mut member = Member::new(name, &kind.binary()?, folder.path(), Addresses::free()?, &flags);
        member.start()?;
        let process = member.process()?;
        let status = process.wait_end(REFUSAL_LIMIT)?;
        let output = process.output().replace("\\\"", "\"");
        no_panic(&output);
        ensure!(status.code() == Some(1), "{kind:?}: {status}\n{output}");
        ensure!(output.contains(words), "{kind:?} does not say {words:?}:\n{output}");
        let left = member.data.join("member").join("wal");
        let has_log = left.read_dir().is_ok_and(|mut files| files.any(|file| file.is_ok()));
        ensure!(kind != Kind::Ours || !has_log, "a log was made in {}", left.display());
    }
    Ok(())
}

#[test]
fn who_does_not_fit_the_cluster_is_told_why() {
    run(async {
        let mut growing = Growing::start(Kind::Ours).await?;
        let first = growing.at(0).member.addresses.peer_url();
        let free = || Port::free().map(|port| format!("http://127.0.0.1:{port}"));
        let (own, other) = (free()?, free()?);
        let unequal = "error validating peerURLs {ClusterID:";
        gives_up(&growing, "m1", &format!("m0={first},m1={own}"), &[], unequal)?;
        gives_up(&growing, "m1", &format!("m0={first},m1={own}"), &[], "]}: member count is unequal")?;
        let nobody = "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given \
                      URLs";
        gives_up(&growing, "m1", &format!("m0={other},m1={own}"), &[], nobody)?;
        gives_up(&growing, "m1", &format!("m1={own}"), &[], nobody)?;
        let nameless = "couldn't find local name \"m7\" in the initial cluster configuration";
        gives_up(&growing, "m7", &format!("m0={first},m1={own}"), &[], nameless)?;
        let learner = growing.add(Kind::Ours, true).await?;
        let id = growing.at(learner).id;
        let url = growing.at(learner).member.addresses.peer_url();
        let resolved =
            format!("PeerURLs: no match found for existing member ({id:x}, [{url}]), last resolver error (");
        let unmatched = |url: &str| format!("m0={first},m1={url}");
        gives_up(&growing, "m1", &unmatched(&own), &[], &resolved)?;
        gives_up(&growing, "m1", &format!("m0={first},m1={url},m2={own}"), &[], "member count is unequal")?;
        let token = ["--initial-cluster-token=another".to_owned(), "--max-learners=1".to_owned()];
        // The token is irrelevant, and the learner is one too many for nobody.
        let mut flags = vec![
            format!("--initial-cluster=m0={first},m1={url}"),
            "--initial-cluster-state=existing".to_owned(),
        ];
        flags.extend(token);
        let grown = growing.members[learner].take().expect("it was added");
        let folder = growing.folder.path().join("token");
        std::fs::create_dir(&folder)?;
        let binary = Kind::Ours.binary()?;
        let mut member = Member::new("m1", &binary, &folder, grown.member.addresses, &flags);
        member.start()?;
        member.wait_ready()?;
        // It has been here: without its data it is nobody.
        member.kill()?;
        std::fs::remove_dir_all(&member.data)?;
        member.start()?;
        let status = member.process()?.wait_end(REFUSAL_LIMIT)?;
        let output = member.process()?.output();
        ensure!(status.code() == Some(1), "{status}");
        ensure!(output.contains(&format!("member {id:x} has already been bootstrapped")), "{output}");
        Ok(())
    });
}

#[test]
fn urls_that_are_none_or_taken_are_refused() {
    run(async {
        let mut growing = Growing::start(Kind::Ours).await?;
        let (id, taken) = (growing.at(0).id, growing.at(0).member.addresses.peer_url());
        let mut admin = growing.admin(0);
        let bad = "etcdserver: given member URLs are invalid";
        for urls in [
            vec![],
            vec![String::new()],
            vec!["http://127.0.0.1:1/x".to_owned()],
            vec!["http://127.0.0.1:1".to_owned(), "127.0.0.1:1".to_owned()],
        ] {
            let add = MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: false };
            refused(admin.member_add(add).await, Code::InvalidArgument, bad)?;
            let update = MemberUpdateRequest { id, peer_ur_ls: urls };
            refused(admin.member_update(update).await, Code::InvalidArgument, bad)?;
        }
        let add = MemberAddRequest { peer_ur_ls: vec![taken], is_learner: false };
        let exists = "etcdserver: Peer URLs already exists";
        refused(admin.member_add(add).await, Code::FailedPrecondition, exists)?;
        let update = MemberUpdateRequest { id: 7, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] };
        refused(admin.member_update(update).await, Code::NotFound, "etcdserver: member not found")?;
        Ok(())
    });
}
