//! Go's `strconv`: numbers and booleans.

use crate::quote::quote;
use std::fmt;

/// Why a text is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not in the form of a number or boolean.
    Syntax,
    /// Outside the range of the type.
    Range,
}

/// A text that is not a number or boolean. Prints the message of `strconv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberError {
    function: &'static str,
    text: Vec<u8>,
    /// Whether its form or its size is wrong.
    pub why: Why,
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Syntax => "invalid syntax",
            Why::Range => "value out of range",
        };
        write!(f, "strconv.{}: parsing {}: {why}", self.function, quote(&self.text))
    }
}

impl std::error::Error for NumberError {}

/// `strconv.ParseInt(text, base, 64)`; base 0 accepts `10`, `010`, `0x1f`, `0b11`, `0o17` and `1_000`.
pub fn int(text: &[u8], base: u32) -> Result<i64, NumberError> {
    let error = |why| NumberError { function: "ParseInt", text: text.to_owned(), why };
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let magnitude = i128::from(magnitude(digits, base).map_err(error)?);
    i64::try_from(if is_negative { -magnitude } else { magnitude }).map_err(|_| error(Why::Range))
}

/// `strconv.ParseUint(text, base, 64)`: no sign allowed.
pub fn uint(text: &[u8], base: u32) -> Result<u64, NumberError> {
    magnitude(text, base).map_err(|why| NumberError { function: "ParseUint", text: text.to_owned(), why })
}

/// `strconv.ParseUint(text, base, 32)`: no sign allowed.
pub fn uint32(text: &[u8], base: u32) -> Result<u32, NumberError> {
    let error = |_| NumberError { function: "ParseUint", text: text.to_owned(), why: Why::Range };
    u32::try_from(uint(text, base)?).map_err(error)
}

/// `strconv.ParseBool`: `1`, `t`, `true`, `0`, `f`, `false`, in Go's spellings.
pub fn boolean(text: &[u8]) -> Result<bool, NumberError> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err(NumberError { function: "ParseBool", text: text.to_owned(), why: Why::Syntax }),
    }
}

fn magnitude(text: &[u8], base: u32) -> Result<u64, Why> {
    let (radix, digits) = match (base, text) {
        (0, [b'0', b'x' | b'X', rest @ ..]) => (16, rest),
        (0, [b'0', b'o' | b'O', rest @ ..]) => (8, rest),
        (0, [b'0', b'b' | b'B', rest @ ..]) => (2, rest),
        (0, [b'0', rest @ ..]) if !rest.is_empty() => (8, rest),
        (0, _) => (10, text),
        (base, _) => (base, text),
    };
    // Underscores are legal between digits or after the prefix, and only in base 0.
    let has_prefix = digits.len() < text.len();
    let misplaced = digits.ends_with(b"_")
        || digits.windows(2).any(|pair| pair == b"__")
        || (!has_prefix && digits.starts_with(b"_"));
    let mut sum: Option<u64> = Some(0);
    let mut count = 0;
    for &digit in digits {
        if base == 0 && digit == b'_' {
            continue;
        }
        let digit = char::from(digit).to_digit(radix).ok_or(Why::Syntax)?;
        sum = sum.and_then(|sum| sum.checked_mul(u64::from(radix))?.checked_add(u64::from(digit)));
        count += 1;
    }
    if misplaced || count == 0 { Err(Why::Syntax) } else { sum.ok_or(Why::Range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        let check = |text: &str, expected| {
            assert_eq!(int(text.as_bytes(), 0).map_err(|error| error.why), expected, "{text}");
        };
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
            check(text, Err(Why::Syntax));
        }
        check("9223372036854775808", Err(Why::Range));
        assert_eq!(int(b"-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(int(b"7b", 16), Ok(123));
        assert_eq!(uint(b"ffffffffffffffff", 16), Ok(u64::MAX));
        assert_eq!(uint(b"18446744073709551615", 0), Ok(u64::MAX));
        assert_eq!(uint32(b"4294967296", 0).unwrap_err().why, Why::Range);
        for text in [&b"-1"[..], b"+1", b"1_0"] {
            assert_eq!(uint(text, 10).unwrap_err().why, Why::Syntax, "{text:?}");
        }
    }

    #[test]
    fn errors_are_gos_words() {
        let check = |error: NumberError, words: &str| assert_eq!(error.to_string(), words);
        check(int(b"x", 10).unwrap_err(), r#"strconv.ParseInt: parsing "x": invalid syntax"#);
        check(int(b"", 0).unwrap_err(), r#"strconv.ParseInt: parsing "": invalid syntax"#);
        let large = "strconv.ParseInt: parsing \"9223372036854775808\": value out of range";
        check(int(b"9223372036854775808", 10).unwrap_err(), large);
        check(uint(b"-1", 16).unwrap_err(), r#"strconv.ParseUint: parsing "-1": invalid syntax"#);
        check(boolean(b"yes").unwrap_err(), r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    }
}
