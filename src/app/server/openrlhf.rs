//! `POST /get_reward`: OpenRLHF's remote reward model.
//!
//! The trainer sends one sample a request: the whole text, its rendered prompt and a label. A judge compares the response with the
//! reference response in the label (`--data.label_key`), or in the server's file (`--reference`); a scalar model needs none. The trainer's second and further URLs
//! get empty lists. What it logs it turns into tensors, so the logs hold numbers alone. It retries any error five times
//! and then breaks its batch, so a sample that cannot be judged gets a neutral reward and is counted, in `invalid`; a
//! request that is wrong itself is refused.

use super::body::{Body, count};
use super::refusal::Refusal;
use super::{App, Call, rewarded};
use crate::app::cli::number;
use crate::model::config::HeadKind;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::judge::Pair;
use crate::reward::service::{Answered, Failure, Judged, Service};
use crate::text::message::Message;
use crate::text::policy;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct RewardBody {
    /// Prompts and responses as the policy saw them, control tokens included.
    pub query: Vec<String>,
    /// The rendered prompts.
    pub prompts: Vec<String>,
    /// The reference responses; what is not a text is looked up in the server's file of references.
    #[serde(default)]
    #[schema(value_type = Vec<Option<String>>)]
    pub labels: Vec<Value>,
}

/// The reward of a sample that cannot be judged: no preference.
const NEUTRAL: f64 = 0.5;

/// Rewards for OpenRLHF.
#[utoipa::path(post, path = "/get_reward", request_body = RewardBody,
    responses((status = 200, description = "`rewards` and `scores` by sample: the probability that the response beats its reference; `extra_logs` hold numbers")))]
pub async fn get_reward(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<RewardBody>,
) -> Result<Json<Value>, Refusal> {
    let n = body.query.len();
    if n == 0 {
        return Ok(Json(json!({"rewards": [], "scores": [], "extra_logs": {}})));
    }
    count("query", n, app.config.limits.items)?;
    if body.prompts.len() != n {
        return Err(Refusal::field("prompts", format!("{} prompts for {n} queries", body.prompts.len())));
    }
    let samples: Vec<_> = body.query.iter().zip(&body.prompts).map(|(q, p)| policy::split(q, p)).collect();
    match app.service.head() {
        HeadKind::Scalar => scalar(&app, &call, samples).await,
        HeadKind::LanguageModel => {
            let mut pairs = Vec::new();
            for (i, (prompt, a)) in samples.into_iter().enumerate() {
                let b = reference(&app, &prompt, body.labels.get(i), &format!("labels[{i}]"), "--data.label_key")?;
                pairs.push(Pair { prompt, a, b });
            }
            pairwise(&app, &call, pairs).await
        }
    }
}

/// The reference response: the label, or what the server's file says of the prompt.
pub fn reference(
    app: &App,
    prompt: &[Message],
    label: Option<&Value>,
    field: &str,
    flag: &str,
) -> Result<String, Refusal> {
    let labelled = match label {
        Some(Value::Object(map)) => map.get("reference"),
        other => other,
    };
    if let Some(text) = labelled.and_then(Value::as_str) {
        return Ok(text.to_string());
    }
    let Some(references) = &app.config.references else {
        return Err(Refusal::field(
            field,
            format!(
                "it must be the reference response, a text: a judge says how probably a response beats it. \
                 Let the trainer send the column with {flag}, start the server with --reference FILE, or serve a scalar model"
            ),
        ));
    };
    references.of(prompt).map(String::from).ok_or_else(|| {
        let message = format!("it is no text, and {} holds no reference for this prompt", references.file);
        Refusal::field(field, message)
    })
}

/// A failure that is about one sample alone, which must not cost the others theirs.
fn sample_alone(failure: &Failure) -> bool {
    matches!(failure, Failure::TooLong { .. } | Failure::Invalid(_))
}

async fn pairwise(app: &App, call: &Call, pairs: Vec<Pair>) -> Result<Json<Value>, Refusal> {
    let (mut rewards, mut logs) = (Vec::new(), vec![Vec::new(); 5]);
    for outcome in app.judge_each(call, pairs, 0).await? {
        let row = match outcome {
            Ok(Answered { answer: Judged::Judgment(j), .. }) => {
                rewards.push(json!(j.p_a));
                let consistent = j.consistent as u8 as f32;
                [number(j.margin_ab), number(j.margin_ba), json!(j.label_mass), json!(consistent), json!(0.0)]
            }
            Ok(other) => unreachable!("{other:?} from a judge"),
            Err(failure) if sample_alone(&failure) => {
                app.metrics.invalid();
                rewards.push(json!(NEUTRAL));
                [0.0, 0.0, 0.0, 0.0, 1.0].map(|x| json!(x))
            }
            Err(failure) => return Err(app.refuse(failure)),
        };
        logs.iter_mut().zip(row).for_each(|(log, x)| log.push(x));
    }
    let names = ["margin_ab", "margin_ba", "label_mass", "consistent", "invalid"];
    let logs: serde_json::Map<String, Value> =
        names.map(String::from).into_iter().zip(logs.into_iter().map(Value::from)).collect();
    Ok(Json(json!({"rewards": rewards, "scores": rewards, "extra_logs": logs})))
}

async fn scalar(app: &App, call: &Call, samples: Vec<(Vec<Message>, String)>) -> Result<Json<Value>, Refusal> {
    let options = app.options(call, 0);
    let submit = move |_: &App, service: &Service| {
        samples.iter().map(|(prompt, response)| rewarded(service, prompt, response, options)).collect()
    };
    let (mut rewards, mut scores, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in app.each(call, submit).await? {
        let (reward, flag) = match outcome {
            Ok(answered) => (answered.answer, 0.0),
            Err(failure) if sample_alone(&failure) => {
                app.metrics.invalid();
                (0.0, 1.0)
            }
            Err(failure) => return Err(app.refuse(failure)),
        };
        rewards.push(number(reward));
        // Between 0 and 1, as the trainer's filter wants it.
        scores.push(sigmoid(reward as f64));
        invalid.push(flag);
    }
    Ok(Json(json!({"rewards": rewards, "scores": scores, "extra_logs": {"invalid": invalid}})))
}
