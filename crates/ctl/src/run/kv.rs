//! `get`, `put`, `del`, `compaction`.

use super::{Session, ops};
use crate::client::{Client, Kind, RequestError};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::{Answer, Format, say};
use crate::text::number;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_client::KvClient;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A KV service whose answers may be as large as the user allows.
pub(crate) fn service(client: &Client, channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(client.settings().receive_bytes_max)
}

/// Range.
pub(crate) async fn range(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, RequestError> {
    client.call(deadline, Kind::Read, request, async |c, q| service(client, c).range(q).await).await
}

/// Put.
pub(crate) async fn put_one(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::PutRequest,
) -> Result<pb::PutResponse, RequestError> {
    client.call(deadline, Kind::Write, request, async |c, q| service(client, c).put(q).await).await
}

/// `DeleteRange`.
pub(crate) async fn delete_range(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, RequestError> {
    client.call(deadline, Kind::Write, request, async |c, q| service(client, c).delete_range(q).await).await
}

/// Txn.
pub(crate) async fn txn(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::TxnRequest,
) -> Result<pb::TxnResponse, RequestError> {
    client.call(deadline, Kind::Write, request, async |c, q| service(client, c).txn(q).await).await
}

/// Compact.
pub(crate) async fn compact(
    client: &Client,
    deadline: Option<Instant>,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, RequestError> {
    client.call(deadline, Kind::Write, request, async |c, q| service(client, c).compact(q).await).await
}

/// `get`.
pub(crate) async fn get(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::get(&invocation.flags, &invocation.args)?;
    let mut session = Session::open(invocation)?;
    let client = session.client()?;
    let deadline = client.deadline();
    let flags = &session.invocation.flags;
    let answer = if flags.is("stream") {
        range_stream(&client, deadline, request).await?
    } else {
        range(&client, Some(deadline), request).await?
    };
    if flags.is("count-only") && session.printer.format != Format::Fields {
        return Err(Failure::args("--count-only is only for `--write-out=fields`"));
    }
    if flags.is("print-value-only") {
        if session.printer.format != Format::Simple {
            return Err(Failure::args("print-value-only is only for `--write-out=simple`"));
        }
        session.printer.value_only = true;
    }
    session.printer.print(&Answer::Get(&answer))
}

/// `RangeStream`, its pieces put together.
async fn range_stream(
    client: &Client,
    deadline: Instant,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, RequestError> {
    let channel = client.channel(Some(deadline)).await?;
    let mut request = Request::new(request);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let all = async {
        let mut stream = service(client, channel).range_stream(request).await?.into_inner();
        let mut whole = pb::RangeResponse::default();
        while let Some(piece) = stream.message().await? {
            let piece = piece.range_response.unwrap_or_default();
            whole.header = piece.header.or(whole.header);
            whole.kvs.extend(piece.kvs);
            whole.more |= piece.more;
            whole.count = whole.count.max(piece.count);
        }
        Ok::<_, Status>(whole)
    };
    match timeout_at(deadline, all).await {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(status)) => Err(RequestError::status(&status)),
        Err(_) => Err(RequestError::status(&Status::deadline_exceeded("context deadline exceeded"))),
    }
}

/// `put`.
pub(crate) async fn put(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::put(&invocation.flags, &invocation.args)?;
    let session = Session::open(invocation)?;
    let client = session.client()?;
    let answer = put_one(&client, Some(client.deadline()), request).await?;
    session.printer.print(&Answer::Put(&answer))
}

/// `del`.
pub(crate) async fn del(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::del(&invocation.flags, &invocation.args).await?;
    let session = Session::open(invocation)?;
    let client = session.client()?;
    let answer = delete_range(&client, Some(client.deadline()), request).await?;
    session.printer.print(&Answer::Del(&answer))
}

/// `compaction`.
pub(crate) async fn compaction(invocation: Invocation) -> Result<(), Failure> {
    let [revision] = &invocation.args[..] else {
        return Err(Failure::args("compaction command needs 1 argument"));
    };
    let revision = number::int(revision, 10).map_err(Failure::error)?;
    let physical = invocation.flags.is("physical");
    let session = Session::open(invocation)?;
    let client = session.client()?;
    let request = pb::CompactionRequest { revision, physical };
    compact(&client, Some(client.deadline()), request).await?;
    say(format_args!("compacted revision {revision}"))
}
