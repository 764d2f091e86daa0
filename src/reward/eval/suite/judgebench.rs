//! JudgeBench (`ScalerLab/JudgeBench`): `pair_id`, `source`, `question`, `response_A`, `response_B`, `label` (`A>B`, `B>A`); or
//! as the papers' own copy has it, `prompt`, `chosen`, `rejected`.
//!
//! Official: each pair is judged in both orders; a verdict for the better response counts 1, one for the other -1, a tie or
//! none 0; right is a sum above 0; the overall score is over all rows. The papers take the mean of both orders, where a tie
//! is wrong, and report the mean of the four groups.

use super::super::item::Item;
use super::super::rules::{Rule, Score, Tallies};
use super::{id, pair, unknown};
use crate::error::{Error, Result};
use crate::text::source::Row;

/// Groups, by how their sources begin.
const GROUPS: [(&str, &str); 4] = [
    ("Knowledge", "mmlu-pro"),
    ("Reasoning", "livebench-reasoning"),
    ("Math", "livebench-math"),
    ("Coding", "livecodebench"),
];

pub(super) fn item(row: &Row) -> Result<Item> {
    let source = row.text("source")?;
    if !GROUPS.iter().any(|(_, beginning)| source.starts_with(beginning)) {
        return Err(unknown("source", source, &GROUPS.map(|g| g.1)));
    }
    let id = id(row, &["pair_id", "id"]);
    if row.value.contains_key("chosen") {
        return pair(row, id, source, "prompt", ["chosen", "rejected"], 0);
    }
    let better = match row.text("label")? {
        "A>B" => 0,
        "B>A" => 1,
        other => return Err(Error::data(format!("the field \"label\" is {other:?}; it must be \"A>B\" or \"B>A\""))),
    };
    pair(row, id, source, "question", ["response_A", "response_B"], better)
}

pub(super) fn scores(tallies: &Tallies) -> Vec<Score> {
    let mut scores = Vec::new();
    for rule in [Rule::Official, Rule::Papers, Rule::OneOrder] {
        let group = |(name, beginning): &(&str, &str)| {
            let t = tallies.pooled(|source| source.starts_with(beginning))?;
            Some(Score::new(rule, *name, t.credit(rule) / t.n, t.rows))
        };
        let groups: Vec<Score> = GROUPS.iter().filter_map(group).collect();
        let macros = Score::mean_of(rule, "mean of groups", &groups);
        let micro = tallies.pooled(|_| true).map(|t| Score::new(rule, "all rows", t.credit(rule) / t.n, t.rows));
        let overall = if rule == Rule::Papers { &macros } else { &micro };
        scores.extend(overall.clone().map(|s| Score { name: "Overall".into(), ..s }));
        scores.extend(groups);
        scores.extend(micro.into_iter().chain(macros));
    }
    scores
}

pub(super) fn explain(rule: Rule) -> &'static str {
    match rule {
        Rule::Official => {
            "both orders: a right verdict counts 1, a wrong one -1, a tie or none 0, and the sum must be above 0; overall over all rows"
        }
        Rule::Papers => {
            "the mean of both orders must favour the better response, a tie is wrong; overall is the mean of the groups"
        }
        _ => "the files' own order alone, strictly; overall over all rows",
    }
}
