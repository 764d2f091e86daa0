//! `POST /v1/rank`: an order of several responses to one prompt.

use super::body::{Body, count, messages};
use super::judge::usage;
use super::refusal::Refusal;
use super::{App, Call};
use crate::app::cli::ranking;
use crate::reward::rank::{Method, Rules};
use crate::reward::service::{Answered, Failure, Group, Ranked, Service};
use crate::text::message::Message;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RankBody {
    pub model: Option<String>,
    /// A text, or a list of messages.
    #[schema(value_type = Object)]
    pub prompt: Value,
    pub responses: Vec<String>,
    /// `round_robin`, `linear`, `knockout`, `swiss`, `anchor` or `adaptive`.
    pub method: Option<String>,
    /// Compare at most so many pairs; as many as the method needs if not given.
    pub budget: Option<usize>,
    /// Responses that all others meet, with the method `anchor`; 3 if not given.
    pub anchors: Option<usize>,
    /// Probability at which two neighbours in the order are decided, with the method `adaptive`; 0.95 if not given.
    pub confidence: Option<f64>,
    /// A rationale before each verdict, which only `/v1/judge` gives.
    #[serde(default)]
    pub rationale: bool,
    #[serde(default)]
    pub priority: i32,
}

impl RankBody {
    fn rules(&self, default: Method) -> Result<Rules, Refusal> {
        let mut method = match &self.method {
            None => default,
            Some(name) => name.parse().map_err(|e: String| Refusal::field("method", e))?,
        };
        if let Some(n) = self.anchors {
            let Method::Anchor { anchors } = &mut method else {
                return Err(Refusal::field("anchors", "anchors go with the method anchor"));
            };
            *anchors = n;
        }
        if let Some(p) = self.confidence {
            let Method::Adaptive { confidence } = &mut method else {
                return Err(Refusal::field("confidence", "a confidence goes with the method adaptive"));
            };
            *confidence = p;
        }
        if self.budget == Some(0) {
            return Err(Refusal::field("budget", "it is 0; at least one pair must be compared"));
        }
        Rules::new(method, self.budget)
            .map_err(|e| Refusal::field(if self.anchors.is_some() { "anchors" } else { "confidence" }, e.to_string()))
    }
}

/// Order responses, best first.
#[utoipa::path(post, path = "/v1/rank", request_body = RankBody,
    responses((status = 200, description = "`ranking` are indices, best first; `rewards` the mean probability of beating those it was compared with; `wins[i][j]` P(i beats j) where they were compared; `bt` strengths with 95% intervals; `confidence` of each neighbouring pair in the order; `ties` and `cycles` of responses; `saved` comparisons and why it `stopped`")))]
pub async fn rank(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<RankBody>,
) -> Result<Json<Value>, Refusal> {
    app.choose(&call, &body.model)?;
    if body.rationale {
        let message = "rankings read their verdicts at once; send the pairs to /v1/judge for rationales";
        return Err(Refusal::field("rationale", message));
    }
    let rules = body.rules(app.config.method)?;
    let prompt = messages("prompt", &body.prompt)?;
    let n = body.responses.len();
    let ranked = group(&app, &call, prompt, body.responses, rules, body.priority, "responses").await?;
    let mut answer = Map::from_iter([
        ("rewards".to_string(), json!(ranked.answer.scores())),
        ("ranking".to_string(), json!(ranked.answer.order())),
        ("comparisons".to_string(), json!(0)),
    ]);
    if let Ranked::Compared { ranking: order, wins } = &ranked.answer {
        // As `gramophone rank` says it; the order and the scores are there under this wire's names.
        answer.extend(ranking(order).into_iter().filter(|(name, _)| name != "order" && name != "scores"));
        if !wins.is_empty() {
            let row = |i: usize| (0..n).map(|j| ranked.answer.win(i, j)).collect::<Vec<_>>();
            answer.insert("wins".into(), (0..n).map(row).collect());
        }
    }
    answer.insert("model".into(), app.called(&call).into());
    answer.insert("weight_version".into(), (*ranked.version).into());
    answer.insert("usage".into(), usage(ranked.tokens, 0));
    Ok(Json(answer.into()))
}

/// Ranks responses; `field` names them in the body.
pub async fn group(
    app: &App,
    call: &Call,
    prompt: Vec<Message>,
    responses: Vec<String>,
    rules: Rules,
    priority: i32,
    field: &str,
) -> Result<Answered<Ranked>, Refusal> {
    if responses.is_empty() {
        return Err(Refusal::field(field, "the list is empty; there is nothing to rank"));
    }
    count(field, responses.len(), app.config.limits.items)?;
    let options = app.options(call, priority);
    let submit = move |_: &App, service: &Service| service.rank(Group { prompt, responses, rules }, options);
    let handed = app.ask(call, submit).await?;
    let ranked = app.answer(call, handed).await.map_err(|failure| {
        let about_field = matches!(failure, Failure::TooLong { .. } | Failure::TooLarge { .. } | Failure::Invalid(_));
        let refusal = app.refuse(failure);
        if about_field { refusal.at(field) } else { refusal }
    })?;
    if let Ranked::Compared { wins, .. } = &ranked.answer {
        wins.values().for_each(|p| app.metrics.scored(*p));
    }
    Ok(ranked)
}
