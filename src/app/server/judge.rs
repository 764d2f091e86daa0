//! `POST /v1/judge`: one pair, or many. Everything the judge knows of a pair, with both orders apart.

use super::body::{Body, count, messages};
use super::input::decode;
use super::refusal::Refusal;
use super::{App, Call, reasoned};
use crate::app::cli::number;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::judge::{Judgment, Pair};
use crate::reward::service::{Answered, Judged};
use crate::text::policy;
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
    /// `response_a` and `response_b`, as the rows of `gramophone judge` say it, are understood too.
    #[serde(alias = "response_a")]
    pub a: Option<String>,
    #[serde(alias = "response_b")]
    pub b: Option<String>,
    /// The prompt as token ids of this model's tokenizer, rendered by a policy's template or plain.
    pub prompt_ids: Option<Vec<i32>>,
    /// Responses as token ids; control tokens at their ends are left out.
    pub a_ids: Option<Vec<i32>>,
    pub b_ids: Option<Vec<i32>>,
    pub pairs: Option<Vec<PairBody>>,
    /// False: only the order that shows a first; the verdict is then that order's alone.
    #[serde(default = "yes")]
    pub both_orders: bool,
    /// True: the judge reasons before it decides. Or how: [`reasoned::How`].
    #[serde(default)]
    #[schema(value_type = Option<reasoned::How>)]
    pub rationale: Value,
    /// Rationales for each order; 1 if not given.
    pub votes: Option<usize>,
    pub seed: Option<u64>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
}

/// A pair in texts, in token ids (`prompt_ids`, `a_ids`, `b_ids`), or in some of each.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairBody {
    /// A text, or a list of messages.
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    /// `response_a` and `response_b`, as the rows of `gramophone judge` say it, are understood too.
    #[serde(alias = "response_a")]
    pub a: Option<String>,
    #[serde(alias = "response_b")]
    pub b: Option<String>,
    pub prompt_ids: Option<Vec<i32>>,
    pub a_ids: Option<Vec<i32>>,
    pub b_ids: Option<Vec<i32>>,
}

impl PairBody {
    fn is_empty(&self) -> bool {
        let PairBody { prompt, a, b, prompt_ids, a_ids, b_ids } = self;
        prompt.is_none() && a.is_none() && b.is_none() && prompt_ids.is_none() && a_ids.is_none() && b_ids.is_none()
    }

    /// The pair; `place` is where it stands in the body.
    fn pair(self, app: &App, place: &str) -> Result<Pair, Refusal> {
        let at = |name: &str| if place.is_empty() { name.to_string() } else { format!("{place}.{name}") };
        let prompt = match (self.prompt, self.prompt_ids) {
            (Some(value), None) => messages(&at("prompt"), &value)?,
            (None, Some(ids)) => policy::turns(&decode(app, &at("prompt_ids"), &ids)?),
            (given, _) => return Err(one_form(&at("prompt"), given.is_some())),
        };
        let side = |name: &str, text: Option<String>, ids: Option<Vec<i32>>| match (text, ids) {
            (Some(text), None) => Ok(text),
            (None, Some(ids)) => Ok(policy::response(&decode(app, &at(&format!("{name}_ids")), &ids)?).to_string()),
            (given, _) => Err(one_form(&at(name), given.is_some())),
        };
        Ok(Pair { prompt, a: side("a", self.a, self.a_ids)?, b: side("b", self.b, self.b_ids)? })
    }
}

/// A field that was given twice, or not at all.
fn one_form(field: &str, twice: bool) -> Refusal {
    let name = field.rsplit('.').next().unwrap_or(field);
    let message = match twice {
        true => format!("give `{name}` or `{name}_ids`, not both"),
        false => format!("missing field `{name}` (or `{name}_ids`)"),
    };
    Refusal::field(field, message)
}

fn yes() -> bool {
    true
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
    app.choose(&call, &body.model)?;
    let settings = reasoned::settings("rationale", &body.rationale, body.votes, body.seed)?;
    if settings.is_none() && body.votes.is_some_and(|n| n != 1) {
        return Err(Refusal::field("votes", "votes are rationales: they need rationale: true"));
    }
    if settings.is_some() && !body.both_orders {
        return Err(Refusal::field("both_orders", "a judge that reasons reads both orders; leave it out"));
    }
    let JudgeBody { prompt, a, b, prompt_ids, a_ids, b_ids, pairs, .. } = body;
    let one = PairBody { prompt, a, b, prompt_ids, a_ids, b_ids };
    let single = pairs.is_none();
    let pairs = match pairs {
        None => vec![one.pair(&app, "")?],
        Some(_) if !one.is_empty() => return Err(Refusal::field("pairs", "give pairs, or prompt, a and b, not both")),
        Some(pairs) => {
            count("pairs", pairs.len(), app.config.limits.items)?;
            let each = pairs.into_iter().enumerate().map(|(i, p)| p.pair(&app, &format!("pairs[{i}]")));
            each.collect::<Result<Vec<Pair>, Refusal>>()?
        }
    };
    let field = move |i: usize| if single { String::new() } else { format!("pairs[{i}]") };
    if let Some(settings) = settings {
        let reasoned = reasoned::judge(&app, &call, pairs, settings, body.priority, field).await?;
        return Ok(Json(reasoned::answer(&app, &call, &reasoned, single)));
    }
    let judged = app.judge_all(&call, pairs, body.priority, field).await?;
    let version = judged.first().map_or_else(|| app.service.version(), |j| j.version.clone());
    let tokens: usize = judged.iter().map(|j| j.tokens).sum();
    let mut answers: Vec<Map<String, Value>> = judged.iter().map(|j| object(j, body.both_orders)).collect();
    let rest = json!({"model": app.called(&call), "weight_version": &*version, "usage": usage(tokens, 0)});
    let mut answer = match single {
        true => answers.remove(0),
        false => Map::from_iter([("judgments".to_string(), json!(answers))]),
    };
    if let Value::Object(rest) = rest {
        answer.extend(rest);
    }
    Ok(Json(Value::Object(answer)))
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
