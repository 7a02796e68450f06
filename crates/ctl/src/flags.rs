//! Parses flags as etcdctl's library, pflag, does: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`,
//! anywhere between the arguments, up to `--`. A boolean takes its value only after `=`.

use gotext::quote::{quote, quote_byte};
use gotext::{duration, number};
use std::collections::BTreeMap;
use std::time::Duration;

/// The type of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` if given without a value.
    Bool,
    /// Any bytes, UTF-8 or not.
    Text,
    Int,
    Uint,
    Duration,
    /// Values separated by commas; a repeated flag appends.
    List,
}

/// A flag of the tables in `commands`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<u8>,
    pub(crate) kind: Kind,
    /// The value of a flag that is not given.
    pub(crate) default: &'static str,
    pub(crate) usage: &'static str,
}

#[derive(Debug, Clone)]
enum Value {
    Bool(bool),
    Text(Vec<u8>),
    Int(i64),
    Uint(u64),
    Duration(Duration),
    List(Vec<Vec<u8>>),
}

/// The flags of a command, with their values and whether they were given.
#[derive(Debug, Clone)]
pub(crate) struct Flags {
    known: Vec<&'static Flag>,
    values: BTreeMap<&'static str, (Value, bool)>,
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The arguments that are not flags, and how many of them precede `--`, if it is there.
    Arguments(Vec<Vec<u8>>, Option<usize>),
    Help,
}

impl Flags {
    /// All flags at their defaults.
    pub(crate) fn new(known: Vec<&'static Flag>) -> Self {
        let values = known.iter().map(|flag| {
            let value = read(flag.kind, flag.default.as_bytes()).expect("a default is a legal value");
            (flag.name, (value, false))
        });
        Self { values: values.collect(), known }
    }

    pub(crate) fn known(&self) -> &[&'static Flag] {
        &self.known
    }

    /// Parses arguments and sets the flags among them.
    pub(crate) fn parse(&mut self, args: &[Vec<u8>]) -> Result<Parsed, String> {
        let mut arguments = Vec::new();
        let mut before_dashes = None;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let done = match &arg[..] {
                b"--" => {
                    before_dashes = Some(arguments.len());
                    arguments.extend(rest.by_ref().cloned());
                    Ok(true)
                }
                [b'-', b'-', long @ ..] => self.parse_long(long, &mut rest),
                [b'-', shorts @ ..] if !shorts.is_empty() => self.parse_shorts(shorts, &mut rest),
                _ => {
                    arguments.push(arg.clone());
                    Ok(true)
                }
            };
            if !done? {
                return Ok(Parsed::Help);
            }
        }
        Ok(Parsed::Arguments(arguments, before_dashes))
    }

    /// Returns `false` for `--help`.
    fn parse_long<'a>(
        &mut self,
        text: &[u8],
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<bool, String> {
        let shown = String::from_utf8_lossy(text);
        if matches!(text.first(), Some(b'-' | b'=')) {
            return Err(format!("bad flag syntax: --{shown}"));
        }
        let (name, value) = match text.iter().position(|b| *b == b'=') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let Some(flag) = self.known.iter().copied().find(|flag| flag.name.as_bytes() == name) else {
            return match (name, value) {
                (b"help", None) => Ok(false),
                (b"help", Some(value)) => number::boolean(value).map(|asks| !asks).map_err(|why| {
                    format!("invalid argument {} for \"-h, --help\" flag: {why}", quote(value))
                }),
                _ => Err(format!("unknown flag: --{}", String::from_utf8_lossy(name))),
            };
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => b"true",
            None => rest.next().ok_or_else(|| format!("flag needs an argument: --{}", flag.name))?,
        };
        self.set(flag, value)?;
        Ok(true)
    }

    fn parse_shorts<'a>(
        &mut self,
        mut shorts: &[u8],
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<bool, String> {
        let whole = String::from_utf8_lossy(shorts).into_owned();
        while let Some((short, tail)) = shorts.split_first() {
            let Some(flag) = self.known.iter().copied().find(|flag| flag.short == Some(*short)) else {
                let asks = *short == b'h';
                let unknown = format!("unknown shorthand flag: {} in -{whole}", quote_byte(*short));
                return if asks { Ok(false) } else { Err(unknown) };
            };
            let (value, left): (&[u8], &[u8]) = match tail {
                [b'=', value @ ..] if !value.is_empty() => (value, b""),
                _ if flag.kind == Kind::Bool => (b"true", tail),
                [] => {
                    let missing = || format!("flag needs an argument: {} in -{whole}", quote_byte(*short));
                    (rest.next().ok_or_else(missing)?, b"")
                }
                value => (value, b""),
            };
            self.set(flag, value)?;
            shorts = left;
        }
        Ok(true)
    }

    /// Sets a flag as if it were given.
    pub(crate) fn set(&mut self, flag: &'static Flag, text: &[u8]) -> Result<(), String> {
        let value = read(flag.kind, text).map_err(|why| {
            let name = match flag.short {
                Some(short) => format!("-{}, --{}", char::from(short), flag.name),
                None => format!("--{}", flag.name),
            };
            format!("invalid argument {} for {} flag: {why}", quote(text), quote(name.as_bytes()))
        })?;
        let slot = self.values.get_mut(flag.name).expect("a known flag has a value");
        match (&mut *slot, value) {
            ((Value::List(all), true), Value::List(more)) => all.extend(more),
            (slot, value) => *slot = (value, true),
        }
        Ok(())
    }

    fn value(&self, name: &str) -> &Value {
        &self.values.get(name).expect("the tables name every flag that a command reads").0
    }

    /// Whether the flag was given.
    pub(crate) fn changed(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|(_, changed)| *changed)
    }

    /// A boolean; `false` if the command has no such flag.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some((Value::Bool(true), _)))
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        match self.value(name) {
            Value::Text(text) => text,
            other => panic!("--{name} holds {other:?}, no text"),
        }
    }

    /// Text, with a replacement character for what is not UTF-8.
    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.bytes(name)).into_owned()
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(number) => *number,
            other => panic!("--{name} holds {other:?}, no number"),
        }
    }

    pub(crate) fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(number) => *number,
            other => panic!("--{name} holds {other:?}, no number"),
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(duration) => *duration,
            other => panic!("--{name} holds {other:?}, no duration"),
        }
    }

    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(all) => all.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect(),
            other => panic!("--{name} holds {other:?}, no list"),
        }
    }

    /// Every flag with its value as text, by name, for `--debug`.
    pub(crate) fn shown(&self) -> Vec<(&'static str, String)> {
        let show = |value: &Value| match value {
            Value::Bool(value) => value.to_string(),
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Int(number) => number.to_string(),
            Value::Uint(number) => number.to_string(),
            Value::Duration(value) => duration::show(*value),
            Value::List(all) => {
                let items: Vec<_> = all.iter().map(|item| String::from_utf8_lossy(item)).collect();
                format!("[{}]", items.join(","))
            }
        };
        self.values.iter().map(|(name, (value, _))| (*name, show(value))).collect()
    }
}

fn read(kind: Kind, text: &[u8]) -> Result<Value, String> {
    Ok(match kind {
        Kind::Bool => Value::Bool(number::boolean(text).map_err(|error| error.to_string())?),
        Kind::Text => Value::Text(text.to_vec()),
        Kind::Int => Value::Int(number::int(text, 0).map_err(|error| error.to_string())?),
        Kind::Uint => Value::Uint(number::uint(text, 0).map_err(|error| error.to_string())?),
        Kind::Duration => Value::Duration(duration::parse(text).map_err(|error| error.to_string())?),
        Kind::List if text.is_empty() => Value::List(Vec::new()),
        Kind::List => Value::List(text.split(|b| *b == b',').map(<[u8]>::to_vec).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::{Flag, Flags, Kind, Parsed};

    const fn flag(name: &'static str, short: Option<u8>, kind: Kind, default: &'static str) -> Flag {
        Flag { name, short, kind, default, usage: "" }
    }

    static KNOWN: [Flag; 5] = [
        flag("prefix", None, Kind::Bool, "false"),
        flag("write-out", Some(b'w'), Kind::Text, "simple"),
        flag("limit", None, Kind::Int, "0"),
        flag("endpoints", None, Kind::List, "a:1"),
        flag("interactive", Some(b'i'), Kind::Bool, "false"),
    ];

    fn parse(args: &[&str]) -> Result<(Flags, Vec<String>), String> {
        let mut flags = Flags::new(KNOWN.iter().collect());
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        match flags.parse(&args)? {
            Parsed::Help => Err("help".to_owned()),
            Parsed::Arguments(found, _) => {
                Ok((flags, found.into_iter().map(|a| String::from_utf8(a).unwrap()).collect()))
            }
        }
    }

    #[test]
    fn every_way_to_give_a_flag() {
        let (flags, args) =
            parse(&["a", "--prefix", "-wjson", "b", "--limit=0x10", "-", "", "--", "--prefix=no"]).unwrap();
        assert_eq!(args, ["a", "b", "-", "", "--prefix=no"]);
        assert!(flags.is("prefix") && flags.changed("prefix") && !flags.changed("endpoints"));
        assert_eq!((flags.text("write-out"), flags.int("limit")), ("json".to_owned(), 16));
        for args in [&["-w=json"][..], &["-w", "json"], &["-iwjson"], &["--write-out", "json"]] {
            assert_eq!(parse(args).unwrap().0.text("write-out"), "json", "{args:?}");
        }
        assert!(!parse(&["--prefix=false"]).unwrap().0.is("prefix"));
        assert_eq!(parse(&["--prefix", "false"]).unwrap().1, ["false"]);
    }

    #[test]
    fn a_list_grows_and_forgets_its_default() {
        assert_eq!(parse(&[]).unwrap().0.list("endpoints"), ["a:1"]);
        let (flags, _) = parse(&["--endpoints=b:1,c:2", "--endpoints", "d:3"]).unwrap();
        assert_eq!(flags.list("endpoints"), ["b:1", "c:2", "d:3"]);
    }

    #[test]
    fn refusals_are_etcdctls_words() {
        for (args, words) in [
            (&["--foo"][..], "unknown flag: --foo"),
            (&["--foo=1"], "unknown flag: --foo"),
            (&["-z"], "unknown shorthand flag: 'z' in -z"),
            (&["-iz"], "unknown shorthand flag: 'z' in -iz"),
            (&["--limit"], "flag needs an argument: --limit"),
            (&["-w"], "flag needs an argument: 'w' in -w"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["--=x"], "bad flag syntax: --=x"),
            (
                &["--limit", "x"],
                r#"invalid argument "x" for "--limit" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
            ),
            (&["-h"], "help"),
            (&["a", "--help"], "help"),
            (&["a", "--help=true"], "help"),
            (
                &["--help=x"],
                r#"invalid argument "x" for "-h, --help" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
            ),
        ] {
            assert_eq!(parse(args).unwrap_err(), words, "{args:?}");
        }
    }
}
