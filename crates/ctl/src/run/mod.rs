//! What the commands do.

mod endpoint;
mod kv;
mod member;
pub(crate) mod offline;
mod ops;
mod txn;

use crate::client::Client;
use crate::commands::Action;
use crate::failure::Failure;
use crate::line::{Invocation, title};
use crate::print::{Printer, warn};
use crate::settings::{self, Settings};

/// A command whose flags and environment were read.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its flags and arguments.
    pub(crate) invocation: Invocation,
    /// How to reach servers.
    pub(crate) settings: Settings,
    /// How to print.
    pub(crate) printer: Printer,
}

impl Session {
    /// Reads environment and global flags. Commands look at their arguments before that, as etcdctl does.
    pub(crate) fn open(mut invocation: Invocation) -> Result<Self, Failure> {
        let variables = std::env::vars_os();
        for warning in settings::read_environment(&mut invocation.flags, variables, false)? {
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

    /// A client of all endpoints.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.settings)
    }
}

/// Does what was asked for.
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
        Action::MemberList => member::list(invocation).await,
        Action::NotThere
        | Action::Version
        | Action::Options
        | Action::Help
        | Action::SnapshotStatus
        | Action::SnapshotRestore => {
            Err(Failure::args(format!("{} is not there yet", title(program, &invocation.path))))
        }
    }
}
