//! What the rows of each format mean.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::example::{Example, Reason, Side, Why};
use crate::text::format::{Format, Outcome};
use crate::text::message::{Message, kind};

type Object = Map<String, Value>;

impl Format {
    /// What a row of this format says. An error means that the row does not have this format.
    pub fn read(self, row: &Object) -> Result<Vec<Outcome>> {
        let one = match self {
            Format::UnifiedFeedback => unified_feedback(row)?,
            Format::HelpSteer3 => helpsteer3(row)?,
            Format::Responses => responses(row)?,
            Format::Group => group(row)?,
            Format::ShareGptPreference => preference(row, sharegpt_prompt(row)?)?,
            Format::AlpacaPreference => preference(&ranked(row)?, Some(alpaca_prompt(row)?))?,
            Format::Lists => return lists(row),
            Format::UltraFeedback | Format::Preference => preference(row, prompt(row)?)?,
            Format::Unpaired => unpaired(row)?,
            Format::PromptCompletion => completion(required_prompt(row)?, field(row, "completion")?)?,
            Format::GramPretraining | Format::Alpaca => completion(alpaca_prompt(row)?, field(row, "output")?)?,
            Format::GramVerdict => gram_verdict(row)?,
            Format::ShareGpt | Format::Messages => conversation(sharegpt_prompt(row)?.unwrap_or_default())?,
        };
        Ok(vec![one])
    }
}

fn field<'a>(row: &'a Object, name: &str) -> Result<&'a Value> {
    row.get(name).ok_or_else(|| Error::data(format!("the row has no field {name:?}")))
}

fn text_field<'a>(row: &'a Object, name: &str) -> Result<&'a str> {
    let value = field(row, name)?;
    value.as_str().ok_or_else(|| Error::data(format!("the field {name:?} is a text, not {}", kind(value))))
}

/// A field that may be absent or null.
fn number(row: &Object, name: &str) -> Result<Option<f64>> {
    match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| Error::data(format!("the field {name:?} is a number, not {}", kind(value)))),
    }
}

pub(super) fn prompt_column(row: &Object) -> Option<&'static str> {
    ["prompt", "question", "messages", "conversation"].into_iter().find(|name| row.contains_key(*name))
}

pub(super) fn response_columns(row: &Object) -> Option<[&'static str; 2]> {
    let pairs = [["response_a", "response_b"], ["response_1", "response_2"], ["response_A", "response_B"]];
    pairs.into_iter().chain([["response1", "response2"]]).find(|pair| pair.iter().all(|name| row.contains_key(*name)))
}

fn prompt(row: &Object) -> Result<Option<Vec<Message>>> {
    match row.get("prompt") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => Message::conversation(value).map(Some),
    }
}

fn required_prompt(row: &Object) -> Result<Vec<Message>> {
    let name = prompt_column(row).ok_or_else(|| Error::data("the row has no field \"prompt\""))?;
    Message::conversation(field(row, name)?)
}

/// LLaMA-Factory's user turn: `instruction`, and `input` on a line of its own, after `system` and `history`.
fn alpaca_prompt(row: &Object) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    match row.get("system") {
        Some(Value::String(system)) if !system.is_empty() => messages.push(Message::system(system.as_str())),
        _ => {}
    }
    if let Some(history) = row.get("history").and_then(Value::as_array) {
        for turn in history {
            match turn.as_array().map(Vec::as_slice) {
                Some([Value::String(user), Value::String(assistant)]) => {
                    messages.push(Message::user(user.as_str()));
                    messages.push(Message::assistant(assistant.as_str()));
                }
                _ => return Err(Error::data("the field \"history\" is a list of [question, answer]")),
            }
        }
    }
    let instruction = text_field(row, "instruction")?;
    match row.get("input") {
        Some(Value::String(input)) if !input.is_empty() => {
            messages.push(Message::user(format!("{instruction}\n{input}")))
        }
        Some(Value::String(_)) | Some(Value::Null) | None => messages.push(Message::user(instruction)),
        Some(other) => return Err(Error::data(format!("the field \"input\" is a text, not {}", kind(other)))),
    }
    Ok(messages)
}

/// The messages of `conversations` or `messages`, after `system`.
fn sharegpt_prompt(row: &Object) -> Result<Option<Vec<Message>>> {
    let name = if row.contains_key("conversations") { "conversations" } else { "messages" };
    let turns = Message::conversation(field(row, name)?)?;
    let mut messages = Vec::new();
    match row.get("system") {
        Some(Value::String(system)) if !system.is_empty() => messages.push(Message::system(system.as_str())),
        _ => {}
    }
    messages.extend(turns);
    Ok(Some(messages))
}

/// LLaMA-Factory's older way to write pairs: `output` is a list, the better response first.
pub(super) fn is_ranked_output(row: &Object) -> bool {
    row.contains_key("instruction") && row.get("output").and_then(Value::as_array).is_some_and(|o| o.len() == 2)
}

fn ranked(row: &Object) -> Result<Object> {
    let mut row = row.clone();
    if !row.contains_key("chosen")
        && let Some([chosen, rejected]) = row.get("output").and_then(Value::as_array).map(Vec::as_slice)
    {
        let (chosen, rejected) = (chosen.clone(), rejected.clone());
        row.insert("chosen".into(), chosen);
        row.insert("rejected".into(), rejected);
    }
    Ok(row)
}

/// A list of texts (of at least one).
pub(super) fn texts(value: Option<&Value>) -> Option<Vec<&str>> {
    value?.as_array().filter(|a| !a.is_empty())?.iter().map(Value::as_str).collect()
}

/// One side of a preference: a text, one message, or a list of messages.
fn response(value: &Value, name: &str) -> Result<Vec<Message>> {
    match value {
        Value::String(text) => Ok(vec![Message::assistant(text.as_str())]),
        Value::Object(_) => Ok(vec![Message::from_json(value)?]),
        Value::Array(_) => Message::conversation(value),
        other => Err(Error::data(format!("the field {name:?} is a text or messages, not {}", kind(other)))),
    }
}

/// The common beginning is the prompt where a row has none, and where its lists of messages repeat the prompt.
fn preference(row: &Object, prompt: Option<Vec<Message>>) -> Result<Outcome> {
    let scores = (number(row, "score_chosen")?, number(row, "score_rejected")?);
    let tied = matches!(scores, (Some(chosen), Some(rejected)) if chosen == rejected);
    let margin = number(row, "margin")?;
    let (chosen, rejected) = (field(row, "chosen")?, field(row, "rejected")?);
    if let (None, Value::String(chosen), Value::String(rejected)) = (&prompt, chosen, rejected) {
        let (prompt, chosen, rejected) = common_text(chosen, rejected);
        return Ok(pair(vec![Message::user(prompt)], chosen.into(), rejected.into(), margin));
    }
    let (mut chosen, mut rejected) = (response(chosen, "chosen")?, response(rejected, "rejected")?);
    let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    let whole = shared == chosen.len() && shared == rejected.len();
    let shared = if whole { shared.saturating_sub(1) } else { shared };
    let begins_with_prompt = chosen.len() > 1 && chosen[0].role != "assistant";
    let prompt = match prompt {
        Some(prompt) if !begins_with_prompt => prompt,
        _ => {
            rejected.drain(..shared);
            chosen.drain(..shared).collect()
        }
    };
    match (single(&chosen), single(&rejected)) {
        (Ok(a), Ok(b)) if tied => Ok(Outcome::Tied { prompt, a, b }),
        (Ok(chosen), Ok(rejected)) => Ok(pair(prompt, chosen, rejected, margin)),
        (Err(reason), _) | (_, Err(reason)) => Ok(Outcome::Drop(reason)),
    }
}

fn pair(prompt: Vec<Message>, chosen: String, rejected: String, margin: Option<f64>) -> Outcome {
    Outcome::Keep(Example::Pair { prompt, chosen, rejected, margin })
}

/// The text of the one assistant turn that a response should be.
fn single(response: &[Message]) -> std::result::Result<String, Reason> {
    match response {
        [turn] if turn.role == "assistant" => turn.text().map(|t| t.into_owned()).ok_or(Reason::NotText),
        [_] | [] => Err(Reason::NotText),
        _ => Err(Reason::SeveralTurns),
    }
}

/// Splits off the common beginning of two texts, without a blank before the first difference (as TRL does).
fn common_text<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str, &'a str) {
    let mut at =
        a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((i, _), _)| i);
    if a[..at].ends_with(' ') {
        at -= 1;
    }
    (&a[..at], &a[at..], &b[at..])
}

fn lists(row: &Object) -> Result<Vec<Outcome>> {
    let prompt = required_prompt(row)?;
    let side = |name: &str| {
        texts(row.get(name)).ok_or_else(|| Error::data(format!("the field {name:?} is a list of at least one text")))
    };
    let (chosen, rejected) = (side("chosen")?, side("rejected")?);
    let pairs = chosen.iter().flat_map(|c| rejected.iter().map(move |r| (c, r)));
    Ok(pairs.map(|(c, r)| pair(prompt.clone(), c.to_string(), r.to_string(), None)).collect())
}

fn unified_feedback(row: &Object) -> Result<Outcome> {
    let (a, b) = (Message::conversation(field(row, "conv_A")?)?, Message::conversation(field(row, "conv_B")?)?);
    let (Some((last_a, prompt)), Some((last_b, other))) = (a.split_last(), b.split_last()) else {
        return Ok(Outcome::Drop(Reason::EmptyPrompt));
    };
    if prompt != other {
        return Ok(Outcome::Drop(Reason::SeveralTurns));
    }
    let (Ok(text_a), Ok(text_b)) = (single(std::slice::from_ref(last_a)), single(std::slice::from_ref(last_b))) else {
        return Ok(Outcome::Drop(Reason::NotText));
    };
    let ratings = (number(row, "conv_A_rating")?, number(row, "conv_B_rating")?);
    let better = match ratings {
        (Some(x), Some(y)) if x > y => Some(Some(Side::A)),
        (Some(x), Some(y)) if x < y => Some(Some(Side::B)),
        (Some(_), Some(_)) => Some(None),
        _ => None,
    };
    Ok(two(prompt.to_vec(), text_a, text_b, better))
}

fn helpsteer3(row: &Object) -> Result<Outcome> {
    let prompt = Message::conversation(field(row, "context")?)?;
    let better = number(row, "overall_preference")?.map(|p| match p {
        p if p < 0.0 => Some(Side::A),
        p if p > 0.0 => Some(Side::B),
        _ => None,
    });
    let outcome = two(prompt, text_field(row, "response1")?.into(), text_field(row, "response2")?.into(), better);
    let why = match better {
        Some(Some(better)) => annotation(row, better)?,
        _ => None,
    };
    Ok(reasoned(outcome, why))
}

/// What the annotator wrote who agrees with the overall preference and holds it most strongly; of equals the first.
fn annotation(row: &Object, better: Side) -> Result<Option<Why>> {
    let Some(all) = row.get("individual_preference").and_then(Value::as_array) else { return Ok(None) };
    let mut best: Option<(f64, Why)> = None;
    for one in all {
        let Some(one) = one.as_object() else {
            return Err(Error::data(
                "an entry of \"individual_preference\" is an object with score, reasoning and feedback",
            ));
        };
        let said = |name: &str| one.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let score = number(one, "score")?.unwrap_or(0.0);
        let agrees = if better == Side::A { score < 0.0 } else { score > 0.0 };
        let (Some(first), Some(second), Some(reasoning)) = (said("feedback1"), said("feedback2"), said("reasoning"))
        else {
            continue;
        };
        if agrees && best.as_ref().is_none_or(|(strongest, _)| score.abs() > *strongest) {
            let feedback = format!("Response A: {}\nResponse B: {}", renamed(first), renamed(second));
            let sections = vec![("feedback", feedback), ("comparison", renamed(reasoning))];
            best = Some((score.abs(), Why::Sections(sections)));
        }
    }
    Ok(best.map(|(_, why)| why))
}

/// Annotators write "Response 1" and "@Response 1" of what a judge knows as Response A.
fn renamed(text: &str) -> String {
    static NUMBERED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"@?\b([Rr]esponse) ?([12])\b").expect("a pattern"));
    let name = |found: &Captures| format!("{} {}", &found[1], if &found[2] == "1" { "A" } else { "B" });
    NUMBERED.replace_all(text, name).into_owned()
}

/// A comparison with its reason, if there is one.
fn reasoned(outcome: Outcome, why: Option<Why>) -> Outcome {
    match (outcome, why) {
        (Outcome::Compared { prompt, a, b, better }, Some(why)) => Outcome::Reasoned { prompt, a, b, better, why },
        (outcome, _) => outcome,
    }
}

fn responses(row: &Object) -> Result<Outcome> {
    let [a, b] = response_columns(row)
        .ok_or_else(|| Error::data("the row has no pair of fields \"response_a\" and \"response_b\""))?;
    let label = ["label", "winner", "preferred"].into_iter().find_map(|name| Some((name, row.get(name)?)));
    let better = match label {
        None | Some((_, Value::Null)) => None,
        Some((_, Value::String(label))) if label.to_lowercase().starts_with("tie") || label == "A=B" => Some(None),
        Some((name, label)) => match label.as_str().and_then(side) {
            Some(side) => Some(Some(side)),
            None => return Err(Error::data(format!("the field {name:?} is A, B, A>B, B>A or tie, not {label}"))),
        },
    };
    let why = match row.get("rationale") {
        None | Some(Value::Null) => None,
        Some(_) => Some(Why::Text(text_field(row, "rationale")?.into())),
    };
    let outcome = two(required_prompt(row)?, text_field(row, a)?.into(), text_field(row, b)?.into(), better);
    Ok(reasoned(outcome, why))
}

/// Two responses: unrated, rated as a tie, or with a better one. A tie keeps its responses, for readers without use for labels.
fn two(prompt: Vec<Message>, a: String, b: String, better: Option<Option<Side>>) -> Outcome {
    match better {
        None => Outcome::Keep(Example::Unlabelled { prompt, a, b }),
        Some(None) => Outcome::Tied { prompt, a, b },
        Some(Some(side)) => Outcome::Compared { prompt, a, b, better: side },
    }
}

pub(super) fn side(label: &str) -> Option<Side> {
    match label.trim() {
        "A" | "a" | "A>B" | "A>>B" | "model_a" | "response_a" | "response_1" => Some(Side::A),
        "B" | "b" | "B>A" | "B>>A" | "model_b" | "response_b" | "response_2" => Some(Side::B),
        _ => None,
    }
}

fn group(row: &Object) -> Result<Outcome> {
    let responses = texts(row.get("responses"))
        .ok_or_else(|| Error::data("the field \"responses\" is a list of at least one text"))?;
    let responses = responses.into_iter().map(String::from).collect();
    Ok(Outcome::Keep(Example::Group { prompt: required_prompt(row)?, responses }))
}

fn unpaired(row: &Object) -> Result<Outcome> {
    let good = field(row, "label")?;
    let good =
        good.as_bool().ok_or_else(|| Error::data(format!("the field \"label\" is true or false, not {good}")))?;
    Ok(match completion(required_prompt(row)?, field(row, "completion")?)? {
        Outcome::Keep(Example::Completion { prompt, completion }) => Outcome::Rated { prompt, completion, good },
        other => other,
    })
}

fn completion(prompt: Vec<Message>, value: &Value) -> Result<Outcome> {
    Ok(match single(&response(value, "completion")?) {
        Ok(completion) => Outcome::Keep(Example::Completion { prompt, completion }),
        Err(reason) => Outcome::Drop(reason),
    })
}

fn gram_verdict(row: &Object) -> Result<Outcome> {
    let output = text_field(row, "output")?;
    let label = side(output).ok_or_else(|| Error::data(format!("the field \"output\" is A or B, not {output:?}")))?;
    let prompt = alpaca_prompt(row)?;
    match &prompt[..] {
        [Message { content: Value::String(prompt), .. }] => {
            Ok(Outcome::Keep(Example::Judged { prompt: prompt.clone(), label }))
        }
        _ => Err(Error::data("a judge prompt is one user turn, without system or history")),
    }
}

fn conversation(mut messages: Vec<Message>) -> Result<Outcome> {
    match messages.pop() {
        Some(last) if last.role == "assistant" => Ok(match last.text() {
            Some(text) => {
                let completion = text.into_owned();
                Outcome::Keep(Example::Completion { prompt: messages, completion })
            }
            None => Outcome::Drop(Reason::NotText),
        }),
        Some(last) => {
            Err(Error::data(format!("the conversation ends with a turn of {:?}, not of the assistant", last.role)))
        }
        None => Ok(Outcome::Drop(Reason::EmptyPrompt)),
    }
}
