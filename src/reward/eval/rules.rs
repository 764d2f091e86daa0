//! From answers to scores: each item is graded once by every rule, grades are tallied by subset, and a suite's scores follow
//! from the tallies alone. Tallies take a weight for each item, so that a bootstrap sample costs one pass.

use super::comparison::{Answer, Choice, Comparison};
use super::item::{Item, Kind};
use super::suite::{Suite, rm_bench};
use super::ties::Tied;
use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};

/// By whose reading a score is computed. [`Suite::explain`] says what each means in a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The suite's own.
    Official,
    /// RewardBench: the official rule with the counts of the two xstest subsets the other way round.
    CountsSwapped,
    /// That of GRAM and GRAM-R².
    Papers,
    /// RewardBench: verdicts as the papers, weights as the official rule.
    BothOrders,
    /// A verdict from one order of presentation.
    OneOrder,
}

impl Rule {
    pub const ALL: [Rule; 5] = [Rule::Official, Rule::Papers, Rule::BothOrders, Rule::OneOrder, Rule::CountsSwapped];

    /// As JSON names it.
    pub fn key(self) -> &'static str {
        match self {
            Rule::Official => "official",
            Rule::CountsSwapped => "official_counts_swapped",
            Rule::Papers => "papers",
            Rule::BothOrders => "both_orders",
            Rule::OneOrder => "one_order",
        }
    }

    /// As tables name it.
    pub fn title(self) -> &'static str {
        match self {
            Rule::Official => "official",
            Rule::CountsSwapped => "xstest swapped",
            Rule::Papers => "papers",
            Rule::BothOrders => "both orders",
            Rule::OneOrder => "one order",
        }
    }
}

/// One number of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    pub rule: Rule,
    pub name: String,
    pub value: f64,
    /// Rows behind it.
    pub rows: usize,
}

impl Score {
    pub fn new(rule: Rule, name: impl Into<String>, value: f64, rows: usize) -> Score {
        Score { rule, name: name.into(), value, rows }
    }

    /// The unweighted mean of scores; `None` of none.
    pub fn mean_of(rule: Rule, name: &str, scores: &[Score]) -> Option<Score> {
        let rows = scores.iter().map(|s| s.rows).sum();
        (!scores.is_empty()).then(|| Score::new(rule, name, mean(scores.iter().map(|s| s.value)), rows))
    }
}

/// Summed in order, as the official scripts do.
pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    sum / n as f64
}

/// What an item got. NaN where a rule cannot be applied to what is known of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Grade {
    /// Parts of the item that are counted: its comparisons, or 1.
    pub n: f64,
    /// How many of them are right, by rule.
    pub official: f64,
    pub papers: f64,
    pub one_order: f64,
    /// RM-Bench: which cells were won.
    pub cells: [f64; 9],
    pub tied: Option<Tied>,
}

/// How answers are graded where chance has a part.
#[derive(Clone, Copy, Debug)]
pub struct Grading {
    pub suite: Suite,
    pub seed: u64,
}

impl Grading {
    /// Grades the answer to the item that stands at `row`, counted from 0.
    ///
    /// # Errors
    /// The answer lacks a comparison that the rule needs.
    pub fn grade(&self, row: usize, item: &Item, answer: &Answer) -> Result<Grade> {
        let blank =
            Grade { n: 1.0, official: f64::NAN, papers: f64::NAN, one_order: f64::NAN, cells: [0.0; 9], tied: None };
        if let (Some(result), false) = (answer.result, matches!(item.kind, Kind::Styles | Kind::Ties { .. })) {
            // Half right is a tie, which is wrong by the papers' rule.
            let whole = f64::from(u8::from(result == 1.0));
            let n = if item.kind == Kind::Samples { item.pairs.len() as f64 } else { 1.0 };
            return Ok(Grade { n, official: result * n, papers: whole * n, ..blank });
        }
        match item.kind {
            Kind::Pair => {
                let c = self.find(item, answer, item.pairs[0])?;
                let first = item.first_is_better(item.pairs[0]).expect("pairs have a better response");
                let c = if first { c } else { c.flipped() };
                Ok(Grade {
                    official: self.official(row, &c, answer.rewards.is_some()),
                    papers: right(c.verdict),
                    one_order: self.one_order(row, &c, first),
                    ..blank
                })
            }
            Kind::BestOfFour => Ok(self.best_of_four(row, item, answer, blank)),
            Kind::Ties { prompt, reference } => {
                let correct = item.truth.iter().filter(|t| **t > 0.0).count();
                let tied = Tied::of(prompt, reference, &answer.ratings(item.responses.len()), correct);
                Ok(Grade { official: 0.0, papers: 0.0, tied: Some(tied), ..blank })
            }
            Kind::Styles => {
                let mut cells = [0.0; 9];
                for (cell, pair) in cells.iter_mut().zip(rm_bench::CELLS) {
                    *cell = right(self.find(item, answer, pair)?.verdict);
                }
                let part = cells.iter().sum::<f64>() / 9.0;
                Ok(Grade { official: part, papers: part, cells, ..blank })
            }
            Kind::BestOfMany => {
                let mut all = 1.0;
                for pair in &item.pairs {
                    all *= right(self.find(item, answer, *pair)?.verdict);
                }
                Ok(Grade { official: all, papers: all, ..blank })
            }
            Kind::Samples => {
                let mut won = 0.0;
                for pair in &item.pairs {
                    let verdict = self.find(item, answer, *pair)?.verdict;
                    let better = item.first_is_better(*pair).expect("conflicts have a better response");
                    won += right(if better { verdict } else { verdict.flipped() });
                }
                Ok(Grade { n: item.pairs.len() as f64, official: won, papers: won, ..blank })
            }
        }
    }

    fn find(&self, item: &Item, answer: &Answer, pair: (usize, usize)) -> Result<Comparison> {
        answer.find(pair).ok_or_else(|| {
            let missing = format!("there is no verdict on its responses {} and {}", pair.0, pair.1);
            Error::data(missing).at(format!("row {} of {}", item.key(), self.suite.name()))
        })
    }

    /// The official credit of a comparison whose first response is the better one. A tie of a judge is half right in
    /// RewardBench, one of rewards is wrong.
    fn official(&self, row: usize, c: &Comparison, rewards: bool) -> f64 {
        let asked: Vec<Choice> = c.orders.iter().flatten().map(|o| o.choice).collect();
        match self.suite {
            Suite::JudgeBench if !asked.is_empty() => {
                let count = |choice: Choice| match choice {
                    Choice::First => 1,
                    Choice::Second => -1,
                    Choice::Tie | Choice::Invalid => 0,
                };
                f64::from(u8::from(asked.into_iter().map(count).sum::<i32>() > 0))
            }
            Suite::RewardBench if !rewards => self.drawn(row, c).share().unwrap_or(0.5),
            _ => right(c.verdict),
        }
    }

    fn one_order(&self, row: usize, c: &Comparison, as_in_file: bool) -> f64 {
        match self.suite {
            // The file's first response shown as A: after flipping, that may be the second order.
            Suite::JudgeBench => {
                let order = c.orders[usize::from(!as_in_file)];
                order.map_or(if c.orders == [None, None] { right(c.verdict) } else { f64::NAN }, |o| right(o.choice))
            }
            Suite::Pairs => right(self.drawn(row, c)),
            _ => f64::NAN,
        }
    }

    /// The verdict in the order drawn for this row, or in the only one there is.
    fn drawn(&self, row: usize, c: &Comparison) -> Choice {
        let order = Rng::new(self.seed, Stream::Order, 0).below(row as u64, 2) as usize;
        c.orders[order].or(c.orders[1 - order]).map_or(c.verdict, |o| o.choice)
    }

    fn best_of_four(&self, row: usize, item: &Item, answer: &Answer, blank: Grade) -> Grade {
        let n = item.responses.len();
        let ratings = answer.ratings(n);
        let most = ratings.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let equal = ratings.iter().filter(|r| **r == most).count();
        let official = if ratings[0] == most { 1.0 / equal as f64 } else { 0.0 };
        let order = Rng::new(self.seed, Stream::Order, row as u64 + 1).permutation(n);
        let challenge = |incumbent: Option<usize>, challenger: usize| {
            let Some(incumbent) = incumbent else { return Some(challenger) };
            match answer.find((incumbent, challenger))?.verdict {
                Choice::Second => Some(challenger),
                _ => Some(incumbent),
            }
        };
        let best = order.iter().try_fold(None, |best, i| challenge(best, *i as usize).map(Some)).flatten();
        Grade { official, papers: best.map_or(f64::NAN, |b| f64::from(u8::from(b == 0))), ..blank }
    }
}

/// 1 if the first response, which is the better one, is preferred. Ties and invalid verdicts are wrong.
fn right(choice: Choice) -> f64 {
    f64::from(u8::from(choice == Choice::First))
}

/// Sums of grades.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    pub n: f64,
    pub official: f64,
    pub papers: f64,
    pub one_order: f64,
    pub cells: [f64; 9],
    pub rows: usize,
}

impl Tally {
    fn add(&mut self, weight: f64, rows: usize, g: &Grade) {
        self.n += weight * g.n;
        self.official += weight * g.official;
        self.papers += weight * g.papers;
        self.one_order += weight * g.one_order;
        for (sum, cell) in self.cells.iter_mut().zip(g.cells) {
            *sum += weight * cell;
        }
        self.rows += rows;
    }

    fn merge(&mut self, other: &Tally) {
        self.n += other.n;
        self.official += other.official;
        self.papers += other.papers;
        self.one_order += other.one_order;
        for (sum, cell) in self.cells.iter_mut().zip(other.cells) {
            *sum += cell;
        }
        self.rows += other.rows;
    }

    /// What is right by a rule that grades items, not subsets.
    pub fn credit(&self, rule: Rule) -> f64 {
        match rule {
            Rule::Official | Rule::CountsSwapped => self.official,
            Rule::Papers | Rule::BothOrders => self.papers,
            Rule::OneOrder => self.one_order,
        }
    }
}

/// The subsets of a suite, in the order in which they first appear.
#[derive(Clone, Debug, PartialEq)]
pub struct Subsets {
    pub names: Vec<String>,
    /// By item, its subset.
    pub of: Vec<usize>,
}

impl Subsets {
    pub fn of(items: &[Item]) -> Subsets {
        let mut names: Vec<String> = Vec::new();
        let of = items.iter().map(|item| {
            names.iter().position(|n| *n == item.subset).unwrap_or_else(|| {
                names.push(item.subset.clone());
                names.len() - 1
            })
        });
        let of = of.collect();
        Subsets { names, of }
    }
}

/// Tallies by subset.
#[derive(Clone, Debug, PartialEq)]
pub struct Tallies<'s> {
    subsets: &'s Subsets,
    tallies: Vec<Tally>,
    /// RewardBench 2's Ties, with weights.
    pub tied: Vec<(f64, Tied)>,
}

impl<'s> Tallies<'s> {
    /// Counts item `i` `weights[i]` times.
    pub fn new(subsets: &'s Subsets, grades: &[Grade], weights: &[u32]) -> Tallies<'s> {
        let mut tallies = vec![Tally::default(); subsets.names.len()];
        let mut tied = Vec::new();
        for ((grade, subset), weight) in grades.iter().zip(&subsets.of).zip(weights).filter(|(_, w)| **w > 0) {
            tallies[*subset].add(f64::from(*weight), *weight as usize, grade);
            tied.extend(grade.tied.map(|t| (f64::from(*weight), t)));
        }
        Tallies { subsets, tallies, tied }
    }

    /// The tally of a subset that has rows.
    pub fn get(&self, name: &str) -> Option<&Tally> {
        let at = self.subsets.names.iter().position(|n| n == name)?;
        Some(&self.tallies[at]).filter(|t| t.n > 0.0)
    }

    /// The subsets whose names please, as one; `None` if they have no rows.
    pub fn pooled(&self, pleases: impl Fn(&str) -> bool) -> Option<Tally> {
        let mut all = Tally::default();
        for (name, tally) in self.subsets.names.iter().zip(&self.tallies) {
            if pleases(name) {
                all.merge(tally);
            }
        }
        (all.n > 0.0).then_some(all)
    }

    /// A score for every subset, by each rule.
    pub fn by_subset(&self, rules: &[Rule], credit: impl Fn(Rule, &Tally) -> f64) -> Vec<Score> {
        let with_rows = self.subsets.names.iter().zip(&self.tallies).filter(|(_, t)| t.n > 0.0);
        let score = |(name, t): (&String, &Tally)| {
            rules.iter().map(|rule| Score::new(*rule, name.clone(), credit(*rule, t) / t.n, t.rows)).collect::<Vec<_>>()
        };
        with_rows.flat_map(score).collect()
    }

    pub fn len(&self) -> usize {
        self.tallies.len()
    }
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty()
    }
}

#[cfg(test)]
mod tests;
