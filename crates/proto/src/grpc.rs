//! gRPC on the wire: the prefix of a message, and the units of a timeout.

use bytes::BufMut;
use std::time::Duration;

/// Bytes before each message: whether it is compressed, and its length.
pub const PREFIX_BYTES: usize = 5;

/// Appends the prefix of an uncompressed message. A length that does not fit becomes the greatest: refuse it before.
pub fn put_prefix(out: &mut impl BufMut, length: u64) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// A timeout in one of gRPC's units, `H`, `M`, `S`, `m`, `u` or `n`; `None` for another unit.
pub fn timeout(count: u64, unit: &[u8]) -> Option<Duration> {
    Some(match unit {
        b"H" => Duration::from_secs(count.saturating_mul(3_600)),
        b"M" => Duration::from_secs(count.saturating_mul(60)),
        b"S" => Duration::from_secs(count),
        b"m" => Duration::from_millis(count),
        b"u" => Duration::from_micros(count),
        b"n" => Duration::from_nanos(count),
        _ => return None,
    })
}
