//! Control, on a listener of its own: sleep and wake under vLLM's and SGLang's names, other weights, pause and go on.

use super::App;
use super::body::Body;
use super::refusal::Refusal;
use crate::error::Error;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use utoipa::ToSchema;

pub fn router() -> Router<App> {
    Router::new()
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake))
        .route("/is_sleeping", get(is_sleeping))
        .route("/release_memory_occupation", post(sleep))
        .route("/resume_memory_occupation", post(wake))
        .route("/update_weights_from_disk", post(update_weights))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/is_paused", get(is_paused))
        .route("/pause_generation", post(pause_generation))
        .route("/continue_generation", post(resume))
}

async fn control(
    app: App,
    what: impl FnOnce(&App) -> Result<(), Error> + Send + 'static,
) -> Result<Json<Value>, Refusal> {
    let done = app.apart(what).await?;
    done.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "control_failed", e.to_string()))?;
    Ok(Json(json!({"success": true})))
}

/// Frees the model's memory once what is being computed is finished. What waits goes on waiting.
#[utoipa::path(post, path = "/sleep", responses((status = 200, description = "Asleep; `/ready` says 503")))]
pub async fn sleep(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    control(app, |app| app.service.sleep()).await
}

/// Opens the same weights again.
#[utoipa::path(post, path = "/wake_up", responses((status = 200, description = "Awake")))]
pub async fn wake(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    control(app, |app| app.service.wake()).await
}

#[utoipa::path(get, path = "/is_sleeping", responses((status = 200, description = "`is_sleeping`")))]
pub async fn is_sleeping(State(app): State<App>) -> Json<Value> {
    Json(json!({"is_sleeping": app.service.load().asleep}))
}

#[derive(Deserialize, ToSchema)]
pub struct UpdateBody {
    pub model_path: String,
    /// What answers call these weights; one more than the present number if not given.
    pub weight_version: Option<String>,
    #[serde(default)]
    pub abort_all_requests: bool,
}

/// Goes on with the weights of another directory. If they cannot be loaded the old ones go on serving.
#[utoipa::path(post, path = "/update_weights_from_disk", request_body = UpdateBody,
    responses((status = 200, description = "`success`"), (status = 400, description = "Not loaded, and why")))]
pub async fn update_weights(State(app): State<App>, Body(body): Body<UpdateBody>) -> Result<Response, Refusal> {
    let update = move |app: &App| {
        let present = app.service.version();
        let next = || present.parse::<u64>().map_or_else(|_| format!("{present}+1"), |n| (n + 1).to_string());
        let version = body.weight_version.unwrap_or_else(next);
        // Aborted before the change: what comes after it wants the new weights.
        let aborted = if body.abort_all_requests { app.service.abort() } else { 0 };
        (app.service.reload(&PathBuf::from(&body.model_path), &version), version, aborted)
    };
    let (done, version, aborted) = app.apart(update).await?;
    let (status, message) = match &done {
        Ok(()) => (StatusCode::OK, "the new weights are serving".to_string()),
        Err(e) => (StatusCode::BAD_REQUEST, format!("the old weights go on serving: {e}")),
    };
    let body = json!({
        "success": done.is_ok(),
        "message": message,
        "num_paused_requests": 0,
        "num_aborted_requests": aborted,
        "weight_version": if done.is_ok() { version } else { app.service.version().to_string() },
    });
    Ok((status, Json(body)).into_response())
}

/// Stops computing; what waits goes on waiting.
#[utoipa::path(post, path = "/pause", responses((status = 200, description = "Paused; `/ready` says 503")))]
pub async fn pause(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    control(app, |app| {
        app.service.pause(true);
        Ok(())
    })
    .await
}

/// Goes on.
#[utoipa::path(post, path = "/resume", responses((status = 200, description = "Going on")))]
pub async fn resume(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    control(app, |app| {
        app.service.pause(false);
        Ok(())
    })
    .await
}

#[utoipa::path(get, path = "/is_paused", responses((status = 200, description = "`is_paused`")))]
pub async fn is_paused(State(app): State<App>) -> Json<Value> {
    Json(json!({"is_paused": app.service.load().paused}))
}

#[derive(Deserialize, ToSchema)]
pub struct PauseBody {
    /// `abort` fails what waits and runs; `retract` and `in_place` keep it.
    #[serde(default = "abort")]
    pub mode: String,
}

fn abort() -> String {
    "abort".into()
}

/// SGLang's pause.
#[utoipa::path(post, path = "/pause_generation", request_body = PauseBody, responses((status = 200, description = "Paused")))]
pub async fn pause_generation(State(app): State<App>, Body(body): Body<PauseBody>) -> Result<Json<Value>, Refusal> {
    let abort = match body.mode.as_str() {
        "abort" => true,
        "retract" | "in_place" => false,
        other => return Err(Refusal::field("mode", format!("it is {other:?}; it must be abort, retract or in_place"))),
    };
    control(app, move |app| {
        app.service.pause(true);
        if abort {
            app.service.abort();
        }
        Ok(())
    })
    .await
}
