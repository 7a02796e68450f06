//! Finds where the JSON values of a body end. A body is scanned once, byte by byte, as it arrives, and a value is
//! parsed when its last bracket is there: a client that sends one byte at a time does not cause repeated work. Errors
//! have the texts of Go's `encoding/json`, which etcd's clients see.

use crate::status::Status;
use bytes::{Buf, Bytes, BytesMut};

/// Brackets open at one time: the limit of `serde_json`. Go's is 10,000. A level of transactions takes three.
pub(crate) const DEPTH_MAX: usize = 127;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Key,
    Value,
    Array,
}

/// What may come next; the names follow Go's error texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    After,
    String,
    Escape,
    /// This many hexadecimal digits are missing.
    Hex(u8),
    /// The rest of `true`, `false` or `null`.
    Literal(&'static str, u8),
    Minus,
    /// After a leading zero: no digit may follow.
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    /// The value ended with this byte.
    Last,
    /// The value, a number, ended before this byte.
    Past,
}

#[derive(Debug)]
struct Scanner {
    state: State,
    open: Vec<Open>,
}

impl Scanner {
    fn new() -> Self {
        Self { state: State::Value, open: Vec::new() }
    }

    fn step(&mut self, byte: u8) -> Result<Step, Status> {
        let refuse = |context: &str| Err(invalid(byte, context));
        match self.state {
            State::ValueOrEnd if byte == b']' => return Ok(self.close()),
            State::Value | State::ValueOrEnd => return self.value(byte),
            State::KeyOrEnd if byte == b'}' => return Ok(self.close()),
            State::Key | State::KeyOrEnd => match byte {
                b'"' => self.state = State::String,
                _ if is_space(byte) => {}
                _ => return refuse("looking for beginning of object key string"),
            },
            State::After => return self.after(byte),
            State::String => match byte {
                b'"' => return Ok(self.end()),
                b'\\' => self.state = State::Escape,
                0..0x20 => return refuse("in string literal"),
                _ => {}
            },
            State::Escape => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.state = State::String,
                b'u' => self.state = State::Hex(4),
                _ => return refuse("in string escape code"),
            },
            State::Hex(missing) if byte.is_ascii_hexdigit() => {
                self.state = if missing == 1 { State::String } else { State::Hex(missing - 1) };
            }
            State::Hex(_) => return refuse("in \\u hexadecimal character escape"),
            State::Literal(word, at) => {
                let expected = word.as_bytes()[usize::from(at)];
                if byte != expected {
                    return refuse(&format!("in literal {word} (expecting {})", quoted(expected)));
                }
                if usize::from(at) + 1 == word.len() {
                    return Ok(self.end());
                }
                self.state = State::Literal(word, at + 1);
            }
            State::Minus
            | State::Zero
            | State::Digits
            | State::Point
            | State::Fraction
            | State::Exponent
            | State::ExponentSign
            | State::ExponentDigits => return self.number(byte),
        }
        Ok(Step::More)
    }

    fn value(&mut self, byte: u8) -> Result<Step, Status> {
        self.state = match byte {
            b'{' => return self.push(Open::Key, State::KeyOrEnd),
            b'[' => return self.push(Open::Array, State::ValueOrEnd),
            b'"' => State::String,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Literal("true", 1),
            b'f' => State::Literal("false", 1),
            b'n' => State::Literal("null", 1),
            _ if is_space(byte) => self.state,
            _ => return Err(invalid(byte, "looking for beginning of value")),
        };
        Ok(Step::More)
    }

    fn number(&mut self, byte: u8) -> Result<Step, Status> {
        let digit = byte.is_ascii_digit();
        self.state = match (self.state, byte) {
            (State::Minus, b'0') => State::Zero,
            (State::Minus | State::Digits, _) if digit => State::Digits,
            (State::Minus, _) => return Err(invalid(byte, "in numeric literal")),
            (State::Zero | State::Digits, b'.') => State::Point,
            (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => State::Exponent,
            (State::Point | State::Fraction, _) if digit => State::Fraction,
            (State::Point, _) => return Err(invalid(byte, "after decimal point in numeric literal")),
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (State::Exponent | State::ExponentSign | State::ExponentDigits, _) if digit => {
                State::ExponentDigits
            }
            (State::Exponent | State::ExponentSign, _) => {
                return Err(invalid(byte, "in exponent of numeric literal"));
            }
            _ if self.open.is_empty() => return Ok(Step::Past),
            _ => {
                self.state = State::After;
                return self.after(byte);
            }
        };
        Ok(Step::More)
    }

    /// After a key or a value inside an object or array.
    fn after(&mut self, byte: u8) -> Result<Step, Status> {
        let Some(top) = self.open.last_mut() else { return Ok(Step::Past) };
        if is_space(byte) {
            return Ok(Step::More);
        }
        match (*top, byte) {
            (Open::Key, b':') => (*top, self.state) = (Open::Value, State::Value),
            (Open::Key, _) => return Err(invalid(byte, "after object key")),
            (Open::Value, b',') => (*top, self.state) = (Open::Key, State::Key),
            (Open::Array, b',') => self.state = State::Value,
            (Open::Value, b'}') | (Open::Array, b']') => return Ok(self.close()),
            (Open::Value, _) => return Err(invalid(byte, "after object key:value pair")),
            (Open::Array, _) => return Err(invalid(byte, "after array element")),
        }
        Ok(Step::More)
    }

    fn push(&mut self, open: Open, next: State) -> Result<Step, Status> {
        if self.open.len() == DEPTH_MAX {
            return Err(Status::invalid("exceeded max depth"));
        }
        self.open.push(open);
        self.state = next;
        Ok(Step::More)
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        self.end()
    }

    fn end(&mut self) -> Step {
        self.state = State::After;
        if self.open.is_empty() { Step::Last } else { Step::More }
    }

    /// Whether the value is complete if the body ends here: a number may be.
    fn could_end(&self) -> bool {
        self.open.is_empty()
            && matches!(
                self.state,
                State::Zero | State::Digits | State::Fraction | State::ExponentDigits | State::After
            )
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn invalid(byte: u8, context: &str) -> Status {
    Status::invalid(format!("invalid character {} {context}", quoted(byte)))
}

/// A byte as Go's `quoteChar` shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        // Go turns the byte into the character of that number; of these only U+00A0 and U+00AD are not printed.
        0x80..0xa0 | 0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[derive(Debug)]
pub(crate) struct Values {
    scanner: Scanner,
    buffer: BytesMut,
    scanned: usize,
    max_bytes: usize,
}

impl Values {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { scanner: Scanner::new(), buffer: BytesMut::new(), scanned: 0, max_bytes }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next complete value, without leading space.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.scanned == 0 {
            let spaces = self.buffer.iter().take_while(|byte| is_space(**byte)).count();
            self.buffer.advance(spaces);
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            let step = self.scanner.step(byte)?;
            if step != Step::Past {
                self.scanned += 1;
            }
            if step != Step::More {
                return Ok(Some(self.take()));
            }
            if self.scanned > self.max_bytes {
                return Err(Status::too_large(self.max_bytes));
            }
        }
        Ok(None)
    }

    /// The last value, after the end of the body: only a number needs the end to be complete.
    pub(crate) fn finish(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(value) = self.next()? {
            return Ok(Some(value));
        }
        if self.buffer.is_empty() {
            Ok(None)
        } else if self.scanner.could_end() {
            Ok(Some(self.take()))
        } else {
            Err(Status::invalid("unexpected EOF"))
        }
    }

    fn take(&mut self) -> Bytes {
        let value = self.buffer.split_to(self.scanned).freeze();
        self.scanned = 0;
        self.scanner = Scanner::new();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &[u8], piece: usize) -> Result<Vec<String>, String> {
        let mut values = Values::new(1 << 20);
        let mut found = Vec::new();
        let shown = |value: Bytes| String::from_utf8_lossy(&value).into_owned();
        for piece in text.chunks(piece) {
            values.push(piece);
            while let Some(value) = values.next().map_err(|s| s.message)? {
                found.push(shown(value));
            }
        }
        while let Some(value) = values.finish().map_err(|s| s.message)? {
            found.push(shown(value));
        }
        Ok(found)
    }

    fn check(text: &str, expected: &[&str]) {
        for piece in [1, 3, 1000] {
            assert_eq!(values(text.as_bytes(), piece).as_deref(), Ok(&expected.map_to_owned()[..]), "{text}");
        }
    }

    trait MapToOwned {
        fn map_to_owned(&self) -> Vec<String>;
    }

    impl MapToOwned for [&str] {
        fn map_to_owned(&self) -> Vec<String> {
            self.iter().map(|&s| s.to_owned()).collect()
        }
    }

    #[test]
    fn values_end_where_their_brackets_close() {
        check("", &[]);
        check(" \n\t ", &[]);
        check("{}", &["{}"]);
        check(
            r#" {"a":[1,-2.5e+3,{"}":"]\"\\"}],"b":null} {"c":true}"#,
            &[r#"{"a":[1,-2.5e+3,{"}":"]\"\\"}],"b":null}"#, r#"{"c":true}"#],
        );
        check("[] 12 0 \"x\"false", &["[]", "12", "0", "\"x\"", "false"]);
        check("1.5", &["1.5"]);
        check("01", &["0", "1"]);
    }

    #[test]
    fn what_is_no_json_is_refused_in_gos_words() {
        let refused = |text: &str, message: &str| {
            assert_eq!(values(text.as_bytes(), 1), Err(message.to_owned()), "{text}");
        };
        refused("hello", "invalid character 'h' looking for beginning of value");
        refused("{", "unexpected EOF");
        refused(r#"{"a":"#, "unexpected EOF");
        refused("-", "unexpected EOF");
        refused("{a", "invalid character 'a' looking for beginning of object key string");
        refused(r#"{"a"}"#, "invalid character '}' after object key");
        refused(r#"{"a":1]"#, "invalid character ']' after object key:value pair");
        refused(r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string");
        refused("[1 2", "invalid character '2' after array element");
        refused("[1,]", "invalid character ']' looking for beginning of value");
        refused("[tru]", "invalid character ']' in literal true (expecting 'e')");
        refused(r#"["\x"]"#, "invalid character 'x' in string escape code");
        refused(r#"["\u12g"]"#, "invalid character 'g' in \\u hexadecimal character escape");
        refused("[\"\n\"]", r"invalid character '\n' in string literal");
        refused("[-x]", "invalid character 'x' in numeric literal");
        refused("[1.x]", "invalid character 'x' after decimal point in numeric literal");
        refused("[1e]", "invalid character ']' in exponent of numeric literal");
        refused("'", r"invalid character '\'' looking for beginning of value");
        refused("\\", r"invalid character '\\' looking for beginning of value");
        refused("\u{1}", r"invalid character '\x01' looking for beginning of value");
        refused("\u{e9}", "invalid character 'Ã' looking for beginning of value");
    }

    #[test]
    fn depth_and_size_have_ends() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(values(deep(DEPTH_MAX).as_bytes(), 100).is_ok());
        assert_eq!(values(deep(DEPTH_MAX + 1).as_bytes(), 100), Err("exceeded max depth".to_owned()));
        assert!(
            serde_json::from_str::<serde_json::Value>(&deep(DEPTH_MAX)).is_ok(),
            "the parser is not less deep"
        );
        let mut values = Values::new(10);
        values.push(b"[\"0123456789\"]");
        assert_eq!(values.next().map_err(|s| s.code), Err(crate::status::RESOURCE_EXHAUSTED));
    }

    proptest! {
        /// What the parser takes passes here; of what passes here, it refuses numbers that fit nothing, and halves of
        /// surrogates.
        #[test]
        fn the_scanner_and_the_parser_agree(text in r#"[\[\]{}",:0-9a-ft.eE+\-\\nrul \n]{0,24}"#) {
            let theirs = serde_json::Deserializer::from_str(&text)
                .into_iter::<serde_json::Value>()
                .all(|value| value.is_ok());
            if theirs {
                prop_assert!(values(text.as_bytes(), 2).is_ok(), "{text:?}: the parser takes it");
            }
        }

        #[test]
        fn any_bytes_end_in_values_or_a_refusal(text in proptest::collection::vec(any::<u8>(), 0..64), piece in 1usize..9) {
            let whole = values(&text, 1000);
            prop_assert_eq!(values(&text, piece), whole);
        }
    }
}
