//! Revisions: the logical clock of the key space.

/// A point in the history: `main` counts write transactions (an empty store is at 1), `sub` the changes within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The transaction's number, from 2 up.
    pub main: i64,
    /// The change within the transaction, from 0 up.
    pub sub: i64,
}

impl Revision {
    /// The length of [`Revision::encode`], in bytes.
    pub const ENCODED_LEN: usize = 17;

    /// A revision made of its two counters.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// etcd's 17 bytes, which sort as revisions do: main (8, big-endian), `_`, sub (8). In `HashKV` and bbolt files.
    pub fn encode(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [b'_'; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&self.main.to_be_bytes());
        out[9..].copy_from_slice(&self.sub.to_be_bytes());
        out
    }

    /// The inverse of [`Revision::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::ENCODED_LEN || bytes[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..].try_into().ok()?);
        Some(Self { main, sub })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_keeps_the_order_and_comes_back() {
        let points =
            [Revision::new(1, 0), Revision::new(2, 0), Revision::new(2, 300), Revision::new(1 << 40, 1)];
        for pair in points.windows(2) {
            assert!(pair[0].encode() < pair[1].encode());
        }
        for point in points {
            assert_eq!(Revision::decode(&point.encode()), Some(point));
        }
        assert_eq!(Revision::decode(b"short"), None);
    }
}
