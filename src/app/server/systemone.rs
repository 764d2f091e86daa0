//! `POST /v1/systemone`: TypeSafe's decisions. A state, and named questions of the types `noul` (yes or no), `choice` and `score`.

use super::body::{Body, count};
use super::decisions::{Decision, LEVELS, OPTIONS, Question, decide, described, extend, plain, written};
use super::reasoned::{self, How};
use super::refusal::Refusal;
use super::{App, Call};
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The name that this wire's clients send if nobody chose one.
const ALIAS: &str = "jev-latest";

#[derive(Deserialize, ToSchema)]
pub struct SystemOneBody {
    pub model: Option<String>,
    /// A text, an object or a list.
    #[schema(value_type = Object)]
    pub state: Value,
    /// Questions by their ids: `{"type": "noul" | "choice" | "score", "instructions", "criteria"}`.
    #[schema(value_type = Object)]
    pub questions: Map<String, Value>,
    /// True: each answer is read after a rationale. Or how: [`How`].
    #[serde(default)]
    #[schema(value_type = Option<How>)]
    pub x_rationale: Value,
}

/// What kind of question it is, and what its answer needs to know.
enum Kind {
    Noul,
    Choice(Vec<String>),
    Score(Vec<Value>),
}

fn question(id: &str, value: &Value) -> Result<(Kind, Question), Refusal> {
    let field = format!("questions.{id}");
    let wrong = |name: &str, message: &str| Err(Refusal::field(format!("{field}.{name}"), message));
    let Some(map) = value.as_object() else { return Err(Refusal::field(field, "a question is an object")) };
    let instructions = map.get("instructions").filter(|v| !v.is_null()).map(plain);
    let criteria = map.get("criteria").unwrap_or(&Value::Null);
    let (kind, options) = match map.get("type").and_then(Value::as_str) {
        Some("noul") => {
            if !criteria.is_object() && !criteria.is_null() {
                return wrong("criteria", "it is an object with true and false, or null");
            }
            (Kind::Noul, vec![described("Yes", criteria.get("true")), described("No", criteria.get("false"))])
        }
        Some("choice") => {
            let Some(options) = criteria.as_object().filter(|o| (2..=OPTIONS).contains(&o.len())) else {
                return wrong("criteria", &format!("it must hold from 2 to {OPTIONS} options by name"));
            };
            let shown = options.iter().map(|(name, d)| described(name, Some(d))).collect();
            (Kind::Choice(options.keys().cloned().collect()), shown)
        }
        Some("score") => {
            let Some(levels) = criteria.as_array().filter(|l| (2..=LEVELS).contains(&l.len())) else {
                return wrong("criteria", &format!("it must be a list of from 2 to {LEVELS} levels"));
            };
            if levels.iter().any(Value::is_null) {
                return wrong("criteria", "a level cannot be null");
            }
            (Kind::Score(levels.clone()), levels.iter().map(plain).collect())
        }
        _ => return wrong("type", "it must be noul, choice or score"),
    };
    let instructions = instructions.unwrap_or_else(|| "Which of these options is true of the input?".into());
    Ok((kind, Question { instructions, options, field }))
}

fn answer(kind: &Kind, decision: &Decision) -> Value {
    let p = &decision.probabilities;
    let mut answer = match kind {
        Kind::Noul => json!({"type": "noul", "noul": p[0]}),
        Kind::Choice(names) => {
            let probabilities: Map<String, Value> = names.iter().cloned().zip(p.iter().map(|p| json!(p))).collect();
            json!({
                "type": "choice", "choice": names[decision.top()],
                "probabilities": probabilities, "confidence": decision.confidence(),
            })
        }
        Kind::Score(levels) => {
            let keys = || (0..levels.len()).map(|i| i.to_string());
            let legend: Map<String, Value> = keys().zip(levels.iter().cloned()).collect();
            let probabilities: Map<String, Value> = keys().zip(p.iter().map(|p| json!(p))).collect();
            json!({
                "type": "score", "score": decision.level(), "legend": legend,
                "probabilities": probabilities, "confidence": decision.confidence(),
            })
        }
    };
    extend(&mut answer, decision);
    answer
}

/// Questions about a state, in TypeSafe's shape.
#[utoipa::path(post, path = "/v1/systemone", request_body = SystemOneBody,
    responses((status = 200, description = "`answers` by question id"), (status = 422, description = "`detail` names what is wrong")))]
pub async fn systemone(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<SystemOneBody>,
) -> Result<Json<Value>, Refusal> {
    let model = body.model.clone().filter(|name| name != ALIAS);
    app.choose(&call, &model)?;
    let how = reasoned::settings("x_rationale", &body.x_rationale, None, None)?;
    if body.state.is_null() {
        return Err(Refusal::field("state", "there is nothing to decide about"));
    }
    if body.questions.is_empty() {
        return Err(Refusal::field("questions", "there are none"));
    }
    count("questions", body.questions.len(), app.config.limits.items)?;
    let (mut kinds, mut questions) = (Vec::new(), Vec::new());
    for (id, value) in &body.questions {
        if id.is_empty() {
            return Err(Refusal::field("questions", "an id is empty"));
        }
        let (kind, question) = question(id, value)?;
        kinds.push(kind);
        questions.push(question);
    }
    let decided = decide(&app, &call, plain(&body.state), questions, how).await?;
    let answers: Map<String, Value> =
        body.questions.keys().cloned().zip(kinds.iter().zip(&decided).map(|(k, d)| answer(k, d))).collect();
    let tokens: usize = decided.iter().map(|d| d.tokens).sum();
    Ok(Json(json!({
        "model": model.unwrap_or_else(|| app.called(&call)),
        "answers": answers,
        "usage": {"input_tokens": tokens, "output_tokens": written(&decided)},
        "x_weight_version": call.version(),
    })))
}
