//! The reward server: one [`Service`] behind every wire that reinforcement learning already speaks.
//!
//! One file for each wire, each of them thin: it reads its body, hands pairs, groups or prompts to the service, and writes its answer.
//! `guard` is what every request passes; control (`admin`) listens on an address of its own.

mod admin;
mod body;
mod chat;
mod classify;
mod compare;
mod decisions;
mod deliberate;
mod detokenize;
mod guard;
mod input;
mod judge;
mod metrics;
mod openapi;
mod openrlhf;
mod page;
mod probes;
mod rank;
mod reasoned;
mod references;
mod refusal;
mod relevance;
mod rerank;
mod run;
mod scoring;
mod slime;
mod systemone;
mod unread;

pub use compare::Strategy;
pub use guard::{Call, Keys};
pub use references::References;
pub use run::{Listeners, serve};

use crate::error::Error;
use crate::reward::judge::{Pair, conversation};
use crate::reward::rank::{Method, Rules};
use crate::reward::service::{Answered, Failure, Judged, Options, Service, Texts, Ticket};
use crate::text::chat::Ending;
use crate::text::labels::Labels;
use crate::text::message::Message;
use crate::text::tokenizer::Tokenizer;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use metrics::Metrics;
use refusal::Refusal;
use serde_json::Value;
use std::io::Write;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tower_http::catch_panic::CatchPanicLayer;

/// What one request may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// How long a body may take to arrive.
    pub receive: Duration,
    /// Pairs, responses, documents, questions.
    pub items: usize,
    /// Nesting of JSON.
    pub depth: usize,
}

/// How long a request may take, by default: less than the clients of its wire wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub default: Duration,
    /// OpenRLHF gives up after 180 s.
    pub openrlhf: Duration,
    /// slime after 120 s.
    pub slime: Duration,
}

impl Timeouts {
    fn of(&self, route: &str) -> Duration {
        match route {
            "/get_reward" => self.openrlhf.min(self.default),
            "/" | "/reward" | "/reward/group" => self.slime.min(self.default),
            _ => self.default,
        }
    }
}

/// How a server behaves.
#[derive(Clone)]
pub struct Config {
    /// Names that a request may call the model; the first is what answers call it.
    pub names: Vec<String>,
    pub keys: Keys,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// Status of a full queue.
    pub overload: StatusCode,
    pub compare: Strategy,
    /// How `/rerank` and group rewards order.
    pub method: Method,
    /// Reference responses of prompts that come without one.
    pub references: Option<Arc<References>>,
    /// What would wait longer than this is told to come again.
    pub queue_timeout: Option<Duration>,
    /// Longest answer of a chat that asks for no length.
    pub max_tokens: usize,
    /// Write a line for each request to standard error.
    pub log: bool,
    /// With the bodies.
    pub log_content: bool,
}

/// Everything that handlers share. Clones are the same server.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    pub service: Service,
    pub config: Config,
    metrics: Metrics,
    /// Tokens of the letters A, B, .. where an answer starts: what the options of a question are called.
    letters: Vec<i32>,
    /// The same after the mark behind which an answer that was reasoned about stands.
    late_letters: Vec<i32>,
    /// What the tokenizer writes before a text of its own accord (BOS).
    prefix: Vec<i32>,
    created: u64,
    draining: AtomicBool,
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// # Errors
    /// A tokenizer that cannot be used.
    pub fn new(service: Service, config: Config) -> Result<App, Error> {
        let letters = match service.texts() {
            Texts::Pairwise(prompts) => [letters(&prompts.chat, "")?, letters(&prompts.chat, deliberate::MARK)?],
            Texts::Scalar(_) => Default::default(),
        };
        let [letters, late_letters] = letters;
        if let Some(both) = service.adapters().find(|adapter| config.names.iter().any(|name| name == adapter)) {
            return Err(Error::usage(format!("an adapter and the model are both called {both:?}; rename one")));
        }
        let prefix = service.texts().chat().tokenizer().prefix()?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let metrics = Metrics::new();
        Ok(App(Arc::new(Inner {
            service,
            config,
            metrics,
            letters,
            late_letters,
            prefix,
            created,
            draining: false.into(),
        })))
    }

    /// The routes for everybody.
    pub fn router(&self) -> Router {
        let router = Router::new()
            .route("/v1/judge", post(judge::judge))
            .route("/v1/rank", post(rank::rank))
            .route("/get_reward", post(openrlhf::get_reward))
            .route("/", get(page::page).post(slime::reward))
            .route("/reward", post(slime::reward))
            .route("/reward/group", post(slime::group))
            .route("/v1/chat/completions", post(chat::completions))
            .route("/v1/models", get(probes::models))
            .route("/compare", post(compare::compare))
            .route("/v1/decisions", post(decisions::decisions))
            .route("/v1/systemone", post(systemone::systemone))
            .route("/generative_scoring", post(scoring::generative_scoring))
            .route("/v1/score", post(scoring::score))
            .route("/score", post(scoring::score))
            .route("/rerank", post(rerank::rerank))
            .route("/v1/rerank", post(rerank::rerank))
            .route("/v2/rerank", post(rerank::rerank))
            .route("/classify", post(classify::classify))
            .route("/pooling", post(classify::pooling))
            .route("/v1/embeddings", post(classify::embeddings))
            .route("/openapi.json", get(openapi::document))
            .route("/status.json", get(page::status))
            .layer(axum::middleware::from_fn_with_state(self.clone(), guard::crowd))
            .merge(probes::router());
        self.guarded(router)
    }

    /// The routes of control.
    pub fn admin_router(&self) -> Router {
        self.guarded(admin::router().merge(probes::router()))
    }

    fn guarded(&self, router: Router<App>) -> Router {
        let missing = async || Refusal::new(StatusCode::NOT_FOUND, "unknown_route", "there is no such route");
        let method = async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route takes another method")
        };
        let panicked = |_: Box<dyn std::any::Any + Send>| {
            use axum::response::IntoResponse;
            let message = "the server failed on this request; nobody else's is affected";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "panic", message).into_response()
        };
        router
            .fallback(missing)
            .method_not_allowed_fallback(method)
            .layer(CatchPanicLayer::custom(panicked))
            .layer(axum::middleware::from_fn_with_state(self.clone(), guard::guard))
            .with_state(self.clone())
    }

    /// What answers call the model.
    fn name(&self) -> &str {
        &self.config.names[0]
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.service.texts().chat().tokenizer()
    }

    /// Notes which model a request means: this server's by any of its names, or one of its adapters, alone or as `model:adapter`.
    fn choose(&self, call: &Call, model: &Option<String>) -> Result<(), Refusal> {
        let Some(name) = model else { return Ok(()) };
        if self.config.names.contains(name) {
            call.note(|notes| notes.adapter = None);
            return Ok(());
        }
        let short = |base: &String| name.strip_prefix(base.as_str())?.strip_prefix(':');
        let adapter = self.config.names.iter().find_map(short).unwrap_or(name);
        if self.service.adapters().any(|known| known == adapter) {
            call.note(|notes| notes.adapter = Some(adapter.to_string()));
            return Ok(());
        }
        let known: Vec<&str> = std::iter::once(self.name()).chain(self.service.adapters()).collect();
        let message = format!("there is no model {name:?}; this server has {}", known.join(", "));
        Err(Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).at("model"))
    }

    /// What an answer calls the model that a request means.
    fn called(&self, call: &Call) -> String {
        call.note(|notes| notes.adapter.clone()).unwrap_or_else(|| self.name().to_string())
    }

    /// The service, asking the model that a request means.
    fn serving(&self, call: &Call) -> Service {
        let adapter = call.note(|notes| notes.adapter.clone());
        adapter.and_then(|name| self.service.adapter(&name)).unwrap_or_else(|| self.service.clone())
    }

    /// How groups are ranked where a request does not say.
    fn rules(&self) -> Rules {
        Rules::new(self.config.method, None).expect("methods with a name can be played")
    }

    fn refuse(&self, failure: Failure) -> Refusal {
        Refusal::of(failure, self.config.overload)
    }

    fn options(&self, call: &Call, priority: i32) -> Options {
        Options { deadline: Some(call.deadline()), priority }
    }

    /// Runs what keeps a thread busy (rendering and encoding texts) beside the network's threads.
    async fn apart<R: Send + 'static>(&self, f: impl FnOnce(&App) -> R + Send + 'static) -> Result<R, Refusal> {
        let app = self.clone();
        tokio::task::spawn_blocking(move || f(&app))
            .await
            .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "panic", "the server failed on this request"))
    }

    /// As [`App::apart`], with the model that a request means.
    async fn ask<R: Send + 'static>(
        &self,
        call: &Call,
        f: impl FnOnce(&App, &Service) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let service = self.serving(call);
        self.apart(move |app| f(app, &service)).await
    }

    /// Awaits an answer until the call's deadline.
    async fn answer<T>(&self, call: &Call, handed: Handed<T>) -> Result<Answered<T>, Failure> {
        let answered = match tokio::time::timeout_at(call.deadline().into(), handed?).await {
            Ok(answered) => answered?,
            Err(_) => return Err(Failure::Late),
        };
        call.note(|n| {
            n.tokens += answered.tokens;
            n.items += 1;
            n.queued = n.queued.max(answered.queued);
            n.version = Some(answered.version.clone());
        });
        Ok(answered)
    }

    /// Hands work in together; each piece has its own outcome.
    async fn each<T: Send + 'static>(
        &self,
        call: &Call,
        submit: impl FnOnce(&App, &Service) -> Vec<Handed<T>> + Send + 'static,
    ) -> Result<Vec<Result<Answered<T>, Failure>>, Refusal> {
        let mut outcomes = Vec::new();
        for handed in self.ask(call, submit).await? {
            outcomes.push(self.answer(call, handed).await);
        }
        Ok(outcomes)
    }

    /// Hands work in together, all or nothing: what fails first takes the rest along. `field` names the place of a piece in the body.
    async fn all<T: Send + 'static>(
        &self,
        call: &Call,
        submit: impl FnOnce(&App, &Service) -> Vec<Handed<T>> + Send + 'static,
        field: impl Fn(usize) -> String,
    ) -> Result<Vec<Answered<T>>, Refusal> {
        let mut answers = Vec::new();
        for (i, handed) in self.ask(call, submit).await?.into_iter().enumerate() {
            answers.push(self.answer(call, handed).await.map_err(|f| self.refuse(f).at(field(i)))?);
        }
        Ok(answers)
    }

    /// Hands pairs in.
    fn judging(
        &self,
        call: &Call,
        pairs: Vec<Pair>,
        priority: i32,
    ) -> impl FnOnce(&App, &Service) -> Vec<Handed<Judged>> + Send + 'static {
        let options = self.options(call, priority);
        move |_, service| {
            let one = |pair: &Pair| {
                let work = service.texts().pair(pair).map_err(Failure::Invalid)?;
                service.judge(work, options)
            };
            pairs.iter().map(one).collect()
        }
    }

    /// Judges pairs together; each has its own outcome.
    async fn judge_each(
        &self,
        call: &Call,
        pairs: Vec<Pair>,
        priority: i32,
    ) -> Result<Vec<Result<Answered<Judged>, Failure>>, Refusal> {
        let outcomes = self.each(call, self.judging(call, pairs, priority)).await?;
        outcomes.iter().flatten().for_each(|judged| self.metrics.scored(judged.answer.p_a()));
        Ok(outcomes)
    }

    /// Judges pairs together, all or nothing. `field` names the place of a pair in the body.
    async fn judge_all(
        &self,
        call: &Call,
        pairs: Vec<Pair>,
        priority: i32,
        field: impl Fn(usize) -> String,
    ) -> Result<Vec<Answered<Judged>>, Refusal> {
        let judged = self.all(call, self.judging(call, pairs, priority), field).await?;
        judged.iter().for_each(|judged| self.metrics.scored(judged.answer.p_a()));
        Ok(judged)
    }
}

/// Work that was handed in, or why it was not taken.
type Handed<T> = Result<Ticket<Answered<T>>, Failure>;

/// Hands in a response to a prompt, for a scalar model's reward.
fn rewarded(service: &Service, prompt: &[Message], response: &str, options: Options) -> Handed<f32> {
    let ids = conversation(service.texts().chat(), prompt, response).map_err(Failure::Invalid)?;
    service.reward(ids, options)
}

/// The letters that are one token each where an answer starts (or after a text in it), from A on; two of them at least, since judging needs them.
fn letters(chat: &crate::text::chat::Chat, after: &str) -> Result<Vec<i32>, Error> {
    let mut rendered = chat.render(&[Message::user("Which?")], Ending::Open)?;
    rendered.text.push_str(after);
    let mut tokens: Vec<i32> = Vec::new();
    for letter in 'A'..='Z' {
        let name = letter.to_string();
        match Labels::tokens(chat.tokenizer(), &rendered.text, &rendered.hidden, &[&name]).as_deref() {
            Ok([token]) if !tokens.contains(token) => tokens.push(*token),
            _ => break,
        }
    }
    Ok(tokens)
}

/// Writes a line of the log. There is nowhere to complain if it does not arrive.
fn log(line: &Value) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests;
