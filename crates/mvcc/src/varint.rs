//! Protobuf's varints: the one integer coding of rows, records and `KeyValue`.

use bytes::BufMut;

/// The most bytes a varint takes.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends the number, seven bits a byte, low bits first.
pub(crate) fn put(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(low_byte(number) | 0x80);
        number >>= 7;
    }
    out.put_u8(low_byte(number));
}

/// How many bytes [`put`] appends.
pub(crate) fn len(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a number and moves past it; `None` when the bytes end early or run on for too long.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    None
}

/// As [`take`], for the counters, which are never negative.
pub(crate) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take(bytes).map(u64::cast_signed)
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0] & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_lengths_are_right() {
        for number in [0, 1, 127, 128, 300, 1 << 14, (1 << 35) - 1, u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, number);
            assert_eq!(out.len(), len(number), "length of {number}");
            let mut rest = &out[..];
            assert_eq!(take(&mut rest), Some(number));
            assert!(rest.is_empty());
            assert_eq!(take(&mut &out[..out.len() - 1]), None, "{number} cut short");
        }
    }
}
