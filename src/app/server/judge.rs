//! `POST /v1/judge`: one pair, or many. Everything the judge knows of a pair, with both orders apart.

use super::body::{Body, count, messages};
use super::refusal::Refusal;
use super::{App, Call};
use crate::app::cli::number;
use crate::reward::judge::{Judgment, Pair};
use crate::reward::service::{Answered, Judged};
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// One pair (`prompt`, `a`, `b`) or a list of `pairs`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeBody {
    pub model: Option<String>,
    /// A text, or a list of messages.
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    pub a: Option<String>,
    pub b: Option<String>,
    pub pairs: Option<Vec<PairBody>>,
    /// False: only the order that shows a first; the verdict is then that order's alone.
    #[serde(default = "yes")]
    pub both_orders: bool,
    /// A rationale before the verdict. This judge reads the verdict at once and refuses true.
    #[serde(default)]
    pub rationale: bool,
    /// Rationales to average over; 1 without them.
    #[serde(default = "one")]
    pub votes: u32,
    #[serde(default)]
    pub seed: u64,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairBody {
    /// A text, or a list of messages.
    #[schema(value_type = Object)]
    pub prompt: Value,
    pub a: String,
    pub b: String,
}

fn yes() -> bool {
    true
}
fn one() -> u32 {
    1
}

/// Refuses what only a judge that writes rationales can do.
pub fn no_rationale(field: &str, asked: bool) -> Result<(), Refusal> {
    if !asked {
        return Ok(());
    }
    Err(Refusal::field(field, "this judge reads its verdict at once and writes no rationale; leave the field out"))
}

/// Judge pairs of responses.
#[utoipa::path(post, path = "/v1/judge", request_body = JudgeBody,
    responses((status = 200, description = "`p` is the probability that a is better, the mean over both orders"),
              (status = 422, description = "A field that makes no sense, by its path; or too many tokens")))]
pub async fn judge(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<JudgeBody>,
) -> Result<Json<Value>, Refusal> {
    app.known_model(&body.model)?;
    no_rationale("rationale", body.rationale)?;
    if body.votes != 1 {
        return Err(Refusal::field("votes", "votes are rationales, which this judge does not write; leave it at 1"));
    }
    let _ = body.seed; // Nothing is drawn without rationales.
    let (pairs, single) = pairs(body.pairs, body.prompt, body.a, body.b)?;
    count("pairs", pairs.len(), app.config.limits.items)?;
    let field = move |i: usize| if single { String::new() } else { format!("pairs[{i}]") };
    let judged = app.judge_all(&call, pairs, body.priority, field).await?;
    let version = judged.first().map_or_else(|| app.service.version(), |j| j.version.clone());
    let tokens: usize = judged.iter().map(|j| j.tokens).sum();
    let mut answers: Vec<Map<String, Value>> = judged.iter().map(|j| object(j, body.both_orders)).collect();
    let rest = json!({"model": app.name(), "weight_version": &*version, "usage": usage(tokens, 0)});
    let mut answer = match single {
        true => answers.remove(0),
        false => Map::from_iter([("judgments".to_string(), json!(answers))]),
    };
    if let Value::Object(rest) = rest {
        answer.extend(rest);
    }
    Ok(Json(Value::Object(answer)))
}

/// The pairs of a body, and whether it is a single one.
fn pairs(
    pairs: Option<Vec<PairBody>>,
    prompt: Option<Value>,
    a: Option<String>,
    b: Option<String>,
) -> Result<(Vec<Pair>, bool), Refusal> {
    match (pairs, prompt, a, b) {
        (Some(pairs), None, None, None) => {
            let one = |(i, p): (usize, PairBody)| {
                Ok(Pair { prompt: messages(&format!("pairs[{i}].prompt"), &p.prompt)?, a: p.a, b: p.b })
            };
            Ok((pairs.into_iter().enumerate().map(one).collect::<Result<_, Refusal>>()?, false))
        }
        (Some(_), ..) => Err(Refusal::field("pairs", "give pairs, or prompt, a and b, not both")),
        (None, Some(prompt), Some(a), Some(b)) => Ok((vec![Pair { prompt: messages("prompt", &prompt)?, a, b }], true)),
        (None, None, ..) => Err(Refusal::field("prompt", "missing field `prompt`")),
        (None, _, None, _) => Err(Refusal::field("a", "missing field `a`")),
        (None, ..) => Err(Refusal::field("b", "missing field `b`")),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// What is said of a pair.
fn object(judged: &Answered<Judged>, both_orders: bool) -> Map<String, Value> {
    let value = match judged.answer {
        Judged::Judgment(j) if both_orders => json!({
            "p": j.p_a,
            "verdict": j.verdict.name(),
            "p_ab": sigmoid(j.margin_ab as f64),
            "p_ba": sigmoid(-j.margin_ba as f64),
            "consistent": j.consistent,
            "label_mass": j.label_mass,
            "margin": 0.5 * (j.margin_ab as f64 - j.margin_ba as f64),
            "margin_ab": number(j.margin_ab),
            "margin_ba": number(j.margin_ba),
        }),
        Judged::Judgment(Judgment { margin_ab, label_mass, .. }) => json!({
            "p": sigmoid(margin_ab as f64),
            "verdict": if margin_ab > 0.0 { "A" } else if margin_ab < 0.0 { "B" } else { "tie" },
            "p_ab": sigmoid(margin_ab as f64),
            "label_mass": label_mass,
            "margin_ab": number(margin_ab),
        }),
        Judged::Rewards { a, b } => json!({
            "p": judged.answer.p_a(),
            "verdict": judged.answer.verdict().name(),
            "reward_a": number(a),
            "reward_b": number(b),
        }),
    };
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}

/// Tokens read and written.
pub fn usage(read: usize, written: usize) -> Value {
    json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written})
}
