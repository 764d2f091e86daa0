//! `POST /compare`: NeMo-Gym's comparison of the rollouts of a prompt.
//!
//! Its scores run from 1 to 5 and its ranking from 1 (the first is better) to 6; both are read off `p = P(i beats j)`, the mean
//! over both orders: `score_1 = 1 + 4p`, `score_2 = 1 + 4(1 - p)`, `ranking = 6 - 5p`. Equal scores would be told apart
//! by the ranking; here they are equal together.

use super::body::{Body, count, messages};
use super::refusal::Refusal;
use super::{App, Call};
use crate::reward::judge::Pair;
use crate::text::message::{Message, transcript};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Which pairs of a group are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each with the next, the last with the first.
    Circular,
    AllPairs,
}

impl Strategy {
    fn pairs(self, n: usize) -> Vec<(usize, usize)> {
        match self {
            _ if n < 2 => Vec::new(),
            Strategy::Circular => (0..n).map(|i| (i, (i + 1) % n)).collect(),
            Strategy::AllPairs => (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect(),
        }
    }
}

#[derive(Deserialize, ToSchema)]
pub struct CompareBody {
    /// Messages.
    #[schema(value_type = Vec<Object>)]
    pub conversation_history: Value,
    /// Answers of the Responses API: `{"output": [{"type": "message", "content": [{"type": "output_text", "text"}]}]}`.
    #[schema(value_type = Vec<Object>)]
    pub response_objs: Vec<Value>,
    /// What to judge by, shown with the conversation.
    pub principle: Option<String>,
}

/// The score of a response that nothing was compared with.
const MIDDLE: f64 = 3.0;

/// Compare rollouts for NeMo-Gym.
#[utoipa::path(post, path = "/compare", request_body = CompareBody,
    responses((status = 200, description = "`rewards` by response, from 1 to 5"), (status = 503, description = "The judge failed")))]
pub async fn compare(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<CompareBody>,
) -> Result<Json<Value>, Refusal> {
    let n = body.response_objs.len();
    count("response_objs", n, app.config.limits.items)?;
    if n == 0 {
        return Ok(Json(answer(&[], 0)));
    }
    let mut prompt = messages("conversation_history", &body.conversation_history)?;
    if let Some(principle) = body.principle.filter(|p| !p.is_empty()) {
        let question = transcript(&prompt)
            .ok_or_else(|| Refusal::field("conversation_history", "it holds content that is not text"))?;
        prompt = vec![Message::user(format!("{question}\n\n[Principle]\n{principle}"))];
    }
    let texts = body.response_objs.iter().enumerate().map(text).collect::<Result<Vec<String>, Refusal>>()?;
    let compared = app.config.compare.pairs(n);
    let pair = |(i, j): &(usize, usize)| Pair { prompt: prompt.clone(), a: texts[*i].clone(), b: texts[*j].clone() };
    let pairs = compared.iter().map(pair).collect();
    let judged = app.judge_all(&call, pairs, 0, |k| format!("response_objs[{}]", compared[k].0)).await;
    let judged = judged.map_err(|refusal| match refusal.status {
        // Its client knows one word for a judge that failed.
        StatusCode::INTERNAL_SERVER_ERROR => Refusal { status: StatusCode::SERVICE_UNAVAILABLE, ..refusal },
        _ => refusal,
    })?;
    let found: Vec<(usize, usize, f64)> =
        compared.iter().zip(&judged).map(|((i, j), judged)| (*i, *j, judged.answer.p_a())).collect();
    Ok(Json(answer(&found, n)))
}

/// What is said of `n` responses after these comparisons.
fn answer(found: &[(usize, usize, f64)], n: usize) -> Value {
    let scores = |p: f64| (1.0 + 4.0 * p, 1.0 + 4.0 * (1.0 - p), 6.0 - 5.0 * p);
    let (mut sums, mut met, mut all) = (vec![0.0; n], vec![0usize; n], Vec::new());
    let mut results = Vec::new();
    for &(i, j, p) in found {
        let (first, second, ranking) = scores(p);
        for (at, score) in [(i, first), (j, second)] {
            sums[at] += score;
            met[at] += 1;
            all.push(score);
        }
        results.push(json!({
            "response_i": i, "response_j": j, "judge_idx": 0,
            "score_1": first, "score_2": second, "ranking": ranking,
        }));
    }
    let rewards: Vec<f64> = sums.iter().zip(met).map(|(s, m)| if m == 0 { MIDDLE } else { s / m as f64 }).collect();
    let mean = |xs: &[f64]| if xs.is_empty() { 0.0 } else { xs.iter().sum::<f64>() / xs.len() as f64 };
    let average = mean(&all);
    let spread = mean(&all.iter().map(|x| (x - average).powi(2)).collect::<Vec<_>>()).sqrt();
    let tied = found.iter().filter(|(_, _, p)| *p == 0.5).count() as f64;
    json!({
        "rewards": rewards,
        "comparison_results": results,
        "metrics": {
            "mean_individual_score": average,
            "std_individual_score": spread,
            "tiebreak_usage_rate": if found.is_empty() { 0.0 } else { tied / found.len() as f64 },
        },
    })
}

/// What a response says, its reasoning left out; as the original has it, `None` where it says nothing.
fn text((i, response): (usize, &Value)) -> Result<String, Refusal> {
    let Some(output) = response.get("output").and_then(Value::as_array) else {
        return Err(Refusal::field(format!("response_objs[{i}].output"), "it must be a list of output items"));
    };
    let mut text = String::new();
    for item in output.iter().filter(|item| item["type"] == "message") {
        let parts = item["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        text.extend(parts.iter().filter(|p| p["type"] == "output_text").filter_map(|p| p["text"].as_str()));
    }
    Ok(if text.trim().is_empty() { "None".into() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_off_the_probability() {
        let said = answer(&[(0, 1, 0.75), (1, 0, 0.25)], 3);
        assert_eq!(said["rewards"], json!([4.0, 2.0, 3.0]));
        assert_eq!(said["comparison_results"][0]["ranking"], 2.25);
        assert_eq!(said["metrics"]["mean_individual_score"], 3.0);
        assert_eq!(said["metrics"]["std_individual_score"], 1.0);
        assert_eq!(answer(&[], 0)["rewards"], json!([]));
        assert_eq!(answer(&[(0, 1, 0.5)], 2)["metrics"]["tiebreak_usage_rate"], 1.0);
    }

    #[test]
    fn pairs_of_a_group() {
        assert_eq!(Strategy::Circular.pairs(3), [(0, 1), (1, 2), (2, 0)]);
        assert_eq!(Strategy::AllPairs.pairs(3), [(0, 1), (0, 2), (1, 2)]);
        assert!(Strategy::Circular.pairs(1).is_empty());
    }
}
