//! Turning pairwise comparisons into an order. Pure: a [`Tournament`] says which pairs it wants compared, is told the
//! answers, and in the end gives a [`Ranking`]. Many can be played in lock-step, so that their comparisons share passes of
//! a model; none can tell.
//!
//! A comparison of responses `i` and `j` is an [`Outcome`] over both orders of presentation, so the answer for `(j, i)`
//! is known from that for `(i, j)` and no pair is ever asked twice. It costs two prompts.
//!
//! | method | comparisons | order |
//! |---|---|---|
//! | linear | n - 1 for the best, up to n (n - 1) / 2 for all | of the scans |
//! | knockout | n - 1, in log2 n batches | round reached, then strength |
//! | round-robin | n (n - 1) / 2, in one batch | strength, which here is the order of the scores |
//! | swiss | about n / 2 for each of log2 n batches | strength |
//! | anchor | k (n - k) + k (k - 1) / 2, in one batch | strength |
//! | adaptive | what the order needs | strength |
//!
//! Strengths are those of [`bradley_terry`]. Where they are equal, the larger mean margin goes first, then the earlier
//! response.

mod adaptive;
mod bracket;
mod cycles;
mod pairs;
mod results;
mod scan;
mod swiss;
#[cfg(test)]
mod tests;

pub use cycles::cycles;
pub use results::win_rates;

use super::bradley_terry;
use crate::error::{Error, Result};
use results::Results;

/// Most responses that comparisons can rank: the strengths take time that grows with the cube of their number.
pub const MOST: usize = 1024;

/// How responses are compared. With a budget below what a method needs, it is as each says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The papers' linear scan: the incumbent meets each response in turn and ties keep it; n - 1 comparisons find the
    /// best. The full order repeats the scan over those that remain, and what was compared before is not asked again. When
    /// the budget is spent, those already placed keep their places, the incumbent comes next, and the rest follow by
    /// strength.
    Linear,
    /// Single elimination: neighbours in the input meet, winners go on, ties keep the earlier. If n is not a power of
    /// two, the first responses pass the first round unplayed. When the budget is spent, the later matches of the bracket
    /// stay unplayed.
    Knockout,
    /// Every pair once, at growing distance in the input taken as a circle: a budget cuts off the pairs farthest apart, so that all
    /// responses are compared equally often, to one or two.
    RoundRobin,
    /// Rounds in which neighbours in the standing meet, none twice; who finds no new opponent sits out. log2 n rounds,
    /// rounded up; with a budget, as many as it pays for.
    Swiss,
    /// All responses against `anchors` of them, which lie evenly spread in the input. A budget serves the anchors one
    /// after the other.
    Anchor { anchors: usize },
    /// The comparisons that tell most about the order, until each neighbouring pair in it is decided with this
    /// probability. See [`Ranking::confidence`]; a pair that was compared and would stay in doubt even if all others
    /// were compared too is left undecided.
    Adaptive { confidence: f64 },
}

/// The methods by their names in requests.
const METHODS: [(&str, Method); 6] = [
    ("round_robin", Method::RoundRobin),
    ("linear", Method::Linear),
    ("knockout", Method::Knockout),
    ("swiss", Method::Swiss),
    ("anchor", Method::Anchor { anchors: 3 }),
    ("adaptive", Method::Adaptive { confidence: 0.95 }),
];

impl std::str::FromStr for Method {
    type Err = String;
    /// By its name, with three anchors and to a confidence of 0.95. The error names them all.
    fn from_str(name: &str) -> std::result::Result<Method, String> {
        let found = METHODS.iter().find(|(known, _)| *known == name.replace('-', "_"));
        found.map(|(_, method)| *method).ok_or_else(|| {
            let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            format!("there is no method {name:?}; there are {}", known.join(", "))
        })
    }
}

/// A method with limits that make sense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    method: Method,
    budget: Option<usize>,
}

impl Rules {
    /// `budget` limits the comparisons of each ranking.
    ///
    /// # Errors
    /// No anchors; a confidence outside (0.5, 1).
    pub fn new(method: Method, budget: Option<usize>) -> Result<Rules> {
        match method {
            Method::Anchor { anchors: 0 } => Err(Error::usage("there must be at least one anchor")),
            Method::Adaptive { confidence: c } if !(c > 0.5 && c < 1.0) => {
                Err(Error::usage(format!("a confidence of {c} cannot be reached; it lies above 0.5 and below 1")))
            }
            _ => Ok(Rules { method, budget }),
        }
    }
}

/// What a judge says of a pair `(i, j)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Probability that `i` is better, the mean over both orders.
    pub p: f64,
    /// Above zero if `i` is better, below if `j` is, zero for a tie; also where `p` saturates.
    pub margin: f64,
}

impl Outcome {
    /// The same, said of `(j, i)`.
    pub fn flipped(self) -> Outcome {
        Outcome { p: 1.0 - self.p, margin: -self.margin }
    }
}

/// Why no more comparisons were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The method has asked all it asks.
    Complete,
    /// There was more to ask.
    Budget,
    /// Every neighbouring pair in the order is decided.
    Decided,
    /// What is not decided would not be by asking more.
    Undecidable,
}

impl Stopped {
    pub fn name(self) -> &'static str {
        match self {
            Stopped::Complete => "complete",
            Stopped::Budget => "budget",
            Stopped::Decided => "decided",
            Stopped::Undecidable => "undecidable",
        }
    }
}

/// An order of responses, and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Indices of the responses, best first.
    pub order: Vec<usize>,
    /// For each response, in input order, its mean probability of beating those it was compared with (0.5 if none).
    pub scores: Vec<f64>,
    /// Pairs that were compared.
    pub comparisons: usize,
    /// Bradley-Terry strengths, in input order.
    pub strengths: bradley_terry::Fit,
    /// For each place but the last, the probability that its response is better than the next one's: what the judge said
    /// of the two if they were compared, or what the strengths say, whichever is larger.
    pub confidence: Vec<f64>,
    /// Compared pairs in which neither is better.
    pub ties: Vec<(usize, usize)>,
    /// Responses that beat each other in a circle: each set in the order of the ranking, of at least three. No order can agree
    /// with all its comparisons.
    pub cycles: Vec<Vec<usize>>,
    pub stopped: Stopped,
}

impl Ranking {
    /// Comparisons that a round-robin would have made beyond these.
    pub fn saved(&self) -> usize {
        all_pairs(self.order.len()) - self.comparisons
    }
}

/// Pairs of `n` responses.
fn all_pairs(n: usize) -> usize {
    n * n.saturating_sub(1) / 2
}

/// One ranking in the making.
#[derive(Clone, Debug)]
pub struct Tournament {
    plan: Plan,
    method: Method,
    budget: usize,
    results: Results,
    asked: Vec<(usize, usize)>,
    /// The plan wanted more than the budget had.
    cut: bool,
}

/// What a method has to remember besides the results.
#[derive(Clone, Debug)]
enum Plan {
    Scan(scan::Scan),
    Knockout,
    /// All pairs at once.
    List(Vec<(usize, usize)>),
    Swiss {
        rounds: usize,
    },
    Adaptive {
        confidence: f64,
    },
}

impl Tournament {
    /// # Errors
    /// More than [`MOST`] responses.
    pub fn new(n: usize, rules: Rules) -> Result<Tournament> {
        if n > MOST {
            return Err(Error::data(format!("{n} responses; at most {MOST} can be ranked by comparing them")));
        }
        let plan = match rules.method {
            Method::Linear => Plan::Scan(scan::Scan::new(n)),
            Method::Knockout => Plan::Knockout,
            Method::RoundRobin => Plan::List(pairs::round_robin(n)),
            Method::Anchor { anchors } => Plan::List(pairs::against_anchors(n, anchors)),
            Method::Swiss if rules.budget.is_some() => Plan::Swiss { rounds: usize::MAX },
            Method::Swiss => Plan::Swiss { rounds: n.max(1).next_power_of_two().ilog2() as usize },
            Method::Adaptive { confidence } => Plan::Adaptive { confidence },
        };
        let budget = rules.budget.unwrap_or(usize::MAX);
        Ok(Tournament { plan, method: rules.method, budget, results: Results::new(n), asked: Vec::new(), cut: false })
    }

    /// The pairs to compare now, `i < j` in each; none when the ranking is finished.
    ///
    /// # Panics
    /// If the last ones were not answered.
    pub fn ask(&mut self) -> &[(usize, usize)] {
        assert!(self.asked.is_empty(), "pairs were asked and not answered");
        let results = &self.results;
        let mut pairs = match &mut self.plan {
            Plan::Scan(scan) => scan.next(results).into_iter().collect(),
            Plan::Knockout => bracket::play(results).open,
            Plan::List(pairs) => std::mem::take(pairs),
            Plan::Swiss { rounds: 0 } => Vec::new(),
            Plan::Swiss { rounds } => {
                *rounds -= 1;
                swiss::round(results)
            }
            Plan::Adaptive { confidence } => adaptive::next(results, *confidence),
        };
        let left = self.budget - results.len();
        self.cut |= pairs.len() > left;
        pairs.truncate(left);
        self.asked = pairs.into_iter().map(|(i, j)| (i.min(j), i.max(j))).collect();
        &self.asked
    }

    /// Tells the outcomes of the pairs that were asked, in their order.
    ///
    /// # Panics
    /// If their number is another.
    pub fn answer(&mut self, outcomes: &[Outcome]) {
        assert_eq!(outcomes.len(), self.asked.len(), "one outcome for each pair");
        for (pair, outcome) in std::mem::take(&mut self.asked).into_iter().zip(outcomes) {
            self.results.insert(pair, *outcome);
        }
    }

    /// The order that the comparisons so far give.
    pub fn ranking(&self) -> Ranking {
        let results = &self.results;
        let strengths = results.fit();
        let by_strength = results.by_strength(&strengths);
        let order = match &self.plan {
            Plan::Scan(scan) => scan.order(by_strength),
            Plan::Knockout => bracket::play(results).order(by_strength),
            _ => by_strength,
        };
        let confidence: Vec<f64> = order.windows(2).map(|w| results.confidence(&strengths, w[0], w[1])).collect();
        let stopped = match self.method {
            _ if self.cut => Stopped::Budget,
            Method::Adaptive { confidence: asked } if confidence.iter().all(|c| *c >= asked) => Stopped::Decided,
            Method::Adaptive { .. } if results.len() < all_pairs(order.len()) => Stopped::Undecidable,
            _ => Stopped::Complete,
        };
        Ranking {
            scores: results.scores(),
            comparisons: results.len(),
            ties: results.ties(),
            cycles: results.cycles(&order),
            order,
            strengths,
            confidence,
            stopped,
        }
    }
}

/// Plays tournaments to their ends, in lock-step: `compare` gets the open pairs of all of them, each with the tournament's
/// index, and answers in their order.
///
/// # Errors
/// Whatever `compare` returns.
pub fn play(
    tournaments: &mut [Tournament],
    mut compare: impl FnMut(&[(usize, (usize, usize))]) -> Result<Vec<Outcome>>,
) -> Result<()> {
    loop {
        let mut open = Vec::new();
        let mut counts = Vec::with_capacity(tournaments.len());
        for (index, tournament) in tournaments.iter_mut().enumerate() {
            let pairs = tournament.ask();
            counts.push(pairs.len());
            open.extend(pairs.iter().map(|pair| (index, *pair)));
        }
        if open.is_empty() {
            return Ok(());
        }
        let outcomes = compare(&open)?;
        let mut rest = &outcomes[..];
        for (tournament, count) in tournaments.iter_mut().zip(counts) {
            let (now, later) = rest.split_at(count);
            tournament.answer(now);
            rest = later;
        }
    }
}

/// Ranks `n` responses. `compare` gets pairs and answers for each.
///
/// # Errors
/// As [`Tournament::new`]; whatever `compare` returns.
pub fn rank(
    n: usize,
    rules: Rules,
    mut compare: impl FnMut(&[(usize, usize)]) -> Result<Vec<Outcome>>,
) -> Result<Ranking> {
    let mut one = [Tournament::new(n, rules)?];
    play(&mut one, |open| compare(&open.iter().map(|(_, pair)| *pair).collect::<Vec<_>>()))?;
    Ok(one[0].ranking())
}

/// The order that scalar rewards give: largest first, equal ones as they came.
pub fn by_reward(rewards: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|a, b| rewards[*b].total_cmp(&rewards[*a]));
    order
}
