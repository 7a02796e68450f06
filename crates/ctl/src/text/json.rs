//! JSON as Go's `encoding/json` writes it: fields in the order of the type, zero values omitted where the type says so,
//! bytes in base64, and `<`, `>`, `&` escaped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;

/// An object that is being written. The `or_omit` methods omit zero values, as `omitempty` does.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

pub(crate) fn object(out: &mut String, fill: impl FnOnce(&mut Object<'_>)) {
    out.push('{');
    fill(&mut Object { out, empty: true });
    out.push('}');
}

pub(crate) fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        each(out, item);
    }
    out.push(']');
}

impl Object<'_> {
    /// Writes a field's name; the caller writes its value to the result.
    pub(crate) fn field(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        string(self.out, name);
        self.out.push(':');
        self.out
    }

    /// A number, a boolean, or other text that is JSON.
    pub(crate) fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        write!(self.field(name), "{value}").expect("a String takes everything");
    }

    pub(crate) fn number_or_omit(&mut self, name: &str, value: impl Into<i128>) {
        let value = value.into();
        if value != 0 {
            self.plain(name, value);
        }
    }

    pub(crate) fn true_or_omit(&mut self, name: &str, value: bool) {
        if value {
            self.plain(name, true);
        }
    }

    pub(crate) fn string(&mut self, name: &str, value: &str) {
        string(self.field(name), value);
    }

    pub(crate) fn string_or_omit(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    pub(crate) fn strings_or_omit(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            list(self.field(name), values, |out, value| string(out, value));
        }
    }

    pub(crate) fn bytes_or_omit(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            bytes(self.field(name), value);
        }
    }
}

pub(crate) fn bytes(out: &mut String, value: &[u8]) {
    out.push('"');
    STANDARD.encode_string(value, out);
    out.push('"');
}

/// Writes a string with Go's escapes.
pub(crate) fn string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{list, object};

    #[test]
    fn zero_values_are_left_out_and_escapes_are_gos() {
        let mut out = String::new();
        object(&mut out, |o| {
            o.number_or_omit("zero", 0);
            o.number_or_omit("max", u64::MAX);
            o.true_or_omit("no", false);
            o.string("text", "<a>&\u{2028}\u{1}\"");
            o.bytes_or_omit("bytes", &[0, 255]);
            list(o.field("list"), [1, 2], |out, n| out.push_str(&n.to_string()));
        });
        let expected = concat!(
            r#"{"max":18446744073709551615,"text":"\u003ca\u003e\u0026\u2028\u0001\"","#,
            r#""bytes":"AP8=","list":[1,2]}"#
        );
        assert_eq!(out, expected);
    }
}
