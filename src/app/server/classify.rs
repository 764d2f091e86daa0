//! The rewards of a scalar model on the wires of vLLM and SGLang: `POST /classify`, `POST /pooling`, and `POST /v1/embeddings`,
//! whose vector of one number is the reward. A language model has none and says so.

use super::body::{Body, count, messages};
use super::input::Input;
use super::judge::usage;
use super::refusal::Refusal;
use super::{App, Call};
use crate::app::cli::number;
use crate::model::config::HeadKind;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::service::{Answered, Service};
use crate::text::chat::Ending;
use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct ClassifyBody {
    pub model: Option<String>,
    /// Rendered conversations without the tokenizer's own beginning, or token ids: one or a list.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Or one conversation as messages.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Value>,
    /// False: rewards as they are; true: through the logistic function. `/classify` does that if not told, `/pooling` does not.
    #[serde(alias = "activation")]
    pub use_activation: Option<bool>,
    #[serde(default)]
    pub priority: i32,
    /// Would cut texts, which is refused.
    #[schema(value_type = Option<Object>)]
    pub truncate_prompt_tokens: Option<Value>,
}

/// Refuses what would cut texts.
pub fn never_cut(field: &str, asked: bool) -> Result<(), Refusal> {
    match asked {
        true => Err(Refusal::field(field, "texts are never cut; leave it out and send what fits")),
        false => Ok(()),
    }
}

/// Refuses a model without a reward head.
pub fn scalar_alone(app: &App) -> Result<(), Refusal> {
    if app.service.head() == HeadKind::Scalar {
        return Ok(());
    }
    let message = "this model is a language model without a reward head; POST /v1/judge or /v1/rank";
    Err(Refusal::field("model", message))
}

/// The rewards of inputs, in their order.
async fn rewards(
    app: &App,
    call: &Call,
    inputs: Vec<Input>,
    field: &str,
    priority: i32,
) -> Result<Vec<Answered<f32>>, Refusal> {
    count(field, inputs.len(), app.config.limits.items)?;
    let options = app.options(call, priority);
    let submit = move |app: &App, service: &Service| {
        let one = |input: &Input| service.reward(input.ids(app)?, options);
        inputs.iter().map(one).collect()
    };
    app.all(call, submit, |i| format!("{field}[{i}]")).await
}

impl ClassifyBody {
    async fn rewards(&self, app: &App, call: &Call) -> Result<Vec<Answered<f32>>, Refusal> {
        app.choose(call, &self.model)?;
        scalar_alone(app)?;
        never_cut("truncate_prompt_tokens", self.truncate_prompt_tokens.as_ref().is_some_and(|t| !t.is_null()))?;
        match (&self.input, &self.messages) {
            (Some(input), None) => rewards(app, call, Input::read_all("input", input)?, "input", self.priority).await,
            (None, Some(value)) => {
                let conversation = messages("messages", value)?;
                let render = move |app: &App| app.service.texts().chat().render(&conversation, Ending::Closed);
                let ids = app.apart(render).await?.map_err(|e| Refusal::from(e).at("messages"))?.ids;
                rewards(app, call, vec![Input::Ids(ids)], "messages", self.priority).await
            }
            (Some(_), Some(_)) => Err(Refusal::field("messages", "give input or messages, not both")),
            (None, None) => Err(Refusal::field("input", "missing field `input`")),
        }
    }
}

/// A reward as it is, or between 0 and 1.
fn shown(reward: f32, activation: bool) -> Value {
    match activation {
        true => json!(sigmoid(reward as f64)),
        false => number(reward),
    }
}

fn list(app: &App, call: &Call, kind: &str, data: Vec<Value>, rewards: &[Answered<f32>]) -> Json<Value> {
    Json(json!({
        "id": format!("{kind}-{}", call.id()),
        "object": "list",
        "created": app.created,
        "model": app.called(call),
        "data": data,
        "usage": usage(rewards.iter().map(|r| r.tokens).sum(), 0),
    }))
}

/// Rewards of a scalar model.
#[utoipa::path(post, path = "/classify", request_body = ClassifyBody,
    responses((status = 200, description = "`data[].probs[0]` is the reward"), (status = 422, description = "The model is a language model")))]
pub async fn classify(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<ClassifyBody>,
) -> Result<Json<Value>, Refusal> {
    let rewards = body.rewards(&app, &call).await?;
    let activation = body.use_activation != Some(false);
    let row = |(i, r): (usize, &Answered<f32>)| json!({"index": i, "label": "LABEL_0", "probs": [shown(r.answer, activation)], "num_classes": 1});
    let data = rewards.iter().enumerate().map(row).collect();
    Ok(list(&app, &call, "classify", data, &rewards))
}

/// Rewards of a scalar model, as vLLM pools them.
#[utoipa::path(post, path = "/pooling", request_body = ClassifyBody,
    responses((status = 200, description = "`data[].data[0]` is the reward"), (status = 422, description = "The model is a language model")))]
pub async fn pooling(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<ClassifyBody>,
) -> Result<Json<Value>, Refusal> {
    let rewards = body.rewards(&app, &call).await?;
    let activation = body.use_activation == Some(true);
    let row = |(i, r): (usize, &Answered<f32>)| json!({"index": i, "object": "pooling", "data": [shown(r.answer, activation)]});
    let data = rewards.iter().enumerate().map(row).collect();
    Ok(list(&app, &call, "pooling", data, &rewards))
}

#[derive(Deserialize, ToSchema)]
pub struct EmbeddingsBody {
    pub model: Option<String>,
    /// Rendered conversations, or token ids: one or a list.
    #[schema(value_type = Object)]
    pub input: Value,
    /// `float`, or `base64` as OpenAI's client asks for it.
    pub encoding_format: Option<String>,
    /// A reward has one.
    pub dimensions: Option<u64>,
    #[serde(default)]
    pub priority: i32,
}

/// Rewards of a scalar model, as embeddings of one number.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsBody,
    responses((status = 200, description = "`data[].embedding[0]` is the reward"), (status = 422, description = "The model is a language model")))]
pub async fn embeddings(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<EmbeddingsBody>,
) -> Result<Json<Value>, Refusal> {
    app.choose(&call, &body.model)?;
    if app.service.head() != HeadKind::Scalar {
        let message = "this server embeds nothing; a scalar reward model gives its reward here, and this model is a \
                       language model: POST /v1/judge or /v1/rank";
        return Err(Refusal::field("model", message));
    }
    if body.dimensions.is_some_and(|n| n != 1) {
        return Err(Refusal::field("dimensions", "a reward is one number"));
    }
    let in_base64 = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(Refusal::field("encoding_format", format!("it is {other:?}; it must be float or base64")));
        }
    };
    let rewards = rewards(&app, &call, Input::read_all("input", &body.input)?, "input", body.priority).await?;
    let row = |(i, r): (usize, &Answered<f32>)| {
        let vector = if in_base64 { json!(packed(r.answer)) } else { json!([number(r.answer)]) };
        json!({"object": "embedding", "index": i, "embedding": vector})
    };
    let data: Vec<Value> = rewards.iter().enumerate().map(row).collect();
    Ok(list(&app, &call, "embd", data, &rewards))
}

/// One little-endian f32 in base64.
fn packed(x: f32) -> String {
    BASE64_STANDARD.encode(x.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::packed;

    #[test]
    fn numbers_are_packed_as_openais_client_unpacks_them() {
        assert_eq!(packed(1.0), "AACAPw==");
        assert_eq!(packed(-0.15625), "AAAgvg==");
        assert_eq!(packed(0.0), "AAAAAA==");
    }
}
