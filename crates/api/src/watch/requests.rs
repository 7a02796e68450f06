//! Requests on a watch stream. One task for each stream, until its responses are dropped.

use super::feed::{ResponseFeed, StreamState, canceled};
use crate::{feed::Feed, requests::Inbound, state::Api, watches::PROGRESS_INTERVAL_MIN};
use ::watch::{Create, Spec};
use bytes::Bytes;
use proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, watch_create_request::FilterType, watch_request::RequestUnion,
};
use std::sync::Arc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::Code;
use types::KeyRange;

/// Requests handled before the task yields: each takes a microsecond or two.
const REQUESTS_IN_A_ROW: usize = 64;

/// Opens a stream, and returns its responses.
pub(crate) fn start(api: &Arc<Api>, requests: Inbound) -> Box<dyn Feed> {
    let key = api.watches.call(&api.shared, ::watch::Hub::open);
    let state = StreamState::new(Arc::clone(api), key);
    tokio::spawn(serve(Arc::clone(&state), requests));
    Box::new(ResponseFeed::new(state))
}

async fn serve(state: Arc<StreamState>, mut requests: Inbound) {
    let (mut ticks, unread_max) = (interval(&state), state.api.limits.watching.unread_answers);
    let (mut more, mut in_a_row) = (true, 0);
    while !state.is_gone() {
        let answers = state.api.watches.lock().hub.controls(state.key);
        tokio::select! {
            biased;
            _ = ticks.tick() => tick(&state),
            // After its last request a client may continue to listen.
            request = requests.next(), if more && answers < unread_max => match request {
                Ok(Some(request)) => take(&state, request),
                Ok(None) => more = false,
                Err(status) => {
                    state.fail(if status.code() == Code::Cancelled { canceled() } else { status });
                    more = false;
                }
            },
            () = state.taken.notified() => {}
        }
        in_a_row += 1;
        if in_a_row == REQUESTS_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The flag's progress interval plus up to a tenth, so that streams opened together are not notified together.
fn interval(state: &StreamState) -> tokio::time::Interval {
    let flag = state.api.limits.watch_progress_interval.max(PROGRESS_INTERVAL_MIN);
    let share = u32::try_from(state.key.number() * 7 % 10).unwrap_or_default();
    let period = flag + flag / 100 * share;
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn tick(state: &StreamState) {
    let begun = Instant::now();
    state.api.watches.call(&state.api.shared, |hub| hub.tick(state.key));
    state.api.metrics.watch.observe_progress(begun.into_std());
}

fn take(state: &StreamState, request: WatchRequest) {
    let StreamState { api, key, .. } = state;
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
        // From a newer client: etcd logs it and continues.
        None => slog::info!(api.log, "an unknown watch request was ignored"),
    }
}

/// Converts a request for the hub. Copies the keys, so as not to keep the receive buffer alive.
fn create(request: &WatchCreateRequest) -> Create {
    // The empty key means the smallest key.
    let key = if request.key.is_empty() { &[0][..] } else { &request.key[..] };
    let range = KeyRange::from_wire(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&request.range_end));
    // Unknown filters have no effect.
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
