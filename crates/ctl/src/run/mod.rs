//! The commands: each file has a group of them.

mod check;
mod cluster;
mod endpoint;
mod kv;
mod lease;
mod lock;
mod member;
mod mirror;
pub(crate) mod offline;
mod ops;
mod snapshot;
mod takeover;
mod txn;
mod watch;

use crate::client::Client;
use crate::commands::Action;
use crate::failure::{Failure, cause};
use crate::line::{Invocation, title};
use crate::print::{Printer, warn};
use crate::settings::{self, Settings};
use gotext::quote::quote;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;

/// A command with its settings, ready to send requests.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) invocation: Invocation,
    pub(crate) settings: Settings,
    pub(crate) printer: Printer,
}

impl Session {
    /// Reads the environment and the global flags. Commands check their arguments before, as in etcdctl.
    pub(crate) fn open(mut invocation: Invocation) -> Result<Self, Failure> {
        let variables = std::env::vars_os();
        let watches = invocation.action == Action::Watch;
        for warning in settings::read_environment(&mut invocation.flags, variables, watches)? {
            warn(format_args!("Warning: {warning}"));
        }
        let settings = Settings::new(&invocation.flags)?;
        if settings.debug {
            for (name, value) in invocation.flags.shown() {
                warn(format_args!("ETCDCTL_{}={value}", name.replace('-', "_").to_uppercase()));
            }
        }
        let printer = Printer::new(&invocation.flags)?;
        Ok(Self { invocation, settings, printer })
    }

    /// Opens a session, and the client of its endpoints.
    pub(crate) fn connect(invocation: Invocation) -> Result<(Self, Client), Failure> {
        let session = Self::open(invocation)?;
        let client = session.client()?;
        Ok((session, client))
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.settings)
    }
}

/// A program that was run and failed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; 255 after a signal.
    pub(crate) code: u8,
    /// Go's text for it, such as `exit status 1`.
    pub(crate) text: String,
}

/// Runs a program to its end, without blocking the runtime.
pub(crate) async fn execute(mut process: std::process::Command) -> Result<(), Ended> {
    let program = process.get_program().to_owned();
    let failed = |text| Ended { code: crate::failure::ERROR, text };
    let ended =
        tokio::task::spawn_blocking(move || process.stdin(std::process::Stdio::null()).status()).await;
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound && !program.as_bytes().contains(&b'/') => {
            let program = quote(program.as_bytes());
            return Err(failed(format!("exec: {program}: executable file not found in $PATH")));
        }
        Ok(Err(error)) => {
            let program = program.to_string_lossy();
            return Err(failed(format!("fork/exec {program}: {}", cause(&error))));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => {
            Err(Ended { code: u8::try_from(code).unwrap_or(u8::MAX), text: format!("exit status {code}") })
        }
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            Err(Ended { code: u8::MAX, text: format!("signal: {}", signal_name(signal)) })
        }
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup".to_owned(),
        2 => "interrupt".to_owned(),
        3 => "quit".to_owned(),
        6 => "aborted".to_owned(),
        9 => "killed".to_owned(),
        11 => "segmentation fault".to_owned(),
        13 => "broken pipe".to_owned(),
        15 => "terminated".to_owned(),
        other => format!("signal {other}"),
    }
}

/// Runs a command that needs a server.
pub(crate) async fn run(program: &str, invocation: Invocation) -> Result<(), Failure> {
    match invocation.action {
        Action::Get => kv::get(invocation).await,
        Action::Put => kv::put(invocation).await,
        Action::Del => kv::del(invocation).await,
        Action::Txn => txn::run(invocation).await,
        Action::Compaction => kv::compaction(invocation).await,
        Action::EndpointHealth => endpoint::health(invocation).await,
        Action::EndpointStatus => endpoint::status(invocation).await,
        Action::EndpointHashKv => endpoint::hash_kv(invocation).await,
        Action::MemberAdd => member::add(invocation).await,
        Action::MemberList => member::list(invocation).await,
        Action::MemberPromote => member::promote(invocation).await,
        Action::MemberRemove => member::remove(invocation).await,
        Action::MemberUpdate => member::update(invocation).await,
        Action::Watch => watch::run(invocation).await,
        Action::LeaseGrant => lease::grant(invocation).await,
        Action::LeaseRevoke => lease::revoke(invocation).await,
        Action::LeaseTimeToLive => lease::time_to_live(invocation).await,
        Action::LeaseList => lease::list(invocation).await,
        Action::LeaseKeepAlive => lease::keep_alive(invocation).await,
        Action::Lock => lock::lock(invocation).await,
        Action::Elect => lock::elect(invocation).await,
        Action::AlarmList => cluster::alarm_list(invocation).await,
        Action::AlarmDisarm => cluster::alarm_disarm(invocation).await,
        Action::Defrag => cluster::defrag(invocation).await,
        Action::MoveLeader => cluster::move_leader(invocation).await,
        Action::Downgrade(action) => cluster::downgrade(invocation, action).await,
        Action::SnapshotSave => snapshot::save(invocation).await,
        Action::CheckPerf => check::perf(invocation).await,
        Action::CheckDatascale => check::datascale(invocation).await,
        Action::CheckTakeover => takeover::check(invocation).await,
        Action::MakeMirror => mirror::run(invocation).await,
        Action::Unsupported
        | Action::Version
        | Action::Options
        | Action::Help
        | Action::DataDirCheck
        | Action::DataDirToEtcd
        | Action::SnapshotStatus
        | Action::SnapshotRestore => {
            Err(Failure::args(format!("{} is not there yet", title(program, &invocation.path))))
        }
    }
}
