//! What is run, how strong and how long.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};

use crate::rows::{ROWS, Row};
use crate::servers::Server;

/// Long enough for 2,000 puts of the writer: 20 of them lie above the 99th percentile.
const SECONDS: f64 = 10.0;

/// Nothing is measured in less: the writer makes 200 puts meanwhile.
const SECONDS_MIN: f64 = 1.0;

/// What the whole run does.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) rows: Vec<&'static Row>,
    pub(crate) members: Vec<usize>,
    pub(crate) servers: Vec<Server>,
    /// Numbers of clients, keys and bytes are multiplied with it.
    pub(crate) scale: f64,
    /// How long one attack lasts.
    pub(crate) attack: Duration,
    /// Whether docs/testing.md is written.
    pub(crate) write: bool,
}

impl Options {
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let rows = named_rows(&words("ADVERSARY_ROWS"))?;
        let scale: f64 = one("ADVERSARY_SCALE", 1.0)?;
        if !(0.001..=100.0).contains(&scale) {
            bail!("ADVERSARY_SCALE={scale}: between 0.001 and 100");
        }
        let all_members: &[usize] = if scale < 1.0 { &[1] } else { &[1, 3] };
        let members = list("ADVERSARY_MEMBERS", all_members)?;
        let servers = list("ADVERSARY_SERVERS", &[Server::Etcd, Server::Quorate])?;
        let seconds = (one("ADVERSARY_SECONDS", SECONDS)? * scale.min(1.0)).max(SECONDS_MIN);
        let whole = rows.len() == ROWS.len() && members == [1, 3] && servers.len() == 2 && scale >= 1.0;
        let asked = one("ADVERSARY_WRITE", 0)? == 1;
        Ok(Self {
            rows,
            members,
            servers,
            scale,
            attack: Duration::from_secs_f64(seconds),
            write: whole || asked,
        })
    }
}

/// The rows with these names, or all; a star at the end stands for anything.
fn named_rows(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    let fits = |row: &Row, name: &str| match name.strip_suffix('*') {
        Some(start) => row.name.starts_with(start),
        None => row.name == name,
    };
    for name in names {
        if !ROWS.iter().any(|row| fits(row, name)) {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            bail!("no row {name:?}; there are {}", known.join(", "));
        }
    }
    Ok(ROWS.iter().filter(|row| names.iter().any(|name| fits(row, name))).collect())
}

fn words(variable: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_default();
    text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn list<T: FromStr<Err: fmt::Display> + Clone>(variable: &str, default: &[T]) -> anyhow::Result<Vec<T>> {
    let words = words(variable);
    if words.is_empty() {
        return Ok(default.to_vec());
    }
    let read = |word: &String| word.parse().map_err(|error| anyhow::anyhow!("{variable}: {word}: {error}"));
    words.iter().map(read).collect()
}

fn one<T: FromStr<Err: fmt::Display> + Clone>(variable: &str, default: T) -> anyhow::Result<T> {
    list(variable, &[default])?.pop().with_context(|| format!("{variable} is empty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_one_by_one_or_by_their_beginning() {
        let names = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            named_rows(&names).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all").len(), ROWS.len());
        assert_eq!(names(&["B4"]).expect("one"), ["B4"]);
        assert!(names(&["B15*"]).expect("several").len() > 1);
        assert!(names(&["B99"]).is_err());
    }
}
