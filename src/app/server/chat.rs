//! `POST /v1/chat/completions`: OpenAI's chat, with log-probabilities, whole or as a stream of events.
//!
//! The same seed gives the same text whatever else is in the batch; choice `i` of several uses `seed + i`. What is not supported is refused
//! by name, not ignored.

mod choice;
mod stream;

use super::body::{Body, OneOrMany, messages};
use super::judge::usage;
use super::refusal::Refusal;
use super::{App, Call};
use crate::infer::generator::{Request, Settings};
use crate::reward::service::{Event, Ticket};
use crate::text::chat::Ending;
use axum::extract::State;
use axum::http::Response;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use choice::Choice;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

#[derive(Clone, Deserialize, ToSchema)]
pub struct ChatBody {
    pub model: Option<String>,
    #[schema(value_type = Vec<Object>)]
    pub messages: Value,
    pub max_tokens: Option<usize>,
    pub max_completion_tokens: Option<usize>,
    /// 1 if not given, as OpenAI has it; 0 is greedy.
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i64>,
    pub min_p: Option<f32>,
    pub seed: Option<i64>,
    /// Answers to write.
    pub n: Option<u32>,
    /// Texts that end an answer; up to 16.
    #[schema(value_type = Option<Vec<String>>)]
    pub stop: Option<OneOrMany<String>>,
    pub logprobs: Option<bool>,
    /// Up to 20 likeliest tokens at each place.
    pub top_logprobs: Option<u32>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Variables of the chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Move what stands in `<think>` into `reasoning_content`.
    #[serde(default)]
    pub separate_reasoning: bool,
    #[serde(default)]
    pub priority: i32,
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Value>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    #[schema(value_type = Option<Object>)]
    pub logit_bias: Option<Value>,
}

#[derive(Clone, Deserialize, ToSchema)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// Most answers to one request.
const CHOICES: u32 = 128;
const STOPS: usize = 16;
const TOP: u32 = 20;

impl ChatBody {
    /// Refuses what would change the answer and is not supported.
    fn supported(&self) -> Result<(), Refusal> {
        let no = |field: &str, what: &str| Err(Refusal::field(field, format!("{what} not supported; leave it out")));
        if self.response_format.as_ref().is_some_and(|f| !f.is_null() && f["type"] != "text") {
            return no("response_format", "formats other than text are");
        }
        if self.tools.as_ref().is_some_and(|t| t.as_array().is_none_or(|t| !t.is_empty())) {
            return no("tools", "tools are");
        }
        if self.logit_bias.as_ref().is_some_and(|b| b.as_object().is_none_or(|b| !b.is_empty())) {
            return no("logit_bias", "biases are");
        }
        for (field, value, neutral) in [
            ("frequency_penalty", self.frequency_penalty, 0.0),
            ("presence_penalty", self.presence_penalty, 0.0),
            ("repetition_penalty", self.repetition_penalty, 1.0),
        ] {
            if value.is_some_and(|v| v != neutral) {
                return no(field, "penalties are");
            }
        }
        Ok(())
    }

    fn settings(&self, most: usize) -> Result<Settings, Refusal> {
        let settings = Settings {
            temperature: self.temperature.unwrap_or(1.0),
            // -1 means all, as vLLM has it.
            top_k: self.top_k.and_then(|k| u32::try_from(k).ok()).unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            max_tokens: self.max_completion_tokens.or(self.max_tokens).unwrap_or(most),
            seed: self.seed.unwrap_or(0) as u64,
        };
        settings.check().map_err(|e| {
            let message = e.to_string();
            let field = message.split(' ').next().unwrap_or_default().to_string();
            Refusal::field(field, message)
        })?;
        Ok(settings)
    }

    fn choices(&self) -> Result<u32, Refusal> {
        match self.n.unwrap_or(1) {
            n @ 1..=CHOICES => Ok(n),
            n => Err(Refusal::field("n", format!("it is {n}; it must be from 1 to {CHOICES}"))),
        }
    }

    /// The alternatives to give with each token.
    fn top(&self) -> Result<usize, Refusal> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs.unwrap_or(0)) {
            (false, 1..) => Err(Refusal::field("top_logprobs", "it needs logprobs: true")),
            (_, n) if n > TOP => Err(Refusal::field("top_logprobs", format!("it is {n}; at most {TOP} are given"))),
            (_, n) => Ok(n as usize),
        }
    }

    fn stops(&self) -> Result<Vec<String>, Refusal> {
        let stops = self.stop.clone().map(OneOrMany::into_list).unwrap_or_default();
        if stops.len() > STOPS || stops.iter().any(String::is_empty) {
            return Err(Refusal::field("stop", format!("at most {STOPS} texts, none of them empty")));
        }
        Ok(stops)
    }
}

/// Write an answer to a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatBody,
    responses((status = 200, description = "OpenAI's chat completion, or with `stream` its chunks as server-sent events")))]
pub async fn completions(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<ChatBody>,
) -> Result<Response<axum::body::Body>, Refusal> {
    app.choose(&call, &body.model)?;
    body.supported()?;
    let (settings, n, top, stops) =
        (body.settings(app.config.max_tokens)?, body.choices()?, body.top()?, body.stops()?);
    let (conversation, kwargs) = (messages("messages", &body.messages)?, body.chat_template_kwargs.clone());
    let render = move |app: &App| {
        let mut chat = app.service.texts().chat().clone();
        for (name, value) in kwargs.into_iter().flatten() {
            chat = chat.with(&name, value);
        }
        chat.render(&conversation, Ending::Open)
    };
    let prompt = app.apart(render).await?.map_err(|e| Refusal::from(e).at("messages"))?.ids;
    let (options, service) = (app.options(&call, body.priority), app.serving(&call));
    let start = |i: u32| {
        let settings = Settings { seed: settings.seed.wrapping_add(i as u64), ..settings };
        let request = Request { prompt: prompt.clone(), settings };
        service.write(request, top, options).map_err(|f| app.refuse(f).at("messages"))
    };
    let tickets = (0..n).map(start).collect::<Result<Vec<Ticket<Event>>, Refusal>>()?;
    let tokens = prompt.len();
    call.note(|notes| {
        notes.items += n as usize;
        notes.tokens += tokens;
    });
    if body.stream.unwrap_or(false) {
        return Ok(stream::respond(app, call, body, tickets, stops, tokens));
    }
    let (mut choices, mut written) = (Vec::new(), 0);
    for (i, ticket) in tickets.into_iter().enumerate() {
        let mut choice = Choice::new(&app, &body, &stops);
        while !choice.done() {
            choice.take(next(&call, &ticket).await.map_err(|f| app.refuse(f))?)?;
        }
        written += choice.tokens();
        call.note(|notes| notes.version = choice.version().or(notes.version.take()));
        choices.push(choice.whole(i));
    }
    call.note(|notes| notes.written += written);
    Ok(Json(json!({
        "id": format!("chatcmpl-{}", call.id()),
        "object": "chat.completion",
        "created": app.created,
        "model": app.called(&call),
        "choices": choices,
        "usage": usage(tokens, written),
        "weight_version": call.version(),
    }))
    .into_response())
}

/// The next event of a ticket, before the deadline.
pub async fn next(call: &Call, ticket: &Ticket<Event>) -> Result<Event, crate::reward::service::Failure> {
    use crate::reward::service::Failure;
    let next = std::future::poll_fn(|cx| ticket.poll_next(cx));
    match tokio::time::timeout_at(call.deadline().into(), next).await {
        Ok(event) => event.unwrap_or(Err(Failure::Stopped)),
        Err(_) => Err(Failure::Late),
    }
}
