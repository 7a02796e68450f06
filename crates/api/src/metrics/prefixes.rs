//! Beyond etcd: how many keys and bytes lie under the prefixes that the operator names.
//!
//! The keys of the named prefixes are walked in the index when somebody asks, on a blocking thread: nothing is kept for
//! them, and writes pay nothing. A million keys take some 100 ms of one core.

use super::register;
use crate::{Api, Lane};
use bytes::Bytes;
use prometheus::{IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use types::KeyRange;

pub(super) struct Prefixes {
    names: Arc<[String]>,
    keys: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl Prefixes {
    pub(super) fn new(registry: &Registry, names: &[String]) -> Self {
        let gauges = |name, help| {
            let vec = IntGaugeVec::new(Opts::new(name, help), &["prefix"]).expect("constant, valid labels");
            register(registry, vec)
        };
        Self {
            names: names.into(),
            keys: gauges("quorate_prefix_keys", "Keys under a prefix named by --metrics-prefixes."),
            bytes: gauges(
                "quorate_prefix_bytes",
                "Bytes of the newest records under a prefix named by --metrics-prefixes, keys and values included.",
            ),
        }
    }

    pub(super) async fn refresh(&self, api: &Arc<Api>) {
        if self.names.is_empty() {
            return;
        }
        let (own, names) = (Arc::clone(api), Arc::clone(&self.names));
        let counted = api.slow.run(Lane::Long, move |_| {
            let view = own.shared.view();
            names.iter().map(|name| view.usage(&range(name))).collect::<Vec<_>>()
        });
        // Where it ended early the gauges keep their last values.
        let Ok(counted) = counted.await else { return };
        for (name, usage) in self.names.iter().zip(counted) {
            self.keys.with_label_values(&[name]).set(usage.keys);
            self.bytes.with_label_values(&[name]).set(usage.bytes);
        }
    }
}

/// All keys that begin with the prefix.
fn range(prefix: &str) -> KeyRange {
    let mut end = prefix.as_bytes().to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    let key =
        if prefix.is_empty() { Bytes::from_static(&[0]) } else { Bytes::copy_from_slice(prefix.as_bytes()) };
    KeyRange::from_wire(key, end.into())
}
