//! Files as clients save them: whole, cut and changed.

use crate::world::World;
use bbolt::ReadAt as _;
use snapshot::{FileError, verify};
use std::io::Cursor;

/// Whether a file is taken, and what is in it.
fn verified(file: &[u8], skip_hash: bool) -> Result<Vec<u8>, String> {
    let verified = verify(tempfile(file), skip_hash).map_err(|error| error.to_string())?;
    let size = verified.size().expect("known");
    let mut content = vec![0; usize::try_from(size).expect("small")];
    verified.read_at(&mut content, 0).expect("all of it");
    assert!(verified.read_at(&mut [0], size).is_err(), "the checksum is not part of it");
    Ok(content)
}

fn tempfile(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::copy(&mut Cursor::new(bytes), &mut file).expect("written");
    file
}

#[test]
fn a_bit_that_changed_anywhere_is_found() {
    let file = World::some(2, 100).file(u64::MAX);
    let content = &file[..file.len() - 32];
    assert_eq!(verified(&file, false).as_deref(), Ok(content));
    for at in (0..file.len()).step_by(997).chain([file.len() - 1]) {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        let refusal = verified(&bad, false).expect_err("the hash is over everything");
        assert!(refusal.starts_with("expected sha256 ["), "{at}: {refusal}");
        assert_eq!(verified(&bad, true).map(|content| content.len()), Ok(content.len()));
    }
}

#[test]
fn a_file_that_was_cut_has_no_checksum_or_another() {
    let file = World::some(2, 100).file(u64::MAX);
    for length in (0..file.len()).step_by(509) {
        let refusal = verified(&file[..length], false).expect_err("no hash, or another");
        assert!(refusal.contains("hash") || refusal.contains("sha256"), "{length}: {refusal}");
    }
    assert!(matches!(verify(tempfile(&[0; 100]), false), Err(FileError::NoHash)));
    // etcd's own database has none.
    let content = &file[..file.len() - 32];
    assert_eq!(verified(content, true).as_deref(), Ok(content));
}
