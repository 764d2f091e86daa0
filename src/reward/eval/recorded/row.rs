//! One recorded row.

use super::super::comparison::{Choice, Comparison, Opinion};
use super::super::item::{Item, Kind};
use super::super::suite::rm_bench;
use super::Scored;
use crate::error::{Error, Result};
use crate::reward::vote::{Order, Tally};
use crate::text::message::kind;
use crate::text::source::Row;
use serde::Deserialize;
use serde_json::Value;

/// What a row says.
pub(super) enum Said {
    Pair(Comparison),
    /// By response.
    Rewards(Vec<f64>),
    /// Whether it was right.
    Result(f64),
    Scores(Scored),
}

/// The row's id under any of the names that suites use.
pub(super) fn id(row: &Row) -> Option<&Value> {
    let names = ["pair_id", "pair_uid", "bon_uid", "question_id", "id", "prompt_id"];
    names.iter().find_map(|name| row.value.get(*name)).filter(|v| !v.is_null())
}

/// Reads a row that is about `item`.
///
/// # Errors
/// It says nothing known, or something that does not fit the item.
pub(super) fn said(row: &Row, item: &Item) -> Result<Said> {
    let has = |name: &str| row.value.get(name).is_some_and(|v| !v.is_null());
    let there = |name: &str| row.value.contains_key(name);
    if there("judgments") {
        return judgments(row, item).map(Said::Pair);
    }
    let lists: &[&str] =
        if item.kind == Kind::Samples { &["rewards", "ratings"] } else { &["rewards", "scores", "ratings"] };
    if let Some(name) = lists.iter().find(|name| has(name)) {
        return rewards(name, &row.value[*name], item.responses.len()).map(Said::Rewards);
    }
    let margins = there("margin_ab") && there("margin_ba");
    if margins || ["p_ab", "p_ba", "verdict_ab", "verdict_ba"].into_iter().any(there) {
        let orders = [opinion(row, "ab", margins)?, opinion(row, "ba", margins)?];
        return finish(row, Comparison::of_orders(pair(row, item)?, orders));
    }
    for [good, bad] in [
        ["score_chosen", "score_rejected"],
        ["scores_chosen", "scores_rejected"],
        ["chosen_reward", "reject_reward"],
        ["chosen_reward", "rejected_reward"],
    ] {
        if has(good) && has(bad) {
            return scores(row, item, good, bad);
        }
    }
    // The same names hold texts in the suites themselves.
    let numbers = |name: &str| row.value.get(name).is_some_and(|v| number(name, v).is_ok());
    if numbers("chosen") && numbers("rejected") {
        return scores(row, item, "chosen", "rejected");
    }
    if has("reward_a") && has("reward_b") {
        let rewards = vec![row.number("reward_a")?, row.number("reward_b")?];
        pair(row, item)?;
        return Ok(Said::Rewards(rewards));
    }
    if let Some(name) = ["p_a", "p"].iter().find(|name| has(name)) {
        let p = probability(row, name)?;
        let choice = if has("verdict") { choice("verdict", &row.value["verdict"])? } else { Choice::of(p, 0.5) };
        return finish(row, Comparison::of_verdict(pair(row, item)?, choice, Some(p)));
    }
    if let Some(name) = ["verdict", "decision"].iter().find(|name| there(name)) {
        let choice = choice(name, &row.value[*name])?;
        return finish(row, Comparison::of_verdict(pair(row, item)?, choice, None));
    }
    if let Some(name) = ["results", "result", "correct", "is_correct"].iter().find(|name| has(name)) {
        return result(name, &row.value[*name]).map(Said::Result);
    }
    let have: Vec<&str> = row.value.keys().map(String::as_str).collect();
    Err(Error::data(format!(
        "there is no verdict or score in it: no judgments, p_ab and p_ba, margins, p_a, verdict, rewards, scores, score_chosen \
         and score_rejected, or correct; the row has {}",
        have.join(", ")
    )))
}

/// JudgeBench's: one or two decisions on the file's order and the other, each null if there was none.
fn judgments(row: &Row, item: &Item) -> Result<Comparison> {
    let fault =
        || Error::data("the field \"judgments\" must be a list of one or two objects with a \"decision\", or null");
    let list = row.field("judgments")?.as_array().filter(|l| (1..=2).contains(&l.len())).ok_or_else(fault)?;
    if let Some(label) = row.value.get("label").and_then(Value::as_str)
        && item.first_is_better((0, 1)) != Some(label == "A>B")
    {
        return Err(Error::data(format!("the field \"label\" is {label:?}, but the data say otherwise")));
    }
    let mut orders = [None, None];
    for (order, judgment) in list.iter().enumerate() {
        let decision = match judgment {
            Value::Null => &Value::Null,
            Value::Object(object) => object.get("decision").ok_or_else(fault)?,
            _ => return Err(fault()),
        };
        // Other decisions count neither way in the official script; so do unreadable ones.
        let choice = match decision.as_str() {
            Some("A>B") => Choice::First,
            Some("B>A") => Choice::Second,
            Some("A=B") => Choice::Tie,
            _ => Choice::Invalid,
        };
        orders[order] = Some(Opinion::of_choice(if order == 0 { choice } else { choice.flipped() }));
    }
    Ok(Comparison::of_orders(pair(row, item)?, orders))
}

/// Which responses the row compares: `pair`, `matrix_id`, or the only two.
fn pair(row: &Row, item: &Item) -> Result<(usize, usize)> {
    if row.value.contains_key("matrix_id") {
        let (i, j) = rm_bench::cell(row)?;
        return Ok((i, j + 3));
    }
    let n = item.responses.len();
    let Some(value) = row.value.get("pair") else {
        return match n {
            2 => Ok((0, 1)),
            _ => Err(Error::data(format!("there is no field \"pair\" to say which of its {n} responses are compared"))),
        };
    };
    let at = |k: usize| value.get(k)?.as_u64().map(|i| i as usize).filter(|i| *i < n);
    match (at(0), at(1)) {
        (Some(i), Some(j)) if i != j => Ok((i, j)),
        _ => Err(Error::data(format!(
            "the field \"pair\" is {value}; it must hold two different numbers from 0 to {}",
            n - 1
        ))),
    }
}

fn probability(row: &Row, name: &str) -> Result<f64> {
    match row.number(name)? {
        p if (0.0..=1.0).contains(&p) => Ok(p),
        p => Err(Error::data(format!("the field {name:?} is {p}; it must be a probability"))),
    }
}

/// What one order said: a margin, a probability of the first response, a verdict. A null is no verdict, an absent field no
/// order; what is said twice counts as the verdict, then as the margin.
fn opinion(row: &Row, order: &str, margins: bool) -> Result<Option<Opinion>> {
    let field = |what: &str| row.value.get(&format!("{what}_{order}"));
    let invalid = Opinion::of_choice(Choice::Invalid);
    let mut said = None;
    if let Some(p) = field("p") {
        let x = p.as_f64().filter(|x| (0.0..=1.0).contains(x));
        let fault = || Error::data(format!("the field \"p_{order}\" is {p}; it must be a probability or null"));
        said = Some(if p.is_null() { invalid } else { Opinion::of_p(x.ok_or_else(fault)?) });
    }
    if margins {
        let name = format!("margin_{order}");
        said = Some(match field("margin") {
            Some(Value::Null) => said.unwrap_or(invalid),
            _ => {
                // Logit A minus logit B, where the first response was shown as A or as B.
                let margin = row.number(&name)? as f32;
                let of_margin = Opinion::of_margin(if order == "ab" { margin } else { -margin });
                Opinion { p: said.and_then(|o: Opinion| o.p).or(of_margin.p), ..of_margin }
            }
        });
    }
    if let Some(verdict) = field("verdict") {
        let choice = choice(&format!("verdict_{order}"), verdict)?;
        said = Some(Opinion { choice, ..said.unwrap_or(invalid) });
    }
    Ok(said)
}

/// A verdict by any of its names; A is the first response.
fn choice(name: &str, value: &Value) -> Result<Choice> {
    let fault =
        || Error::data(format!("the field {name:?} is {value}; it must be \"A\", \"B\", \"tie\", \"invalid\" or null"));
    match value {
        Value::Null => Ok(Choice::Invalid),
        Value::String(text) => match text.as_str() {
            "A" | "A>B" | "A>>B" | "model_a" => Ok(Choice::First),
            "B" | "B>A" | "B>>A" | "model_b" => Ok(Choice::Second),
            "A=B" | "tie" | "C" => Ok(Choice::Tie),
            "invalid" | "error" => Ok(Choice::Invalid),
            _ => Err(fault()),
        },
        _ => Err(fault()),
    }
}

/// A number for each response, or a list of one number.
fn rewards(name: &str, value: &Value, n: usize) -> Result<Vec<f64>> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() != n {
        return Err(Error::data(format!("the field {name:?} must hold {n} numbers, one for each response")));
    }
    list.iter().map(|v| number(name, v)).collect()
}

fn number(name: &str, value: &Value) -> Result<f64> {
    let inner = match value.as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => value,
    };
    inner.as_f64().ok_or_else(|| Error::data(format!("the field {name:?} must hold numbers, not {}", kind(inner))))
}

/// Scores of the better and of the worse responses, where the two sides have names.
fn scores(row: &Row, item: &Item, good: &str, bad: &str) -> Result<Said> {
    let (chosen, rejected) = (&row.value[good], &row.value[bad]);
    let many = |v: &Value| v.as_array().is_some_and(|l| l.len() > 1);
    if many(chosen) || many(rejected) {
        let sides = (chosen.as_array(), rejected.as_array());
        let (Some(c), Some(r)) = sides else {
            return Err(Error::data(format!("the fields {good:?} and {bad:?} must both be lists")));
        };
        let right = item.truth.iter().filter(|t| **t > 0.0).count();
        if c.len() != right || c.len() + r.len() != item.responses.len() {
            let n = item.responses.len();
            return Err(Error::data(format!(
                "the fields {good:?} and {bad:?} must hold {right} and {} scores",
                n - right
            )));
        }
        let each = c.iter().map(|v| number(good, v)).chain(r.iter().map(|v| number(bad, v)));
        return each.collect::<Result<Vec<f64>>>().map(Said::Rewards);
    }
    let (first, second) = pair(row, item)?;
    let pair = if item.first_is_better((first, second)) == Some(false) { (second, first) } else { (first, second) };
    Ok(Said::Scores(Scored { pair, scores: [number(good, chosen)?, number(bad, rejected)?] }))
}

fn result(name: &str, value: &Value) -> Result<f64> {
    let number = match value {
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        other => other.as_f64().filter(|x| (0.0..=1.0).contains(x)),
    };
    number.ok_or_else(|| Error::data(format!("the field {name:?} is {value}; it must be true, false, or from 0 to 1")))
}

/// Adds what the row says besides: of the whole, what is more than the orders say, and what it cost.
fn finish(row: &Row, mut comparison: Comparison) -> Result<Said> {
    let there = |name: &str| row.value.get(name).filter(|v| !v.is_null());
    if let Some(verdict) = there("verdict") {
        comparison.verdict = choice("verdict", verdict)?;
    }
    if there("p_a").is_some() {
        comparison.p = Some(probability(row, "p_a")?);
    }
    if let Some(votes) = there("votes") {
        let tally = |order: &str| Tally::deserialize(votes.get(order)?).ok();
        comparison.replies = tally("ab").zip(tally("ba")).map(|(ab, ba)| [ab, ba]);
    }
    let text = |name: &str| there(name).and_then(Value::as_str).map(String::from);
    let Cost { tokens, written, ms } = cost(row);
    Ok(Said::Pair(Comparison {
        tokens,
        written,
        ms,
        rationale: text("rationale"),
        rationale_order: Order::BOTH.into_iter().find(|order| text("rationale_order").as_deref() == Some(order.name())),
        ..comparison
    }))
}

/// What an answer cost.
pub(super) struct Cost {
    pub tokens: u64,
    pub written: u64,
    pub ms: f64,
}

/// Zero where the row does not say.
pub(super) fn cost(row: &Row) -> Cost {
    let whole = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
    let get = |name: &str| row.value.get(name);
    let ms = get("ms").and_then(Value::as_f64).unwrap_or(0.0);
    // Of `gramophone judge`, prompt and reply apart.
    if let Some(Value::Object(parts)) = get("tokens") {
        let [read, written] = ["prompt", "generated"].map(|part| whole(parts.get(part)));
        return Cost { tokens: read + written, written, ms };
    }
    Cost { tokens: whole(get("tokens")), written: whole(get("written")), ms }
}
