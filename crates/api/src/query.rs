//! A URL's query, parsed as Go's `url.Query` does.

use percent_encoding::percent_decode_str;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        // Go skips pairs with a semicolon or an invalid escape.
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        });
        Self(decoded.collect())
    }

    /// All non-empty values of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }
}

fn unescape(text: &str) -> Option<String> {
    let escapes = text.split('%').skip(1);
    for escape in escapes {
        let digits = escape.as_bytes().get(..2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
    }
    let spaced = text.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let check = |query: &str, exclude: &[&str], serializable: Option<&str>| {
            let parsed = Query::parse(query);
            assert_eq!(parsed.all("exclude").collect::<Vec<_>>(), exclude, "{query}");
            assert_eq!(parsed.first("serializable"), serializable, "{query}");
        };
        check("", &[], None);
        check("exclude=NOSPACE&exclude=CORRUPT&exclude=", &["NOSPACE", "CORRUPT"], None);
        check("serializable=true", &[], Some("true"));
        check("serializable=false&serializable=true", &[], Some("false"));
        check("x&serializable=1&&", &[], Some("1"));
        check("e%78clude=%4eO+S", &["NO S"], None);
        check("exclude=a;b&exclude=%zz&exclude=%4", &[], None);
        assert!(Query::parse("verbose").has("verbose"));
        assert!(!Query::parse("verbos").has("verbose"));
    }
}
