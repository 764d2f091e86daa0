//! RewardBench 2 (`allenai/reward-bench-2`): `id`, `prompt`, `chosen` and `rejected` (lists), `num_correct`,
//! `total_completions`, `subset`.
//!
//! Best of four: the right response must have the highest rating; shared with others, it counts its part. A pairwise judge
//! gives no ratings, so a response's rating is its mean win probability over all pairs. The papers' rule is their linear scan,
//! here over a seeded order, since the right response always comes first in the files. The subset Ties has a formula of its
//! own over ratings: [`super::super::ties`].

use super::super::item::{Item, Kind};
use super::super::rules::{Rule, Score, Tallies};
use super::id;
use crate::error::{Error, Result};
use crate::text::source::Row;

const TIES: &str = "Ties";

pub(super) fn item(row: &Row) -> Result<Item> {
    let subset = row.text("subset")?;
    let (chosen, rejected) = (row.texts("chosen")?, row.texts("rejected")?);
    for (field, expected) in [("num_correct", chosen.len()), ("total_completions", chosen.len() + rejected.len())] {
        if row.value.get(field).is_some_and(|v| v.as_f64() != Some(expected as f64)) {
            let is = &row.value[field];
            return Err(Error::data(format!("the field {field:?} is {is}, but the lists say {expected}")));
        }
    }
    if rejected.is_empty() {
        return Err(Error::data("the field \"rejected\" is an empty list"));
    }
    let right = chosen.len();
    let id = id(row, &["id"]);
    let ties = subset.eq_ignore_ascii_case(TIES);
    let kind = if ties { tied_prompt(&super::super::item::key(&id), right)? } else { Kind::BestOfFour };
    if !ties && right != 1 {
        return Err(Error::data(format!("the field \"chosen\" holds {right} texts; outside of Ties it holds one")));
    }
    let responses: Vec<String> = chosen.into_iter().chain(rejected).collect();
    let n = responses.len();
    Ok(Item {
        id,
        place: row.place.clone(),
        subset: if ties { TIES.into() } else { subset.to_string() },
        prompt: row.conversation(&["prompt"])?,
        truth: (0..n).map(|i| if i < right { 1.0 } else { 0.0 }).collect(),
        pairs: (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect(),
        responses,
        kind,
    })
}

/// The id of a Ties row: `ref:7` or `tied:7`.
fn tied_prompt(id: &str, right: usize) -> Result<Kind> {
    let parsed = id.split_once(':').and_then(|(sort, n)| Some((sort, n.parse().ok()?)));
    match parsed {
        Some(("ref", prompt)) if right >= 1 => Ok(Kind::Ties { prompt, reference: true }),
        Some(("tied", prompt)) if right >= 2 => Ok(Kind::Ties { prompt, reference: false }),
        Some(("ref" | "tied", _)) => {
            Err(Error::data(format!("the field \"chosen\" holds {right} texts, too few for the Ties row {id:?}")))
        }
        _ => Err(Error::data(format!("the field \"id\" is {id:?}; in the subset Ties it is ref:N or tied:N"))),
    }
}

pub(super) fn scores(tallies: &Tallies) -> Vec<Score> {
    let rules = [Rule::Official, Rule::Papers];
    let mut subsets = tallies.by_subset(&rules, |rule, t| match rule {
        Rule::Official => t.official,
        _ => t.papers,
    });
    subsets.retain(|s| s.name != TIES);
    let parts = super::super::ties::parts(&tallies.tied);
    for (name, value) in parts.iter().flat_map(|p| p.named()) {
        subsets.extend(rules.map(|rule| Score::new(rule, name, value, tallies.get(TIES).map_or(0, |t| t.rows))));
    }
    let overall = rules.iter().flat_map(|rule| {
        let of: Vec<Score> =
            subsets.iter().filter(|s| s.rule == *rule && !s.name.starts_with("Ties, ")).cloned().collect();
        Score::mean_of(*rule, "Overall", &of)
    });
    overall.collect::<Vec<_>>().into_iter().chain(subsets).collect()
}

pub(super) fn explain(rule: Rule) -> &'static str {
    match rule {
        Rule::Official => {
            "the right one of four has the highest rating, k equal ones share; Ties by its own formula; overall is the mean of \
             the subsets. Ratings are rewards, or for a pairwise judge the mean win probability over all pairs"
        }
        _ => {
            "the right one of four wins a linear scan over a seeded order, ties keep the incumbent; Ties as in the official rule"
        }
    }
}
