//! `POST /rerank`, `/v1/rerank`, `/v2/rerank`: documents, best first. In Cohere's and Jina's shape (`documents`, an object back) or that of Text Embeddings
//! Inference (`texts`, a bare list back). The query is the prompt and the documents are responses to it, as best-of-n uses these clients.

use super::body::Body;
use super::classify::never_cut;
use super::judge::usage;
use super::rank::group;
use super::refusal::Refusal;
use super::{App, Call};
use crate::model::config::HeadKind;
use crate::reward::bradley_terry::sigmoid;
use crate::text::message::Message;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct RerankBody {
    pub model: Option<String>,
    pub query: String,
    /// Texts, or objects with a `text`.
    #[schema(value_type = Option<Vec<String>>)]
    pub documents: Option<Vec<Value>>,
    /// As TEI calls them.
    pub texts: Option<Vec<String>>,
    /// How many to give back; 0 or nothing for all.
    pub top_n: Option<usize>,
    pub return_documents: Option<bool>,
    /// TEI's name for it.
    #[serde(default)]
    pub return_text: bool,
    /// A scalar model's rewards as they are.
    #[serde(default)]
    pub raw_scores: bool,
    /// Would cut documents, which is refused.
    pub max_tokens_per_doc: Option<u64>,
    #[schema(value_type = Option<Object>)]
    pub truncate_prompt_tokens: Option<Value>,
}

/// Order documents by how well they answer a query.
#[utoipa::path(post, path = "/rerank", request_body = RerankBody,
    responses((status = 200, description = "`results` (or, for `texts`, a list), best first; scores are mean probabilities of beating the others")))]
pub async fn rerank(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<RerankBody>,
) -> Result<Json<Value>, Refusal> {
    app.choose(&call, &body.model)?;
    never_cut("max_tokens_per_doc", body.max_tokens_per_doc.is_some())?;
    never_cut("truncate_prompt_tokens", body.truncate_prompt_tokens.as_ref().is_some_and(|t| !t.is_null()))?;
    let (field, texts) = match (&body.documents, &body.texts) {
        (Some(documents), None) => {
            ("documents", documents.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?)
        }
        (None, Some(texts)) => ("texts", texts.clone()),
        (Some(_), Some(_)) => return Err(Refusal::field("texts", "give documents or texts, not both")),
        (None, None) => return Err(Refusal::field("documents", "missing field `documents` (or `texts`)")),
    };
    let prompt = vec![Message::user(body.query.as_str())];
    let ranked = group(&app, &call, prompt, texts.clone(), app.rules(), 0, field).await?;
    let scores = ranked.answer.scores();
    // A scalar reward becomes a relevance between 0 and 1, unless it is wanted as it is.
    let squash = app.service.head() == HeadKind::Scalar && !body.raw_scores;
    let score = |i: usize| if squash { sigmoid(scores[i]) } else { scores[i] };
    let mut order = ranked.answer.order();
    // A list that claims to be sorted by its scores is.
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(body.top_n.filter(|n| *n > 0).unwrap_or(usize::MAX));
    if field == "texts" {
        let row = |i: &usize| {
            let mut row = json!({"index": i, "score": score(*i)});
            if body.return_text {
                row["text"] = texts[*i].as_str().into();
            }
            row
        };
        return Ok(Json(order.iter().map(row).collect()));
    }
    let row = |i: &usize| {
        let mut row = json!({"index": i, "relevance_score": score(*i)});
        if body.return_documents != Some(false) {
            row["document"] = json!({"text": texts[*i]});
        }
        row
    };
    let results: Vec<Value> = order.iter().map(row).collect();
    Ok(Json(json!({
        "id": format!("rerank-{}", call.id()),
        "model": app.called(&call),
        "usage": usage(ranked.tokens, 0),
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    })))
}

fn text((i, document): (usize, &Value)) -> Result<String, Refusal> {
    let text = document.as_str().or_else(|| document.get("text")?.as_str());
    text.map(String::from)
        .ok_or_else(|| Refusal::field(format!("documents[{i}]"), "it must be a text, or an object with a text"))
}
