//! Golden bytes of etcd 3.7.3: the start of the first segment of a new member of three.

use bytes::Bytes;
use types::{Entry, EntryKind};
use wal::{MemDisk, Wal};

fn unhex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)?.try_into().ok()).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

#[test]
fn a_fresh_log_is_etcds_byte_by_byte() {
    let metadata = unhex("08 e4dcecc9d1dc86df29 10 dc9bd29cd7a18abc62");
    let member = br#"{"id":2282271497369465777,"peerURLs":["http://127.0.0.1:41480"],"name":"b"}"#;
    let mut change = unhex("10 00 18 b1e7d2cddbba90d61f 22 4b");
    change.extend_from_slice(member);

    let mut expected = unhex(
        "0400000000000084 08 04 10 00 00000000
         1e00000000000082 08 01 10 e4c7d8d606 1a 14 08 e4dcecc9d1dc86df29 10 dc9bd29cd7a18abc62 0000
         0e00000000000082 08 05 10 f3ecddbb08 1a 04 08 00 10 00 0000
         6b00000000000085 08 02 10 f088c8c705 1a 61 08 01 10 01 18 01 22 59",
    );
    expected.extend_from_slice(&change);
    expected.extend_from_slice(&[0; 5]);
    assert_eq!(expected.len(), 0xc8);

    let disk = MemDisk::new();
    let mut wal = Wal::create(disk.clone(), &metadata).expect("create");
    let entry = Entry { term: 1, index: 1, kind: EntryKind::ConfChange, data: Bytes::from(change) };
    wal.append(&[entry], None).expect("append");
    assert_eq!(disk.bytes("0000000000000000-0000000000000000.wal").expect("bytes"), expected);
}
