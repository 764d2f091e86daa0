//! `POST /classify`: the reward of a scalar model, in vLLM's shape.

use super::body::{Body, OneOrMany, count, messages};
use super::judge::usage;
use super::refusal::Refusal;
use super::{App, Call};
use crate::app::cli::number;
use crate::model::config::HeadKind;
use crate::reward::service::Failure;
use crate::text::chat::Ending;
use crate::text::message::Message;
use crate::text::tokenizer::Parse;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
pub struct ClassifyBody {
    pub model: Option<String>,
    /// Rendered conversations, without the tokenizer's own beginning.
    #[schema(value_type = Option<Vec<String>>)]
    pub input: Option<OneOrMany<String>>,
    /// Or one conversation as messages.
    #[schema(value_type = Option<Vec<Object>>)]
    pub messages: Option<Value>,
    /// False: rewards as they are; otherwise through the logistic function.
    #[serde(alias = "activation")]
    pub use_activation: Option<bool>,
    #[serde(default)]
    pub priority: i32,
}

/// Rewards of a scalar model.
#[utoipa::path(post, path = "/classify", request_body = ClassifyBody,
    responses((status = 200, description = "`data[].probs[0]` is the reward"), (status = 422, description = "The model is a language model")))]
pub async fn classify(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<ClassifyBody>,
) -> Result<Json<Value>, Refusal> {
    app.known_model(&body.model)?;
    if app.service.head() != HeadKind::Scalar {
        let message = "this model is a language model without a reward head; POST /v1/judge or /v1/rank";
        return Err(Refusal::field("model", message));
    }
    let texts = match (body.input, &body.messages) {
        (Some(input), None) => Ok(input.into_list()),
        (None, Some(value)) => Err(messages("messages", value)?),
        (Some(_), Some(_)) => return Err(Refusal::field("messages", "give input or messages, not both")),
        (None, None) => return Err(Refusal::field("input", "missing field `input`")),
    };
    if let Ok(texts) = &texts {
        count("input", texts.len(), app.config.limits.items)?;
    }
    let options = app.options(&call, body.priority);
    let submit = move |app: &App| {
        let all = match texts {
            Ok(texts) => texts.iter().map(|t| rendered(app, t)).collect(),
            Err(conversation) => vec![conversation_ids(app, &conversation)],
        };
        all.into_iter().map(|ids| app.service.reward(ids?, options)).collect::<Vec<_>>()
    };
    let (mut data, mut tokens) = (Vec::new(), 0);
    for (i, ticket) in app.apart(submit).await?.into_iter().enumerate() {
        let outcome = match ticket {
            Ok(ticket) => app.answer(&call, ticket).await,
            Err(failure) => Err(failure),
        };
        let answered = outcome.map_err(|f| app.refuse(f).at(format!("input[{i}]")))?;
        tokens += answered.tokens;
        let reward = answered.answer;
        let prob = match body.use_activation {
            Some(false) => number(reward),
            _ => json!(1.0 / (1.0 + (-reward as f64).exp())),
        };
        data.push(json!({"index": i, "label": "LABEL_0", "probs": [prob], "num_classes": 1}));
    }
    Ok(Json(json!({
        "id": format!("classify-{}", call.id()),
        "object": "list",
        "created": app.created,
        "model": app.name(),
        "data": data,
        "usage": usage(tokens, 0),
    })))
}

fn rendered(app: &App, text: &str) -> Result<Vec<i32>, Failure> {
    let mut ids = app.prefix.clone();
    ids.extend(app.tokenizer().ids(text, Parse::All).map_err(Failure::Invalid)?);
    Ok(ids)
}

fn conversation_ids(app: &App, conversation: &[Message]) -> Result<Vec<i32>, Failure> {
    Ok(app.service.texts().chat().render(conversation, Ending::Closed).map_err(Failure::Invalid)?.ids)
}
