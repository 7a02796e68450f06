//! Go's quoted strings: `%q`, written and read.

use std::fmt::Write as _;

/// `strconv.Quote` of any bytes: `"…"`.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut out, c, '"');
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("a String takes everything");
        }
    }
    out.push('"');
    out
}

/// `strconv.QuoteRune` of one byte: `'c'`.
pub fn quote_byte(byte: u8) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, char::from(byte), '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if c == quote => out.extend(['\\', c]),
        c if is_printable(c) => out.push(c),
        c => {
            let code = u32::from(c);
            let written = match code {
                0..=0x1f | 0x7f => write!(out, "\\x{code:02x}"),
                0..=0xffff => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
            written.expect("a String takes everything");
        }
    }
}

/// Whether Go prints it as it is. Asked of `Debug` (the same tables), second, since that escapes a leading mark.
fn is_printable(c: char) -> bool {
    let mut text = [b'a', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut text[1..]).len();
    let text = std::str::from_utf8(&text[..=length]).expect("a letter and a character");
    matches!(c, '"' | '\'') || text.escape_debug().nth(1) == Some(c)
}

/// Reads one quoted string as Go's `Sscanf("%q")`: its bytes and the rest, or `None` where Go fails.
pub fn scan_quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    match text.split_first()? {
        (b'`', rest) => {
            let end = rest.iter().position(|b| *b == b'`')?;
            Some((rest[..end].to_vec(), &rest[end + 1..]))
        }
        (b'"', rest) => {
            let mut at = 0;
            while *rest.get(at)? != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            Some((unescape(&rest[..at])?, &rest[at + 1..]))
        }
        _ => None,
    }
}

/// The inside of a double-quoted Go string literal; `None` if malformed.
fn unescape(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        if *first == b'\n' {
            return None;
        }
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (kind, rest) = text.split_first()?;
        text = rest;
        let plain = match kind {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' | b'"' => *kind,
            b'x' => u8::try_from(take_number(&mut text, 2, 16)?).ok()?,
            b'u' | b'U' => {
                let code = take_number(&mut text, if *kind == b'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(code)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            b'0'..=b'7' => {
                let first = u32::from(kind - b'0') * 64;
                u8::try_from(first + take_number(&mut text, 2, 8)?).ok()?
            }
            _ => return None,
        };
        out.push(plain);
    }
    Some(out)
}

fn take_number(text: &mut &[u8], digits: usize, radix: u32) -> Option<u32> {
    let (head, rest) = text.split_at_checked(digits)?;
    *text = rest;
    head.iter().try_fold(0, |sum, b| Some(sum * radix + char::from(*b).to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::{quote, quote_byte, scan_quoted};

    #[test]
    fn quotes_as_go_does() {
        // Expected values printed by Go 1.26.
        assert_eq!(quote(b"a\"\\\n\t\x07\x00\x7f'"), r#""a\"\\\n\t\a\x00\x7f'""#);
        assert_eq!(quote(&[0xff, 0xc3]), r#""\xff\xc3""#);
        assert_eq!(quote("é世\u{301}".as_bytes()), "\"é世\u{301}\"");
        assert_eq!(quote("\u{a0}\u{200b}\u{10ffff}".as_bytes()), r#""\u00a0\u200b\U0010ffff""#);
        assert_eq!(quote_byte(b'z'), "'z'");
    }

    #[test]
    fn reads_what_it_writes() {
        for bytes in [&b"plain"[..], b"\x00\xff\"\\\n", "世\u{200b}".as_bytes(), b""] {
            let quoted = format!("  {} rest", quote(bytes));
            let (read, rest) = scan_quoted(quoted.as_bytes()).expect("it was quoted");
            assert_eq!((&read[..], rest), (bytes, &b" rest"[..]));
        }
        assert_eq!(scan_quoted(br#""\101\u00e9\x41""#).unwrap().0, "Aé\u{41}".as_bytes());
        assert_eq!(scan_quoted(b"`a\\n`x").unwrap(), (b"a\\n".to_vec(), &b"x"[..]));
        for bad in [&b"plain"[..], b"\"open", br#""\q""#, br#""\'""#, br#""\x4""#, br#""\400""#] {
            assert_eq!(scan_quoted(bad), None, "{bad:?}");
        }
    }
}
