//! The `quorate` program: the server (parse → build → run → drain), and `quorate ctl` (the crate `ctl`).

mod boot;
mod checkpoints;
mod compactor;
mod config;
mod corruption;
mod descriptors;
mod directory;
mod divergence;
mod duties;
mod give_back;
mod join;
mod logging;
mod memory;
mod metrics;
mod new_cluster;
mod new_log;
mod observed;
mod offline;
mod peers;
mod server;
mod signals;
mod snapshots;
mod space;
mod takeover;
mod threads;

use config::{Config, Refusal};
use std::io::Write as _;
use std::process::ExitCode;

/// The version of etcd whose API, log and peer wire this server speaks.
const ETCD_VERSION: &str = "3.7.3";

/// Deliberate bugs are for the simulator alone; a release of the whole workspace would have them in the server too.
#[cfg(not(debug_assertions))]
const _: () =
    assert!(!types::mutant::ARE_COMPILED, "build the server by itself: cargo build --release -p quorate");

fn main() -> ExitCode {
    ctl::called(std::env::args_os(), &offline::Offline).unwrap_or_else(serve)
}

fn serve() -> ExitCode {
    let raw = match config::read(std::env::args().skip(1), std::env::vars()) {
        Ok(raw) => raw,
        Err(refusal) => return refuse(&refusal),
    };
    if raw.help {
        return say(&config::help());
    }
    if raw.bool("version") {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        return say(&format!(
            "quorate Version: {}\netcd Version: {ETCD_VERSION}\nOS/Arch: {os}/{arch}\n",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let config = match Config::from_raw(&raw) {
        Ok(config) => config,
        Err(refusal) => return refuse(&refusal),
    };
    let logs = match logging::start(&config.log) {
        Ok(logs) => logs,
        Err(error) => return refuse(&Refusal::Invalid(format!("cannot open the log output: {error}"))),
    };
    let log = logs.logger.clone();
    for (name, value) in &raw.used {
        slog::info!(log, "recognized and used environment variable";
            "variable-name" => name, "variable-value" => value);
    }
    for warning in &raw.warnings {
        slog::warn!(log, "{warning}");
    }
    if let Err(error) = signals::behave_like_go() {
        slog::warn!(log, "signals keep what they did"; "error" => %error);
    }
    let limit = descriptors::raise();
    let shares =
        match descriptors::divide(limit, config.limits.connections_max, &descriptors::Options::default()) {
            Ok(shares) => shares,
            Err(text) => return refuse(&Refusal::Invalid(text)),
        };
    slog::info!(log, "file descriptors"; "limit" => limit, "tables" => shares.tables, "peers" => shares.peers,
        "clients" => shares.clients);
    match server::run(config, shares, &logs) {
        Ok(ended) => {
            // The process may end by a signal to itself.
            logs.flush();
            ended.exit()
        }
        Err(error) => {
            slog::crit!(log, "the member stops"; "error" => with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each once: some texts have their cause in them.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line on stderr; exit code 2 for a command line that cannot be read, as Go's `flag` has it, else 1.
fn refuse(refusal: &Refusal) -> ExitCode {
    let (text, code) = match refusal {
        Refusal::Usage(text) => (format!("{text}\nRun 'quorate --help' for the flags.\n"), 2),
        Refusal::Invalid(text) => (format!("error verifying flags, {text}. See 'quorate --help'.\n"), 1),
    };
    // Nothing is left to do when stderr is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}
