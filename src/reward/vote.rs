//! Votes of a judge that reasons, and what they come to. Pure.
//!
//! A vote is one reply: the label it wrote, and the probability of it read from the logits that the label was drawn from. With the
//! responses shown in both orders, votes are mapped back to the pair's own `a` and `b`.
//!
//! ```text
//! p_a     = mean over both orders of the mean over the order's votes of P(a is better)
//!           an order without valid votes is left out; each order weighs the same, so that a bias for a place cancels
//! soft    a wins <=> p_a > 1/2; where probabilities saturate, the same means of the margins decide
//! majority   a wins <=> more votes for a; on a tie, the side whose labels have the larger sum of log-probabilities
//! ```
//! Invalid replies abstain. Without any valid vote there is no verdict.
//!
//! Stopping early. Votes are draws of a coin that falls on the leading side with a probability q, that of a vote in an order drawn at
//! random. Under a uniform prior, after `n` valid votes of which `m` are for the trailing side,
//!
//! ```text
//! P(q > 1/2 | votes) = 1 - I_1/2(n - m + 1, m + 1) = 1 - 2^-(n+1) sum_{j=0..m} C(n+1, j)
//! ```
//! the upper half of a Beta posterior, in exact binomial form. As a posterior it means the same whenever one looks, so looking
//! after every round costs nothing; it is not a bound on the error rate over repeated runs. Orders take turns, which
//! makes the share of votes vary less than the coin's, so the confidence is on the safe side. Voting ends when it reaches what was asked
//! for and the rule's verdict is the leading side's, or, surely, when votes that are still to come could not change the
//! verdict whatever they were.

use crate::reward::judge::Side;
use crate::text::answer::Invalid;
use crate::text::example;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which response was shown as A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Ab,
    Ba,
}

impl Order {
    pub const BOTH: [Order; 2] = [Order::Ab, Order::Ba];

    pub fn name(self) -> &'static str {
        match self {
            Order::Ab => "ab",
            Order::Ba => "ba",
        }
    }

    pub fn other(self) -> Order {
        match self {
            Order::Ab => Order::Ba,
            Order::Ba => Order::Ab,
        }
    }
}

/// How votes are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By their probabilities.
    Soft,
    /// By their labels.
    Majority,
}

/// Mean probabilities that differ by less are equal: it is the rounding of means over other numbers of votes.
const ROUNDING: f64 = 1e-12;

/// A valid reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    pub order: Order,
    /// The label it wrote, as shown: [`Vote::for_a`] maps it back.
    pub label: example::Side,
    /// Logit A minus logit B, as shown, where the label was drawn.
    pub margin: f32,
    /// Log-probability of the label it wrote in the whole vocabulary.
    pub logprob: f32,
    /// Probability that the two labels had together in the whole vocabulary.
    pub label_mass: f32,
    pub rationale: String,
}

impl Vote {
    /// Whether its label says that response a is better.
    pub fn for_a(&self) -> bool {
        (self.label == example::Side::A) == (self.order == Order::Ab)
    }
    /// The margin by which response a is better.
    fn for_a_by(&self) -> f64 {
        if self.order == Order::Ab { self.margin as f64 } else { -self.margin as f64 }
    }
    /// Probability that response a is better, less one half: odd in the margin to the last bit, so that opposite votes cancel.
    fn excess(&self) -> f64 {
        let by = self.for_a_by();
        (1.0 / (1.0 + (-by.abs()).exp()) - 0.5).copysign(by)
    }
    /// Probability that response a is better.
    pub fn p_a(&self) -> f64 {
        0.5 + self.excess()
    }
}

/// Votes of one order, by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub a: usize,
    pub b: usize,
    pub invalid: usize,
}

impl Tally {
    pub fn cast(&self) -> usize {
        self.a + self.b + self.invalid
    }
    /// Of the same votes, with the responses' names exchanged.
    pub fn mirrored(self) -> Tally {
        Tally { a: self.b, b: self.a, ..self }
    }
}

/// All votes on one pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Votes {
    pub valid: Vec<Vote>,
    pub invalid: Vec<(Order, Invalid)>,
}

impl Votes {
    pub fn tally(&self, order: Order) -> Tally {
        let of = |a: bool| self.valid.iter().filter(|v| v.order == order && v.for_a() == a).count();
        let invalid = self.invalid.iter().filter(|(o, _)| *o == order).count();
        Tally { a: of(true), b: of(false), invalid }
    }

    /// Votes for a, votes for b.
    pub fn counts(&self) -> [usize; 2] {
        let a = self.valid.iter().filter(|v| v.for_a()).count();
        [a, self.valid.len() - a]
    }

    /// How many replies were invalid, by reason.
    pub fn reasons(&self) -> BTreeMap<Invalid, usize> {
        let mut reasons = BTreeMap::new();
        for (_, reason) in &self.invalid {
            *reasons.entry(*reason).or_default() += 1;
        }
        reasons
    }

    fn of(&self, order: Order) -> Vec<&Vote> {
        self.valid.iter().filter(|v| v.order == order).collect()
    }

    /// The mean over both orders of the mean over each order's votes; `None` without any.
    fn mean(&self, value: impl Fn(&Vote) -> f64) -> Option<f64> {
        mean(Order::BOTH.iter().filter_map(|o| mean(self.of(*o).into_iter().map(&value))))
    }

    /// Probability that response a is better.
    pub fn p_a(&self) -> Option<f64> {
        self.mean(Vote::excess).map(|excess| 0.5 + excess)
    }

    pub fn label_mass(&self) -> Option<f64> {
        self.mean(|v| v.label_mass as f64)
    }

    /// The mean margin of an order's votes, logit A minus logit B as shown.
    pub fn margin(&self, order: Order) -> Option<f32> {
        mean(self.of(order).into_iter().map(|v| v.margin as f64)).map(|m| m as f32)
    }

    /// The verdict; `None` without any valid vote.
    pub fn verdict(&self, rule: Rule) -> Option<Side> {
        let sign = match rule {
            Rule::Soft => {
                let excess = self.mean(Vote::excess)?;
                if excess.abs() < ROUNDING { self.mean(Vote::for_a_by)? } else { excess }
            }
            Rule::Majority => {
                let [a, b] = self.counts();
                let signed = |v: &Vote| if v.for_a() { v.logprob as f64 } else { -v.logprob as f64 };
                match a.cmp(&b) {
                    _ if a + b == 0 => return None,
                    std::cmp::Ordering::Equal => self.valid.iter().map(signed).sum(),
                    _ => a as f64 - b as f64,
                }
            }
        };
        Some(if sign > 0.0 {
            Side::A
        } else if sign < 0.0 {
            Side::B
        } else {
            Side::Tie
        })
    }

    /// The valid votes of one order, as if there were no others.
    pub fn alone(&self, order: Order) -> Votes {
        Votes { valid: self.of(order).into_iter().cloned().collect(), invalid: Vec::new() }
    }

    /// Whether each order by itself comes to the same winner.
    pub fn consistent(&self, rule: Rule) -> bool {
        let [ab, ba] = Order::BOTH.map(|order| self.alone(order).verdict(rule));
        ab == ba && matches!(ab, Some(Side::A | Side::B))
    }

    /// The vote whose rationale speaks for the verdict: of those that wrote the winner's label, the one with the median probability
    /// (the lower of two, the earlier of equals). Votes with response a shown as A come first, so that the letters
    /// in the text mean what they mean in the row, if only they can. `None` for a tie, or where only other labels were written.
    pub fn typical(&self, rule: Rule) -> Option<&Vote> {
        let winner = match self.verdict(rule)? {
            Side::A => true,
            Side::B => false,
            Side::Tie => return None,
        };
        let agreeing = |order| self.of(order).into_iter().filter(|v| v.for_a() == winner).collect::<Vec<&Vote>>();
        let mut votes = Order::BOTH.into_iter().map(agreeing).find(|votes| !votes.is_empty())?;
        votes.sort_by(|x, y| x.p_a().total_cmp(&y.p_a()));
        Some(votes[(votes.len() - 1) / 2])
    }

    /// Whether voting may end before each order has had `votes` votes: with at least this confidence, or surely.
    pub fn settled(&self, rule: Rule, votes: usize, confidence: f64) -> bool {
        let verdict = self.verdict(rule);
        let [a, b] = self.counts();
        let (leads, trails) = if verdict == Some(Side::A) { (a, b) } else { (b, a) };
        let decided = matches!(verdict, Some(Side::A | Side::B)) && leads > trails;
        decided && (posterior(leads, trails) >= confidence || self.certain(rule, verdict == Some(Side::A), votes))
    }

    /// Whether the winner stays the winner even if all votes still to come go to the other side with certainty.
    fn certain(&self, rule: Rule, a_wins: bool, votes: usize) -> bool {
        let to_come = Order::BOTH.map(|order| votes.saturating_sub(self.tally(order).cast()));
        match rule {
            Rule::Majority => {
                let [a, b] = self.counts();
                let (leads, trails) = if a_wins { (a, b) } else { (b, a) };
                leads > trails + to_come[0] + to_come[1]
            }
            Rule::Soft => {
                let worst = |(order, more): (Order, usize)| {
                    let of = self.of(order);
                    let sum: f64 = of.iter().map(|v| if a_wins { v.p_a() } else { 1.0 - v.p_a() }).sum();
                    let n = of.len() + more;
                    (n > 0).then(|| sum / n as f64)
                };
                mean(Order::BOTH.into_iter().zip(to_come).filter_map(worst)).is_some_and(|p| p > 0.5)
            }
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Probability that the leading side has more than half of the votes in the long run, under a uniform prior.
pub fn posterior(leads: usize, trails: usize) -> f64 {
    let n = leads + trails + 1;
    let mut term = (-(n as f64) * std::f64::consts::LN_2).exp();
    let mut sum = term;
    for j in 1..=trails {
        term *= (n + 1 - j) as f64 / j as f64;
        sum += term;
    }
    1.0 - sum
}

/// After how many votes of each order one looks whether the outcome is settled: 2, 4, 8, .., `votes`. Doubling reads
/// a prompt at most `log2 votes` times.
pub fn rounds(votes: usize) -> Vec<usize> {
    let doubled = std::iter::successors(Some(2), |n| Some(n * 2)).take_while(|n| *n < votes);
    doubled.chain([votes]).collect()
}

#[cfg(test)]
mod tests;
