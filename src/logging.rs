//! Logs: slog records as etcd's zap lines (`level ts caller msg` and fields), or as lines for people.
//!
//! ```text
//! slog! ─▶ level ─▶ sampler (100 a second from a place, then one in 100) ─▶ a line ─▶ writer's queue ─▶ thread `log`
//! ```
//!
//! Lines and fields are bounded, and a logger never waits for the output; but a critical line is out before the call
//! returns.

mod sampler;
mod writer;

pub(crate) use sampler::Sampling;
pub(crate) use writer::{Lost, Queue, Writer};

use crate::config;
use sampler::{Sampler, Verdict};
use slog::{Drain, KV, Level, OwnedKVList, Record};
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

/// Bytes of a text field; a longer one is cut, and says so. Clients choose some: a host name may fill a request's head.
const FIELD_BYTES_MAX: usize = 4 << 10;

pub(crate) struct Logs {
    pub(crate) logger: slog::Logger,
    /// What was not written.
    pub(crate) lost: Arc<Lost>,
    writer: Arc<Writer>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.writer.flush();
    }
}

impl Logs {
    /// Waits until what was said is written; for two seconds at most.
    pub(crate) fn flush(&self) {
        self.writer.flush();
    }
}

/// The root logger for this configuration. Fails where a log file cannot be opened.
pub(crate) fn start(settings: &config::Log) -> io::Result<Logs> {
    let mut outputs = Vec::new();
    for output in &settings.outputs {
        let write: Box<dyn Write + Send> = match output.as_str() {
            "default" | "stderr" => Box::new(io::stderr()),
            "stdout" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        outputs.push(write);
    }
    let lost = Arc::new(Lost::default());
    let writer = Arc::new(Writer::start(Queue::default(), outputs, Arc::clone(&lost))?);
    let lines = Lines {
        is_console: settings.is_console,
        sampler: Sampler::new(Sampling::default()),
        writer: Arc::clone(&writer),
        lost: Arc::clone(&lost),
    };
    let least = settings.level;
    let shown = move |record: &Record<'_>| importance(record).is_at_least(least);
    Ok(Logs { logger: slog::Logger::root(lines.filter(shown).fuse(), slog::o!()), lost, writer })
}

/// A record's level; what raft-rs tells at `info` of its inner life is for debugging, the node tells of elections
/// itself.
fn importance(record: &Record<'_>) -> Level {
    match record.level() {
        Level::Info if record.module().starts_with("raft::") => Level::Debug,
        level => level,
    }
}

struct Lines {
    is_console: bool,
    sampler: Sampler,
    writer: Arc<Writer>,
    lost: Arc<Lost>,
}

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        let Verdict::Write(left_out) = self.sampler.judge(record) else {
            self.lost.sampled.fetch_add(1, Relaxed);
            return Ok(());
        };
        let mut fields = Fields(Vec::new());
        if left_out > 0 {
            fields.0.push(("left-out", left_out.into()));
        }
        // A field that cannot be shown is left out; the line is worth more than its field.
        let _ = values.serialize(record, &mut fields);
        let _ = record.kv().serialize(record, &mut fields);
        let line = if self.is_console { console(record, &fields) } else { json(record, &fields) };
        self.writer.line(line);
        if record.level() == Level::Critical {
            // The process ends.
            self.writer.flush();
        }
        Ok(())
    }
}

fn json(record: &Record<'_>, fields: &Fields) -> String {
    let mut map = serde_json::Map::new();
    let mut set = |key: &str, value: String| map.insert(key.to_owned(), serde_json::Value::String(value));
    set("level", level(importance(record)).to_owned());
    set("ts", timestamp(SystemTime::now()));
    set("caller", caller(record));
    set("msg", record.msg().to_string());
    // slog hands the fields over last first.
    for (key, value) in fields.0.iter().rev() {
        map.insert((*key).to_owned(), value.clone());
    }
    let mut line = serde_json::Value::Object(map).to_string();
    line.push('\n');
    line
}

fn console(record: &Record<'_>, fields: &Fields) -> String {
    let mut line =
        format!("{} {:<5} {}", timestamp(SystemTime::now()), level(importance(record)), record.msg());
    for (key, value) in fields.0.iter().rev() {
        let _ = write!(line, " {key}={value}");
    }
    line.push('\n');
    line
}

fn caller(record: &Record<'_>) -> String {
    let file = record.file();
    let short = file.rsplit_once("/src/").map_or(file, |(root, rest)| {
        let start = file.len() - rest.len() - "/src/".len() - root.rsplit('/').next().map_or(0, str::len);
        &file[start..]
    });
    format!("{short}:{}", record.line())
}

/// zap's words; it has no `trace`, and what is critical here ends the process.
fn level(level: Level) -> &'static str {
    match level {
        Level::Critical => "fatal",
        Level::Error => "error",
        Level::Warning => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

/// RFC 3339 in UTC with microseconds, as zap is set up in etcd: `2006-01-02T15:04:05.000000Z`.
fn timestamp(now: SystemTime) -> String {
    let now = jiff::Timestamp::try_from(now).unwrap_or_default();
    format!("{now:.6}")
}

/// A field as it is, or its beginning and how long it is.
fn cut(mut text: String) -> String {
    let whole = text.len();
    if whole > FIELD_BYTES_MAX {
        text.truncate(text.floor_char_boundary(FIELD_BYTES_MAX));
        let _ = write!(text, "… ({whole} bytes)");
    }
    text
}

struct Fields(Vec<(&'static str, serde_json::Value)>);

macro_rules! emit_number {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(&mut self, key: slog::Key, value: $type) -> slog::Result {
            self.0.push((key, value.into()));
            Ok(())
        })*
    };
}

impl slog::Serializer for Fields {
    emit_number! {
        emit_bool: bool, emit_u8: u8, emit_i8: i8, emit_u16: u16, emit_i16: i16, emit_u32: u32, emit_i32: i32,
        emit_u64: u64, emit_i64: i64, emit_f32: f32, emit_f64: f64
    }

    fn emit_str(&mut self, key: slog::Key, value: &str) -> slog::Result {
        self.0.push((key, cut(value.to_owned()).into()));
        Ok(())
    }

    fn emit_usize(&mut self, key: slog::Key, value: usize) -> slog::Result {
        self.emit_u64(key, value as u64)
    }

    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, cut(value.to_string()).into()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn check(seconds: u64, micros: u32, expected: &str) {
        assert_eq!(timestamp(UNIX_EPOCH + Duration::new(seconds, micros * 1_000)), expected);
    }

    #[test]
    fn a_field_that_a_client_chose_is_cut() {
        let long = cut("ü".repeat(FIELD_BYTES_MAX));
        assert!(long.ends_with("… (8192 bytes)") && long.len() < FIELD_BYTES_MAX + 32, "{}", long.len());
        assert_eq!(cut("short".to_owned()), "short");
    }

    #[test]
    fn timestamps_are_zaps() {
        check(0, 0, "1970-01-01T00:00:00.000000Z");
        check(1_709_210_096, 123_456, "2024-02-29T12:34:56.123456Z");
        check(1_798_761_599, 1, "2026-12-31T23:59:59.000001Z");
    }
}
