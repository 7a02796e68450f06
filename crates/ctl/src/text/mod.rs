//! The text formats of etcdctl: Go's JSON, tables, sizes and quoted words.

pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod words;
