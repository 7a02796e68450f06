//! Integers as protojson accepts them, quoted or not, with a point or an exponent as long as the value is an integer.

/// Digits of the largest integer that fits any field.
const DIGITS_MAX: usize = 20;

/// Not an integer, or too large for any field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInteger;

/// Rewrites an integer with a point, an exponent or an escape as plain digits; `None` for plain digits and other types.
pub(crate) fn plain(raw: &str) -> Result<Option<String>, NotInteger> {
    let quoted = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let unescaped: String;
    let text = match quoted {
        Some(text) if text.contains('\\') => {
            unescaped = serde_json::from_str(raw).map_err(|_| NotInteger)?;
            &*unescaped
        }
        Some(text) => text,
        None if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => raw,
        None => return Ok(None),
    };
    let number = Number::parse(text).ok_or(NotInteger)?;
    if number.fraction.is_empty() && number.exponent.is_none() && !raw.contains('\\') {
        return Ok(None);
    }
    number.digits().map(Some)
}

struct Number<'a> {
    sign: &'a str,
    whole: &'a str,
    fraction: &'a str,
    exponent: Option<&'a str>,
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let sign = &text[..text.len() - unsigned.len()];
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        let digits_of_exponent = exponent.map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
        let is_number = !whole.is_empty()
            && !has_leading_zero
            && is_digits(whole)
            && is_digits(fraction)
            && digits_of_exponent.is_none_or(|digits| !digits.is_empty() && is_digits(digits));
        is_number.then_some(Self { sign, whole, fraction, exponent })
    }

    fn digits(&self) -> Result<String, NotInteger> {
        let all = [self.whole, self.fraction].concat();
        let significant = all.trim_start_matches('0').trim_end_matches('0');
        if significant.is_empty() {
            return Ok("0".to_owned());
        }
        let exponent: i64 = self.exponent.map_or(Ok(0), str::parse).map_err(|_| NotInteger)?;
        // The zeros that were trimmed from the end, and those that point and exponent add.
        let ended = all.len() - all.trim_end_matches('0').len();
        let zeros = exponent.saturating_sub(self.fraction.len() as i64).saturating_add(ended as i64);
        let zeros = usize::try_from(zeros).map_err(|_| NotInteger)?;
        if significant.len().saturating_add(zeros) > DIGITS_MAX {
            return Err(NotInteger);
        }
        Ok([self.sign, significant, &"0".repeat(zeros)].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_protojson_reads_them() {
        let check = |raw: &str, expected: Result<Option<&str>, NotInteger>| {
            let found = plain(raw);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|e| *e), expected, "{raw}");
        };
        for as_it_is in ["1", "-1", "0", "-0", "\"1\"", "\"-12\"", "null", "true", "{}", "[1]"] {
            check(as_it_is, Ok(None));
        }
        check("1e0", Ok(Some("1")));
        check("\"1E1\"", Ok(Some("10")));
        check("\"1e+1\"", Ok(Some("10")));
        check("1.0", Ok(Some("1")));
        check("\"-1.50e1\"", Ok(Some("-15")));
        check("\"10e-1\"", Ok(Some("1")));
        check("\"100000e-5\"", Ok(Some("1")));
        check("\"0e5\"", Ok(Some("0")));
        check("0.000e-400", Ok(Some("0")));
        check("\"9.223372036854775807e18\"", Ok(Some("9223372036854775807")));
        check("\"\\u0031\"", Ok(Some("1")));
        for wrong in [
            "1.5",
            "\"+1\"",
            "\"\"",
            "\" 1\"",
            "\"1 \"",
            "\"01\"",
            "\"1.\"",
            "\".5\"",
            "\"1e\"",
            "\"1e+\"",
            "\"0x1\"",
            "\"1_0\"",
            "\"--1\"",
            "\"NaN\"",
            "\"1e400\"",
            "\"1e99999999999999999999\"",
            "\"1e-1\"",
            "15e-1",
            "\"\u{661}\"",
            "\"1\\t\"",
        ] {
            check(wrong, Err(NotInteger));
        }
    }
}
