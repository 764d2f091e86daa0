//! Rationales before verdicts: how they are asked for, and what `/v1/judge` says of a pair that was judged by them.

use super::body::decode;
use super::judge::usage;
use super::refusal::Refusal;
use super::{App, Call};
use crate::app::cli::reasoned;
use crate::reward::judge::Pair;
use crate::reward::rationale::{Reasoned, Settings, TEMPERATURE};
use crate::reward::service::{Answered, Failure, Service};
use crate::reward::vote::Rule;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// How to reason and vote; what is not given is as with `gramophone judge --rationale`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct How {
    /// Replies for each of the two orders; above 1 they are sampled.
    pub votes: Option<usize>,
    /// How votes are added up: `soft`, by the probabilities of their labels, or `majority`.
    pub vote: Option<String>,
    /// Stop voting when the outcome is settled with this confidence.
    pub adaptive: Option<f64>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    /// Longest reply; a longer one is cut, and invalid.
    pub max_tokens: Option<usize>,
    /// The same seed gives the same votes on a pair, whatever else is judged.
    pub seed: Option<u64>,
}

/// Most replies for an order.
const VOTES: usize = 256;

/// The settings that a field asks for, with votes and a seed from beside it; none if it is false or not given.
pub fn settings(
    field: &str,
    value: &Value,
    votes: Option<usize>,
    seed: Option<u64>,
) -> Result<Option<Settings>, Refusal> {
    let how: How = match value {
        Value::Null | Value::Bool(false) => return Ok(None),
        Value::Bool(true) => How::default(),
        Value::Object(_) => decode(value.clone()).map_err(|refusal| {
            let at = if refusal.field.is_empty() { field.into() } else { format!("{field}.{}", refusal.field) };
            refusal.at(at)
        })?,
        _ => return Err(Refusal::field(field, "it must be true, false or an object that says how")),
    };
    let votes = how.votes.or(votes).unwrap_or(1);
    if votes > VOTES {
        return Err(Refusal::field("votes", format!("it is {votes}; at most {VOTES} are taken for an order")));
    }
    let rule = match how.vote.as_deref() {
        None | Some("soft") => Rule::Soft,
        Some("majority") => Rule::Majority,
        Some(other) => {
            return Err(Refusal::field(
                format!("{field}.vote"),
                format!("it is {other:?}; it must be soft or majority"),
            ));
        }
    };
    let settings = Settings {
        votes,
        rule,
        adaptive: how.adaptive,
        temperature: how.temperature.unwrap_or(if votes > 1 { TEMPERATURE } else { 0.0 }),
        top_p: how.top_p.unwrap_or(1.0),
        max_tokens: how.max_tokens.unwrap_or(Settings::default().max_tokens),
        seed: how.seed.or(seed).unwrap_or(0),
    };
    settings.check().map_err(|e| Refusal::from(e).at(field))?;
    Ok(Some(settings))
}

/// Judges pairs after rationales, all or nothing. `field` names the place of a pair in the body.
pub async fn judge(
    app: &App,
    call: &Call,
    pairs: Vec<Pair>,
    settings: Settings,
    priority: i32,
    field: impl Fn(usize) -> String,
) -> Result<Vec<Answered<Reasoned>>, Refusal> {
    let options = app.options(call, priority);
    let submit = move |_: &App, service: &Service| {
        let one = |pair: &Pair| {
            let encoded = service.reasoning()?.0.pair(pair).map_err(Failure::Invalid)?;
            service.judge_by_rationale(encoded, settings, options)
        };
        pairs.iter().map(one).collect()
    };
    let judged = app.all(call, submit, field).await?;
    judged.iter().filter_map(|j| j.answer.votes.p_a()).for_each(|p| app.metrics.scored(p));
    Ok(judged)
}

/// What is said of pairs.
pub fn answer(app: &App, call: &Call, judged: &[Answered<Reasoned>], single: bool) -> Value {
    let mut objects: Vec<Map<String, Value>> = judged.iter().map(|j| object(&j.answer)).collect();
    let count = |of: fn(&Reasoned) -> usize| judged.iter().map(|j| of(&j.answer)).sum::<usize>();
    let written = count(|r| r.generated_tokens);
    call.note(|notes| notes.written += written);
    let version = judged.first().map_or_else(|| app.service.version(), |j| j.version.clone());
    let mut answer = match single {
        true => objects.remove(0),
        false => Map::from_iter([("judgments".to_string(), json!(objects))]),
    };
    answer.insert("model".into(), app.called(call).into());
    answer.insert("weight_version".into(), (*version).into());
    answer.insert("usage".into(), usage(count(|r| r.prompt_tokens), written));
    answer.into()
}

/// As `gramophone judge --rationale` says it, with this wire's name for the probability. Where no reply was valid there is none, and the
/// verdict is `invalid`.
fn object(reasoned: &Reasoned) -> Map<String, Value> {
    let mut object = self::reasoned(reasoned);
    object.shift_remove("tokens");
    let p = object.shift_remove("p_a").unwrap_or(Value::Null);
    object.shift_insert(0, "p".into(), p);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_becomes_settings() {
        let of = |value: Value| settings("rationale", &value, Some(3), Some(9)).map_err(|r| r.field);
        assert_eq!(of(Value::Null), Ok(None));
        assert_eq!(of(json!(false)), Ok(None));
        let asked = of(json!(true)).unwrap().unwrap();
        assert_eq!((asked.votes, asked.seed, asked.temperature), (3, 9, TEMPERATURE));
        let how = of(json!({"votes": 1, "seed": 2, "vote": "majority", "max_tokens": 7})).unwrap().unwrap();
        assert_eq!((how.votes, how.seed, how.temperature, how.rule), (1, 2, 0.0, Rule::Majority));
        for (value, field) in [
            (json!(3), "rationale"),
            (json!({"votes": "x"}), "rationale.votes"),
            (json!({"unknown": 1}), "rationale.unknown"),
            (json!({"vote": "x"}), "rationale.vote"),
            (json!({"votes": 0}), "rationale"),
            (json!({"votes": 1000}), "votes"),
            (json!({"temperature": 0.0}), "rationale"),
        ] {
            assert_eq!(of(value.clone()), Err(field.to_string()), "{value}");
        }
    }
}
