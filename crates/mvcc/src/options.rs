//! How much is held and read at a time. Every figure is a value, so that tests can make it small and reach it.

/// Limits of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keys taken from the index at a time, so that a long list holds no second copy of all its keys. Default 1,024.
    pub page_keys: usize,
    /// Bytes of values that end such a page early: what is held of a page beside its answer, and what is read between two
    /// looks at whether anybody still waits. Default 1 MiB.
    pub page_bytes: usize,
    /// Rows written that may wait to be taken from the tap, in bytes. Default 8 MiB: a second of full load, as when a
    /// runtime's thread is busy for long.
    pub tap_bytes: usize,
    /// The tree that the index is.
    pub shape: Shape,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_keys: 1_024, page_bytes: 1 << 20, tap_bytes: 8 << 20, shape: Shape::default() }
    }
}

/// The nodes of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Keys in a leaf, at least 4. Default 48: a put copies one leaf's records (about 20 bytes a key), a new key the leaf's
    /// keys too.
    pub leaf_keys: usize,
    /// Bytes of keys in a leaf, so that long keys do not make its copies long. A leaf may always hold one key. Default
    /// 16 KiB.
    pub leaf_bytes: usize,
    /// Children of an inner node, at least 4. Default 16: copying a node counts up a reference in each child, a cache miss
    /// apiece, so few is better.
    pub children: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { leaf_keys: 48, leaf_bytes: 16 << 10, children: 16 }
    }
}
