//! Reads the command line and the environment as Go's `flag` package and etcd do.
//!
//! `-x` and `--x` are one; `--x=v` and `--x v` too; a boolean takes a value only after `=`; the last duplicate wins;
//! flags override `ETCD_*` variables.

use super::flags::{self, Flag, Kind, State};
use std::collections::BTreeMap;
use std::time::Duration;

/// What stops the member before it has a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The command line cannot be read: usage and exit code 2, as Go's `flag` does.
    Usage(String),
    /// The configuration is no good: one line and exit code 1.
    Invalid(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::Usage(text) | Refusal::Invalid(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Refusal {}

/// What was said, still as text.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    values: BTreeMap<&'static str, String>,
    /// Variables that are flags, with their values.
    pub(crate) used: Vec<(String, String)>,
    /// Lines for the log: variables that are none, flags without effect.
    pub(crate) warnings: Vec<String>,
    /// `--help` was asked for.
    pub(crate) help: bool,
}

impl Raw {
    /// The flag's value: what was said, else its default.
    pub(crate) fn text(&self, name: &str) -> &str {
        let flag = flags::find(name).expect("asked for by a name of the table");
        self.values.get(name).map_or(flag.default, String::as_str)
    }

    /// Whether the flag was set, on the command line or by a variable.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a boolean flag.
    pub(crate) fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("checked when it was read")
    }

    /// The value of a signed number.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.text(name).parse().expect("checked when it was read")
    }

    /// The value of an unsigned number.
    pub(crate) fn uint(&self, name: &str) -> u64 {
        self.text(name).parse().expect("checked when it was read")
    }

    /// The value of a duration.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).expect("checked when it was read")
    }

    fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), Refusal> {
        let said = || format!("invalid value {value:?} for flag -{}: parse error", flag.name);
        let readable = match flag.kind {
            Kind::Text => true,
            Kind::Bool => parse_bool(&value).is_some(),
            Kind::Int => value.parse::<i64>().is_ok(),
            Kind::Uint => value.parse::<u64>().is_ok(),
            Kind::Duration => parse_duration(&value).is_some(),
        };
        if !readable {
            return Err(Refusal::Usage(said()));
        }
        self.values.insert(flag.name, value);
        Ok(())
    }
}

/// Reads `args` (without the program's name) and `vars`, then says what each flag in them is worth here.
pub(crate) fn read(
    args: impl IntoIterator<Item = String>,
    vars: impl IntoIterator<Item = (String, String)>,
) -> Result<Raw, Refusal> {
    let mut raw = Raw::default();
    read_variables(&mut raw, vars)?;
    read_arguments(&mut raw, args)?;
    if !raw.help && !raw.bool("version") {
        check_states(&mut raw)?;
    }
    Ok(raw)
}

fn read_variables(raw: &mut Raw, vars: impl IntoIterator<Item = (String, String)>) -> Result<(), Refusal> {
    for (name, value) in vars {
        let Some(rest) = name.strip_prefix("ETCD_") else { continue };
        let flag_name = rest.to_ascii_lowercase().replace('_', "-");
        match flags::find(&flag_name) {
            Some(_) if flag_name == "version" => {
                raw.warnings.push("ignored environment variable ETCD_VERSION".to_owned());
            }
            // etcd takes an empty variable for none, and says so with these words.
            Some(_) if value.is_empty() => {
                raw.warnings.push(format!("unrecognized environment variable {name}="));
            }
            Some(flag) => {
                raw.set(flag, value.clone()).map_err(|_| {
                    Refusal::Invalid(format!("invalid value {value:?} for {name}: parse error"))
                })?;
                raw.used.push((name, value));
            }
            None if rest == "UNSUPPORTED_ARCH" => {}
            None => raw.warnings.push(format!("unrecognized environment variable {name}={value}")),
        }
    }
    Ok(())
}

fn read_arguments(raw: &mut Raw, args: impl IntoIterator<Item = String>) -> Result<(), Refusal> {
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            return Err(Refusal::Invalid(format!("{arg:?} is not a valid flag")));
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name == "h" || name == "help" {
            raw.help = true;
            return Ok(());
        }
        if flags::FORGOTTEN.contains(&name) {
            raw.warnings.push(format!("--{name} is a flag of long ago and is ignored"));
            continue;
        }
        let Some(flag) = flags::find(name) else {
            return Err(Refusal::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match (inline, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => {
                args.next().ok_or_else(|| Refusal::Usage(format!("flag needs an argument: -{name}")))?
            }
        };
        raw.set(flag, value)?;
    }
    Ok(())
}

fn check_states(raw: &mut Raw) -> Result<(), Refusal> {
    for flag in flags::all() {
        let Some(value) = raw.values.get(flag.name) else { continue };
        let same = value == flag.default
            || (flag.kind == Kind::Duration && parse_duration(value) == parse_duration(flag.default))
            || (flag.kind == Kind::Bool && parse_bool(value) == parse_bool(flag.default));
        match flag.state {
            State::Later(what) if !same => {
                let line = format!("--{} is not supported yet: this version does not have {what}", flag.name);
                return Err(Refusal::Invalid(line));
            }
            State::Idle(instead) if !same => {
                raw.warnings.push(format!("--{} is accepted without effect: {instead}", flag.name));
            }
            State::Served | State::Idle(_) | State::Later(_) => {}
        }
    }
    Ok(())
}

/// Go's spellings of a boolean (`strconv.ParseBool`).
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A Go duration: numbers with units, added up; `0` needs none. Negative ones are not durations here.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) =
            [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit) && !(*unit == "m" && rest.starts_with("ms")))?;
        nanos += number * scale;
        rest = &rest[unit.len()..];
    }
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str, vars: &[(&str, &str)]) -> Result<Raw, Refusal> {
        let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        read(line.split_whitespace().map(str::to_owned), vars)
    }

    fn check(line: &str, vars: &[(&str, &str)], flag: &str, expected: &str) {
        let raw = read_line(line, vars).unwrap_or_else(|e| panic!("{line}: {e:?}"));
        assert_eq!(raw.text(flag), expected, "{line} {vars:?}");
    }

    fn check_refused(line: &str, expected: Refusal) {
        assert_eq!(read_line(line, &[]).err(), Some(expected), "{line}");
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        check("", &[], "name", "default");
        check("-name a", &[], "name", "a");
        check("--name=a", &[], "name", "a");
        check("--name a --name b", &[], "name", "b");
        check("--pre-vote=false", &[], "pre-vote", "false");
        check("--pre-vote --name a", &[], "pre-vote", "true");
        check("--name=a=b", &[], "name", "a=b");
    }

    #[test]
    fn flags_override_variables() {
        check("", &[("ETCD_NAME", "env")], "name", "env");
        check("--name=flag", &[("ETCD_NAME", "env")], "name", "flag");
        check(
            "",
            &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")],
            "listen-client-urls",
            "http://127.0.0.1:1",
        );
        let raw = read_line("", &[("ETCD_NO_SUCH_THING", "1")]).expect("a warning only");
        assert_eq!(raw.warnings, ["unrecognized environment variable ETCD_NO_SUCH_THING=1"]);
        assert!(raw.used.is_empty());
        let raw = read_line("", &[("ETCD_NAME", "m")]).expect("a flag");
        assert_eq!((raw.used, raw.warnings), (vec![("ETCD_NAME".to_owned(), "m".to_owned())], vec![]));
    }

    #[test]
    fn an_empty_variable_is_none() {
        check("", &[("ETCD_NAME", "")], "name", "default");
        check("", &[("ETCD_PRE_VOTE", "")], "pre-vote", "true");
        let raw = read_line("", &[("ETCD_NAME", "")]).expect("a warning only");
        assert_eq!(raw.warnings, ["unrecognized environment variable ETCD_NAME="]);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        check_refused("--nope", Refusal::Usage("flag provided but not defined: -nope".into()));
        check_refused("name", Refusal::Invalid("\"name\" is not a valid flag".into()));
        check_refused("--name", Refusal::Usage("flag needs an argument: -name".into()));
        let text = "invalid value \"x\" for flag -max-txn-ops: parse error";
        check_refused("--max-txn-ops=x", Refusal::Usage(text.into()));
    }

    #[test]
    fn a_flag_of_a_later_version_is_refused_by_name_unless_it_says_nothing_new() {
        let text = "--cert-file is not supported yet: this version does not have TLS";
        check_refused("--cert-file=/x.crt", Refusal::Invalid(text.into()));
        check("--auth-token=simple --client-cert-auth=false", &[], "auth-token", "simple");
        check("--corrupt-check-time=0", &[], "name", "default");
    }

    #[test]
    fn a_flag_without_effect_is_accepted_with_a_warning() {
        let raw = read_line("--max-wals=7", &[]).expect("accepted");
        assert_eq!(raw.warnings.len(), 1);
        assert!(raw.warnings[0].starts_with("--max-wals is accepted without effect: "), "{:?}", raw.warnings);
    }

    #[test]
    fn durations_are_gos() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        };
        check("300ms", Some(300));
        check("1m30s", Some(90_000));
        check("2h0m0s", Some(7_200_000));
        check("1.5s", Some(1_500));
        check("0", Some(0));
        check("5", None);
        check("", None);
        check("-1s", None);
    }
}
