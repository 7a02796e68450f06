//! Go's durations, such as `1h2m3.5s`.

use crate::quote::quote;
use std::fmt;
use std::time::Duration;

/// A text that is not a duration. Prints the message of Go's `time`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError(String);

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DurationError {}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `time.ParseDuration`, in nanoseconds: an optional sign, then numbers with units, added up. `0` needs no unit.
pub fn nanos(text: &[u8]) -> Result<i64, DurationError> {
    let invalid = || DurationError(format!("time: invalid duration {}", quote(text)));
    let whole = std::str::from_utf8(text).map_err(|_| invalid())?;
    let (sign, mut rest) = match whole.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, whole.strip_prefix('+').unwrap_or(whole)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut sum = 0_i128;
    while !rest.is_empty() {
        let is_number = |c: char| c == '.' || c.is_ascii_digit();
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            scaled(number, 1).ok_or_else(invalid)?;
            let unit = if unit.is_empty() {
                "missing unit".to_owned()
            } else {
                format!("unknown unit {}", quote(unit.as_bytes()))
            };
            return Err(DurationError(format!("time: {unit} in duration {}", quote(text))));
        };
        sum += scaled(number, *size).ok_or_else(invalid)?;
        rest = after;
    }
    i64::try_from(sign * sum).map_err(|_| invalid())
}

/// [`nanos`] as a [`Duration`]; negative durations become zero.
pub fn parse(text: &[u8]) -> Result<Duration, DurationError> {
    Ok(Duration::from_nanos(u64::try_from(nanos(text)?).unwrap_or(0)))
}

fn scaled(number: &str, size: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
        return None;
    }
    let mut sum = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? * size };
    let mut unit = size;
    for digit in fraction.bytes() {
        unit /= 10;
        sum += i128::from(digit - b'0') * unit;
    }
    Some(sum)
}

/// Formats like Go's `Duration.String`.
pub fn show(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        let (unit, size) = match nanoseconds {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", fraction(nanoseconds, size));
    }
    let (hours, rest) = (nanoseconds / 3_600_000_000_000, nanoseconds % 3_600_000_000_000);
    let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
    let seconds = fraction(rest, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / size` with as many decimals as needed.
fn fraction(value: u128, size: u128) -> String {
    let digits = size.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / size, value % size);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        for (text, millis) in
            [("300ms", 300), ("1m30s", 90_000), ("2h0m0s", 7_200_000), ("1.5s", 1_500), ("-1s", -1_000)]
        {
            assert_eq!(nanos(text.as_bytes()), Ok(millis * 1_000_000), "{text}");
        }
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("+5ns", 5),
            (".5us", 500),
            ("1.s", 1_000_000_000),
            ("2\u{b5}s", 2_000),
            ("2\u{3bc}s", 2_000),
            ("1h1m1.5s", 3_661_500_000_000),
        ] {
            assert_eq!(nanos(text.as_bytes()), Ok(expected), "{text}");
        }
        assert_eq!(parse(b"-1h"), Ok(Duration::ZERO));
    }

    #[test]
    fn errors_are_gos_words() {
        for (text, words) in [
            ("1", r#"time: missing unit in duration "1""#),
            ("5s1", r#"time: missing unit in duration "5s1""#),
            ("1y", r#"time: unknown unit "y" in duration "1y""#),
            ("1s ", r#"time: unknown unit "s " in duration "1s ""#),
            ("", r#"time: invalid duration """#),
            ("x", r#"time: invalid duration "x""#),
            ("-", r#"time: invalid duration "-""#),
            (".s", r#"time: invalid duration ".s""#),
            ("1..2s", r#"time: invalid duration "1..2s""#),
            ("--1s", r#"time: invalid duration "--1s""#),
            ("300000000h", r#"time: invalid duration "300000000h""#),
        ] {
            assert_eq!(nanos(text.as_bytes()).unwrap_err().to_string(), words, "{text}");
        }
        nanos(b"1e30h").unwrap_err();
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_104_855, "2.104855ms"),
            (1_000_000_000, "1s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(show(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
