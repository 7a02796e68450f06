//! Damage: what is refused and with which message, and that nothing wrong is ever read.

use bytes::Bytes;
use proptest::prelude::*;
use types::{Entry, EntryKind, HardState};
use wal::{Disk, DiskFile, MemDisk, Options, Wal, WalError};

const FIRST: &str = "0000000000000000-0000000000000000.wal";
const OPTIONS: Options = Options { segment_bytes: 6_000, ..Options::DEFAULT };
const METADATA: &[u8] = b"whose";

fn entry(index: u64, size: usize) -> Entry {
    let byte = index.to_le_bytes()[0] | 0x80;
    Entry { term: 1 + index / 10, index, kind: EntryKind::Normal, data: Bytes::from(vec![byte; size]) }
}

/// A synced log of entries with these sizes, one batch each.
fn log(options: Options, sizes: &[usize]) -> (MemDisk, Vec<Entry>) {
    let disk = MemDisk::new();
    let mut wal = Wal::create_with(disk.clone(), METADATA, options).expect("create");
    let entries: Vec<Entry> = (1..).zip(sizes).map(|(index, &size)| entry(index, size)).collect();
    for entry in &entries {
        let state = HardState { term: entry.term, vote: 1, commit: entry.index - 1 };
        wal.append(std::slice::from_ref(entry), Some(&state)).expect("append");
        wal.sync().expect("sync");
    }
    wal.close().expect("close");
    (disk, entries)
}

fn segments(disk: &MemDisk) -> Vec<String> {
    let mut names = disk.list().expect("list");
    names.retain(|name| std::path::Path::new(name).extension().is_some_and(|e| e == "wal"));
    names
}

fn end_of(disk: &MemDisk, name: &str) -> u64 {
    let bytes = disk.bytes(name).expect("bytes");
    let mut at = 0;
    while let Some(word) =
        bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")))
    {
        if word == 0 {
            break;
        }
        at += 8 + usize::try_from((word & ((1 << 56) - 1)) + (word >> 56 & 7)).expect("a length");
    }
    at as u64
}

fn open(disk: &MemDisk, options: Options) -> Result<(Wal<MemDisk>, wal::Replayed), WalError> {
    Wal::open_with(disk.clone(), options)
}

/// Checks that the log is refused with this message and left unchanged.
fn check_refused(disk: &MemDisk, options: Options, expected: &str) {
    let names = disk.list().expect("list");
    let before: Vec<_> = names.iter().map(|name| disk.bytes(name)).collect();
    let error = open(disk, options).map(|(wal, _)| wal).expect_err("damage is refused");
    assert_eq!(error.to_string(), expected);
    assert_eq!(disk.list().expect("list"), names, "no file came or went");
    let after: Vec<_> = names.iter().map(|name| disk.bytes(name)).collect();
    assert!(before == after, "no file changed");
}

/// Checks that the log opens, repaired at this offset of this segment, and holds these entries.
fn check_repaired(disk: &MemDisk, options: Options, file: &str, offset: u64, entries: &[Entry]) {
    let (wal, replayed) = open(disk, options).expect("a torn end is repaired");
    let repair = replayed.repaired.expect("there was something to repair");
    assert_eq!((&repair.file[..], repair.offset), (file, offset));
    let broken = disk.bytes(&format!("{file}.broken")).expect("it is set aside");
    assert_eq!(broken.len() as u64, repair.bytes);
    assert_eq!(wal.entries(1, wal.last_index() + 1, u64::MAX).expect("entries"), entries);
    drop(wal);
    let (_, replayed) = open(disk, options).expect("once is enough");
    assert_eq!(replayed.repaired, None);
}

const WIDE: Options = Options { segment_bytes: 100_000, ..Options::DEFAULT };

#[test]
fn a_flipped_bit_in_the_middle_is_refused() {
    let (disk, _) = log(WIDE, &[50; 40]);
    disk.damage(FIRST, 1030, &[0x55]);
    check_refused(&disk, WIDE, &format!("wal: {FIRST} is corrupt at offset 1000: checksum mismatch"));
}

#[test]
fn a_flipped_bit_is_refused_without_the_superblock_too() {
    let (disk, _) = log(WIDE, &[50; 40]);
    disk.remove("superblock").expect("remove");
    let end = end_of(&disk, FIRST);
    // In the middle of a record; in the last one; in the length word of the last one and of the one before.
    for at in [1030, end - 8, end - 24, end - 20, end - 60, end - 104] {
        let copy = disk.copy();
        copy.damage(FIRST, at, &[0x55]);
        let error = open(&copy, WIDE).map(|(wal, _)| wal).expect_err("damage is refused");
        assert!(
            matches!(error, WalError::Corrupt { offset, .. } if offset <= at && offset + 90 > at),
            "{error}"
        );
    }
}

#[test]
fn a_sector_of_zeros_in_what_was_synced_is_refused() {
    let (disk, _) = log(WIDE, &[700; 40]);
    disk.damage(FIRST, 1024, &[0; 512]);
    let what = "is corrupt at offset 816: the log ends here, but was durable up to segment 0000000000000000, \
                offset 30144";
    check_refused(&disk, WIDE, &format!("wal: {FIRST} {what}"));
}

#[test]
fn a_sector_of_zeros_far_from_the_end_is_refused_without_the_superblock_too() {
    let wide = Options::DEFAULT;
    let (disk, _) = log(wide, &[200_000; 100]);
    disk.remove("superblock").expect("remove");
    let end = end_of(&disk, FIRST);
    disk.damage(FIRST, 1024, &[0; 512]);
    let what = format!("checksum mismatch, but good records follow up to offset {end}");
    check_refused(&disk, wide, &format!("wal: {FIRST} is corrupt at offset 64: {what}"));
}

#[test]
fn a_log_cut_short_is_refused() {
    let (disk, _) = log(WIDE, &[50; 40]);
    let what = "is corrupt at offset 976: the log ends here, but was durable up to segment 0000000000000000, \
                offset 4224";
    let copy = disk.copy();
    copy.damage_len(FIRST, 976);
    check_refused(&copy, WIDE, &format!("wal: {FIRST} {what}"));
    disk.damage_len(FIRST, 990);
    check_refused(&disk, WIDE, &format!("wal: {FIRST} {what}"));
}

#[test]
fn a_missing_segment_is_refused() {
    let (disk, _) = log(OPTIONS, &[700; 40]);
    let names = segments(&disk);
    assert!(names.len() > 4);
    let copy = disk.copy();
    copy.remove(&names[2]).expect("remove");
    let what = "is corrupt at offset 0: segment 0000000000000002 should come before it and is missing";
    check_refused(&copy, OPTIONS, &format!("wal: {} {what}", names[3]));
    let last = names.last().expect("segments");
    disk.remove(last).expect("remove");
    let error = open(&disk, OPTIONS).map(|(wal, _)| wal).expect_err("its end is missing").to_string();
    assert!(error.contains("the log ends here, but was durable up to segment 0000000000000005"), "{error}");
}

#[test]
fn segments_of_another_log_are_refused() {
    let (disk, _) = log(OPTIONS, &[700; 40]);
    let (other, _) = log(OPTIONS, &[701; 40]);
    let name = segments(&disk)[1].clone();
    let bytes = other.bytes(&segments(&other)[1]).expect("bytes");
    disk.damage_len(&name, 0);
    disk.damage(&name, 0, &bytes);
    let what = "is corrupt at offset 0: the running checksum is not that of the segment before";
    check_refused(&disk, OPTIONS, &format!("wal: {name} {what}"));
}

#[test]
fn a_log_older_than_its_superblock_is_refused() {
    let (disk, _) = log(WIDE, &[50; 10]);
    let old = disk.bytes(FIRST).expect("bytes");
    let (newer, _) = log(WIDE, &[51; 11]);
    newer.damage_len(FIRST, 0);
    newer.damage(FIRST, 0, &old);
    let error = open(&newer, WIDE).map(|(wal, _)| wal).expect_err("it is another log").to_string();
    assert!(error.contains("durable up to segment 0000000000000000"), "{error}");
}

#[test]
fn a_torn_record_is_repaired() {
    let (disk, entries) = log(WIDE, &[50; 10]);
    let end = end_of(&disk, FIRST);
    // The first sector of a longer record reached the disk, the others did not.
    let copy = disk.copy();
    copy.damage(FIRST, end, &1500_u64.to_le_bytes());
    copy.damage(FIRST, end + 8, &[8, 2, 0x10, 1, 0x1a, 100]);
    check_repaired(&copy, WIDE, FIRST, end, &entries);
    // The first sector did not reach the disk, a later one did.
    let copy = disk.copy();
    copy.damage(FIRST, end + 1024, &[7; 100]);
    check_repaired(&copy, WIDE, FIRST, end, &entries);
    // The record runs over the end of the file: its growth was lost.
    disk.damage(FIRST, end, &200_000_u64.to_le_bytes());
    check_repaired(&disk, WIDE, FIRST, end, &entries);
}

#[test]
fn the_log_goes_on_after_a_repair_as_if_nothing_had_been() {
    let (disk, mut entries) = log(WIDE, &[50; 10]);
    let end = end_of(&disk, FIRST);
    disk.damage(FIRST, end + 1024, &[7; 3000]);
    let (mut wal, replayed) = open(&disk, WIDE).expect("open");
    assert!(replayed.repaired.is_some());
    let more: Vec<Entry> = (11..20).map(|index| entry(index, 400)).collect();
    wal.append(&more, None).expect("append");
    wal.sync().expect("sync");
    drop(wal);
    entries.extend(more);
    let (wal, replayed) = open(&disk, WIDE).expect("open");
    assert_eq!(replayed.repaired, None);
    assert_eq!(wal.entries(1, 20, u64::MAX).expect("entries"), entries);
}

#[test]
fn an_entry_that_changed_on_disk_is_not_handed_out() {
    let (disk, entries) = log(WIDE, &[50; 40]);
    let (wal, _) = open(&disk, WIDE).expect("open");
    disk.damage(FIRST, 1030, &[0x55]);
    assert_eq!(wal.entries(1, 9, u64::MAX).expect("before it"), entries[..8]);
    let error = wal.entries(1, 41, u64::MAX).expect_err("the damaged one");
    let what = "this entry is not what it was when it was written";
    assert_eq!(error.to_string(), format!("wal: {FIRST} is corrupt at offset 1000: {what}"));
}

#[test]
fn entries_are_handed_out_within_the_budget_and_at_least_one() {
    let (disk, entries) = log(OPTIONS, &[300; 40]);
    let (wal, _) = open(&disk, OPTIONS).expect("open");
    let lengths: Vec<usize> = [0, 300, 700, 5000, u64::MAX]
        .iter()
        .map(|&max| wal.entries(5, 41, max).expect("entries").len())
        .collect();
    assert_eq!(lengths, [1, 1, 2, 15, 36]);
    assert_eq!(wal.entries(7, 7, 0).expect("none"), []);
    assert_eq!(wal.entries(40, 41, 0).expect("the last"), entries[39..]);
    let error = wal.entries(0, 3, 0).expect_err("there is no entry 0").to_string();
    assert_eq!(error, "wal: entries [0, 3) asked of a log that holds [1, 41)");
    wal.entries(40, 42, 0).expect_err("there is no entry 41");
}

#[test]
fn entries_that_leave_a_gap_are_refused_and_the_log_lives_on() {
    let (disk, _) = log(OPTIONS, &[30; 4]);
    let (mut wal, _) = open(&disk, OPTIONS).expect("open");
    for wrong in [vec![entry(6, 1)], vec![entry(5, 1), entry(7, 1)], vec![entry(0, 1)]] {
        assert!(matches!(wal.append(&wrong, None), Err(WalError::OutOfRange { .. })));
    }
    wal.append(&[entry(5, 1)], None).expect("the next one");
}

/// Checks that a damaged log gives a prefix of the entries, and nothing else.
fn check_reads_nothing_wrong(disk: &MemDisk, entries: &[Entry], least: usize) {
    let Ok((wal, _)) = open(disk, OPTIONS) else { return };
    let last = usize::try_from(wal.last_index()).expect("small");
    assert!(last >= least, "{last} entries where {least} were durable");
    assert_eq!(wal.first_index(), 1);
    assert_eq!(wal.entries(1, wal.last_index() + 1, u64::MAX).expect("they were just read"), entries[..last]);
}

#[derive(Clone, Debug)]
enum Damage {
    Byte(u16, u8),
    Zeros(u16, u16),
    Cut(u16),
    Copy(u16, u16, u16),
    Word(u16, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<u16>(), 1..2000_u16).prop_map(|(at, length)| Damage::Zeros(at, length)),
        any::<u16>().prop_map(Damage::Cut),
        (any::<u16>(), any::<u16>(), 1..600_u16)
            .prop_map(|(from, to, length)| Damage::Copy(from, to, length)),
        (any::<u16>(), prop_oneof![any::<u64>(), 0..3000_u64]).prop_map(|(at, word)| Damage::Word(at, word)),
    ]
}

impl Damage {
    fn inflict(&self, disk: &MemDisk, which: usize) {
        let names = segments(disk);
        let name = &names[which % names.len()];
        let end = usize::try_from(end_of(disk, name)).expect("small").max(1);
        let at = |n: &u16| usize::from(*n) % end / 8 * 8;
        match self {
            Self::Byte(n, byte) => disk.damage(name, (usize::from(*n) % end) as u64, &[*byte]),
            Self::Zeros(n, length) => disk.damage(name, at(n) as u64, &vec![0; usize::from(*length)]),
            Self::Cut(n) => disk.damage_len(name, (usize::from(*n) % end) as u64),
            Self::Word(n, word) => disk.damage(name, at(n) as u64, &word.to_le_bytes()),
            Self::Copy(from, to, length) => {
                let bytes = disk.bytes(name).expect("bytes");
                let from = at(from);
                let to_end = bytes.get(from..).unwrap_or_default();
                let piece = &to_end[..to_end.len().min(usize::from(*length))];
                disk.damage(name, at(to) as u64, piece);
            }
        }
    }
}

/// The number of cases, unless `PROPTEST_CASES` sets it.
fn cases(count: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(count);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn no_damage_makes_a_log_hold_what_was_never_written(
        sizes in proptest::collection::vec(prop_oneof![0..40_usize, 200..1500_usize], 1..40),
        damages in proptest::collection::vec((any::<usize>(), damage()), 1..4),
        superblock in any::<bool>(),
    ) {
        let (disk, entries) = log(OPTIONS, &sizes);
        if !superblock {
            disk.remove("superblock").expect("remove");
        }
        for (which, damage) in &damages {
            damage.inflict(&disk, *which);
        }
        check_reads_nothing_wrong(&disk, &entries, if superblock { entries.len() } else { 0 });
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(
        bytes in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 2 => 0..32_u8, 1 => any::<u8>()], 0..400),
        after_a_head in any::<bool>(),
        last in any::<bool>(),
    ) {
        let (disk, entries) = log(OPTIONS, if last { &[30; 3] } else { &[2000; 8] });
        disk.remove("superblock").expect("remove");
        let at = if after_a_head { end_of(&disk, FIRST) } else { 0 };
        disk.damage(FIRST, at, &bytes);
        check_reads_nothing_wrong(&disk, &entries, 0);
    }

    /// Records with valid checksums and arbitrary content must not make any reader panic.
    #[test]
    fn well_formed_records_of_any_content_are_refused_or_read_without_a_panic(
        records in proptest::collection::vec((0..7_i64, proptest::collection::vec(prop_oneof![
            3 => 0..0x30_u8, 1 => any::<u8>()], 0..24)), 0..12),
        seq in 0..2_u64,
    ) {
        use prost::Message;
        let disk = MemDisk::new();
        let mut bytes = Vec::new();
        let mut crc = 0;
        let head = [(4, Vec::new()), (1, METADATA.to_vec())];
        for (kind, data) in head.into_iter().chain(records) {
            crc = crc32c::crc32c_append(crc, &data);
            let record = proto::walpb::Record { r#type: Some(kind), crc: Some(crc), data: Some(data.into()) };
            let record = record.encode_to_vec();
            let padding = (8 - record.len() % 8) % 8;
            let flag = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
            bytes.extend((record.len() as u64 | flag).to_le_bytes());
            bytes.extend(record);
            bytes.extend(vec![0; padding]);
        }
        let mut file = disk.create(&format!("{seq:016x}-0000000000000005.wal"), 0).expect("create");
        file.write_at(&bytes, 0).expect("write");
        if let Ok((mut wal, _)) = open(&disk, OPTIONS) {
            let (first, last) = (wal.first_index(), wal.last_index());
            prop_assert_eq!(wal.entries(first, last + 1, u64::MAX).expect("entries").len() as u64, last + 1 - first);
            let next = Entry { term: 1, index: last + 1, kind: EntryKind::Normal, data: Bytes::new() };
            let _ = wal.append(&[next], None);
            let _ = wal.release(last);
        }
    }
}
