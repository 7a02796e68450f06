//! Protobuf varints, used in rows, log records and snapshots.

use bytes::BufMut;

/// The longest encoding, in bytes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends the number: seven bits a byte, low bits first.
pub fn put(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(low_byte(number) | 0x80);
        number >>= 7;
    }
    out.put_u8(low_byte(number));
}

/// The number of bytes that [`put`] appends.
#[inline]
pub fn len(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a number and advances; `None` for bytes that end early, run too long, or exceed 64 bits.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    // Lists of keys read millions of short ones.
    match bytes.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *bytes = rest;
            Some(byte.into())
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        if at == VARINT_BYTES_MAX - 1 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    None
}

/// [`take`], with the bits read as an `i64`.
#[inline]
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
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
        assert_eq!(take(&mut &[0xff; 11][..]), None, "it runs on");
        assert_eq!(
            take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]),
            None,
            "65 bits"
        );
    }
}
