//! `snapshot status`, `snapshot restore` and `data-dir`: work on files, without a server, like etcdutl.

use crate::failure::{BAD_ARGS, ERROR, Failure};
use crate::line::Invocation;
use crate::print::{Format, Printer, progress, stdout};
use crate::text::{json, table, words};
use snapshot::{Directory, Offline, Progress, Restore, Status};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

pub(crate) fn status(invocation: &Invocation, offline: &dyn Offline) -> Result<(), Failure> {
    let file = only_file(invocation, "status")?;
    let printer = Printer::new(&invocation.flags)?;
    let status = with_progress(|progress| offline.status(file, progress))?;
    stdout(render(printer.format, &status).as_bytes())
}

pub(crate) fn restore(invocation: &Invocation, offline: &dyn Offline) -> Result<(), Failure> {
    let file = only_file(invocation, "restore")?;
    let flags = &invocation.flags;
    let bump = u64::try_from(flags.int("bump-revision"))
        .map_err(|_| Failure::error("--bump-revision must not be negative"))?;
    if (bump > 0) != flags.is("mark-compacted") {
        // The text names the wrong flag in etcdutl too.
        return Err(Failure::new(BAD_ARGS, "--mark-compacted required if --revision-bump > 0"));
    }
    let restore = Restore {
        file: file.to_path_buf(),
        name: flags.text("name"),
        data_dir: path(invocation, "data-dir"),
        wal_dir: path(invocation, "wal-dir"),
        initial_cluster: flags.text("initial-cluster"),
        initial_cluster_token: flags.text("initial-cluster-token"),
        initial_advertise_peer_urls: flags.text("initial-advertise-peer-urls"),
        skip_hash_check: flags.is("skip-hash-check"),
        bump_revision: bump,
    };
    with_progress(|progress| offline.restore(&restore, progress))
}

pub(crate) fn check(invocation: &Invocation, offline: &dyn Offline) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::args("data-dir check takes no arguments, only --data-dir"));
    }
    let wanted = directory(invocation, "check")?;
    let obstacles = with_progress(|progress| offline.obstacles(&wanted, progress))?;
    let dir = wanted.data_dir.display();
    if obstacles.is_empty() {
        return stdout(format!("{dir}: quorate can go on from here\n").as_bytes());
    }
    for obstacle in &obstacles {
        stdout(format!("obstacle: {obstacle}\n").as_bytes())?;
    }
    Err(Failure::new(ERROR, format!("quorate cannot go on from {dir}: {} in the way", obstacles.len())))
}

pub(crate) fn to_etcd(invocation: &Invocation, offline: &dyn Offline) -> Result<(), Failure> {
    let [to] = &invocation.args[..] else {
        return Err(Failure::args("data-dir to-etcd requires exactly one argument, the output directory"));
    };
    let (from, to) = (directory(invocation, "to-etcd")?, Path::new(OsStr::from_bytes(to)));
    with_progress(|progress| offline.give_back(&from, to, progress))?;
    let lines = format!(
        "{}: etcd can go on from here; do not start {} again\n",
        to.display(),
        from.data_dir.display()
    );
    stdout(lines.as_bytes())
}

fn directory(invocation: &Invocation, what: &str) -> Result<Directory, Failure> {
    let data_dir = path(invocation, "data-dir");
    let data_dir = data_dir.ok_or_else(|| Failure::args(format!("data-dir {what} requires --data-dir")))?;
    Ok(Directory { data_dir, wal_dir: path(invocation, "wal-dir") })
}

fn path(invocation: &Invocation, name: &str) -> Option<PathBuf> {
    let bytes = invocation.flags.bytes(name);
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Does `work` behind a progress bar.
fn with_progress<T>(work: impl FnOnce(&mut Progress<'_>) -> Result<T, String>) -> Result<T, Failure> {
    let bar = progress::bytes();
    let done = work(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done.map_err(|text| Failure::new(ERROR, text))
}

fn only_file<'a>(invocation: &'a Invocation, what: &str) -> Result<&'a Path, Failure> {
    match &invocation.args[..] {
        [file] => Ok(Path::new(OsStr::from_bytes(file))),
        _ => Err(Failure::args(format!("snapshot {what} requires exactly one argument"))),
    }
}

fn render(format: Format, status: &Status) -> String {
    let cells = || {
        vec![
            format!("{:x}", status.hash),
            status.revision.to_string(),
            status.total_keys.to_string(),
            words::bytes(status.total_bytes),
            status.version.clone(),
        ]
    };
    let mut out = String::new();
    match format {
        Format::Simple => out = cells().join(", "),
        Format::Table => {
            let headings = ["hash", "revision", "total keys", "total size", "version"];
            table::draw(&mut out, &headings, &[cells()]);
            return out;
        }
        Format::Fields => {
            let Status { hash, revision, total_keys, total_bytes, version } = status;
            out = format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\"Size\" : {total_bytes}\n\"Version\" : {version}"
            );
        }
        // As in etcdutl: the status is not a message of the API.
        Format::Json | Format::Protobuf => json::object(&mut out, |object| {
            object.plain("hash", status.hash);
            object.plain("revision", status.revision);
            object.plain("totalKey", status.total_keys);
            object.plain("totalSize", status.total_bytes);
            object.string("version", &status.version);
        }),
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_printed_as_etcdutl_prints_it() {
        let status = Status {
            hash: 0xe7a6_e44b,
            revision: 2,
            total_keys: 7,
            total_bytes: 20_480,
            version: "3.7.0".to_owned(),
        };
        assert_eq!(render(Format::Simple, &status), "e7a6e44b, 2, 7, 20 kB, 3.7.0\n");
        let json = r#"{"hash":3886474315,"revision":2,"totalKey":7,"totalSize":20480,"version":"3.7.0"}"#;
        assert_eq!(render(Format::Json, &status), format!("{json}\n"));
        assert!(render(Format::Fields, &status).starts_with("\"Hash\" : 3886474315\n\"Revision\" : 2\n"));
    }
}
