//! Values as Go's `flag` package reads them: booleans, numbers with a base in front, durations with a sign.

use std::time::Duration;

/// Why a value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not written as such values are.
    Syntax,
    /// It is too large or too small.
    Range,
}

impl Unreadable {
    /// Go's words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Syntax => "parse error",
            Self::Range => "value out of range",
        }
    }
}

/// Go's spellings of a boolean (`strconv.ParseBool`).
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint(text, 0, 64)`: `10`, `010`, `0x1f`, `0b11`, `0o17`, `1_000`. No sign.
pub(super) fn parse_uint(text: &str) -> Result<u64, Unreadable> {
    let prefix = |letters: [char; 2]| text.strip_prefix('0').and_then(|rest| rest.strip_prefix(letters));
    let (radix, digits) = if let Some(digits) = prefix(['x', 'X']).filter(|digits| !digits.is_empty()) {
        (16, digits)
    } else if let Some(digits) = prefix(['b', 'B']).filter(|digits| !digits.is_empty()) {
        (2, digits)
    } else if let Some(digits) = prefix(['o', 'O']).filter(|digits| !digits.is_empty()) {
        (8, digits)
    } else if text.len() > 1 && text.starts_with('0') {
        (8, &text[1..])
    } else {
        (10, text)
    };
    // An underscore stands between digits, or between the prefix and the first of them.
    let has_prefix = digits.len() < text.len();
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (!has_prefix && digits.starts_with('_'));
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if misplaced || digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Unreadable::Syntax);
    }
    u64::from_str_radix(&digits, radix).map_err(|_| Unreadable::Range)
}

/// `strconv.ParseInt(text, 0, 64)`: the same with a sign.
pub(super) fn parse_int(text: &str) -> Result<i64, Unreadable> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = i128::from(parse_uint(digits)?);
    i64::try_from(if is_negative { -number } else { number }).map_err(|_| Unreadable::Range)
}

/// `time.ParseDuration`, in nanoseconds: numbers with units, added up, a sign in front; `0` needs no unit.
pub(super) fn parse_nanos(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, scale) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        nanos += scaled(number, scale)?;
        rest = &after[unit.len()..];
    }
    i64::try_from(sign * nanos).ok()
}

/// Units of a duration in nanoseconds; those that begin another one come after it.
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

/// A decimal number times `scale`, what is below one cut off.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
        return None;
    }
    let mut sum = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? * scale };
    let mut unit = scale;
    for digit in fraction.bytes() {
        unit /= 10;
        sum += i128::from(digit - b'0') * unit;
    }
    Some(sum)
}

/// A duration, none being shorter than nothing: what is negative means "never" or "the default" wherever a flag takes it,
/// as zero does.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let nanos = parse_nanos(text)?;
    Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// Whether a number fits the one flag of 32 bits, whose type is etcd's own and says it in `strconv`'s words.
pub(super) fn check_u32(text: &str) -> Result<(), String> {
    let why = match parse_uint(text) {
        Ok(number) if u32::try_from(number).is_ok() => return Ok(()),
        Ok(_) | Err(Unreadable::Range) => Unreadable::Range.text(),
        Err(Unreadable::Syntax) => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {why}"))
}

/// Whether a gate is on: what is said last, else its default.
pub(super) fn is_gate_on(text: &str, name: &str) -> bool {
    let mut said =
        text.split(',').filter_map(|part| part.split_once('=')).filter(|(gate, _)| gate.trim() == name);
    let default = GATES.iter().any(|(gate, is_on)| *gate == name && *is_on);
    said.next_back().and_then(|(_, value)| parse_bool(value.trim())).unwrap_or(default)
}

/// etcd's feature gates (`server/features`), with their defaults; the last two are the library's own.
const GATES: [(&str, bool); 11] = [
    ("StopGRPCServiceOnDefrag", false),
    ("TxnModeWriteWithSharedBuffer", true),
    ("InitialCorruptCheck", false),
    ("CompactHashCheck", false),
    ("LeaseCheckpoint", false),
    ("LeaseCheckpointPersist", false),
    ("SetMemberLocalAddr", false),
    ("FastLeaseKeepAlive", true),
    ("PriorityRequest", false),
    ("AllAlpha", false),
    ("AllBeta", false),
];

/// Whether `--feature-gates` names gates that there are; else why not, in the words of etcd's library.
pub(super) fn check_gates(text: &str) -> Result<(), String> {
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("missing bool value for {}", part.trim()));
        };
        let (name, value) = (name.trim(), value.trim());
        if parse_bool(value).is_none() {
            let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
            return Err(format!("invalid value of {name}={value}, err: {why}"));
        }
        if !GATES.iter().any(|(known, _)| *known == name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        let check = |text: &str, expected| assert_eq!(parse_int(text), expected, "{text}");
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("010", 8),
            ("0x10", 16),
            ("0X_1f", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("1_000", 1_000),
            ("0_7", 7),
            ("-0x10", -16),
            ("+5", 5),
            ("-9223372036854775808", i64::MIN),
        ] {
            check(text, Ok(value));
        }
        for text in
            ["", "-", "x", "0x", "0b", "08", "0b2", "1__0", "_1", "1_", "1.0", "1e3", " 1", "--1", "0x_"]
        {
            check(text, Err(Unreadable::Syntax));
        }
        check("9223372036854775808", Err(Unreadable::Range));
        assert_eq!(parse_uint("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_uint("18446744073709551616"), Err(Unreadable::Range));
        for text in ["-1", "+1"] {
            assert_eq!(parse_uint(text), Err(Unreadable::Syntax), "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let check = |text, expected| assert_eq!(parse_nanos(text), expected, "{text}");
        for (text, millis) in
            [("300ms", 300), ("1m30s", 90_000), ("2h0m0s", 7_200_000), ("1.5s", 1_500), ("-1s", -1_000)]
        {
            check(text, Some(millis * 1_000_000));
        }
        for (text, nanos) in
            [("0", 0), ("-0", 0), ("+5ns", 5), (".5us", 500), ("1.s", 1_000_000_000), ("2μs", 2_000)]
        {
            check(text, Some(nanos));
        }
        for text in ["5", "", "-", ".s", "1x", "s", "1..2s", "1s ", "--1s", "300000000h"] {
            check(text, None);
        }
        assert_eq!(parse_duration("-1h"), Some(Duration::ZERO));
    }

    #[test]
    fn gates_that_nobody_knows_are_refused() {
        for text in ["", "CompactHashCheck=true", "CompactHashCheck=true,AllAlpha=f", ","] {
            assert_eq!(check_gates(text), Ok(()), "{text}");
        }
        let check = |text: &str, why: &str| assert_eq!(check_gates(text), Err(why.to_owned()), "{text}");
        check("Nope=true", "unrecognized feature gate: Nope");
        check("CompactHashCheck", "missing bool value for CompactHashCheck");
        let why =
            "invalid value of CompactHashCheck=x, err: strconv.ParseBool: parsing \"x\": invalid syntax";
        check("CompactHashCheck=x", why);
    }
}
