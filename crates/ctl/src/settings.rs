//! The global flags and environment variables: where to connect and how long to wait.

use crate::commands::GLOBAL;
use crate::failure::{BAD_CONNECTION, ERROR, Failure};
use crate::flags::{Flag, Flags};
use gotext::quote::quote;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// etcdctl's default limit on a request, in bytes.
const SEND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The prefix of each variable.
const PREFIX: &[u8] = b"ETCDCTL_";
/// Variables that `watch` reads itself.
const WATCH_VARIABLES: &[&[u8]] = &[b"ETCDCTL_WATCH_KEY", b"ETCDCTL_WATCH_RANGE_END"];

/// How to reach servers.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The endpoints as given.
    pub(crate) endpoints: Vec<String>,
    /// How long one connection may take.
    pub(crate) dial_timeout: Duration,
    /// How long one request may take.
    pub(crate) command_timeout: Duration,
    /// A connection that is silent for this long is pinged.
    pub(crate) keepalive_time: Duration,
    /// How long it may take to answer the ping.
    pub(crate) keepalive_timeout: Duration,
    /// The largest request, in bytes.
    pub(crate) send_bytes_max: usize,
    /// The largest response, in bytes.
    pub(crate) receive_bytes_max: usize,
    /// Whether each try is reported on stderr.
    pub(crate) debug: bool,
}

/// Sets flags that were not given from `ETCDCTL_*` variables. Returns warnings, one line each.
///
/// # Errors
/// A variable of a flag that was given too, as in etcdctl.
pub(crate) fn read_environment(
    flags: &mut Flags,
    variables: impl Iterator<Item = (OsString, OsString)>,
    watches: bool,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    for (name, value) in variables {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        if !name.starts_with(PREFIX) || (watches && WATCH_VARIABLES.contains(&name)) {
            continue;
        }
        let shown = String::from_utf8_lossy(name).into_owned();
        let Some(flag) = inherited(flags).find(|flag| variable(flag).as_bytes() == name) else {
            warnings.push(format!("unrecognized environment variable {shown}"));
            continue;
        };
        if flags.changed(flag.name) {
            return Err(Failure::new(
                ERROR,
                format!(
                    "conflicting environment variable {shown} is shadowed by --{} (either unset environment variable or disable flag)",
                    flag.name
                ),
            ));
        }
        if value.is_empty() {
            continue;
        }
        if let Err(why) = flags.set(flag, value) {
            warnings.push(format!("{shown}={} is not used: {why}", quote(value)));
        }
    }
    Ok(warnings)
}

/// The flags that have variables: the global ones, and `--cluster` if the command has it.
fn inherited(flags: &Flags) -> impl Iterator<Item = &'static Flag> {
    let cluster = flags.known().iter().copied().filter(|flag| flag.name == "cluster");
    GLOBAL.iter().chain(cluster.collect::<Vec<_>>())
}

/// The variable of a flag: `ETCDCTL_DIAL_TIMEOUT` for `--dial-timeout`.
fn variable(flag: &Flag) -> String {
    format!("ETCDCTL_{}", flag.name.replace('-', "_").to_uppercase())
}

impl Settings {
    /// From the flags; refuses by name those that are not supported yet.
    pub(crate) fn new(flags: &Flags) -> Result<Self, Failure> {
        for (name, what) in [
            ("cert", "TLS"),
            ("key", "TLS"),
            ("cacert", "TLS"),
            ("insecure-skip-tls-verify", "TLS"),
            ("user", "authentication"),
            ("password", "authentication"),
            ("auth-jwt-token", "authentication"),
            ("discovery-srv", "discovery by DNS"),
            ("discovery-srv-name", "discovery by DNS"),
        ] {
            if flags.changed(name) {
                return Err(Failure::args(format!(
                    "--{name} is not there yet: this program knows no {what}"
                )));
            }
        }
        if !flags.is("insecure-transport") {
            return Err(Failure::args(
                "--insecure-transport=false is not there yet: this program knows no TLS",
            ));
        }
        let limit = |name: &str, default: usize| match flags.int(name) {
            ..=0 => default,
            given => usize::try_from(given).unwrap_or(usize::MAX),
        };
        let settings = Self {
            endpoints: flags.list("endpoints"),
            dial_timeout: flags.duration("dial-timeout"),
            command_timeout: flags.duration("command-timeout"),
            keepalive_time: flags.duration("keepalive-time"),
            keepalive_timeout: flags.duration("keepalive-timeout"),
            send_bytes_max: limit("max-request-bytes", SEND_BYTES_MAX),
            receive_bytes_max: limit("max-recv-bytes", usize::MAX),
            debug: flags.is("debug"),
        };
        let (send, receive) = (flags.int("max-request-bytes"), flags.int("max-recv-bytes"));
        if receive > 0 && send > receive {
            let text = format!(
                "gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)"
            );
            return Err(Failure::new(BAD_CONNECTION, text));
        }
        if settings.endpoints.is_empty() {
            return Err(Failure::new(BAD_CONNECTION, "etcdclient: no available endpoints"));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::{Settings, read_environment};
    use crate::commands::ROOT;
    use crate::failure::Failure;
    use crate::line::{Line, read};
    use std::ffi::OsString;

    fn settings(args: &[&str], env: &[(&str, &str)]) -> Result<(Settings, Vec<String>), Failure> {
        let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        let Line::Do(mut it) = read("etcdctl", &ROOT, &args)? else { panic!("{args:?} asks for help") };
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let warnings = read_environment(&mut it.flags, env, false)?;
        Ok((Settings::new(&it.flags)?, warnings))
    }

    #[test]
    fn variables_speak_for_flags_that_were_not_given() {
        let env = [("ETCDCTL_ENDPOINTS", "a:1,b:2"), ("ETCDCTL_COMMAND_TIMEOUT", "7s"), ("PATH", "/bin")];
        let (settings, warnings) = settings(&["get", "k"], &env).unwrap();
        assert_eq!(settings.endpoints, ["a:1", "b:2"]);
        assert_eq!((settings.command_timeout.as_secs(), warnings.len()), (7, 0));
    }

    #[test]
    fn variables_that_cannot_be_used_are_named() {
        let conflict =
            settings(&["get", "k", "--endpoints=a:1"], &[("ETCDCTL_ENDPOINTS", "b:1")]).unwrap_err();
        assert!(conflict.code == 1 && conflict.lines().contains("ETCDCTL_ENDPOINTS"));
        let (_, warnings) =
            settings(&["get", "k"], &[("ETCDCTL_FOO", "1"), ("ETCDCTL_DIAL_TIMEOUT", "soon")]).unwrap();
        assert!(warnings[0].contains("ETCDCTL_FOO") && warnings[1].contains("soon"), "{warnings:?}");
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for flag in ["--user=root", "--cacert=x", "--insecure-transport=false", "-d", "--auth-jwt-token=t"] {
            let failure = settings(&["get", "k", flag, "x"], &[]).unwrap_err();
            assert_eq!(failure.code, 128);
            assert!(failure.lines().contains("is not there yet"), "{flag}: {}", failure.lines());
        }
        assert!(settings(&["get", "k"], &[("ETCDCTL_USER", "root")]).is_err());
    }
}
