//! The history for watchers. An event is encoded once, as field 11 of a `WatchResponse`, however many receive it.

use bytes::{BufMut, Bytes, BytesMut};
pub use mvcc::{Changes, GroupChanges};
use mvcc::{EventKind, KeyValue, ReadError, View};
use prost::encoding::{encode_varint, encoded_len_varint};
use std::ops::ControlFlow;
use std::sync::Arc;
use watch::{Event, HistoryError};

/// The tag of `WatchResponse.events`.
const EVENTS: u8 = 11 << 3 | 2;
/// The tag of `Event.type`; absent for a put (0).
const TYPE: u8 = 1 << 3;
const DELETE: u8 = 1;
/// The tag of `Event.kv`.
const KV: u8 = 2 << 3 | 2;
/// The tag of `Event.prev_kv`.
const PREV_KV: u8 = 3 << 3 | 2;

/// Events share buffers of this size, bytes: one allocation for dozens.
const BUFFER_BYTES: usize = 16 << 10;

/// A view as a history for watchers.
#[derive(Clone, Debug)]
pub struct History(Arc<View>);

impl History {
    /// The history as of this view.
    pub fn new(view: Arc<View>) -> Self {
        Self(view)
    }

    /// The history as of the newest view, reaching back to what the older one, still held, preserves from compaction.
    pub fn reaching_back(newest: Arc<View>, older: &View) -> Self {
        if newest.compact_revision() == older.compact_revision() {
            return Self(newest);
        }
        Self(Arc::new(newest.as_far_back_as(older)))
    }
}

impl watch::History for History {
    fn compact_revision(&self) -> i64 {
        self.0.compact_revision()
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), HistoryError> {
        let mut buffer = BytesMut::new();
        self.0
            .events(from, to, &mut |event| visit(written(&event, &mut buffer)))
            .map_err(|e| history_error(&e))
    }

    fn with_previous(&self, event: &Event) -> Result<Bytes, HistoryError> {
        let Some(previous) = event.previous else { return Ok(event.bytes.clone()) };
        let before = self.0.before(event.at, previous).map_err(|e| history_error(&e))?;
        Ok(before.map_or_else(|| event.bytes.clone(), |before| with_previous(&event.bytes, &before)))
    }
}

/// The events of one group.
pub fn events(written_rows: &GroupChanges) -> Result<Vec<Event>, HistoryError> {
    let mut buffer = BytesMut::new();
    let mut all = Vec::with_capacity(written_rows.len());
    for event in written_rows.events() {
        all.push(written(&event.map_err(|e| history_error(&e))?, &mut buffer));
    }
    Ok(all)
}

fn history_error(error: &ReadError) -> HistoryError {
    match error {
        ReadError::Compacted => HistoryError::Compacted,
        other => HistoryError::Failed(other.to_string()),
    }
}

/// Encodes the event. Its key shares the bytes, so that nothing else stays in memory.
fn written(event: &mvcc::Event, buffer: &mut BytesMut) -> Event {
    let delete = event.kind == EventKind::Delete;
    let kv_len = event.kv.encoded_len();
    let type_len = if delete { 2 } else { 0 };
    let length = type_len + 1 + varint_len(kv_len) + kv_len;
    let total = 1 + varint_len(length) + length;
    if buffer.capacity() < total {
        *buffer = BytesMut::with_capacity(BUFFER_BYTES.max(total));
    }
    buffer.put_u8(EVENTS);
    encode_varint(length as u64, buffer);
    if delete {
        buffer.put_slice(&[TYPE, DELETE]);
    }
    buffer.put_u8(KV);
    encode_varint(kv_len as u64, buffer);
    // A `KeyValue` starts with its key.
    let key_at = buffer.len() + 1 + varint_len(event.kv.key.len());
    event.kv.encode_to(buffer);
    let bytes = buffer.split().freeze();
    let key = bytes.slice(key_at..key_at + event.kv.key.len());
    // As in etcd, a put counts as a creation throughout the revision that created the key.
    let creates = !delete && event.kv.create_revision == event.kv.mod_revision;
    Event { at: event.at, delete, key, previous: event.previous.filter(|_| !creates), bytes }
}

fn with_previous(event: &[u8], before: &KeyValue) -> Bytes {
    let own = body(event);
    let kv_len = before.encoded_len();
    let length = own.len() + 1 + varint_len(kv_len) + kv_len;
    let mut out = BytesMut::with_capacity(1 + varint_len(length) + length);
    out.put_u8(EVENTS);
    encode_varint(length as u64, &mut out);
    out.put_slice(own);
    out.put_u8(PREV_KV);
    encode_varint(kv_len as u64, &mut out);
    before.encode_to(&mut out);
    out.freeze()
}

/// An event's fields, without tag and length.
fn body(event: &[u8]) -> &[u8] {
    let length = event[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    &event[1 + length..]
}

fn varint_len(number: usize) -> usize {
    encoded_len_varint(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::MemoryEngine;
    use mvcc::Store;
    use prost::Message as _;
    use proto::{etcdserverpb::WatchResponse, mvccpb};
    use types::{KeyRange, Revision};
    use watch::History as _;

    /// An event as etcd's clients see it: kind, version of the key, previous version.
    fn read(bytes: &Bytes) -> String {
        let response = WatchResponse::decode(&bytes[..]).unwrap();
        let [event] = &response.events[..] else { panic!("one event, not {response:?}") };
        let kind = mvccpb::event::EventType::try_from(event.r#type).unwrap().as_str_name();
        let show = |kv: &mvccpb::KeyValue| {
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            format!(
                "{key}={value} c{} m{} v{} l{}",
                kv.create_revision, kv.mod_revision, kv.version, kv.lease
            )
        };
        let before = event.prev_kv.as_ref().map_or_else(|| "-".to_owned(), show);
        format!("{kind} {} before {before}", show(event.kv.as_ref().unwrap()))
    }

    fn all(store: &Store) -> Vec<String> {
        let history = History::new(store.view());
        let mut seen = Vec::new();
        history
            .events(store.view().compact_revision().max(0), i64::MAX - 1, &mut |event| {
                assert_eq!(WatchResponse::decode(&event.bytes[..]).unwrap().events.len(), 1);
                seen.push(read(&history.with_previous(&event).unwrap()));
                ControlFlow::Continue(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn events_are_written_as_etcd_writes_them_with_the_version_before() {
        let mut store = Store::open(Arc::new(MemoryEngine::default())).unwrap();
        let feed = store.change_feed();
        feed.open();
        let mut group = store.begin();
        for value in ["1", "2"] {
            let mut txn = group.txn();
            txn.put("k".into(), value.into(), 7).unwrap();
            txn.end();
        }
        // One transaction puts a key and deletes it: the previous version is from before both.
        let mut txn = group.txn();
        txn.put("k".into(), "3".into(), 0).unwrap();
        txn.put("new".into(), "1".into(), 0).unwrap();
        txn.delete(&KeyRange::all()).unwrap();
        txn.put("k".into(), "4".into(), 0).unwrap();
        txn.put("k".into(), "5".into(), 0).unwrap();
        txn.delete(&KeyRange::all()).unwrap();
        txn.end();
        group.commit().unwrap();
        let expected = [
            "PUT k=1 c2 m2 v1 l7 before -",
            "PUT k=2 c2 m3 v2 l7 before k=1 c2 m2 v1 l7",
            "PUT k=3 c2 m4 v3 l0 before k=2 c2 m3 v2 l7",
            "PUT new=1 c4 m4 v1 l0 before -",
            "DELETE k= c0 m4 v0 l0 before k=2 c2 m3 v2 l7",
            "DELETE new= c0 m4 v0 l0 before -",
            "PUT k=4 c4 m4 v1 l0 before -",
            "PUT k=5 c4 m4 v2 l0 before -",
            "DELETE k= c0 m4 v0 l0 before k=2 c2 m3 v2 l7",
        ];
        assert_eq!(all(&store), expected);
        let taken = feed.take().groups;
        assert_eq!((taken.len(), taken[0].first(), taken[0].last()), (1, 2, 4));
        let live: Vec<Event> = events(&taken[0]).unwrap();
        let history = History::new(store.view());
        let live: Vec<String> = live.iter().map(|e| read(&history.with_previous(e).unwrap())).collect();
        assert_eq!(live, expected);
        // Versions before the compacted revision are not shown.
        let mut group = store.begin();
        group.compact(4).unwrap();
        group.commit().unwrap();
        let at_compacted = all(&store);
        assert!(at_compacted.iter().all(|event| event.ends_with("before -")), "{at_compacted:?}");
    }

    #[test]
    fn what_a_creation_followed_may_be_compacted() {
        let mut store = Store::open(Arc::new(MemoryEngine::default())).unwrap();
        let mut group = store.begin();
        let mut write = |puts: &[&'static str], delete: bool| {
            let mut txn = group.txn();
            for key in puts {
                txn.put((*key).into(), "1".into(), 0).unwrap();
            }
            if delete {
                txn.delete(&KeyRange::point("k")).unwrap();
            }
            txn.end();
        };
        write(&["k"], false);
        write(&[], true); // 3
        write(&["other"], false);
        write(&["k"], true); // 5: created and deleted
        group.compact(4).unwrap();
        group.commit().unwrap();
        while store.compact_step(1_000).unwrap() {}
        let expected = [
            "PUT other=1 c4 m4 v1 l0 before -",
            "PUT k=1 c5 m5 v1 l0 before -",
            "DELETE k= c0 m5 v0 l0 before -",
        ];
        assert_eq!(all(&store), expected);
    }

    #[test]
    fn a_tap_keeps_what_is_written_while_it_is_open_and_not_without_limit() {
        let mut store = Store::open(Arc::new(MemoryEngine::default())).unwrap();
        let feed = store.change_feed();
        let mut put = |bytes: usize| {
            let mut group = store.begin();
            let mut txn = group.txn();
            txn.put("k".into(), vec![b'v'; bytes].into(), 0).unwrap();
            txn.end();
            group.commit().unwrap();
        };
        put(1);
        assert!(feed.take().groups.is_empty(), "closed");
        feed.open();
        put(1);
        put(1);
        let firsts = |taken: &Changes| taken.groups.iter().map(GroupChanges::first).collect::<Vec<_>>();
        assert_eq!(firsts(&feed.take()), [3, 4]);
        assert!(feed.take().groups.is_empty(), "taken");
        for _ in 5..=14 {
            put(1 << 20);
        }
        let taken = feed.take();
        assert_eq!((taken.dropped, firsts(&taken)), (Some(12), vec![13, 14]), "the limit is 8 MiB");
        assert_eq!(feed.take().dropped, None, "told once");
        put(9 << 20);
        let taken = feed.take();
        assert_eq!((taken.dropped, firsts(&taken)), (Some(15), vec![]), "the newest is dropped too");
        put(1);
        feed.close();
        assert!(feed.take().groups.is_empty(), "closed again");
    }

    #[test]
    fn a_place_between_two_versions_is_none_of_the_first() {
        let key = Bytes::from_static(b"a key whose event is longer than 127 bytes");
        let kv = KeyValue { key: key.clone(), value: vec![7; 200].into(), ..KeyValue::default() };
        let at = Revision::new(5, 0);
        let event = mvcc::Event { at, kind: EventKind::Modify, kv: kv.clone(), previous: None };
        let event = written(&event, &mut BytesMut::new());
        assert_eq!(event.key, key);
        let response = WatchResponse::decode(&with_previous(&event.bytes, &kv)[..]).unwrap();
        let before = response.events[0].prev_kv.clone().unwrap();
        assert_eq!((before.key, before.value.len()), (key, 200));
    }
}
