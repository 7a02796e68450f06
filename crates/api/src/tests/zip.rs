//! Compression, against flate2's own reader and writer.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use super::*;
use flate2::{read::GzDecoder, write::GzEncoder};
use std::io::Write;
use tonic::Code;

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap());
    out.put_slice(message);
    out.freeze()
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Level::default());
    out.write_all(message).unwrap();
    out.finish().unwrap()
}

fn gunzip(packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut out).unwrap();
    out
}

/// Bytes that compress, but not to nothing.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2] & 31).collect()
}

fn small() -> Zip {
    Zip::new(Compression { inline_bytes: 100, step_bytes: 64, turns: 1, ..Compression::default() })
}

fn refused(result: Result<Bytes, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn messages_of_every_length_come_back() {
    for zip in [small(), Zip::new(Compression::default())] {
        for length in [1, 2, 50, 94, 95, 96, 97, 100, 101, 1_000, 20_000, 70_000] {
            let message = text(length);
            let packed = zip.pack(framed(&message)).await.unwrap();
            assert_eq!(packed[0], 1);
            let announced = u32::from_be_bytes(packed[1..5].try_into().unwrap());
            assert_eq!(announced as usize, packed.len() - PREFIX_BYTES);
            assert_eq!(gunzip(&packed[PREFIX_BYTES..]), message, "{length}");
            let unpacked = zip.unpack(gzip(&message).into(), length).await.unwrap();
            assert_eq!(unpacked, message, "{length}");
        }
        assert_eq!(zip.pack(framed(b"")).await.unwrap(), framed(b""), "nothing stays nothing");
    }
}

#[tokio::test]
async fn what_comes_out_is_bounded() {
    let bomb = Bytes::from(gzip(&vec![0; 50 << 20]));
    for zip in [small(), Zip::new(Compression::default())] {
        let text = "grpc: received message after decompression larger than max 2097152".to_owned();
        assert_eq!(refused(zip.unpack(bomb.clone(), 2 << 20).await), (Code::ResourceExhausted, text));
        let exact = gzip(&[7; 300]);
        assert_eq!(zip.unpack(exact.clone().into(), 300).await.unwrap(), [7; 300][..]);
        assert_eq!(refused(zip.unpack(exact.into(), 299).await).0, Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn rubbish_is_refused_in_gos_words() {
    let zip = small();
    let check = async |packed: &[u8], expected: &str| {
        let found = refused(zip.unpack(Bytes::copy_from_slice(packed), 1 << 20).await);
        assert_eq!(found, (Code::Internal, format!("grpc: failed to {expected}")), "{packed:?}");
    };
    let good = gzip(&text(1_000));
    check(b"", "decompress the message: EOF").await;
    check(b"\x1f", "decompress the message: unexpected EOF").await;
    check(b"this is no gzip at all", "decompress the message: gzip: invalid header").await;
    check(&good[..good.len() / 2], "read decompressed data: unexpected EOF").await;
    check(&good[..good.len() - 3], "read decompressed data: unexpected EOF").await;
    let mut wrong = good.clone();
    let end = wrong.len();
    wrong[end - 6] ^= 1;
    check(&wrong, "read decompressed data: gzip: invalid checksum").await;
    let corrupt = [&good[..10], &[0xff; 50]].concat();
    check(&corrupt, "read decompressed data: flate: corrupt input").await;
    check(&[gzip(b"ab"), vec![b'x'; 12]].concat(), "read decompressed data: gzip: invalid header").await;
    // As in Go, consecutive gzip members form one message.
    let two = [gzip(b"ab"), gzip(b"cd")].concat();
    assert_eq!(zip.unpack(two.into(), 10).await.unwrap(), b"abcd"[..]);
}

#[tokio::test]
async fn the_work_of_a_client_that_has_gone_ends_with_its_step() {
    let zip = Arc::new(Zip::new(Compression {
        inline_bytes: 0,
        step_bytes: 4 << 10,
        turns: 1,
        ..Compression::default()
    }));
    let message = framed(&text(64 << 20));
    for _ in 0..20 {
        let own = Arc::clone(&zip);
        let message = message.clone();
        let gone = tokio::spawn(async move { own.pack(message).await });
        tokio::task::yield_now().await;
        gone.abort();
    }
    // Twenty times 64 MiB would take minutes here.
    let packed = tokio::time::timeout(std::time::Duration::from_secs(20), zip.pack(framed(&text(10_000))));
    assert_eq!(gunzip(&packed.await.unwrap().unwrap()[PREFIX_BYTES..]), text(10_000));
}
