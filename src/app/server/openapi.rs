//! `GET /openapi.json`: every route with its body, made from the handlers themselves.

use super::{
    admin, chat, classify, compare, decisions, judge, openrlhf, probes, rank, rerank, scoring, slime, systemone,
};
use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::Server;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gramophone",
        description = "A reward server. Every route but /health, /ready, /startup and /ping takes the key as a bearer."
    ),
    paths(
        judge::judge,
        rank::rank,
        openrlhf::get_reward,
        slime::reward,
        slime::group,
        chat::completions,
        probes::models,
        compare::compare,
        decisions::decisions,
        systemone::systemone,
        scoring::generative_scoring,
        scoring::score,
        rerank::rerank,
        classify::classify,
        classify::pooling,
        classify::embeddings,
        probes::health,
        probes::ready,
        probes::metrics,
        probes::version,
    )
)]
struct Everybody;

#[derive(OpenApi)]
#[openapi(paths(
    admin::sleep,
    admin::wake,
    admin::is_sleeping,
    admin::update_weights,
    admin::pause,
    admin::resume,
    admin::is_paused,
    admin::pause_generation,
))]
struct Control;

/// The document. Routes of control say that they are elsewhere.
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    let mut document = Everybody::openapi();
    let mut control = Control::openapi();
    for item in control.paths.paths.values_mut() {
        item.servers = Some(vec![Server::new("the address of --admin-addr")]);
    }
    document.merge(control);
    Json(document)
}
