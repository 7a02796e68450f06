//! Text as Go's standard library writes and reads it, for that is what etcdctl's users see and type.

pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod quote;
pub(crate) mod table;
pub(crate) mod words;
