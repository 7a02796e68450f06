//! How much is held and read at a time; values, so that tests can set them small and reach them.

/// Limits of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keys taken from the index at a time, so that a list holds no second copy of all its keys. Default 1,024.
    pub page_keys: usize,
    /// Bytes of values that end such a page early: its memory, and the work between two cancel checks. Default 1 MiB.
    pub page_bytes: usize,
    /// Bytes of rows that the change feed holds until they are taken. Default 8 MiB: a second of full load.
    pub feed_bytes: usize,
    /// The shape of the index's tree.
    pub shape: Shape,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_keys: 1_024, page_bytes: 1 << 20, feed_bytes: 8 << 20, shape: Shape::default() }
    }
}

/// The sizes of the index's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Keys in a leaf, at least 4. Default 48: a put copies the leaf's records, 20 bytes each; a new key also its keys.
    pub leaf_keys: usize,
    /// Bytes of keys in a leaf, so that copies stay short; one key always fits. Default 16 KiB.
    pub leaf_bytes: usize,
    /// Children of an inner node, at least 4. Default 16: a copy costs a cache miss for each child.
    pub children: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { leaf_keys: 48, leaf_bytes: 16 << 10, children: 16 }
    }
}
