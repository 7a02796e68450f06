//! `/health`, `/livez` and `/readyz`, with the bodies, codes and headers of etcd's `etcdhttp`. `/health` reports the
//! first failure; the others run named checks, all or one by its path, and report each.

use crate::{
    answer::Kv,
    budget::Shares,
    page::{PLAIN, Page, error, not_allowed, respond, text},
    query::Query,
    state::Api,
    status::EtcdError,
};
use http::{Method, StatusCode};
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;
use std::{fmt::Write as _, sync::Arc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// There is no CORRUPT alarm.
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, api: &Arc<Api>) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                if api.is_distrusted() {
                    return Err("this member's data differs from the majority's".to_owned());
                }
                let corrupt = AlarmType::Corrupt;
                if api.shared.alarms().list(corrupt as i32).is_empty() {
                    return Ok(());
                }
                Err(format!("alarm activated: {}", corrupt.as_str_name()))
            }
            Self::SerializableRead => read(api, true).await,
            Self::LinearizableRead => read(api, false).await,
            Self::NonLearner if api.node.status().is_learner => Err("not supported for learner".to_owned()),
            Self::NonLearner => Ok(()),
        }
    }
}

/// Reads the empty key, as etcd does; clients may not. Counts as a client's read.
async fn read(api: &Arc<Api>, serializable: bool) -> Result<(), String> {
    let request = RangeRequest { keys_only: true, limit: 1, serializable, ..Default::default() };
    let shares = Shares { answers: &api.answers.share(), values: &api.values.share() };
    Kv { api, shares, deadline: None }
        .checked_range(request)
        .await
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Value of the metrics' label `type`.
    kind: &'static str,
    checks: &'static [Check],
    /// Whether the path names no single check, so that `exclude` applies.
    is_root: bool,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Probe {
    pub(crate) fn at(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.splitn(2, '/');
        let (kind, checks) = match parts.next()? {
            "livez" => ("livez", LIVEZ),
            "readyz" => ("readyz", READYZ),
            _ => return None,
        };
        let Some(name) = parts.next() else { return Some(Self { kind, checks, is_root: true }) };
        let at = checks.iter().position(|check| check.name() == name)?;
        Some(Self { kind, checks: &checks[at..=at], is_root: false })
    }

    pub(crate) async fn serve(self, api: &Arc<Api>, method: &Method, query: &Query) -> Page {
        if *method != Method::GET {
            return not_allowed();
        }
        let mut report = String::new();
        let mut failed = false;
        for check in self.checks {
            let name = check.name();
            if self.is_root && query.all("exclude").any(|excluded| excluded == name) {
                continue;
            }
            let result = check.run(api).await;
            api.metrics.probes.observe(self.kind, name, result.is_ok());
            // Writing to a String cannot fail.
            let _ = match &result {
                Ok(()) => writeln!(report, "[+]{name} ok"),
                Err(why) => writeln!(report, "[-]{name} failed: {why}"),
            };
            failed |= result.is_err();
        }
        if failed {
            slog::error!(api.log, "Health check error"; "path" => self.kind, "reason" => &report, "status-code" => 503);
            return error(StatusCode::SERVICE_UNAVAILABLE, &report);
        }
        if !query.has("verbose") {
            report.clear();
        }
        report.push_str("ok\n");
        text(StatusCode::OK, report)
    }
}

pub(crate) async fn health(api: &Arc<Api>, method: &Method, query: &Query) -> Page {
    if *method != Method::GET {
        return not_allowed();
    }
    match unhealthy(api, query).await {
        None => {
            api.metrics.health_success.inc();
            respond(StatusCode::OK, PLAIN, r#"{"health":"true","reason":""}"#.to_owned())
        }
        Some(reason) => {
            api.metrics.health_failures.inc();
            let body = format!(r#"{{"health":"false","reason":{}}}"#, json!(reason));
            slog::warn!(api.log, "/health error"; "output" => &body, "status-code" => 503);
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn unhealthy(api: &Arc<Api>, query: &Query) -> Option<String> {
    for alarm in api.shared.alarms().list(AlarmType::None as i32) {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !query.all("exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if api.is_distrusted() {
        return Some(EtcdError::Corrupt.text().to_owned());
    }
    let serializable = query.first("serializable") == Some("true");
    if !serializable && api.node.status().leader == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(api, serializable).await.err().map(|why| format!("RANGE ERROR:{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_checks_are_found_by_their_paths() {
        let check = |path: &str, expected: Option<(&str, usize, bool)>| {
            let found = Probe::at(path).map(|p| (p.kind, p.checks.len(), p.is_root));
            assert_eq!(found, expected, "{path}");
        };
        check("/livez", Some(("livez", 1, true)));
        check("/readyz", Some(("readyz", 4, true)));
        check("/readyz/non_learner", Some(("readyz", 1, false)));
        check("/livez/serializable_read", Some(("livez", 1, false)));
        check("/livez/non_learner", None);
        check("/livez/", None);
        check("/readyz/non_learner/x", None);
        check("/health", None);
        check("livez", None);
    }
}
