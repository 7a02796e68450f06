//! Stored leases: `lease/` ++ id → TTL ++ remaining TTL, in seconds (8 bytes each, big-endian). No attachments.

use crate::Lease;
use types::LeaseId;

/// The prefix of every lease row's key.
pub const ROW_PREFIX: &[u8] = b"lease/";

const VALUE_LEN: usize = 16;

/// The key of a lease's row.
pub fn row_key(id: LeaseId) -> Vec<u8> {
    [ROW_PREFIX, &id.to_be_bytes()].concat()
}

impl Lease {
    /// The value of the lease's row.
    pub fn row_value(&self) -> Vec<u8> {
        [self.ttl.to_be_bytes(), self.remaining_ttl.to_be_bytes()].concat()
    }

    /// Decodes a row; `None` if it is not a lease's.
    pub fn from_row(key: &[u8], value: &[u8]) -> Option<Self> {
        let id = i64::from_be_bytes(key.strip_prefix(ROW_PREFIX)?.try_into().ok()?);
        if value.len() != VALUE_LEN {
            return None;
        }
        let ttl = i64::from_be_bytes(value[..8].try_into().ok()?);
        let remaining_ttl = i64::from_be_bytes(value[8..].try_into().ok()?);
        Some(Self::new(id, ttl, remaining_ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_went() {
        let lease = Lease::new(0x0102_0304, 60, 17);
        let (key, value) = (row_key(lease.id), lease.row_value());
        assert_eq!(key, b"lease/\0\0\0\0\x01\x02\x03\x04");
        assert_eq!(value, [0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 17]);
        assert_eq!(Lease::from_row(&key, &value), Some(lease));
    }

    #[test]
    fn what_is_not_a_row_is_not_read() {
        assert_eq!(Lease::from_row(b"lease/short", &[0; 16]), None);
        assert_eq!(Lease::from_row(&row_key(1), &[0; 15]), None);
        assert_eq!(Lease::from_row(b"alarm/00000000", &[0; 16]), None);
    }
}
