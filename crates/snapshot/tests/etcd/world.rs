//! State machines with some history, snapshots of them, and the judges.

use bbolt::{Limits, Reader, Value};
use bytes::Bytes;
use engine::{Engine, MemoryEngine};
use machine::{Machine, Point, Settings};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::{membershippb, raftpb};
use snapshot::{Export, ExportError, Measure, Measured};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use types::{Entry, EntryKind};

/// Small numbers that look like chance, the same for a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The state machine of a member, over an engine in memory.
pub(crate) struct World {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) machine: Machine,
    index: u64,
    /// Whether some of the writes are compactions.
    pub(crate) compacts: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(MemoryEngine::new()))
    }

    pub(crate) fn on(engine: Arc<MemoryEngine>) -> Self {
        let settings = Settings { quota_bytes: -1, ..Settings::new(1, 2) };
        let machine = Machine::open(Arc::clone(&engine) as Arc<dyn Engine>, settings).expect("opens");
        let index = machine.applied().0;
        Self { engine, machine, index, compacts: true }
    }

    /// One member with a name, a cluster of version 3.7, two leases, and this much chance.
    pub(crate) fn some(seed: u64, writes: u64) -> Self {
        let mut world = Self::young();
        world.goes_on(seed, writes);
        world
    }

    /// The same before the first write.
    pub(crate) fn young() -> Self {
        let mut world = Self::new();
        world.members();
        world.request(|request| {
            request.cluster_version_set =
                Some(membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() });
        });
        for (id, ttl) in [(7, 60), (-9, 600), (i64::MAX, 5)] {
            world.request(|request| request.lease_grant = Some(pb::LeaseGrantRequest { id, ttl }));
        }
        let checkpoint = pb::LeaseCheckpoint { id: 7, remaining_ttl: 17 };
        world.request(|request| {
            request.lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] });
        });
        world
    }

    /// Writes, deletes and compacts more.
    pub(crate) fn goes_on(&mut self, seed: u64, writes: u64) {
        let mut dice = Dice(seed);
        for _ in 0..writes {
            self.write(&mut dice);
        }
    }

    /// Writes more, and does everything else that an entry of the log can do.
    pub(crate) fn lives_on(&mut self, seed: u64, entries: u64) {
        let mut dice = Dice(seed);
        for _ in 0..entries {
            match dice.below(30) {
                0..3 => self.changes_members(&mut dice),
                3..6 => self.changes_leases(&mut dice),
                6 => self.changes_versions(&mut dice),
                // Seldom raised, often disarmed: with an alarm little else happens.
                7..10 => {
                    let action = if dice.below(8) == 0 { 1 } else { 2 };
                    let alarm = pb::AlarmRequest { action, member_id: 1 + dice.below(2), alarm: 1 };
                    self.request(|request| request.alarm = Some(alarm));
                }
                10 => self.entry(EntryKind::Normal, Bytes::new()),
                _ => self.write(&mut dice),
            }
        }
    }

    /// Changes members other than those of the beginning, so that there is always a voter.
    fn changes_members(&mut self, dice: &mut Dice) {
        use raftpb::ConfChangeType::{
            ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode, ConfChangeUpdateNode,
        };
        let id = 2_000_000 + dice.below(12);
        let (kind, learner, promote) = match dice.below(6) {
            0 => (ConfChangeAddNode, false, false),
            1..3 => (ConfChangeAddLearnerNode, true, false),
            3 => (ConfChangeAddNode, false, true),
            4 => (ConfChangeUpdateNode, false, false),
            _ => (ConfChangeRemoveNode, false, false),
        };
        let port = dice.below(50_000);
        let context = format!(
            r#"{{"id":{id},"peerURLs":["http://a&b:{port}"],"isLearner":{learner},"isPromote":{promote}}}"#
        );
        let context = (kind != ConfChangeRemoveNode).then(|| context.into());
        let (kind, node_id) = (Some(kind as i32), Some(id));
        self.change(&raftpb::ConfChange { r#type: kind, node_id, context, ..Default::default() });
    }

    fn changes_leases(&mut self, dice: &mut Dice) {
        let id = [7, -9, 11, 12, 13][usize::try_from(dice.below(5)).expect("small")];
        match dice.below(4) {
            0..2 => {
                let ttl = i64::try_from(dice.below(1_000)).expect("small");
                self.request(|request| request.lease_grant = Some(pb::LeaseGrantRequest { id, ttl }));
            }
            2 => self.request(|request| request.lease_revoke = Some(pb::LeaseRevokeRequest { id })),
            _ => {
                let checkpoint =
                    pb::LeaseCheckpoint { id, remaining_ttl: i64::try_from(dice.below(60)).expect("small") };
                let checkpoints = pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
                self.request(|request| request.lease_checkpoint = Some(checkpoints));
            }
        }
    }

    fn changes_versions(&mut self, dice: &mut Dice) {
        let client_urls = vec![format!("http://client&{}", dice.below(9))];
        let attributes = membershippb::Attributes { name: "me<>".into(), client_urls };
        match dice.below(3) {
            0 => self.request(|request| {
                request.cluster_member_attr_set = Some(membershippb::ClusterMemberAttrSetRequest {
                    member_id: 1,
                    member_attributes: Some(attributes),
                });
            }),
            1 => self.request(|request| {
                let ver = "3.6.0".to_owned();
                request.downgrade_info_set =
                    Some(membershippb::DowngradeInfoSetRequest { enabled: true, ver });
            }),
            _ => self.request(|request| {
                let ver = "3.7.0".to_owned();
                request.cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver });
            }),
        }
    }

    /// The same with a compaction of everything that stopped after this many rows.
    pub(crate) fn half_compacted(self, rows: usize) -> Self {
        let Self { engine, machine, .. } = self;
        drop(machine);
        let mut store = mvcc::Store::open(Arc::clone(&engine) as Arc<dyn Engine>).expect("opens");
        while store.compact_step(1_000).expect("memory does not fail") {}
        let revision = store.view().revision();
        let mut group = store.begin();
        // Refused if that is compacted already.
        let _ = group.compact_again(revision);
        group.commit().expect("memory does not fail");
        store.compact_step(rows).expect("memory does not fail");
        Self::on(engine)
    }

    /// Two members are out of space; nothing more can be put.
    pub(crate) fn raise_alarms(&mut self) {
        for member_id in [1, 300] {
            let alarm = pb::AlarmRequest { action: 1, member_id, alarm: 1 };
            self.request(|request| request.alarm = Some(alarm));
        }
    }

    /// Ten members come, and six of them go: their IDs have one to sixteen digits.
    fn members(&mut self) {
        let ids: Vec<u64> = (0..10).map(|n| 0xfedc_ba98_7654_3210_u64 >> (7 * n)).collect();
        for &id in &ids {
            let context = format!(r#"{{"id":{id},"peerURLs":["http://m{id}:2380"],"name":"m{id}"}}"#);
            self.change(&raftpb::ConfChange {
                node_id: Some(id),
                context: Some(context.into()),
                ..raftpb::ConfChange::default()
            });
        }
        for &id in &ids[1..7] {
            let kind = Some(raftpb::ConfChangeType::ConfChangeRemoveNode as i32);
            self.change(&raftpb::ConfChange { r#type: kind, node_id: Some(id), ..Default::default() });
        }
    }

    fn change(&mut self, change: &raftpb::ConfChange) {
        self.entry(EntryKind::ConfChange, change.encode_to_vec().into());
    }

    fn write(&mut self, dice: &mut Dice) {
        let key = |dice: &mut Dice| Bytes::from(format!("key/{:02}", dice.below(40)));
        let put = |dice: &mut Dice| {
            let lease = [0, 0, 7, -9][usize::try_from(dice.below(4)).expect("small")];
            let length = if dice.below(20) == 0 { 9_000 } else { dice.below(200) };
            let value = vec![b'v'; usize::try_from(length).expect("small")];
            pb::PutRequest { key: key(dice), value: value.into(), lease, ..Default::default() }
        };
        let del = |dice: &mut Dice| {
            let from = dice.below(40);
            let (key, range_end) = (format!("key/{from:02}"), format!("key/{:02}", from + 1 + dice.below(5)));
            pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
        };
        match dice.below(if self.compacts { 20 } else { 18 }) {
            0..12 => {
                let put = put(dice);
                self.request(|request| request.put = Some(put));
            }
            12..16 => {
                let del = del(dice);
                self.request(|request| request.delete_range = Some(del));
            }
            16..18 => {
                let requests = [Request::RequestPut(put(dice)), Request::RequestDeleteRange(del(dice))];
                let success =
                    requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
                let txn = pb::TxnRequest { success, ..Default::default() };
                self.request(|request| request.txn = Some(txn));
            }
            _ => {
                let view = self.machine.shared().view();
                let (from, to) = (view.compact_revision().max(1), view.revision());
                let revision =
                    from + i64::try_from(dice.below((to - from + 1).unsigned_abs())).expect("small");
                self.request(|request| {
                    request.compaction = Some(pb::CompactionRequest { revision, physical: false });
                });
                // Some are still under way when the snapshot is taken.
                for _ in 0..dice.below(2) {
                    while self.machine.idle().expect("memory does not fail") {}
                }
            }
        }
    }

    /// Applies these at once; returns their number.
    pub(crate) fn puts(&mut self, puts: impl Iterator<Item = pb::PutRequest>) -> usize {
        let entries: Vec<Entry> = puts
            .map(|put| {
                self.index += 1;
                let header = pb::RequestHeader { id: self.index, ..Default::default() };
                let request =
                    pb::InternalRaftRequest { header: Some(header), put: Some(put), ..Default::default() };
                let data = request.encode_to_vec().into();
                Entry { term: 3, index: self.index, kind: EntryKind::Normal, data }
            })
            .collect();
        self.machine.apply(&entries).expect("memory does not fail");
        entries.len()
    }

    pub(crate) fn request(&mut self, fill: impl FnOnce(&mut pb::InternalRaftRequest)) {
        let header = pb::RequestHeader { id: 1 << 48 | (self.index + 1), ..Default::default() };
        let mut request = pb::InternalRaftRequest { header: Some(header), ..Default::default() };
        fill(&mut request);
        self.entry(EntryKind::Normal, request.encode_to_vec().into());
    }

    fn entry(&mut self, kind: EntryKind, data: Bytes) {
        self.index += 1;
        let entry = Entry { term: 3, index: self.index, kind, data };
        self.machine.apply(&[entry]).expect("memory does not fail");
    }

    /// Finishes the compactions that are under way.
    pub(crate) fn settles(&mut self) {
        while self.machine.idle().expect("memory does not fail") {}
    }

    /// What the message says that carries a snapshot to a peer.
    pub(crate) fn point(&self) -> Point {
        Point::of(&*Arc::clone(&self.engine).snapshot()).expect("its own rows")
    }

    /// The file that a client saves, made in steps of so many bytes.
    pub(crate) fn file(&self, step_bytes: u64) -> Vec<u8> {
        let (file, layout) = self.exported(step_bytes, Export::begin);
        assert_eq!(file.len() as u64, layout.bytes() + 32);
        file
    }

    /// The file that a peer receives.
    pub(crate) fn peer_file(&self, step_bytes: u64) -> Vec<u8> {
        let (file, layout) = self.exported(step_bytes, Export::begin_for_peer);
        assert_eq!(file.len() as u64, layout.bytes());
        file
    }

    fn exported(
        &self,
        step_bytes: u64,
        begin: impl FnOnce(&Measured) -> Result<Export, ExportError>,
    ) -> (Vec<u8>, Measured) {
        let rows = Arc::clone(&self.engine).snapshot();
        let mut measure = Measure::begin();
        while !measure.step(&*rows, step_bytes).expect("memory does not fail") {}
        let layout = measure.finish().expect("a layout");
        let (mut export, mut file, mut is_done) = (begin(&layout).expect("begins"), Vec::new(), false);
        while !is_done {
            let exported = export.step(&*rows, step_bytes).expect("memory does not fail");
            is_done = exported.is_done;
            let taken: usize = exported.pieces.iter().map(Vec::len).sum();
            assert!(
                taken as u64 <= step_bytes.saturating_mul(3).saturating_add(100_000),
                "{taken} in a step"
            );
            file.extend(exported.pieces.concat());
        }
        assert_eq!(layout.bytes() % 512, 0);
        (file, layout)
    }
}

/// The buckets of a database, each with its entries.
pub(crate) type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The database with other content.
pub(crate) fn edited(content: &[u8], edit: impl FnOnce(&mut Buckets)) -> Vec<u8> {
    let reader = Reader::open(content, Limits::DEFAULT).expect("a file");
    let mut all = Buckets::new();
    reader
        .walk(&mut |item| {
            match item.value {
                Value::Bucket => _ = all.insert(item.key.to_vec(), BTreeMap::new()),
                Value::Bytes(value) => {
                    let entries = all.entry(item.path[0].clone()).or_default();
                    entries.insert(item.key.to_vec(), value.to_vec());
                }
            }
            Ok::<_, bbolt::ReadError>(())
        })
        .expect("a whole file");
    edit(&mut all);
    let layout = bbolt::measure(bbolt::Options::DEFAULT, &all).expect("a layout");
    bbolt::write(Vec::new(), &layout, &all).expect("a file")
}

pub(crate) fn judge(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        let required = std::env::var("QUORATE_REQUIRE_JUDGES").is_ok_and(|value| value == "1");
        assert!(!required, "{variable} names no judge, and QUORATE_REQUIRE_JUDGES=1 asks for it");
        not_run(variable);
    }
    path
}

#[expect(clippy::print_stderr, reason = "a test that is not run says so")]
fn not_run(variable: &str) {
    eprintln!("NOT RUN: {variable} is not set (tests/etcd-suite/build.sh --only \"bboltcheck etcdutl\")");
}

/// What a judge prints; it must be content.
pub(crate) fn run(judge: &Path, arguments: &[&str]) -> String {
    let output = Command::new(judge).args(arguments).output().expect("the judge starts");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {problem}");
    String::from_utf8(output.stdout).expect("it prints text")
}
