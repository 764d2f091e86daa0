//! `POST /v1/rank`: an order of several responses to one prompt.

use super::body::{Body, count, messages};
use super::judge::{no_rationale, usage};
use super::refusal::Refusal;
use super::{App, Call};
use crate::reward::rank::Method;
use crate::reward::service::{Answered, Failure, Group, Ranked};
use crate::text::message::Message;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A way to rank by its name.
///
/// # Errors
/// The names there are.
pub fn method(name: &str) -> Result<Method, String> {
    name.parse()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RankBody {
    pub model: Option<String>,
    /// A text, or a list of messages.
    #[schema(value_type = Object)]
    pub prompt: Value,
    pub responses: Vec<String>,
    /// `round_robin`, `linear`, `knockout`, `swiss`, `anchor` (three of them) or `adaptive` (to a confidence of 0.95).
    pub method: Option<String>,
    /// A rationale before each verdict. This judge refuses true.
    #[serde(default)]
    pub rationale: bool,
    #[serde(default)]
    pub priority: i32,
}

/// Order responses, best first.
#[utoipa::path(post, path = "/v1/rank", request_body = RankBody,
    responses((status = 200, description = "`ranking` are indices, best first; `rewards` the mean probability of beating the others; `wins[i][j]` P(i beats j) where they were compared")))]
pub async fn rank(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<RankBody>,
) -> Result<Json<Value>, Refusal> {
    app.known_model(&body.model)?;
    no_rationale("rationale", body.rationale)?;
    let method = match &body.method {
        None => app.config.method,
        Some(name) => method(name).map_err(|e| Refusal::field("method", e))?,
    };
    let prompt = messages("prompt", &body.prompt)?;
    let n = body.responses.len();
    let ranked = group(&app, &call, prompt, body.responses, method, body.priority, "responses").await?;
    let mut answer = json!({
        "rewards": ranked.answer.scores(),
        "ranking": ranked.answer.order(),
        "comparisons": 0,
    });
    if let Ranked::Compared { ranking, wins } = &ranked.answer {
        answer["comparisons"] = ranking.comparisons.into();
        if !wins.is_empty() {
            let row = |i: usize| (0..n).map(|j| ranked.answer.win(i, j)).collect::<Vec<_>>();
            answer["wins"] = (0..n).map(row).collect();
        }
    }
    answer["model"] = app.name().into();
    answer["weight_version"] = (*ranked.version).into();
    answer["usage"] = usage(ranked.tokens, 0);
    Ok(Json(answer))
}

/// Ranks responses; `field` names them in the body.
pub async fn group(
    app: &App,
    call: &Call,
    prompt: Vec<Message>,
    responses: Vec<String>,
    method: Method,
    priority: i32,
    field: &str,
) -> Result<Answered<Ranked>, Refusal> {
    if responses.is_empty() {
        return Err(Refusal::field(field, "the list is empty; there is nothing to rank"));
    }
    count(field, responses.len(), app.config.limits.items)?;
    let options = app.options(call, priority);
    let submit = move |app: &App| app.service.rank(Group { prompt, responses, method }, options);
    let ranked = match app.apart(submit).await? {
        Ok(ticket) => app.answer(call, ticket).await,
        Err(failure) => Err(failure),
    };
    let ranked = ranked.map_err(|failure| {
        let about_field = matches!(failure, Failure::TooLong { .. } | Failure::TooLarge { .. } | Failure::Invalid(_));
        let refusal = app.refuse(failure);
        if about_field { refusal.at(field) } else { refusal }
    })?;
    if let Ranked::Compared { wins, .. } = &ranked.answer {
        wins.values().for_each(|p| app.metrics.scored(*p));
    }
    Ok(ranked)
}
