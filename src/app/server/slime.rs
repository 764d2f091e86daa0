//! `POST /` and `POST /reward`: slime's remote reward model, one sample a request and a bare number back (with `?key=score`
//! an object that holds it, for `--reward-key score`). `POST /reward/group`: the samples of one prompt together, for its group hook.

use super::body::{Body, count, messages};
use super::openrlhf::reference;
use super::rank::group as rank_group;
use super::refusal::Refusal;
use super::{App, Call, rewarded};
use crate::app::cli::number;
use crate::model::config::HeadKind;
use crate::reward::judge::Pair;
use crate::reward::service::Service;
use crate::text::message::Message;
use crate::text::policy;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct SampleBody {
    /// A text (rendered by the policy's template, or plain), or a list of messages.
    #[schema(value_type = Object)]
    pub prompt: Value,
    pub response: String,
    /// The reference response, if the server has no file of them; a scalar model needs none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub label: Value,
}

#[derive(Deserialize)]
pub struct Shape {
    key: Option<String>,
}

fn prompt(field: &str, value: &Value) -> Result<Vec<Message>, Refusal> {
    match value {
        Value::String(text) => Ok(policy::turns(text)),
        other => messages(field, other),
    }
}

/// The reward of a sample, for slime.
#[utoipa::path(post, path = "/reward", request_body = SampleBody, params(("key" = Option<String>, Query, description = "Answer with an object that holds the reward under this name")),
    responses((status = 200, description = "The probability that the response beats the reference in `label`, a number")))]
pub async fn reward(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Query(shape): Query<Shape>,
    Body(body): Body<SampleBody>,
) -> Result<Json<Value>, Refusal> {
    let (prompt, response) = (prompt("prompt", &body.prompt)?, policy::response(&body.response).to_string());
    let (reward, tokens) = match app.service.head() {
        HeadKind::Scalar => {
            let options = app.options(&call, 0);
            let submit = move |_: &App, service: &Service| rewarded(service, &prompt, &response, options);
            let handed = app.ask(&call, submit).await?;
            let answered = app.answer(&call, handed).await.map_err(|f| app.refuse(f).at("response"))?;
            (number(answered.answer), answered.tokens)
        }
        HeadKind::LanguageModel => {
            let b = reference(&app, &prompt, Some(&body.label), "label", "--label-key")?;
            let pairs = vec![Pair { prompt, a: response, b }];
            let judged = app.judge_all(&call, pairs, 0, |_| "response".into()).await?;
            (json!(judged[0].answer.p_a()), judged[0].tokens)
        }
    };
    Ok(Json(match shape.key {
        None => reward,
        Some(key) => {
            let mut object = json!({"weight_version": call.version(), "tokens": tokens});
            object[key] = reward;
            object
        }
    }))
}

/// The samples of one prompt: for each a reward from comparing it with the others.
#[utoipa::path(post, path = "/reward/group", request_body = Vec<SampleBody>,
    responses((status = 200, description = "A list of numbers, by sample: the mean probability of beating the others, or a scalar model's rewards")))]
pub async fn group(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(samples): Body<Vec<SampleBody>>,
) -> Result<Json<Value>, Refusal> {
    let Some(first) = samples.first() else { return Ok(Json(json!([]))) };
    count("", samples.len(), app.config.limits.items)?;
    if let Some(i) = samples.iter().position(|s| s.prompt != first.prompt) {
        return Err(Refusal::field(
            format!("[{i}].prompt"),
            "a group has one prompt, but this one differs from the first",
        ));
    }
    let prompt = prompt("[0].prompt", &first.prompt)?;
    let responses = samples.iter().map(|s| policy::response(&s.response).to_string()).collect();
    let ranked = rank_group(&app, &call, prompt, responses, app.rules(), 0, "response").await?;
    Ok(Json(json!(ranked.answer.scores())))
}
