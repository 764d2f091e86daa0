//! Everything that an evaluation found.

use super::best_of_n::{self, Curve};
use super::bootstrap::{Bootstrap, Plan, intervals};
use super::comparison::Answer;
use super::item::Item;
use super::metrics::{self, Calibration, Counts, Share};
use super::rules::{Grade, Grading, Rule, Score, Subsets, Tallies};
use super::suite::{Suite, rewardbench};
use crate::error::Result;

/// A number with its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    /// What it is a mean over: rows of a score, readings of a share.
    pub n: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub suite: Suite,
    pub scores: Vec<(Score, Measured)>,
    pub shares: Vec<(Share, Measured)>,
    pub calibration: Option<Calibration>,
    /// Accuracy by how much longer the better response is, in characters.
    pub by_length: Vec<(f64, f64)>,
    pub best_of_n: Option<Curve>,
    /// PPE: by correctness set, the area under the curve of rewards.
    pub areas: Vec<(String, f64)>,
    pub rows: usize,
    pub comparisons: usize,
    pub tokens: u64,
    /// Of them, those that a judge wrote.
    pub written: u64,
    pub seconds: f64,
    pub bootstrap: Bootstrap,
    pub notes: Vec<String>,
}

/// Groups of the curve of accuracy by length.
const LENGTHS: usize = 8;

/// Grades the answers and computes everything from them.
///
/// # Errors
/// An answer lacks a comparison that the suite's rule needs.
pub fn summarise(
    suite: Suite,
    items: &[Item],
    answers: &[Answer],
    bootstrap: Bootstrap,
    notes: Vec<String>,
) -> Result<(Summary, Vec<Grade>)> {
    let grading = Grading { suite, seed: bootstrap.seed };
    let graded = items.iter().zip(answers).enumerate();
    let grades =
        graded.map(|(row, (item, answer))| grading.grade(row, item, answer)).collect::<Result<Vec<Grade>>>()?;
    let counts: Vec<Counts> = items.iter().zip(answers).map(|(item, answer)| metrics::count(item, answer)).collect();
    let subsets = Subsets::of(items);
    let once = vec![1; items.len()];
    let tallies = Tallies::new(&subsets, &grades, &once);
    let scores: Vec<Score> = suite.scores(&tallies).into_iter().filter(|s| !s.value.is_nan()).collect();
    let shares = total(&counts, &once);
    let statistic = |weights: &[u32]| {
        let sample = suite.scores(&Tallies::new(&subsets, &grades, weights));
        let value = |s: &Score| {
            let same = sample.iter().find(|t| t.rule == s.rule && t.name == s.name);
            same.map_or(f64::NAN, |t| t.value)
        };
        let shares = total(&counts, weights).map(|[some, all]| some / all);
        scores.iter().map(value).chain(shares).collect()
    };
    let mut found = intervals(&Plan::of(items), bootstrap, statistic).into_iter();
    let mut interval = || found.next().flatten();
    let scores: Vec<(Score, Measured)> =
        scores.iter().map(|s| (s.clone(), Measured { value: s.value, interval: interval(), n: s.rows })).collect();
    let shares = Share::ALL
        .iter()
        .zip(shares)
        .map(|(share, [some, all])| (*share, Measured { value: some / all, interval: interval(), n: all as usize }));
    let shares = shares.filter(|(_, m)| m.n > 0).collect();
    let notes = notes.into_iter().chain(remarks(suite, &tallies, answers)).collect();
    let summary = Summary {
        suite,
        scores,
        shares,
        calibration: metrics::calibration(items, answers),
        by_length: metrics::by_length(items, answers, LENGTHS),
        best_of_n: best_of_n::curve(items, answers),
        areas: metrics::areas(items, answers),
        rows: items.len(),
        comparisons: items.iter().zip(answers).map(|(i, a)| asked(i, a)).sum(),
        tokens: answers.iter().map(|a| a.tokens).sum(),
        written: answers.iter().flat_map(|a| &a.comparisons).map(|c| c.written).sum(),
        seconds: answers.iter().map(|a| a.ms).sum::<f64>() / 1e3,
        bootstrap,
        notes,
    };
    Ok((summary, grades))
}

fn asked(item: &Item, answer: &Answer) -> usize {
    if answer.rewards.is_some() { item.pairs.len() } else { answer.comparisons.len() }
}

fn total(counts: &[Counts], weights: &[u32]) -> Counts {
    let mut total = Counts::default();
    for (count, weight) in counts.iter().zip(weights) {
        for (sum, [some, all]) in total.iter_mut().zip(count) {
            sum[0] += f64::from(*weight) * some;
            sum[1] += f64::from(*weight) * all;
        }
    }
    total
}

/// What a reader of the scores should know.
fn remarks(suite: Suite, tallies: &Tallies, answers: &[Answer]) -> Vec<String> {
    let mut notes = Vec::new();
    let rewards = answers.iter().all(|a| a.rewards.is_some());
    match suite {
        Suite::RewardBench => {
            let missing = rewardbench::missing_sections(tallies);
            if !missing.is_empty() {
                notes.push(format!("No rows of {}: overall is the mean of the other sections.", missing.join(", ")));
            }
        }
        Suite::RewardBench2 if !rewards => notes.push(
            "Ratings of a pairwise judge are mean win probabilities over all pairs of a row; the official ones are rewards or \
             written ratings."
                .into(),
        ),
        Suite::Ppe if !rewards => {
            notes.push("The area under the curve of PPE needs rewards; a pairwise judge has none.".into());
        }
        _ => {}
    }
    notes
}

impl Summary {
    /// The rules that have scores.
    pub fn rules(&self) -> Vec<Rule> {
        Rule::ALL.into_iter().filter(|rule| self.scores.iter().any(|(s, _)| s.rule == *rule)).collect()
    }

    /// The names of the scores, in the order in which they first appear.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (score, _) in &self.scores {
            if !names.contains(&score.name.as_str()) {
                names.push(&score.name);
            }
        }
        names
    }

    pub fn score(&self, rule: Rule, name: &str) -> Option<&Measured> {
        self.scores.iter().find(|(s, _)| s.rule == rule && s.name == name).map(|(_, m)| m)
    }
}
