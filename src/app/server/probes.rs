//! What machines ask: `/health` (the process can serve at all), `/ready` (it does), `/metrics`, `/version`, `/v1/models`.

use super::App;
use super::refusal::Refusal;
use crate::model::config::HeadKind;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// Routes of both listeners.
pub fn router() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/ready", get(ready))
        .route("/startup", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
}

/// Why requests are not answered at the moment, if so.
pub fn unready(app: &App) -> Option<String> {
    let load = app.service.load();
    if let Some(why) = app.service.dead() {
        return Some(why);
    }
    [
        (app.draining.load(Ordering::Relaxed), "draining: the server stops"),
        (load.asleep, "asleep: POST /wake_up on the control address"),
        (load.paused, "paused: POST /resume on the control address"),
    ]
    .into_iter()
    .find_map(|(is, why)| is.then(|| why.to_string()))
}

/// Whether the process can serve at all.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "It can"), (status = 503, description = "The worker is gone; restart the server")))]
pub async fn health(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    match app.service.dead() {
        None => Ok(Json(json!({"status": "ok"}))),
        Some(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "dead", why)),
    }
}

/// Whether requests are answered now.
#[utoipa::path(get, path = "/ready", responses((status = 200, description = "They are"), (status = 503, description = "Draining, asleep or paused")))]
pub async fn ready(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    match unready(&app) {
        None => Ok(Json(json!({"status": "ready"}))),
        Some(why) => {
            Err(Refusal { retry_after: Some(1), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why) })
        }
    }
}

/// Counters, histograms and gauges for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Prometheus's text format", content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.text(&app))
}

/// Which program and which weights answer.
#[utoipa::path(get, path = "/version", responses((status = 200, description = "`version` of the program, `weight_version`, `context`, and whether the model is `scalar`")))]
pub async fn version(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.name(),
        "weight_version": &*app.service.version(),
        "context": app.service.sizes().context,
        // Whether it gives rewards instead of comparisons.
        "scalar": app.service.head() == HeadKind::Scalar,
    }))
}

/// The model, as OpenAI's and TypeSafe's clients ask for it.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "`data` for OpenAI's clients, `models` for TypeSafe's")))]
pub async fn models(State(app): State<App>) -> Json<Value> {
    let day = days(app.created / 86_400);
    let mut data = Vec::new();
    let mut models = Vec::new();
    let adapters = app.service.adapters().map(String::from);
    for name in app.config.names.iter().cloned().chain(adapters) {
        data.push(json!({
            "id": name, "object": "model", "created": app.created, "owned_by": "gramophone",
            "max_model_len": app.service.sizes().context,
        }));
        models.push(json!({"name": name, "description": "A generative reward model", "release_date": day}));
    }
    Json(json!({"object": "list", "data": data, "models": models}))
}

/// The date of a day since 1970, by the Gregorian calendar.
fn days(since: u64) -> String {
    // Years that begin in March, so that the leap day is their last.
    let z = since as i64 + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + (month <= 2) as i64)
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn dates() {
        for (day, date) in [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_454, "2026-01-01")] {
            assert_eq!(days(day), date);
        }
    }
}
