//! Sizes, prefixes, and splitting a line into words.

use crate::failure::{Failure, INVALID_INPUT};
use gotext::quote::scan_quoted;

/// A size such as `20 kB` or `2.1 GB`: powers of 1000, one decimal below ten.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 10 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// The end of the range of keys with this prefix; `\0`, the end of all keys, if every byte is 0xff.
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Splits a line into words: `"Go string"`, `'raw text'`, or anything up to white space.
pub(crate) fn split_line(line: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(first) = line.get(at) {
        let rest = &line[at..];
        let length = match first {
            b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' => None,
            b'\'' => rest[1..].iter().position(|b| *b == b'\'').map(|end| end + 2),
            b'"' => closing_quote(rest).map(|end| end + 1),
            _ => Some(rest.iter().position(|b| b"\t\n\x0c\r ".contains(b)).unwrap_or(rest.len())),
        };
        let Some(length) = length else {
            at += 1;
            continue;
        };
        let word = &rest[..length];
        words.push(match first {
            b'\'' => word[1..length - 1].to_vec(),
            b'"' => scan_quoted(word).ok_or_else(|| Failure::new(INVALID_INPUT, "invalid syntax"))?.0,
            _ => word.to_vec(),
        });
        at += length;
    }
    Ok(words)
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    while *text.get(at)? != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::{bytes, end_of_prefix, split_line};

    #[test]
    fn sizes() {
        for (count, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (1_500, "1.5 kB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(end_of_prefix(b"ab"), b"ac");
        assert_eq!(end_of_prefix(b"a\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff\xff"), b"\0");
    }

    #[test]
    fn words_of_a_line() {
        let words = |line: &str| split_line(line.as_bytes()).map_err(|failure| failure.code);
        let same = |line: &str, expected: &[&str]| {
            assert_eq!(
                words(line).unwrap(),
                expected.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>()
            );
        };
        same(r#"put key "a \"b\"\n" 'c d'"#, &["put", "key", "a \"b\"\n", "c d"]);
        same("a\"b  c'd e", &["a\"b", "c'd", "e"]);
        same("  \"\" ''", &["", ""]);
        same("\"open word", &["open", "word"]);
        assert_eq!(words(r#""\q""#), Err(3));
    }
}
