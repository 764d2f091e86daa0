//! `GET /`: how the server is doing, for a person to look at. One page that loads nothing from elsewhere and asks `/status.json`
//! every second.

use super::{App, probes};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

const PAGE: &str = include_str!("page.html");

/// The page.
pub async fn page() -> impl IntoResponse {
    // Nothing from outside can run in it, should a model's name try.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'";
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, PAGE)
}

/// What the page draws.
pub async fn status(State(app): State<App>) -> Json<Value> {
    let (load, counters, history) = (app.service.load(), app.service.counters(), app.metrics.history());
    let series = |of: fn(&super::metrics::Sample) -> f64| history.iter().map(of).collect::<Vec<f64>>();
    let [asked, computed] = [&counters.prompt_tokens, &counters.computed_tokens].map(|c| c.load(Relaxed));
    // What was in memory, or in flight already.
    let spared = counters.cached_tokens.load(Relaxed) + counters.shared_tokens.load(Relaxed);
    let share = |part: u64, whole: u64| if whole == 0 { Value::Null } else { json!(part as f64 / whole as f64) };
    let (_, masses, mass) = counters.label_mass.read();
    Json(json!({
        "model": app.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "weight_version": &*app.service.version(),
        "uptime": app.metrics.started.elapsed().as_secs(),
        "unready": probes::unready(&app),
        "queued_tokens": load.queued_tokens,
        "queue_limit": app.service.sizes().queue,
        "running_tokens": load.running_tokens,
        "in_flight": load.in_flight,
        "totals": {
            "judgments": counters.judgments.load(Relaxed) + counters.rewards.load(Relaxed),
            "rankings": counters.rankings.load(Relaxed),
            "texts": counters.generations.load(Relaxed),
            "tokens": asked + counters.written_tokens.load(Relaxed),
            "refused": counters.refused_full.load(Relaxed) + counters.refused_long.load(Relaxed) + counters.late.load(Relaxed),
            "failed": counters.failed.load(Relaxed),
        },
        "consistent": share(counters.consistent.load(Relaxed), counters.label_mass.count()),
        "label_mass": if masses == 0 { Value::Null } else { json!(mass / masses as f64) },
        "cache_hits": share(spared, computed + spared),
        "seconds": {
            "queued_tokens": series(|s| s.queued_tokens as f64),
            "in_flight": series(|s| s.in_flight as f64),
            "judgments": series(|s| s.judgments as f64),
            "tokens": series(|s| s.tokens as f64),
            "p50": series(|s| s.p50),
            "p99": series(|s| s.p99),
        },
        "scores": app.metrics.scores(),
        "routes": app.metrics.routes(),
    }))
}
