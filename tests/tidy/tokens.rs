//! Rust's text as tokens, as far as the checks need it: no comments, no text in quotes, no `#[cfg(test)]` items.

use std::iter::Peekable;
use std::str::Chars;

/// What opens an item: where it ends is told by `;` or a block, not by a comma.
const ITEMS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
];

/// The tokens that ship: names, `::`, and every other character by itself.
pub(crate) fn shipped(text: &str) -> Vec<String> {
    without_tests(&tokens(text))
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => skip_line(&mut chars),
            '/' if chars.peek() == Some(&'*') => skip_block(&mut chars),
            '"' => skip_quoted(&mut chars),
            '\'' => skip_char(&mut chars),
            ':' if chars.next_if_eq(&':').is_some() => tokens.push("::".to_owned()),
            c if is_name(c) => {
                let mut name = String::from(c);
                while let Some(c) = chars.next_if(|c| is_name(*c)) {
                    name.push(c);
                }
                if matches!(&*name, "r" | "br" | "cr") && matches!(chars.peek(), Some('"' | '#')) {
                    skip_raw(&mut chars, &mut tokens);
                } else {
                    tokens.push(name);
                }
            }
            c if c.is_whitespace() => {}
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn skip_line(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| *c != '\n').is_some() {}
}

/// Skips a block comment, which may hold others.
fn skip_block(chars: &mut Peekable<Chars<'_>>) {
    chars.next();
    let mut depth = 1;
    while depth > 0 {
        match chars.next() {
            Some('*') if chars.next_if_eq(&'/').is_some() => depth -= 1,
            Some('/') if chars.next_if_eq(&'*').is_some() => depth += 1,
            Some(_) => {}
            None => return,
        }
    }
}

fn skip_quoted(chars: &mut Peekable<Chars<'_>>) {
    while let Some(c) = chars.next() {
        match c {
            '"' => return,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
}

/// Skips `'c'`, and the tick of a lifetime.
fn skip_char(chars: &mut Peekable<Chars<'_>>) {
    let mut ahead = chars.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            chars.nth(1);
            while chars.next().is_some_and(|c| c != '\'') {}
        }
        (_, Some('\'')) => drop(chars.nth(1)),
        _ => {}
    }
}

/// Skips the rest of `r"…"` or `r#"…"#`; `r#type` is a name.
fn skip_raw(chars: &mut Peekable<Chars<'_>>, tokens: &mut Vec<String>) {
    let mut marks = 0;
    while chars.next_if_eq(&'#').is_some() {
        marks += 1;
    }
    if chars.next_if_eq(&'"').is_none() {
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| is_name(*c)) {
            name.push(c);
        }
        tokens.push(name);
        return;
    }
    while let Some(c) = chars.next() {
        if c == '"' && chars.clone().take(marks).filter(|c| *c == '#').count() == marks {
            for _ in 0..marks {
                chars.next();
            }
            return;
        }
    }
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut shipped = Vec::new();
    let mut rest = tokens;
    while let Some(token) = rest.first() {
        if is_test(rest) {
            rest = after_item(rest);
        } else {
            shipped.push(token.clone());
            rest = &rest[1..];
        }
    }
    shipped
}

/// Whether the tokens begin with `#[cfg(test…` or `#[cfg(all(test…`.
fn is_test(tokens: &[String]) -> bool {
    let begins =
        |words: &[&str]| tokens.len() >= words.len() && tokens.iter().zip(words).all(|(a, b)| a == b);
    begins(&["#", "[", "cfg", "(", "test", ")"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// What follows the item, field or arm that begins here with its attributes.
fn after_item(mut tokens: &[String]) -> &[String] {
    while tokens.first().is_some_and(|token| token == "#") {
        tokens = after_group(&tokens[1..]);
    }
    if tokens.first().is_some_and(|token| token == "pub") {
        tokens = &tokens[1..];
        if tokens.first().is_some_and(|token| token == "(") {
            tokens = after_group(tokens);
        }
    }
    let is_item = tokens.first().is_some_and(|token| ITEMS.contains(&&**token));
    let mut is_use = false;
    while let Some(token) = tokens.first() {
        match &**token {
            ";" => return &tokens[1..],
            "," if !is_item => return &tokens[1..],
            "}" | ")" | "]" => return tokens,
            "{" if !is_use => return after_group(tokens),
            "{" | "(" | "[" => tokens = after_group(tokens),
            word => {
                is_use |= word == "use";
                tokens = &tokens[1..];
            }
        }
    }
    tokens
}

/// What follows the bracket that closes the one that opens here.
fn after_group(tokens: &[String]) -> &[String] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match &**token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return &tokens[at + 1..];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::shipped;

    fn check(text: &str, expected: &str) {
        assert_eq!(shipped(text).join(" "), expected, "{text}");
    }

    #[test]
    fn comments_and_texts_are_no_tokens() {
        check("a::b // c\n/* d /* e */ f */ g(\"h \\\" i\", 'j', '\\'', '\\u{41}')", "a :: b g ( , , , )");
        check("fn f<'a>(x: &'a str) {}", "fn f < a > ( x : & a str ) { }");
        check("r\"a\" br#\"b \" c\"# r#type", "type");
    }

    #[test]
    fn items_for_tests_do_not_ship() {
        check("#[cfg(test)]\nmod tests { use a::{b, c}; fn d() {} }\nmod e;", "mod e ;");
        check("#[cfg(test)] pub(crate) use a::{b, c}; mod d;", "mod d ;");
        check("#[cfg(test)]\n#[path = \"x.rs\"]\nmod a;\nmod b;", "mod b ;");
        check(
            "struct S { a: A, #[cfg(test)] pub(crate) b: Vec<(B, C)>, c: C }",
            "struct S { a : A , c : C }",
        );
        check("#[cfg(test)] fn f<A, B>(a: [A; 3]) -> B { a } fn g() {}", "fn g ( ) { }");
        check("#[cfg(unix)] fn g() {}", "# [ cfg ( unix ) ] fn g ( ) { }");
    }
}
