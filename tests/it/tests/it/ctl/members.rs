//! `member add`, `update`, `promote` and `remove`, by both programs. The ID of a new member is made of the time, and with it
//! changes the order of lists: IDs are masked, and words are compared in any order.

use std::{collections::BTreeMap, path::Path, time::Duration};

use harness::{Client, Cluster, Options, server_binary};
use proto::etcdserverpb::{Member, MemberListRequest, cluster_client::ClusterClient};

use super::{Outcome, differ, judge, ours, run, script};

/// A peer URL where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

const FORMATS: [&str; 6] = ["simple", "json", "json --hex", "fields", "table", "simple --hex"];

struct Stage {
    cluster: Cluster,
    names: BTreeMap<String, String>,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new(server: &Path) -> Self {
        let options = Options { binary: Some(server.to_path_buf()), ..Options::new(1) };
        let cluster = Cluster::start_with(&options).unwrap();
        let endpoint = format!("127.0.0.1:{}", cluster.members()[0].addresses.client);
        let names = BTreeMap::from([("EP".to_owned(), endpoint)]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self { cluster, names, runtime }
    }

    fn members(&self) -> Vec<Member> {
        self.runtime.block_on(async {
            let client = Client::new([self.cluster.members()[0].addresses.client_url()]);
            let mut cluster = ClusterClient::new(client.channel(0));
            let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap();
            list.into_inner().members
        })
    }

    /// One whole life of a learner that nobody starts, with each command's outcome.
    fn play(&mut self, program: &Path, format: &str) -> Vec<Outcome> {
        let own = self.members()[0].id;
        let add = format!("member add new --learner --peer-urls={NOBODY} -w {format}");
        let mut outcomes = vec![self.run(program, &add)];
        let new = self.members().iter().map(|member| member.id).find(|id| *id != own).expect("it was added");
        for words in [
            format!("member add more --learner --peer-urls=http://127.0.0.1:8 -w {format}"),
            format!("member add more --peer-urls={NOBODY} -w {format}"),
            format!("member update {new:x} --peer-urls={NOBODY},http://127.0.0.1:10 -w {format}"),
            format!("member promote {new:x} -w {format}"),
            format!("member promote {own:x} -w {format}"),
            format!("member list -w {format}"),
            format!("member remove {own:x} -w {format}"),
            format!("member remove {new:x} -w {format}"),
            format!("member remove {new:x} -w {format}"),
        ] {
            outcomes.push(self.run(program, &words));
        }
        for outcome in &mut outcomes {
            let texts = std::iter::once(&mut outcome.stdout).chain(&mut outcome.stderr);
            texts.for_each(|text| {
                // A URL that is added again in the same second would have the same ID: which of the two is said depends on the
                // moment.
                *text = text.replace("member ID already exist", "Peer URLs already exists");
                *text = masked(text, &[(new, "$new"), (own, "$own")]);
            });
            outcome.stdout = in_any_order(&outcome.stdout);
        }
        // The same URL in the same second gives the same ID, which must not come back.
        std::thread::sleep(Duration::from_millis(1_100));
        outcomes
    }

    fn run(&mut self, program: &Path, words: &str) -> Outcome {
        run(program, &script::read(words).remove(0), &mut self.names)
    }
}

fn masked(text: &str, ids: &[(u64, &str)]) -> String {
    ids.iter().fold(text.to_owned(), |text, (id, name)| {
        text.replace(&format!("{id:x}"), name).replace(&id.to_string(), name)
    })
}

/// The words of a text, sorted, without what only fills space.
fn in_any_order(text: &str) -> String {
    let fills =
        |c: char| c.is_whitespace() || "|+-,[]{}\"=\u{e2}\u{94}\u{82}\u{80}\u{bc}\u{ac}\u{b4}".contains(c);
    let mut words: Vec<&str> = text.split(fills).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words.join(" ")
}

fn compare(server: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let programs = [judge("ETCDCTL_BIN", "etcdctl"), ours(folder.path())];
    let mut stage = Stage::new(server);
    for format in FORMATS {
        let [theirs, ours] = programs.each_ref().map(|program| stage.play(program, format));
        let step = script::read(&format!("member … -w {format}")).remove(0);
        let pairs = theirs.iter().zip(&ours);
        let complaints: Vec<_> = pairs.filter_map(|(theirs, ours)| differ(&step, theirs, ours)).collect();
        assert!(complaints.is_empty(), "{} differ:\n{}", complaints.len(), complaints.join("\n"));
        let added = &theirs[0];
        assert!(added.stdout.contains("$new") || added.code != Some(0), "{added:?}");
    }
}

#[test]
fn members_of_etcd() {
    compare(&judge("ETCD_BIN", "etcd"));
}

#[test]
fn members_of_quorate() {
    compare(&server_binary().unwrap());
}
