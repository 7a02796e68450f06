//! Keys and bytes under the prefixes that the operator names; etcd has no such series. Each scrape walks their keys in
//! the index, in the slow pool: a million take some 100 ms of one core, and writes pay nothing.

use super::gauges;
use crate::slow::{Lane, Pool};
use bytes::Bytes;
use machine::Shared;
use prometheus::{IntGaugeVec, Registry};
use std::sync::Arc;
use types::KeyRange;

pub(super) struct Prefixes {
    names: Arc<[String]>,
    keys: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl Prefixes {
    pub(super) fn new(registry: &Registry, names: &[String]) -> Self {
        let gauges = |name, help| gauges(registry, name, help, &["prefix"]);
        Self {
            names: names.into(),
            keys: gauges("quorate_prefix_keys", "Keys under a prefix named by --metrics-prefixes."),
            bytes: gauges(
                "quorate_prefix_bytes",
                "Bytes of the newest records under a prefix named by --metrics-prefixes, keys and values included.",
            ),
        }
    }

    pub(super) async fn refresh(&self, slow: &Pool, shared: &Arc<Shared>) {
        if self.names.is_empty() {
            return;
        }
        let (shared, names) = (Arc::clone(shared), Arc::clone(&self.names));
        let counted = slow.run(Lane::Long, move |_| {
            let view = shared.view();
            names.iter().map(|name| view.usage(&range(name))).collect::<Vec<_>>()
        });
        // If the work was cut short, the gauges keep their values.
        let Ok(counted) = counted.await else { return };
        for (name, usage) in self.names.iter().zip(counted) {
            self.keys.with_label_values(&[name]).set(usage.keys);
            self.bytes.with_label_values(&[name]).set(usage.bytes);
        }
    }
}

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
