//! vLLM's `POST /score` and `/v1/score`: how well documents answer queries. Documents for one query are responses to one prompt and are
//! scored as `/rerank` scores them, in the order they came; a query for each document needs a model that scores one by itself.

use super::body::{OneOrMany, count};
use super::classify::never_cut;
use super::judge::usage;
use super::rank::group;
use super::refusal::Refusal;
use super::{App, Call, rewarded};
use crate::model::config::HeadKind;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::service::Service;
use crate::text::message::Message;
use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct RelevanceBody {
    pub model: Option<String>,
    /// One, or as many as there are documents; also `query`, `text_1`, `data_1`.
    #[schema(value_type = Vec<String>)]
    #[serde(alias = "query", alias = "text_1", alias = "data_1")]
    pub queries: OneOrMany<String>,
    /// Also `items`, `text_2`, `data_2`.
    #[schema(value_type = Vec<String>)]
    #[serde(alias = "items", alias = "text_2", alias = "data_2")]
    pub documents: OneOrMany<String>,
    /// False: a scalar model's rewards as they are.
    #[serde(alias = "activation")]
    pub use_activation: Option<bool>,
    #[serde(default)]
    pub priority: i32,
    /// Would cut texts, which is refused.
    #[schema(value_type = Option<Object>)]
    pub truncate_prompt_tokens: Option<Value>,
}

/// The scores of documents, in their order.
pub async fn score(app: &App, call: &Call, body: RelevanceBody) -> Result<Json<Value>, Refusal> {
    app.choose(call, &body.model)?;
    never_cut("truncate_prompt_tokens", body.truncate_prompt_tokens.as_ref().is_some_and(|t| !t.is_null()))?;
    let (mut queries, documents) = (body.queries.into_list(), body.documents.into_list());
    count("documents", documents.len(), app.config.limits.items)?;
    if documents.is_empty() {
        return Err(Refusal::field("documents", "the list is empty"));
    }
    if queries.len() != 1 && queries.len() != documents.len() {
        let message = format!("{} queries for {} documents; give one, or one for each", queries.len(), documents.len());
        return Err(Refusal::field("queries", message));
    }
    let (scores, tokens) = match app.service.head() {
        HeadKind::Scalar => {
            let activation = body.use_activation != Some(false);
            queries.resize(documents.len(), queries[0].clone());
            alone(app, call, queries, documents, activation, body.priority).await?
        }
        HeadKind::LanguageModel => {
            if queries.len() != 1 || documents.len() == 1 {
                let message = "this judge scores documents by comparing those of one query; give one query and at least \
                               two documents, or POST /v1/judge with a reference";
                return Err(Refusal::field("documents", message));
            }
            let prompt = vec![Message::user(queries.remove(0))];
            let ranked = group(app, call, prompt, documents, app.rules(), body.priority, "documents").await?;
            (ranked.answer.scores(), ranked.tokens)
        }
    };
    let row = |(i, score): (usize, f64)| json!({"index": i, "object": "score", "score": score});
    let data: Vec<Value> = scores.into_iter().enumerate().map(row).collect();
    Ok(Json(json!({
        "id": format!("score-{}", call.id()),
        "object": "list",
        "created": app.created,
        "model": app.called(call),
        "data": data,
        "usage": usage(tokens, 0),
    })))
}

/// Each document as the answer to its query, by a scalar model; with the tokens read.
async fn alone(
    app: &App,
    call: &Call,
    queries: Vec<String>,
    documents: Vec<String>,
    activation: bool,
    priority: i32,
) -> Result<(Vec<f64>, usize), Refusal> {
    let options = app.options(call, priority);
    let submit = move |_: &App, service: &Service| {
        let one = |(query, document): (&String, &String)| {
            rewarded(service, &[Message::user(query.as_str())], document, options)
        };
        queries.iter().zip(&documents).map(one).collect()
    };
    let rewards = app.all(call, submit, |i| format!("documents[{i}]")).await?;
    let shown = |reward: f64| if activation { sigmoid(reward) } else { reward };
    Ok((rewards.iter().map(|r| shown(r.answer as f64)).collect(), rewards.iter().map(|r| r.tokens).sum()))
}
