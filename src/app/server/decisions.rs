//! Decisions: questions about an input, each answered by the probabilities of its options. This file asks the model, and speaks OpenAI's
//! `POST /v1/decisions`; [`systemone`](super::systemone) is TypeSafe's wire over the same.
//!
//! Options are shown under letters, and the letters' logits are read where the answer starts, once with the options in order and once
//! in reverse; the two distributions are averaged. Where there are more options than letters, or than fit, an order is read in parts that all begin with
//! its first option: odds against that one join the parts (Luce's choice axiom). Questions are read apart from each other, so
//! neither their names, nor their order, nor the other questions change an answer.

use super::body::{Body, count};
use super::deliberate::{self, After};
use super::reasoned::{self, How};
use super::refusal::Refusal;
use super::{App, Call};
use crate::model::config::HeadKind;
use crate::reward::rationale::Settings;
use crate::reward::service::{Failure, Options, Service};
use crate::text::chat::Ending;
use crate::text::message::Message;
use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Most options of a question.
pub const OPTIONS: usize = 255;
/// Most levels of a score.
pub const LEVELS: usize = 10;
/// How the confidence of these answers is made: the top probability, 0 where all are alike, 1 where it is certain.
pub const CONFIDENCE: &str = "top_over_uniform";

/// A question as the model sees it.
#[derive(Clone, Debug)]
pub struct Question {
    pub instructions: String,
    pub options: Vec<String>,
    /// Where it stands in the body.
    pub field: String,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Decision {
    /// By option; they sum to 1.
    pub probabilities: Vec<f64>,
    /// What the letters have together of the whole vocabulary, the mean over all that was read.
    pub label_mass: f64,
    /// The largest change of a probability between the two orders.
    pub position_gap: f64,
    pub tokens: usize,
    /// Where it was read after rationales.
    pub after: Option<After>,
}

impl Decision {
    /// The likeliest option, the first of equals.
    pub fn top(&self) -> usize {
        let mut best = 0;
        for (i, p) in self.probabilities.iter().enumerate() {
            if *p > self.probabilities[best] {
                best = i;
            }
        }
        best
    }

    pub fn confidence(&self) -> f64 {
        let n = self.probabilities.len() as f64;
        ((self.probabilities[self.top()] - 1.0 / n) / (1.0 - 1.0 / n)).clamp(0.0, 1.0)
    }

    /// The mean level, from 0.
    pub fn level(&self) -> f64 {
        self.probabilities.iter().enumerate().map(|(i, p)| i as f64 * p).sum()
    }
}

/// A text as it is, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An option with what it means.
pub fn described(name: &str, description: Option<&Value>) -> String {
    match description {
        Some(value) if !value.is_null() => format!("{name}: {}", plain(value)),
        _ => name.to_string(),
    }
}

fn prompt(input: &str, question: &Question, options: &[usize]) -> Vec<Message> {
    let letters = ('A'..='Z').zip(options);
    let list: Vec<String> = letters.map(|(letter, i)| format!("{letter}. {}", question.options[*i])).collect();
    vec![Message::user(format!(
        "Read the input and answer the question about it by choosing one option.\n\
         Reply with the letter of that option and nothing else.\n\n\
         [Input]\n{input}\n\n[Question]\n{}\n\n[Options]\n{}\n\nLetter:",
        question.instructions,
        list.join("\n")
    ))]
}

/// The parts of an order that is read with at most `most` options at a time: each begins with the order's first option.
fn parts(order: &[usize], most: usize) -> Vec<Vec<usize>> {
    let Some((first, rest)) = order.split_first() else { return Vec::new() };
    let part = |others: &[usize]| [&[*first], others].concat();
    rest.chunks(most.max(2) - 1).map(part).collect()
}

/// Options, and the prompt that shows them.
type Shown = (Vec<usize>, Vec<i32>);

/// The prompts of one order, with as many options at a time as fit.
fn encode(app: &App, input: &str, question: &Question, order: &[usize]) -> Result<Vec<Shown>, Failure> {
    let (context, mut most) = (app.service.sizes().context, app.letters.len());
    loop {
        let render = |part: Vec<usize>| {
            let ids = app.service.texts().chat().render(&prompt(input, question, &part), Ending::Open)?.ids;
            Ok((part, ids))
        };
        let parts = parts(order, most).into_iter().map(render).collect::<crate::Result<Vec<_>>>();
        let parts = parts.map_err(Failure::Invalid)?;
        let longest = parts.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
        if longest <= context {
            return Ok(parts);
        }
        if most == 2 {
            return Err(Failure::TooLong { tokens: longest, most: context });
        }
        most = (most / 2).max(2);
    }
}

/// Tokens that were written for decisions.
pub fn written(decisions: &[Decision]) -> usize {
    decisions.iter().filter_map(|d| d.after.as_ref()).map(|after| after.written).sum()
}

/// Answers questions about an input, in their order; after rationales, if it is said how.
pub async fn decide(
    app: &App,
    call: &Call,
    input: String,
    questions: Vec<Question>,
    how: Option<Settings>,
) -> Result<Vec<Decision>, Refusal> {
    if app.service.head() == HeadKind::Scalar {
        return Err(Refusal::field("model", "this model has a scalar head and reads no options"));
    }
    if let Some(how) = how {
        return deliberate::decide(app, call, &input, &questions, how).await;
    }
    let options: Options = app.options(call, 0);
    let fields: Vec<(String, usize)> = questions.iter().map(|q| (q.field.clone(), q.options.len())).collect();
    let submit = move |app: &App, service: &Service| {
        let one = |question: &Question| {
            let forward: Vec<usize> = (0..question.options.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            let read = |order: &[usize]| {
                let parts = encode(app, &input, question, order)?.into_iter();
                let submitted = parts.map(|(part, ids)| {
                    let labels = app.letters[..part.len()].to_vec();
                    Ok((part, service.labels(ids, labels, options)?))
                });
                submitted.collect::<Result<Vec<_>, Failure>>()
            };
            Ok([read(&forward)?, read(&backward)?])
        };
        questions.iter().map(one).collect::<Vec<Result<_, Failure>>>()
    };
    let mut decisions = Vec::new();
    for (orders, (field, n)) in app.ask(call, submit).await?.into_iter().zip(fields) {
        let refuse = |failure: Failure| app.refuse(failure).at(&field);
        let (mut both, mut mass, mut reads, mut tokens) = (Vec::new(), 0.0, 0, 0);
        for order in orders.map_err(refuse)? {
            let mut odds = vec![0.0; n];
            for (part, ticket) in order {
                let read = app.answer(call, Ok(ticket)).await.map_err(refuse)?;
                let logits: Vec<f64> = read.answer.logits.iter().map(|z| *z as f64).collect();
                mass += logits.iter().map(|z| (z - read.answer.lse as f64).exp()).sum::<f64>();
                reads += 1;
                tokens += read.tokens;
                part.iter().zip(&logits).for_each(|(i, z)| odds[*i] = z - logits[0]);
            }
            both.push(softmax(&odds));
        }
        let pairs = both[0].iter().zip(&both[1]);
        let position_gap = pairs.clone().map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        let probabilities = pairs.map(|(x, y)| 0.5 * (x + y)).collect();
        decisions.push(Decision { probabilities, label_mass: mass / reads as f64, position_gap, tokens, after: None });
    }
    Ok(decisions)
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[derive(Deserialize, ToSchema)]
pub struct DecisionsBody {
    pub model: String,
    /// A text, or user messages of text parts.
    #[schema(value_type = Object)]
    pub input: Value,
    pub questions: Vec<QuestionBody>,
    /// True: each answer is read after a rationale. Or how: [`How`].
    #[serde(default)]
    #[schema(value_type = Option<How>)]
    pub x_rationale: Value,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Predicate,
    Choice,
    Score,
}

// One struct for the three kinds: an enum by its tag would be read from a copy, which takes lists for objects and loses the path to what is wrong.
#[derive(Deserialize, ToSchema)]
pub struct QuestionBody {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub name: Option<String>,
    pub instructions: String,
    /// Of a choice.
    #[serde(default)]
    pub choices: Vec<ChoiceBody>,
    /// Of a score, from the lowest.
    #[serde(default)]
    pub levels: Vec<LevelBody>,
}

#[derive(Deserialize, ToSchema)]
pub struct ChoiceBody {
    /// A text, or true or false.
    #[schema(value_type = String)]
    pub value: Value,
    pub description: Option<String>,
}

#[derive(Deserialize, ToSchema)]
pub struct LevelBody {
    pub label: String,
    pub description: Option<String>,
}

impl QuestionBody {
    fn question(&self, i: usize) -> Result<Question, Refusal> {
        let field = format!("questions[{i}]");
        let option = |name: &str, d: &Option<String>| described(name, d.clone().map(Value::from).as_ref());
        let (list, options, most): (_, Vec<String>, _) = match self.kind {
            Kind::Predicate => ("choices", vec!["Yes".into(), "No".into()], OPTIONS),
            Kind::Choice => {
                for (k, choice) in self.choices.iter().enumerate() {
                    if !choice.value.is_string() && !choice.value.is_boolean() {
                        let message = "it must be a text, or true or false";
                        return Err(Refusal::field(format!("{field}.choices[{k}].value"), message));
                    }
                }
                let shown = self.choices.iter().map(|c| option(&plain(&c.value), &c.description));
                ("choices", shown.collect(), OPTIONS)
            }
            Kind::Score => ("levels", self.levels.iter().map(|l| option(&l.label, &l.description)).collect(), LEVELS),
        };
        if !(2..=most).contains(&options.len()) {
            let message = format!("{} of them; there must be from 2 to {most}", options.len());
            return Err(Refusal::field(format!("{field}.{list}"), message));
        }
        Ok(Question { instructions: self.instructions.clone(), options, field })
    }

    fn answer(&self, decision: &Decision) -> Value {
        let p = &decision.probabilities;
        let mut answer = json!({"type": self.kind, "name": self.name});
        match self.kind {
            Kind::Predicate => answer["probability"] = p[0].into(),
            Kind::Choice => {
                let of = |(c, p): (&ChoiceBody, &f64)| json!({"value": c.value, "probability": p});
                answer["choice"] = self.choices[decision.top()].value.clone();
                answer["probabilities"] = self.choices.iter().zip(p).map(of).collect();
                answer["confidence"] = decision.confidence().into();
            }
            Kind::Score => {
                let of =
                    |(i, (l, p)): (usize, (&LevelBody, &f64))| json!({"value": i, "label": l.label, "probability": p});
                answer["score"] = decision.level().into();
                answer["probabilities"] = self.levels.iter().zip(p).enumerate().map(of).collect();
                answer["confidence"] = decision.confidence().into();
            }
        }
        extend(&mut answer, decision);
        answer
    }
}

/// What our answers say besides what the wires ask for.
pub fn extend(answer: &mut Value, decision: &Decision) {
    answer["x_label_mass"] = decision.label_mass.into();
    answer["x_position_gap"] = decision.position_gap.into();
    if answer.get("confidence").is_some() {
        answer["x_confidence_kind"] = CONFIDENCE.into();
    }
    if let Some(after) = &decision.after {
        answer["x_rationale"] = after.rationale.as_str().into();
        answer["x_votes"] = after.votes.into();
        answer["x_fallback"] = (after.unfinished > 0).into();
    }
}

/// The text of an input: texts as they are, messages as their text parts.
fn input(value: &Value) -> Result<String, Refusal> {
    let Value::Array(messages) = value else {
        return value
            .as_str()
            .map(String::from)
            .ok_or_else(|| Refusal::field("input", "it must be a text or a list of messages"));
    };
    let mut texts = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        match &message["content"] {
            Value::String(text) => texts.push(text.clone()),
            Value::Array(parts) => {
                for (k, part) in parts.iter().enumerate() {
                    let text = part["text"].as_str().filter(|_| part["type"] == "input_text" || part["type"] == "text");
                    let field = format!("input[{i}].content[{k}]");
                    texts.push(text.ok_or_else(|| Refusal::field(field, "only text parts are read"))?.to_string());
                }
            }
            _ => return Err(Refusal::field(format!("input[{i}].content"), "it must be a text or a list of parts")),
        }
    }
    Ok(texts.join("\n\n"))
}

/// Questions about an input, in OpenAI's shape.
#[utoipa::path(post, path = "/v1/decisions", request_body = DecisionsBody,
    responses((status = 200, description = "`answers` in the questions' order, each with its probabilities")))]
pub async fn decisions(
    State(app): State<App>,
    Extension(call): Extension<Call>,
    Body(body): Body<DecisionsBody>,
) -> Result<Json<Value>, Refusal> {
    app.choose(&call, &Some(body.model.clone()))?;
    let how = reasoned::settings("x_rationale", &body.x_rationale, None, None)?;
    if body.questions.is_empty() {
        return Err(Refusal::field("questions", "the list is empty"));
    }
    count("questions", body.questions.len(), app.config.limits.items.min(200))?;
    let asked = body.questions.iter().enumerate().map(|(i, q)| q.question(i)).collect::<Result<Vec<_>, _>>()?;
    let decided = decide(&app, &call, input(&body.input)?, asked, how).await?;
    let answers: Vec<Value> = body.questions.iter().zip(&decided).map(|(q, d)| q.answer(d)).collect();
    let tokens: usize = decided.iter().map(|d| d.tokens).sum();
    let written = written(&decided);
    Ok(Json(json!({
        "model": body.model,
        "answers": answers,
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": written},
            "total_tokens": tokens + written,
        },
        "x_weight_version": call.version(),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_their_first_option_and_cover_the_others() {
        assert_eq!(parts(&[4, 3, 2, 1, 0], 3), [vec![4, 3, 2], vec![4, 1, 0]]);
        assert_eq!(parts(&[0, 1], 26), [vec![0, 1]]);
        assert_eq!(parts(&[0, 1, 2], 1), [vec![0, 1], vec![0, 2]]);
    }

    #[test]
    fn confidence_and_levels() {
        let decision = |p: &[f64]| Decision {
            probabilities: p.to_vec(),
            label_mass: 1.0,
            position_gap: 0.0,
            tokens: 0,
            after: None,
        };
        assert!((decision(&[0.9, 0.1]).confidence() - 0.8).abs() < 1e-12);
        assert_eq!(decision(&[0.25; 4]).confidence(), 0.0);
        assert_eq!(decision(&[0.4, 0.6]).level(), 0.6);
        assert_eq!(decision(&[0.4, 0.2, 0.4]).top(), 0);
    }
}
