//! The commands `get`, `put`, `del` and `compaction`.

use super::{Session, ops};
use crate::client::{Client, RequestError};
use crate::failure::Failure;
use crate::line::Invocation;
use crate::print::{Answer, Format, say};
use gotext::number;
use proto::etcdserverpb as pb;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};

pub(crate) async fn get(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::get(&invocation.flags, &invocation.args)?;
    let (mut session, client) = Session::connect(invocation)?;
    let deadline = client.deadline();
    let flags = &session.invocation.flags;
    let answer = if flags.is("stream") {
        range_stream(&client, deadline, request).await?
    } else {
        client.range(Some(deadline), request).await?
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

/// Calls `RangeStream` and joins the pieces.
async fn range_stream(
    client: &Client,
    deadline: Instant,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, RequestError> {
    let channel = client.channel(Some(deadline)).await?;
    let mut request = Request::new(request);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let all = async {
        let mut stream = client.kv(channel).range_stream(request).await?.into_inner();
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

pub(crate) async fn put(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::put(&invocation.flags, &invocation.args)?;
    let (session, client) = Session::connect(invocation)?;
    let answer = client.put(Some(client.deadline()), request).await?;
    session.printer.print(&Answer::Put(&answer))
}

pub(crate) async fn del(invocation: Invocation) -> Result<(), Failure> {
    let request = ops::del(&invocation.flags, &invocation.args).await?;
    let (session, client) = Session::connect(invocation)?;
    let answer = client.delete_range(Some(client.deadline()), request).await?;
    session.printer.print(&Answer::Del(&answer))
}

pub(crate) async fn compaction(invocation: Invocation) -> Result<(), Failure> {
    let [revision] = &invocation.args[..] else {
        return Err(Failure::args("compaction command needs 1 argument"));
    };
    let revision = number::int(revision, 10).map_err(Failure::error)?;
    let physical = invocation.flags.is("physical");
    let (_, client) = Session::connect(invocation)?;
    let request = pb::CompactionRequest { revision, physical };
    client.compact(Some(client.deadline()), request).await?;
    say(format_args!("compacted revision {revision}"))
}
