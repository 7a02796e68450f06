//! Go's durations, `1h2m3.5s`: read from flags, printed where something took its time.

use super::quote::quote;
use std::time::Duration;

const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads what `time.ParseDuration` reads. A negative duration is zero here: it waits for nothing.
pub(crate) fn parse(text: &[u8]) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let whole = std::str::from_utf8(text).map_err(|_| invalid())?;
    let (negative, mut rest) = match whole.as_bytes().first() {
        Some(b'-') => (true, &whole[1..]),
        Some(b'+') => (false, &whole[1..]),
        _ => (false, whole),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let count: f64 = rest[..number].parse().map_err(|_| invalid())?;
        rest = &rest[number..];
        let length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = &rest[..length];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", quote(unit.as_bytes()), quote(text)));
        };
        nanoseconds += count * size;
        rest = &rest[length..];
    }
    // 2^63 nanoseconds, the longest that Go can say.
    if nanoseconds >= 9.223_372_036_854_775e18 {
        return Err(invalid());
    }
    Ok(if negative { Duration::ZERO } else { Duration::from_secs_f64(nanoseconds / 1e9) })
}

/// Writes what Go's `Duration.String` writes.
pub(crate) fn show(duration: Duration) -> String {
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

/// `value / size` with as many decimals as it needs.
fn fraction(value: u128, size: u128) -> String {
    let digits = size.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / size, value % size);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{parse, show};
    use std::time::Duration;

    #[test]
    fn durations_as_go_reads_them() {
        assert_eq!(parse(b"5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse(b"1h1m1.5s"), Ok(Duration::from_millis(3_661_500)));
        assert_eq!(parse(b"100us"), Ok(Duration::from_micros(100)));
        assert_eq!(parse(b"-5s"), Ok(Duration::ZERO));
        assert_eq!(parse(b"0"), Ok(Duration::ZERO));
        assert_eq!(parse(b"1").unwrap_err(), r#"time: missing unit in duration "1""#);
        assert_eq!(parse(b"1y").unwrap_err(), r#"time: unknown unit "y" in duration "1y""#);
        for bad in [&b""[..], b"x", b"-", b".s", b"1e30h"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
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
