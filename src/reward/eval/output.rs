//! What an evaluation writes as JSON: a row for each comparison, the scores in RewardBench's own shape, and the summary.

use super::comparison::{Answer, Choice, Comparison, Opinion};
use super::item::Item;
use super::metrics::Share;
use super::rules::{Grade, Rule};
use super::summary::{Measured, Summary};
use serde_json::{Map, Value, json};

/// Who was evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub model: String,
    /// As RewardBench calls it: `Generative RM`, `Seq. Classifier`.
    pub model_type: String,
    pub chat_template: String,
}

/// One object for each comparison, or of rewards for each item. An item of two responses needs no `pair`.
pub fn rows(items: &[Item], answers: &[Answer], grades: &[Grade]) -> Vec<Map<String, Value>> {
    let mut rows = Vec::new();
    for ((item, answer), grade) in items.iter().zip(answers).zip(grades) {
        if answer.comparisons.is_empty() {
            rows.push(whole(item, answer, grade));
        }
        rows.extend(answer.comparisons.iter().map(|c| comparison(item, c)));
    }
    rows
}

fn head(item: &Item) -> Map<String, Value> {
    Map::from_iter([("id".into(), item.id.clone()), ("subset".into(), item.subset.clone().into())])
}

fn whole(item: &Item, answer: &Answer, grade: &Grade) -> Map<String, Value> {
    let mut row = head(item);
    if let Some(rewards) = &answer.rewards {
        // Every digit: a shorter decimal of an f32 is another f64, and recorded rewards are of either type.
        row.insert("rewards".into(), json!(rewards));
    }
    if let Some(result) = answer.result {
        row.insert("result".into(), json!(result));
    }
    if !grade.papers.is_nan() && grade.tied.is_none() {
        row.insert("correct".into(), json!(grade.papers == grade.n));
    }
    if answer.tokens > 0 {
        row.insert("tokens".into(), answer.tokens.into());
        row.insert("ms".into(), milliseconds(answer.ms));
    }
    row
}

fn comparison(item: &Item, c: &Comparison) -> Map<String, Value> {
    let mut row = head(item);
    let mut put = |name: &str, value: Value| row.insert(name.into(), value);
    if item.responses.len() > 2 {
        put("pair", json!([c.pair.0, c.pair.1]));
    }
    let [ab, ba] = c.orders;
    let margins = [ab, ba].map(|order| order.and_then(|o| o.margin));
    let both = margins.iter().all(Option::is_some);
    for (order, side) in [(ab, "ab"), (ba, "ba")] {
        let Some(Opinion { choice, p, margin }) = order else { continue };
        if let Some(p) = p {
            put(&format!("p_{side}"), json!(p));
        }
        // Where the numbers do not say it.
        let numbers = margin.filter(|_| both).map(|m| Choice::of(f64::from(m), 0.0)).or(p.map(|p| Choice::of(p, 0.5)));
        if numbers != Some(choice) {
            put(&format!("verdict_{side}"), choice.name().into());
        }
    }
    if let [Some(ab), Some(ba)] = margins {
        // As `gramophone judge` prints them: logit A minus logit B.
        put("margin_ab", f32_number(ab));
        put("margin_ba", f32_number(-ba));
    }
    if let Some(p) = c.p {
        put("p_a", json!(p));
    }
    put("verdict", c.verdict.name().into());
    if let Some(first) = item.first_is_better(c.pair) {
        let better = if first { "A" } else { "B" };
        put("better", better.into());
        put("correct", (c.verdict.name() == better).into());
    }
    if let Some(consistent) = c.consistent() {
        put("consistent", consistent.into());
    }
    if let Some(rationale) = &c.rationale {
        put("rationale", rationale.as_str().into());
    }
    if let Some(order) = c.rationale_order {
        put("rationale_order", order.name().into());
    }
    if let Some([ab, ba]) = c.replies {
        put("votes", json!({"a": ab.a + ba.a, "b": ab.b + ba.b, "ab": ab, "ba": ba}));
        put("invalid", (ab.invalid + ba.invalid).into());
        put("written", c.written.into());
    }
    if c.tokens > 0 {
        put("tokens", c.tokens.into());
        put("ms", milliseconds(c.ms));
    }
    row
}

/// The shortest decimal that reads back as the same f32.
fn f32_number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))
}

fn milliseconds(ms: f64) -> Value {
    json!((ms * 1e3).round() / 1e3)
}

/// RewardBench's own shape: the model, and a number for each subset or section by the official rule, sorted by name.
pub fn metrics(summary: &Summary, subject: &Subject) -> Value {
    let official = if summary.rules().contains(&Rule::Official) { Rule::Official } else { Rule::Papers };
    let mut fields: Vec<(String, Value)> = vec![
        ("model".into(), subject.model.as_str().into()),
        ("model_type".into(), subject.model_type.as_str().into()),
        ("chat_template".into(), subject.chat_template.as_str().into()),
    ];
    let of = summary.scores.iter().filter(|(s, _)| s.rule == official);
    fields.extend(of.map(|(s, m)| (s.name.clone(), json!(m.value))));
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(Map::from_iter(fields))
}

/// Everything.
pub fn summary(s: &Summary, subject: &Subject) -> Value {
    let rules = s.rules().into_iter().map(|rule| {
        let scores = s.scores.iter().filter(|(score, _)| score.rule == rule);
        let scores: Map<String, Value> = scores.map(|(score, m)| (score.name.clone(), measured(m))).collect();
        (rule.key().to_string(), json!({"means": s.suite.explain(rule), "scores": scores}))
    });
    let shares = s.shares.iter().map(|(share, m): &(Share, Measured)| (share.key().to_string(), measured(m)));
    json!({
        "suite": s.suite.name(),
        "model": subject.model,
        "model_type": subject.model_type,
        "rows": s.rows,
        "comparisons": s.comparisons,
        "rules": Map::from_iter(rules),
        "judge": Map::from_iter(shares),
        "calibration": s.calibration.as_ref().map(|c| json!({
            "ece": c.ece,
            "brier": c.brier,
            "n": c.n,
            "bins": c.bins.iter().map(|b| json!({
                "from": b.from, "to": b.to, "n": b.n, "confidence": b.confidence, "accuracy": b.accuracy,
            })).collect::<Vec<_>>(),
        })),
        "best_of_n": s.best_of_n.as_ref().map(|c| json!({
            "judge": c.judge, "oracle": c.oracle, "random": c.random, "prompts": c.prompts,
        })),
        "auc": s.areas.iter().map(|(name, area)| (name.clone(), json!(area))).collect::<Map<String, Value>>(),
        "tokens": s.tokens,
        "tokens_written": s.written,
        "seconds": milliseconds(s.seconds),
        "bootstrap": {"seed": s.bootstrap.seed, "samples": s.bootstrap.samples, "level": s.bootstrap.level},
        "notes": s.notes,
    })
}

fn measured(m: &Measured) -> Value {
    match m.interval {
        Some((low, high)) => json!({"value": m.value, "low": low, "high": high, "n": m.n}),
        None => json!({"value": m.value, "n": m.n}),
    }
}
