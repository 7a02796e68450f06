//! Routes a call from its headers to its handler.

use crate::{
    call::{Call, Connection},
    head::{self, Head},
    methods::{self, Kind},
    reply::Reply,
    requests::{self, Requests},
    routes,
};
use http::header::CONTENT_TYPE;
use std::{convert::Infallible, sync::Arc};
use tonic::Status;

/// Serves one call. The head is read before the future starts: a task keeps space for whatever it ever held.
pub(crate) fn serve(
    connection: Arc<Connection>,
    request: http::Request<Requests>,
) -> impl Future<Output = Result<http::Response<Reply>, Infallible>> + Send {
    let (parts, body) = request.into_parts();
    let head = Head::of(&parts, matches!(body, Requests::Wire(_)));
    let method = head::method(&parts).map_err(|path| Status::unimplemented(methods::unknown(path)));
    let headers = parts.headers;
    async move {
        let Head { deadline, content_type, encoding } = match head {
            Ok(head) => head,
            Err(refusal) => {
                requests::linger(body);
                return Ok(*refusal);
            }
        };
        let mut response = match method.and_then(|method| Ok((method, encoding.is_gzip()?))) {
            Ok((method, is_gzip)) => {
                let mut call = Call::new(&connection, method, &headers, deadline, is_gzip);
                match method.kind() {
                    // By reference: an argument passed by value occupies the future twice.
                    Kind::Frequent(method) => {
                        let answer = routes::frequent(&call, method, body).await;
                        call.answer(answer).await
                    }
                    Kind::Rare(method) => {
                        let answer = routes::rare(&call, method, body).await;
                        call.answer(answer).await
                    }
                    Kind::ServerStream(method) => match routes::server_stream(&call, method, body).await {
                        Ok(feed) => call.stream(feed),
                        Err(status) => call.refuse(status),
                    },
                    // Nothing is read before the call is admitted.
                    Kind::BidiStream(method) => match call.inbound(body) {
                        Ok(requests) => {
                            let feed = routes::bidi_stream(&call, method, requests);
                            call.stream(feed)
                        }
                        Err(status) => call.refuse(status),
                    },
                }
            }
            Err(status) => {
                requests::linger(body);
                Reply::refusal(status)
            }
        };
        if let Some(content_type) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, *content_type);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size limit of a call's task, in bytes: it is allocated, filled and moved for every call.
    const TASK_BYTES_MAX: usize = 2_560;

    fn size<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_call_does_not_carry_room_for_every_request_there_is() {
        let size = size(serve);
        assert!(size <= TASK_BYTES_MAX, "a call's task takes {size} bytes: box what is rare or large");
    }
}
