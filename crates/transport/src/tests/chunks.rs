//! Chunked framing, in pieces of any size.

use crate::chunk::{ChunkDecoder, ChunkError};
use bytes::BytesMut;
use proptest::{collection::vec, prelude::*};

/// The data, whether the body ended, and how many bytes belong to it.
fn read(input: &[u8], piece: usize) -> Result<(Vec<u8>, bool, usize), ChunkError> {
    let (mut decoder, mut out, mut taken) = (ChunkDecoder::default(), BytesMut::new(), 0);
    for part in input.chunks(piece) {
        taken += decoder.feed(part, &mut out)?;
    }
    Ok((out.to_vec(), decoder.is_done(), taken))
}

fn check(input: &str, expected: Result<(&str, bool, usize), ChunkError>) {
    let expected = expected.map(|(data, done, taken)| (data.as_bytes().to_vec(), done, taken));
    for piece in [1, 2, 3, 1000] {
        assert_eq!(read(input.as_bytes(), piece), expected, "{input:?} in pieces of {piece}");
    }
}

#[test]
fn chunks_are_joined_and_the_end_is_seen() {
    check("3\r\nabc\r\n1\r\nd\r\n", Ok(("abcd", false, 14)));
    check("3;x=y\r\nabc\r\n0\r\n\r\nnext", Ok(("abc", true, 17)));
    check("0A\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n", Ok(("0123456789", true, 35)));
    check("5\r\nab", Ok(("ab", false, 5)));
}

#[test]
fn what_is_no_chunk_is_an_error() {
    check("\r\n", Err(ChunkError::Size));
    check("g\r\n", Err(ChunkError::Size));
    check("-1\r\n", Err(ChunkError::Size));
    check("1\nab", Err(ChunkError::Size));
    check("1\r\nabc", Err(ChunkError::End));
    check("1\rx", Err(ChunkError::End));
    check("ffffffffffffffff\r\n", Err(ChunkError::Size));
    check(&format!("1;{}\r\n", "x".repeat(5000)), Err(ChunkError::Line));
    check(&format!("0\r\n{}", "x".repeat(5000)), Err(ChunkError::Line));
}

proptest! {
    #[test]
    fn any_chunks_in_any_pieces(chunks in vec(vec(any::<u8>(), 1..40), 0..10), piece in 1..60usize) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        prop_assert_eq!(read(&wire, piece), Ok((chunks.concat(), true, wire.len())));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300), piece in 1..60usize) {
        let _ = read(&bytes, piece);
    }
}
