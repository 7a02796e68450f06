//! `snapshot save`: writes a member's state to a file, whole or not at all.

use super::Session;
use crate::client::{Client, RequestError};
use crate::failure::{Failure, INTERRUPTED, cause};
use crate::line::Invocation;
use crate::print::{progress, say};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tokio::time::{Instant, timeout_at};

/// Snapshots are padded to sectors of this size; the checksum follows.
const SECTOR_BYTES: u64 = 512;
/// The length of a SHA-256 hash.
const CHECKSUM_BYTES: usize = 32;

pub(crate) async fn save(invocation: Invocation) -> Result<(), Failure> {
    let [path] = &invocation.args[..] else {
        return Err(Failure::args("snapshot save expects one argument <filename>"));
    };
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.clone()));
    let session = Session::open(invocation)?;
    let endpoints = &session.settings.endpoints;
    if endpoints.len() != 1 {
        let text = format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            endpoints.join(" ")
        );
        return Err(Failure::new(INTERRUPTED, text));
    }
    let client = session.client()?;
    // No timeout unless the user gives one.
    let deadline = session.invocation.flags.changed("command-timeout").then(|| client.deadline());
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = match deadline {
        Some(deadline) => match timeout_at(deadline, fetch(&client, Some(deadline), &part, &path)).await {
            Ok(saved) => saved,
            Err(_) => Err("context deadline exceeded".to_owned()),
        },
        None => fetch(&client, None, &part, &path).await,
    };
    if saved.is_err() {
        // The file may not exist.
        let _ = fs::remove_file(&part);
    }
    let version = saved.map_err(|why| Failure::new(INTERRUPTED, why))?;
    say(format_args!("Snapshot saved at {}", path.display()))?;
    if version.is_empty() { Ok(()) } else { say(format_args!("Server version {version}")) }
}

/// Fetches into `part`, verifies it and renames it to `path`. Returns the server's storage version.
async fn fetch(
    client: &Client,
    deadline: Option<Instant>,
    part: &Path,
    path: &Path,
) -> Result<String, String> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
    let mut file = opened
        .map_err(|error| format!("could not open {0} (open {0}: {1})", part.display(), cause(&error)))?;
    let channel = client.channel(deadline).await.map_err(|error| error.to_string())?;
    let said = |status: tonic::Status| RequestError::status(&status).to_string();
    let mut service = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut stream = service.snapshot(pb::SnapshotRequest {}).await.map_err(said)?.into_inner();
    let mut checked = Checked::default();
    let mut version = String::new();
    let bar = progress::bytes();
    while let Some(piece) =
        stream.message().await.map_err(|status| format!("could not write snapshot: {}", said(status)))?
    {
        if version.is_empty() {
            version = piece.version;
        }
        write(&mut file, &piece.blob)?;
        checked.take(&piece.blob);
        bar.set_length(checked.bytes + piece.remaining_bytes);
        bar.set_position(checked.bytes);
    }
    bar.finish_and_clear();
    checked.verify()?;
    file.sync_all().map_err(|error| format!("could not fsync snapshot: {error}"))?;
    drop(file);
    fs::rename(part, path).map_err(|error| {
        let (part, path) = (part.display(), path.display());
        format!("could not rename {part} to {path} (rename {part} {path}: {})", cause(&error))
    })?;
    // Makes the rename durable.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| format!("could not fsync {}: {error}", folder.display()))?;
    Ok(version)
}

fn write(file: &mut File, bytes: &[u8]) -> Result<(), String> {
    file.write_all(bytes).map_err(|error| format!("could not write snapshot: {error}"))
}

/// Hashes everything but the last 32 bytes, which may be the checksum.
#[derive(Default)]
struct Checked {
    hash: Sha256,
    tail: Vec<u8>,
    bytes: u64,
}

impl Checked {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let certain = self.tail.len().saturating_sub(CHECKSUM_BYTES);
        self.hash.update(&self.tail[..certain]);
        self.tail.drain(..certain);
    }

    fn verify(self) -> Result<(), String> {
        if self.bytes % SECTOR_BYTES != CHECKSUM_BYTES as u64 {
            return Err(format!("sha256 checksum not found [bytes: {}]", self.bytes));
        }
        if self.hash.finalize()[..] != self.tail[..] {
            return Err(format!("sha256 checksum does not match [bytes: {}]", self.bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Checked;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn a_checksum_is_found_and_checked_in_any_pieces() {
        let data = vec![7; 1024];
        let whole = [&data[..], &Sha256::digest(&data)].concat();
        for size in [1, 31, 32, 33, 500, whole.len()] {
            let mut checked = Checked::default();
            whole.chunks(size).for_each(|piece| checked.take(piece));
            assert_eq!(checked.verify(), Ok(()), "{size}");
        }
        let verify = |bytes: &[u8]| {
            let mut checked = Checked::default();
            checked.take(bytes);
            checked.verify().unwrap_err()
        };
        assert_eq!(verify(&data), "sha256 checksum not found [bytes: 1024]");
        let mut wrong = whole;
        wrong[3] ^= 1;
        assert_eq!(verify(&wrong), "sha256 checksum does not match [bytes: 1056]");
    }
}
