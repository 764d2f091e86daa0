//! PPE (`lmarena-ai/PPE-*`). Human preference: `question_id`, `prompt`, `response_1`, `response_2`, `winner` (`model_a`, `model_b`,
//! `tie`, `tie (bothbad)`). Correctness sets (`*-Best-of-K`): `prompt`, `response_1` to `response_K`, `scores` (which are right),
//! `sampled_conflict_pairs` (pairs of a right and a wrong one, counted from 0); the set is named by its file.
//!
//! Accuracy over pairs that have a better response; ties between people are left out, a tie of the judge is wrong. Official:
//! the correctness score is the mean of the sets; pooled: over all of their pairs.

use super::super::item::{Item, Kind};
use super::super::rules::{Rule, Score, Tallies};
use super::{id, pair};
use crate::error::{Error, Result};
use crate::text::source::Row;
use serde_json::Value;

pub const HUMAN: &str = "human preference";
/// The names by which the correctness sets go, as they stand in file names.
const SETS: [(&str, &str); 5] =
    [("mmlu", "MMLU-Pro"), ("math", "MATH"), ("gpqa", "GPQA"), ("mbpp", "MBPP-Plus"), ("ifeval", "IFEval")];

/// `None` for a tie.
pub(super) fn item(row: &Row) -> Result<Option<Item>> {
    if row.value.contains_key("winner") {
        let better = match row.text("winner")? {
            "model_a" => 0,
            "model_b" => 1,
            tie if tie.starts_with("tie") => return Ok(None),
            other => {
                return Err(Error::data(format!(
                    "the field \"winner\" is {other:?}; it must be \"model_a\", \"model_b\" or \"tie\""
                )));
            }
        };
        return pair(row, id(row, &["question_id", "id"]), HUMAN, "prompt", ["response_1", "response_2"], better)
            .map(Some);
    }
    samples(row).map(Some)
}

fn samples(row: &Row) -> Result<Item> {
    let truth = truth(row)?;
    let text = |i: usize| row.text(&format!("response_{}", i + 1)).map(String::from);
    let responses = (0..truth.len()).map(text).collect::<Result<Vec<String>>>()?;
    let pairs = conflicts(row, &truth)?;
    Ok(Item {
        id: id(row, &["question_id", "id"]),
        place: row.place.clone(),
        subset: set(row),
        prompt: row.conversation(&["prompt"])?,
        responses,
        truth,
        pairs,
        kind: Kind::Samples,
    })
}

/// Scores of the responses: truth values or numbers.
fn truth(row: &Row) -> Result<Vec<f64>> {
    let fault = || Error::data("the field \"scores\" must be a list of truth values or numbers, one for each response");
    let list = row.field("scores")?.as_array().filter(|l| l.len() >= 2).ok_or_else(fault)?;
    let score = |v: &Value| match v {
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        other => other.as_f64(),
    };
    list.iter().map(|v| score(v).ok_or_else(fault)).collect()
}

fn conflicts(row: &Row, truth: &[f64]) -> Result<Vec<(usize, usize)>> {
    let (field, value) = row.either(&["sampled_conflict_pairs", "conflict_pairs"])?;
    let fault = || Error::data(format!("the field {field:?} must be a list of pairs of responses, counted from 0"));
    let pair = |v: &Value| {
        let at = |k: usize| v.get(k)?.as_f64().map(|x| x as usize).filter(|i| *i < truth.len());
        Some((at(0)?, at(1)?)).filter(|(i, j)| truth[*i] != truth[*j])
    };
    value.as_array().ok_or_else(fault)?.iter().map(|v| pair(v).ok_or_else(fault)).collect()
}

fn set(row: &Row) -> String {
    let file = row.place.file.rsplit('/').next().unwrap_or_default();
    let lower = row.place.file.to_lowercase();
    let known = SETS.iter().filter_map(|(word, set)| Some((lower.rfind(word)?, *set))).max();
    known.map_or_else(|| file.split('.').next().unwrap_or(file).to_string(), |(_, set)| set.to_string())
}

pub(super) fn scores(tallies: &Tallies) -> Vec<Score> {
    let rules = [Rule::Official, Rule::Papers];
    let subsets = tallies.by_subset(&rules, |_, t| t.papers);
    let mut scores = Vec::new();
    let official: Vec<Score> =
        subsets.iter().filter(|s| s.rule == Rule::Official && s.name != HUMAN).cloned().collect();
    scores.extend(Score::mean_of(Rule::Official, "Correctness", &official));
    let pooled = tallies.pooled(|name| name != HUMAN);
    scores.extend(pooled.map(|t| Score::new(Rule::Papers, "Correctness", t.papers / t.n, t.rows)));
    scores.extend(subsets);
    scores
}

pub(super) fn explain(rule: Rule) -> &'static str {
    match rule {
        Rule::Official => "the better response is preferred, a tie is wrong; correctness is the mean of its sets",
        _ => "the same with the pairs of the correctness sets pooled",
    }
}
