//! A member that was found wrong serves nobody, across restarts: a file in its data directory says so.

use anyhow::Context as _;
use prometheus::IntGauge;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file's name, beside the rows. It goes with the data directory, when the member is replaced.
const FILE: &str = "diverged";

/// Whether the member whose files are in this directory was found wrong.
pub(crate) fn is_noted(member_dir: &Path) -> bool {
    member_dir.join(FILE).exists()
}

pub(crate) struct Quarantine {
    path: PathBuf,
    api: Arc<api::Api>,
    /// 1 while it is on.
    gauge: IntGauge,
}

impl Quarantine {
    /// That of the member whose files are in this directory: on if it was on before.
    pub(crate) fn of(member_dir: &Path, api: Arc<api::Api>, log: &slog::Logger) -> Self {
        let help =
            "Whether this member's data was found to differ from the majority's: it serves no client then.";
        let gauge = IntGauge::new("quorate_diverged", help).expect("a constant, valid metric name");
        let found = Self { path: member_dir.join(FILE), api, gauge };
        if found.path.exists() {
            found.stop_serving();
            slog::error!(log, "this member's data was found wrong before: it does not serve; remove the member and add it \
                 again with an empty data directory"; "file" => found.path.display().to_string());
        }
        found
    }

    pub(crate) fn is_on(&self) -> bool {
        self.api.is_distrusted()
    }

    /// 1 while it is on; to be registered.
    pub(crate) fn metric(&self) -> IntGauge {
        self.gauge.clone()
    }

    /// Serves nobody from now on, and not after a restart either.
    pub(crate) async fn begin(&self, why: &str, log: &slog::Logger) {
        self.stop_serving();
        let (path, text) = (self.path.clone(), format!("{why}\n"));
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        if let Err(error) = written.context("it was cut short").and_then(|written| written) {
            slog::error!(log, "cannot note that this member's data is wrong: after a restart it is compared anew";
                "error" => format!("{error:#}"));
        }
    }

    fn stop_serving(&self) {
        self.api.distrust();
        self.gauge.set(1);
    }
}

/// Durably, with its name.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let dir = path.parent().context("the file lies in a directory")?;
    Ok(File::open(dir)?.sync_all()?)
}
