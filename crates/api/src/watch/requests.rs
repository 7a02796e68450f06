//! What a client asks on its stream: one task for each stream, as long as somebody reads its responses.

use super::feed::{Line, Watching, canceled};
use crate::{
    Api,
    streams::{Feed, Inbound},
};
use ::watch::{Create, Spec};
use bytes::Bytes;
use proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, watch_create_request::FilterType, watch_request::RequestUnion,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::Code;
use types::KeyRange;

/// Requests taken in a row before others have their turn: each takes a microsecond or two.
const REQUESTS_IN_A_ROW: usize = 64;

/// The shortest interval between progress notifications: etcd's `minWatchProgressInterval`.
pub(crate) const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Begins a stream; says where its responses come from.
pub(crate) fn start(api: &Arc<Api>, requests: Inbound) -> Box<dyn Feed> {
    let key = api.watches.call(&api.shared, ::watch::Hub::open);
    let line = Line::new(Arc::clone(api), key);
    tokio::spawn(serve(Arc::clone(&line), requests));
    Box::new(Watching::new(line))
}

async fn serve(line: Arc<Line>, mut requests: Inbound) {
    let (mut ticks, unread_max) = (interval(&line), line.api.limits.watching.unread_answers);
    let (mut more, mut in_a_row) = (true, 0);
    while !line.is_gone() {
        let answers = line.api.watches.lock().hub.controls(line.key);
        tokio::select! {
            biased;
            _ = ticks.tick() => tick(&line),
            // A client that has sent its last request may go on to listen.
            request = requests.next(), if more && answers < unread_max => match request {
                Ok(Some(request)) => take(&line, request),
                Ok(None) => more = false,
                Err(status) => {
                    line.fail(if status.code() == Code::Cancelled { canceled() } else { status });
                    more = false;
                }
            },
            () = line.taken.notified() => {}
        }
        in_a_row += 1;
        if in_a_row == REQUESTS_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The stream's interval of progress: the flag's, and up to a tenth more, so that streams that begin together are not
/// told together.
fn interval(line: &Line) -> tokio::time::Interval {
    let flag = line.api.limits.watch_progress_interval.max(PROGRESS_INTERVAL_MIN);
    let share = u32::try_from(line.key.number() * 7 % 10).unwrap_or_default();
    let period = flag + flag / 100 * share;
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn tick(line: &Line) {
    let begun = Instant::now();
    line.api.watches.call(&line.api.shared, |hub| hub.tick(line.key));
    line.api.metrics.watch.observe_progress(begun.into_std());
}

fn take(line: &Line, request: WatchRequest) {
    let Line { api, key, .. } = line;
    match request.request_union {
        Some(RequestUnion::CreateRequest(request)) => {
            let compacted = api.shared.view().compact_revision();
            api.watches.call(&api.shared, |hub| hub.create(*key, create(&request), compacted));
        }
        Some(RequestUnion::CancelRequest(request)) => {
            api.watches.call(&api.shared, |hub| hub.cancel(*key, request.watch_id));
        }
        Some(RequestUnion::ProgressRequest(_)) => {
            api.watches.call(&api.shared, |hub| hub.request_progress(*key));
        }
        // A request of the future: etcd logs it and goes on.
        None => slog::info!(api.log, "an unknown watch request was ignored"),
    }
}

/// A request in the hub's words. Keys are copied out of the buffer that they came in.
fn create(request: &WatchCreateRequest) -> Create {
    // The empty key is the smallest there is.
    let key = if request.key.is_empty() { &[0][..] } else { &request.key[..] };
    let range = KeyRange::from_wire(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&request.range_end));
    // Filters that nobody knows filter nothing.
    let without = |filter: FilterType| request.filters.contains(&(filter as i32));
    let spec = Spec {
        range,
        puts: !without(FilterType::Noput),
        deletes: !without(FilterType::Nodelete),
        previous: request.prev_kv,
    };
    Create {
        id: request.watch_id,
        spec,
        start: request.start_revision,
        fragment: request.fragment,
        notify: request.progress_notify,
    }
}
