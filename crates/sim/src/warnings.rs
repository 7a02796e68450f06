//! Warnings of the core, for the trace and the oracles.

use slog::{Drain, KV as _, Level, Logger, Never, OwnedKVList, Record, o};
use std::fmt::{Arguments, Write as _};
use std::sync::{Arc, Mutex};

struct Collect(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl slog::Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}

impl Drain for Collect {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        // raft-rs logs every election as information; warnings are ours, errors may be either's.
        if record.level().is_at_least(Level::Warning) && record.module().starts_with("raft_node") {
            let mut text = Text(record.msg().to_string());
            if record.kv().serialize(record, &mut text).is_err() {
                text.0 += " (and more)";
            }
            types::lock(&self.0).push(text.0);
        }
        Ok(())
    }
}

pub(crate) fn logger(warnings: &Arc<Mutex<Vec<String>>>) -> Logger {
    Logger::root(Collect(Arc::clone(warnings)), o!())
}
