//! Prints answers on stdout in one of etcdctl's formats.

mod fields;
mod json;
pub(crate) mod progress;
mod protobuf;
mod simple;
mod tables;

use crate::failure::{BAD_FEATURE, Failure};
use crate::flags::Flags;
use crate::text::table;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use std::io::{ErrorKind, Write as _};

/// An answer that each format prints by its own rules.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Get(&'a pb::RangeResponse),
    Put(&'a pb::PutResponse),
    Del(&'a pb::DeleteRangeResponse),
    Txn(&'a pb::TxnResponse),
    Watch(&'a pb::WatchResponse),
    Grant(&'a pb::LeaseGrantResponse),
    Revoke(i64, &'a pb::LeaseRevokeResponse),
    KeepAlive(&'a pb::LeaseKeepAliveResponse),
    /// The flag: whether keys were asked for.
    TimeToLive(&'a pb::LeaseTimeToLiveResponse, bool),
    Leases(&'a pb::LeaseLeasesResponse),
    MemberAdd(&'a pb::MemberAddResponse),
    MemberRemove(u64, &'a pb::MemberRemoveResponse),
    MemberUpdate(u64, &'a pb::MemberUpdateResponse),
    MemberPromote(u64, &'a pb::MemberPromoteResponse),
    MemberList(&'a pb::MemberListResponse),
    Alarm(&'a pb::AlarmResponse),
    MoveLeader {
        from: u64,
        to: u64,
        answer: &'a pb::MoveLeaderResponse,
    },
    Downgrade(DowngradeAction, &'a pb::DowngradeResponse),
    Health(&'a [Health]),
    Status(&'a [(String, pb::StatusResponse)]),
    HashKv(&'a [(String, pb::HashKvResponse)]),
}

/// What `endpoint health` found at one endpoint.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) endpoint: String,
    /// Whether a linearizable read succeeded and no alarm is raised.
    pub(crate) healthy: bool,
    /// How long the read took, as Go shows a duration.
    pub(crate) took: String,
    /// Empty if it is healthy.
    pub(crate) error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    /// `--hex`: bytes as `\x…`, IDs in hexadecimal.
    pub(crate) hex: bool,
    /// `--print-value-only`: `simple` leaves keys out.
    pub(crate) value_only: bool,
}

/// etcdctl does not print such an answer in this format.
#[derive(Debug)]
pub(crate) enum Unsupported {
    /// Most answers: the format is not supported.
    Format,
    /// A type of its client library that is not protobuf.
    Message(&'static str),
}

impl Printer {
    pub(crate) fn new(flags: &Flags) -> Result<Self, Failure> {
        let format = match flags.bytes("write-out") {
            b"simple" => Format::Simple,
            b"fields" => Format::Fields,
            b"json" => Format::Json,
            b"protobuf" => Format::Protobuf,
            b"table" => Format::Table,
            _ => return Err(Failure::new(BAD_FEATURE, "unsupported output format")),
        };
        Ok(Self { format, hex: flags.is("hex"), value_only: false })
    }

    pub(crate) fn print(&self, answer: &Answer<'_>) -> Result<(), Failure> {
        let mut out = Vec::new();
        let written = match self.format {
            Format::Simple => {
                simple::write(&mut out, self, answer);
                Ok(())
            }
            Format::Fields => fields::write(&mut out, self.hex, answer),
            Format::Json => {
                json::write(&mut out, self.hex, answer);
                Ok(())
            }
            Format::Protobuf => protobuf::write(&mut out, answer),
            Format::Table => write_table(&mut out, answer),
        };
        let unsupported = |why| {
            let text = match why {
                Unsupported::Format => format!("{} not supported as output format", self.format.name()),
                Unsupported::Message(name) => format!("marshal unsupported for type *clientv3.{name}"),
            };
            Failure::new(BAD_FEATURE, text)
        };
        written.map_err(unsupported).and_then(|()| stdout(&out))
    }
}

fn write_table(out: &mut Vec<u8>, answer: &Answer<'_>) -> Result<(), Unsupported> {
    let (headings, rows) = match answer {
        Answer::MemberList(list) => (tables::MEMBERS, tables::members(list)),
        Answer::Health(list) => (tables::HEALTH, tables::health(list)),
        Answer::Status(list) => (tables::STATUS, tables::status(list)),
        Answer::HashKv(list) => (tables::HASHES, tables::hashes(list)),
        _ => return Err(Unsupported::Format),
    };
    let mut text = String::new();
    table::draw(&mut text, headings, &rows);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// An alarm's name, or its number if the name is unknown.
fn alarm_name(alarm: i32) -> String {
    pb::AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |known| known.as_str_name().to_owned())
}

/// Writes to stdout and flushes. A closed pipe ends the program silently.
pub(crate) fn stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::silent(crate::failure::ERROR),
        _ => Failure::error(format!("cannot write to stdout: {error}")),
    })
}

/// Writes a line to stdout.
pub(crate) fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    stdout(format!("{line}\n").as_bytes())
}

/// Writes a line to stderr; a failure is ignored.
pub(crate) fn warn(line: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
