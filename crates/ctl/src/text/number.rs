//! Go's `strconv`: numbers with its prefixes, and its words for those that are none.

use super::quote::quote;

/// `strconv.ParseInt(text, base, 64)`; base 0 means that `0x`, `0o`, `0b` and underscores are allowed.
pub(crate) fn int(text: &[u8], base: u32) -> Result<i64, String> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let magnitude = magnitude(digits, base).map_err(|why| error("ParseInt", text, why))?;
    let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    i64::try_from(value).map_err(|_| error("ParseInt", text, OUT_OF_RANGE))
}

/// `strconv.ParseUint(text, base, 64)`.
pub(crate) fn uint(text: &[u8], base: u32) -> Result<u64, String> {
    magnitude(text, base).map_err(|why| error("ParseUint", text, why))
}

/// `strconv.ParseBool`.
pub(crate) fn boolean(text: &[u8]) -> Result<bool, String> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(error("ParseBool", text, SYNTAX)),
    }
}

const SYNTAX: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

fn error(function: &str, text: &[u8], why: &str) -> String {
    format!("strconv.{function}: parsing {}: {why}", quote(text))
}

fn magnitude(digits: &[u8], base: u32) -> Result<u64, &'static str> {
    let (radix, digits, underscores) = match (base, digits) {
        (0, [b'0', b'x' | b'X', rest @ ..]) => (16, rest, true),
        (0, [b'0', b'o' | b'O', rest @ ..]) => (8, rest, true),
        (0, [b'0', b'b' | b'B', rest @ ..]) => (2, rest, true),
        (0, [b'0', rest @ ..]) if !rest.is_empty() => (8, rest, true),
        (0, _) => (10, digits, true),
        (base, _) => (base, digits, false),
    };
    if digits.is_empty() {
        return Err(SYNTAX);
    }
    let mut sum: Option<u64> = Some(0);
    for digit in digits {
        if underscores && *digit == b'_' {
            continue;
        }
        let digit = char::from(*digit).to_digit(radix).ok_or(SYNTAX)?;
        sum = sum.and_then(|s| s.checked_mul(u64::from(radix))?.checked_add(u64::from(digit)));
    }
    sum.ok_or(OUT_OF_RANGE)
}

#[cfg(test)]
mod tests {
    use super::{boolean, int, uint};

    #[test]
    fn numbers_as_go_reads_them() {
        assert_eq!(int(b"-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(int(b"0x10", 0), Ok(16));
        assert_eq!(int(b"010", 0), Ok(8));
        assert_eq!(int(b"1_000", 0), Ok(1000));
        assert_eq!(int(b"0", 0), Ok(0));
        assert_eq!(int(b"7b", 16), Ok(123));
        assert_eq!(uint(b"ffffffffffffffff", 16), Ok(u64::MAX));
    }

    #[test]
    fn errors_are_gos_words() {
        assert_eq!(int(b"x", 10).unwrap_err(), r#"strconv.ParseInt: parsing "x": invalid syntax"#);
        assert_eq!(int(b"", 0).unwrap_err(), r#"strconv.ParseInt: parsing "": invalid syntax"#);
        let large = "strconv.ParseInt: parsing \"9223372036854775808\": value out of range";
        assert_eq!(int(b"9223372036854775808", 10).unwrap_err(), large);
        assert_eq!(uint(b"-1", 16).unwrap_err(), r#"strconv.ParseUint: parsing "-1": invalid syntax"#);
        assert_eq!(boolean(b"yes").unwrap_err(), r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    }
}
