//! `POST /generative_scoring` (vLLM's) and `POST /v1/score` (SGLang's): the probabilities of given label tokens right after a query
//! and an item. Both name labels by token id, which is how a request is told from [vLLM's other `/v1/score`](super::relevance).

use super::body::{Body, count, decode};
use super::input::Input;
use super::judge::usage;
use super::refusal::Refusal;
use super::relevance::{self, RelevanceBody};
use super::{App, Call};
use crate::infer::scorer::LabelLogits;
use crate::model::config::HeadKind;
use crate::reward::service::{Answered, Failure, Service};
use crate::text::tokenizer::Parse;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct ScoringBody {
    pub model: Option<String>,
    /// A text, or token ids.
    #[schema(value_type = Object)]
    pub query: Value,
    /// A text, token ids, or a list of either.
    #[schema(value_type = Object)]
    pub items: Value,
    pub label_token_ids: Option<Vec<i32>>,
    /// Over the labels alone; otherwise over the whole vocabulary.
    pub apply_softmax: Option<bool>,
    #[serde(default)]
    pub item_first: bool,
    /// Put the tokenizer's own beginning in front.
    #[serde(default = "yes")]
    pub add_special_tokens: bool,
    #[serde(default)]
    pub priority: i32,
    pub request_id: Option<String>,
}

fn yes() -> bool {
    true
}

/// The label logits of every item.
async fn read(app: &App, call: &Call, body: &ScoringBody) -> Result<Vec<Answered<LabelLogits>>, Refusal> {
    app.choose(call, &body.model)?;
    let labels = match &body.label_token_ids {
        Some(labels) if !labels.is_empty() => labels.clone(),
        Some(_) => return Err(Refusal::field("label_token_ids", "the list is empty")),
        None => return Err(Refusal::field("label_token_ids", "missing field `label_token_ids`")),
    };
    count("label_token_ids", labels.len(), 1024)?;
    if let Some(i) = labels.iter().position(|id| *id < 0 || *id as usize >= app.service.vocab()) {
        let message = format!("token {} is outside the model's vocabulary of {}", labels[i], app.service.vocab());
        return Err(Refusal::field(format!("label_token_ids[{i}]"), message));
    }
    if app.service.head() == HeadKind::Scalar {
        return Err(Refusal::field("model", "this model has a scalar head and no label tokens; POST /classify"));
    }
    let (query, items) = (Input::read("query", &body.query)?, Input::read_all("items", &body.items)?);
    count("items", items.len(), app.config.limits.items)?;
    let (item_first, special, options) = (body.item_first, body.add_special_tokens, app.options(call, body.priority));
    let submit = move |app: &App, service: &Service| {
        let one = |item: &Input| {
            let both = if item_first { [item, &query] } else { [&query, item] };
            let mut ids = if special { app.prefix.clone() } else { Vec::new() };
            ids.extend(join(app, both).map_err(Failure::Invalid)?);
            service.labels(ids, labels.clone(), options)
        };
        items.iter().map(one).collect()
    };
    app.all(call, submit, |i| format!("items[{i}]")).await
}

/// Two pieces end to end: texts are encoded as one, ids stand as they are.
fn join(app: &App, both: [&Input; 2]) -> crate::Result<Vec<i32>> {
    let tokenizer = app.tokenizer();
    if let [Input::Text(a), Input::Text(b)] = both {
        return tokenizer.ids(&format!("{a}{b}"), Parse::All);
    }
    let mut ids = Vec::new();
    for piece in both {
        match piece {
            Input::Text(text) => ids.extend(tokenizer.ids(text, Parse::All)?),
            Input::Ids(list) => ids.extend(list),
        }
    }
    Ok(ids)
}

/// The labels' probabilities, among themselves or in the whole vocabulary.
fn probabilities(read: &LabelLogits, softmax: bool) -> Vec<f64> {
    let largest = read.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let powers: Vec<f64> = read.logits.iter().map(|z| (*z as f64 - largest).exp()).collect();
    let whole = if softmax { powers.iter().sum() } else { (read.lse as f64 - largest).exp() };
    powers.into_iter().map(|p| p / whole).collect()
}

/// vLLM's generative scoring: for each item the probability of the first label.
#[utoipa::path(post, path = "/generative_scoring", request_body = ScoringBody,
    responses((status = 200, description = "`data[].score` is the probability of the first label")))]
pub async fn generative_scoring(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<ScoringBody>,
) -> Result<Json<Value>, Refusal> {
    let found = read(&app, &call, &body).await?;
    let softmax = body.apply_softmax.unwrap_or(true);
    let score = |(i, read): (usize, &Answered<LabelLogits>)| json!({"index": i, "object": "score", "score": probabilities(&read.answer, softmax)[0]});
    let data: Vec<Value> = found.iter().enumerate().map(score).collect();
    let tokens = found.iter().map(|r| r.tokens).sum();
    let id = body.request_id.as_deref().unwrap_or(call.id());
    Ok(Json(json!({
        "id": format!("generative-scoring-{id}"),
        "object": "list",
        "created": app.created,
        "model": app.called(&call),
        "data": data,
        "usage": usage(tokens, 0),
    })))
}

/// What `/v1/score` takes: label tokens after items (SGLang's), or documents for queries (vLLM's).
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub enum ScoreBody {
    Labels(ScoringBody),
    Documents(RelevanceBody),
}

/// SGLang's scoring, for each item the probabilities of all labels; without `label_token_ids` vLLM's, for each document its relevance.
#[utoipa::path(post, path = "/v1/score", request_body = ScoreBody,
    responses((status = 200, description = "`scores[item][label]`, or `data[].score` by document")))]
pub async fn score(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<Value>,
) -> Result<Json<Value>, Refusal> {
    if body.get("label_token_ids").is_none_or(Value::is_null) {
        return relevance::score(&app, &call, decode(body)?).await;
    }
    let body: ScoringBody = decode(body)?;
    let found = read(&app, &call, &body).await?;
    let softmax = body.apply_softmax.unwrap_or(false);
    let scores: Vec<Vec<f64>> = found.iter().map(|r| probabilities(&r.answer, softmax)).collect();
    let tokens = found.iter().map(|r| r.tokens).sum();
    Ok(Json(json!({"scores": scores, "model": app.called(&call), "usage": usage(tokens, 0), "object": "scoring"})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_among_the_labels_or_in_the_vocabulary() {
        let lse = (4f32.exp() + 2f32.exp() + 1f32.exp()).ln();
        let read = LabelLogits { logits: vec![2.0, 1.0], lse };
        let two = probabilities(&read, true);
        assert!((two[0] - 0.731_058).abs() < 1e-5 && (two[0] + two[1] - 1.0).abs() < 1e-12);
        let all = probabilities(&read, false);
        assert!((all[0] + all[1] - ((2f64.exp() + 1f64.exp()) / lse.exp() as f64)).abs() < 1e-5);
    }
}
