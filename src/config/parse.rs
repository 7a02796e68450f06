//! Reads the command line and the environment as Go's `flag` package and etcd do. `-x` and `--x` are one; `--x=v` and
//! `--x v` too; a boolean takes a value only after `=`; the last duplicate wins; flags override `ETCD_*` variables.

use super::flags::{self, Flag, Kind, State};
use super::gates::{check_gates, idle_gates};
use gotext::duration;
use gotext::number::{NumberError, Why, boolean, int, uint, uint32};
use std::collections::BTreeMap;
use std::time::Duration;

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

    pub(crate) fn bool(&self, name: &str) -> bool {
        boolean(self.text(name).as_bytes()).expect("checked when it was read")
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        int(self.text(name).as_bytes(), 0).expect("checked when it was read")
    }

    pub(crate) fn uint(&self, name: &str) -> u64 {
        uint(self.text(name).as_bytes(), 0).expect("checked when it was read")
    }

    /// The value of a duration; zero where it is negative.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        duration::parse(self.text(name).as_bytes()).expect("checked when it was read")
    }

    /// Takes a value, or says why it cannot be read.
    fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), String> {
        // Go's `flag` has its own words for most of them.
        let in_short = |error: NumberError| match error.why {
            Why::Syntax => "parse error".to_owned(),
            Why::Range => "value out of range".to_owned(),
        };
        let text = value.as_bytes();
        match flag.kind {
            Kind::Text => {}
            Kind::Bool => drop(boolean(text).map_err(in_short)?),
            Kind::Int => drop(int(text, 0).map_err(in_short)?),
            Kind::Uint => drop(uint(text, 0).map_err(in_short)?),
            // Its type is etcd's own.
            Kind::Uint32 => drop(uint32(text, 0).map_err(|error| error.to_string())?),
            Kind::Duration => drop(duration::nanos(text).map_err(|_| "parse error".to_owned())?),
            Kind::Gates => check_gates(&value)?,
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
                raw.set(flag, value.clone())
                    .map_err(|why| Refusal::Invalid(format!("invalid value {value:?} for {name}: {why}")))?;
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
        let no_flag = |arg: &str| Refusal::Invalid(format!("{arg:?} is not a valid flag"));
        if arg == "--" {
            // Go's end of the flags: whatever comes after it is none.
            return args.next().map_or(Ok(()), |arg| Err(no_flag(&arg)));
        }
        let body = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|body| !body.is_empty());
        let body = body.ok_or_else(|| no_flag(&arg))?;
        if body.starts_with(['-', '=']) {
            return Err(Refusal::Usage(format!("bad flag syntax: {arg}")));
        }
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
        raw.set(flag, value.clone()).map_err(|why| {
            Refusal::Usage(match flag.kind {
                Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {why}"),
                _ => format!("invalid value {value:?} for flag -{name}: {why}"),
            })
        })?;
    }
    Ok(())
}

/// Whether two texts, both of which can be read, say the same.
fn same_value(kind: Kind, one: &[u8], other: &[u8]) -> bool {
    match kind {
        Kind::Bool => boolean(one) == boolean(other),
        Kind::Int => int(one, 0) == int(other, 0),
        Kind::Uint | Kind::Uint32 => uint(one, 0) == uint(other, 0),
        Kind::Duration => duration::parse(one) == duration::parse(other),
        Kind::Text | Kind::Gates => false,
    }
}

fn check_states(raw: &mut Raw) -> Result<(), Refusal> {
    for flag in flags::all() {
        let Some(value) = raw.values.get(flag.name) else { continue };
        let same = value == flag.default || same_value(flag.kind, value.as_bytes(), flag.default.as_bytes());
        match flag.state {
            State::Later(what) if !same => {
                let line = format!("--{} is not supported yet: this version does not have {what}", flag.name);
                return Err(Refusal::Invalid(line));
            }
            State::Idle(instead) if !same => {
                raw.warnings.push(format!("--{} is accepted without effect: {instead}", flag.name));
            }
            State::Served if flag.kind == Kind::Gates => {
                let lines = idle_gates(value)
                    .map(|gate| format!("--{}: the gate {gate} is accepted without effect", flag.name));
                raw.warnings.extend(lines);
            }
            State::Served | State::Idle(_) | State::Later(_) => {}
        }
    }
    Ok(())
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
        let text = "invalid value \"18446744073709551616\" for flag -max-txn-ops: value out of range";
        check_refused("--max-txn-ops=18446744073709551616", Refusal::Usage(text.into()));
        let text = "invalid boolean value \"x\" for -pre-vote: parse error";
        check_refused("--pre-vote=x", Refusal::Usage(text.into()));
        let text = "invalid value \"No=true\" for flag -feature-gates: unrecognized feature gate: No";
        check_refused("--feature-gates=No=true", Refusal::Usage(text.into()));
        let text = "strconv.ParseUint: parsing \"4294967296\": value out of range";
        let text = format!("invalid value \"4294967296\" for flag -max-concurrent-streams: {text}");
        check_refused("--max-concurrent-streams=4294967296", Refusal::Usage(text));
        check_refused("-", Refusal::Invalid("\"-\" is not a valid flag".into()));
        check_refused("-- --name=a", Refusal::Invalid("\"--name=a\" is not a valid flag".into()));
        check_refused("---name=a", Refusal::Usage("bad flag syntax: ---name=a".into()));
        check_refused("--=a", Refusal::Usage("bad flag syntax: --=a".into()));
    }

    #[test]
    fn values_are_written_in_any_of_gos_ways() {
        let raw = read_line("--max-txn-ops=0x10 --quota-backend-bytes=-1_000 --", &[]).expect("Go reads it");
        assert_eq!((raw.uint("max-txn-ops"), raw.int("quota-backend-bytes")), (16, -1_000));
        let raw = read_line("--watch-progress-notify-interval=-1s", &[]).expect("Go reads it");
        assert_eq!(raw.duration("watch-progress-notify-interval"), Duration::ZERO);
        // The default in other words is still the default.
        check("--bcrypt-cost=0xa", &[], "bcrypt-cost", "0xa");
        let refused = read_line("", &[("ETCD_MAX_TXN_OPS", "x")]).expect_err("it is no number");
        let text = "invalid value \"x\" for ETCD_MAX_TXN_OPS: parse error";
        assert_eq!(refused, Refusal::Invalid(text.to_owned()));
    }

    #[test]
    fn a_flag_of_a_later_version_is_refused_by_name_unless_it_says_nothing_new() {
        let text = "--cert-file is not supported yet: this version does not have TLS";
        check_refused("--cert-file=/x.crt", Refusal::Invalid(text.into()));
        check("--auth-token=simple --client-cert-auth=false", &[], "auth-token", "simple");
    }

    #[test]
    fn a_flag_without_effect_is_accepted_with_a_warning() {
        let raw = read_line("--max-wals=7", &[]).expect("accepted");
        assert_eq!(raw.warnings.len(), 1);
        assert!(raw.warnings[0].starts_with("--max-wals is accepted without effect: "), "{:?}", raw.warnings);
    }
}
