//! What the shell game's numbers say, and how sure.
//!
//! ```text
//! share       p of n pairs      Wilson's interval
//! difference  of two judges on the same pairs, paired: with b pairs that only the first got right and c that only the second did,
//!             (b - c) / (n + 2) ± 1.96 sqrt(b + c + 1 - (b - c)² / (n + 2)) / (n + 2)        Agresti and Min, 2005
//! ```
//! Both are 95% intervals over test pairs, for these judges as they were trained. Another seed is another judge: over several
//! seeds the table has each by itself, and the mean's interval over seeds is Student's.

use super::Outcome;
use super::measure::Verdicts;
use crate::app::learning_curve::interval::Mean;
use serde_json::{Value, json};

const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95% interval of a share.
pub fn wilson(right: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (of as f64, right as f64 / of as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// A difference of two shares of right answers, with its 95% interval over pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl Difference {
    /// First minus second, the mean over seeds: each seed's judges on its own test pairs.
    ///
    /// # Panics
    /// Judges that were not asked about the same pairs.
    pub fn of(seeds: &[(&Verdicts, &Verdicts)]) -> Difference {
        let (mut mean, mut middle, mut variance) = (0.0, 0.0, 0.0);
        for (first, second) in seeds {
            assert_eq!(first.pairs(), second.pairs(), "the same pairs");
            let only = |x: &Verdicts, y: &Verdicts| x.right.iter().zip(&y.right).filter(|(x, y)| **x && !**y).count();
            let (b, c, n) = (only(first, second) as f64, only(second, first) as f64, first.pairs() as f64);
            mean += (b - c) / n.max(1.0);
            middle += (b - c) / (n + 2.0);
            variance += (b + c + 1.0 - (b - c).powi(2) / (n + 2.0)) / (n + 2.0).powi(2);
        }
        let k = seeds.len().max(1) as f64;
        let half = Z * variance.sqrt() / k;
        Difference { mean: mean / k, low: middle / k - half, high: middle / k + half }
    }

    /// `+3.2 points [+1.0, +5.4]`
    pub fn show(&self) -> String {
        let [mean, low, high] = [self.mean, self.low, self.high].map(|x| 100.0 * x);
        format!("{mean:+.1} points [{low:+.1}, {high:+.1}]")
    }
}

/// Two judges that the chapter compares.
pub struct Comparison {
    pub name: &'static str,
    /// Its claim, "The last round beats ...".
    claim: &'static str,
    pub difference: Difference,
    /// In how many seeds the first is ahead, and the mean's interval over seeds where there are several.
    pub ahead: usize,
    pub over_seeds: Option<(f64, f64)>,
    pub seeds: usize,
}

impl Comparison {
    fn of(name: &'static str, claim: &'static str, outcomes: &[Outcome], other: fn(&Outcome) -> &Verdicts) -> Self {
        let pairs: Vec<(&Verdicts, &Verdicts)> = outcomes.iter().map(|o| (&o.last().verdicts, other(o))).collect();
        let each: Vec<f64> = pairs.iter().map(|pair| Difference::of(&[*pair]).mean).collect();
        Comparison {
            name,
            claim,
            difference: Difference::of(&pairs),
            ahead: each.iter().filter(|d| **d > 0.0).count(),
            over_seeds: Mean::of(&each).and_then(|mean| mean.interval),
            seeds: outcomes.len(),
        }
    }

    /// One sentence that claims no more than the numbers support.
    pub fn verdict(&self) -> String {
        let d = &self.difference;
        let seeds = match self.seeds {
            1 => String::new(),
            n => format!(", ahead on {} of {n} seeds", self.ahead),
        };
        let shown = d.show();
        match (d.low > 0.0, d.high < 0.0) {
            (true, _) if self.seeds == 1 || self.ahead == self.seeds => {
                format!("The judge after the last round beats {}: {shown}{seeds}.", self.claim)
            }
            (true, _) => {
                format!("On average the judge after the last round is ahead of {}: {shown}{seeds}.", self.claim)
            }
            (_, true) => format!("The judge after the last round does WORSE than {}: {shown}{seeds}.", self.claim),
            _ => format!(
                "Between the judge after the last round and {} no difference is shown: {shown}{seeds}.",
                self.claim
            ),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "against": self.name,
            "difference": self.difference.mean,
            "interval_over_pairs": [self.difference.low, self.difference.high],
            "interval_over_seeds": self.over_seeds.map(|(low, high)| [low, high]),
            "seeds_ahead": self.ahead,
            "seeds": self.seeds,
            "verdict": self.verdict(),
        })
    }
}

/// What the last round's judge is held against.
pub fn comparisons(outcomes: &[Outcome]) -> [Comparison; 5] {
    fn last(arms: &[super::Arm]) -> &Verdicts {
        &arms.last().expect("there is a first judge").verdicts
    }
    [
        Comparison::of("label_only", "labels alone", outcomes, |o| &o.labels.verdicts),
        Comparison::of("first_judge", "the first judge", outcomes, |o| &o.rounds[0].verdicts),
        Comparison::of("same_steps", "the same steps with no new pairs", outcomes, |o| last(&o.same_steps)),
        Comparison::of("with_reasons", "a judge given the written reasons, same steps", outcomes, |o| {
            last(&o.with_reasons)
        }),
        Comparison::of("votes", "its own votes taken together", outcomes, |o| &o.voting.verdicts),
    ]
}

/// A line of the table.
pub struct Line {
    pub judge: String,
    /// Steps, pairs learned from, and what it did on the test pairs, each seed by itself.
    pub arms: Vec<super::Arm>,
}

/// The table's lines, in the order of the story.
pub fn lines(outcomes: &[Outcome]) -> Vec<Line> {
    let line =
        |judge: String, arm: &dyn Fn(&Outcome) -> super::Arm| Line { judge, arms: outcomes.iter().map(arm).collect() };
    let rounds = outcomes.first().map_or(0, |o| o.settings.rounds);
    let mut lines = vec![
        line("labels alone, no rationale".into(), &|o| o.labels.clone()),
        line("first judge, proved rationales".into(), &|o| o.rounds[0].clone()),
    ];
    for i in 1..=rounds {
        lines.push(line(format!("after round {i}"), &|o| o.rounds[i].clone()));
    }
    let ballots = outcomes.first().map_or(0, |o| o.settings.ballots);
    lines.push(line(format!("the same, {ballots} votes an order"), &|o| o.voting.clone()));
    lines.push(line("control: same steps, no new pairs".into(), &|o| o.same_steps[rounds].clone()));
    lines.push(line("control: the reasons too, same steps".into(), &|o| o.with_reasons[rounds].clone()));
    lines
}

impl Line {
    /// The mean accuracy over seeds with its interval over pairs; of one seed Wilson's.
    pub fn accuracy(&self) -> (f64, (f64, f64)) {
        let shares: Vec<f64> = self.arms.iter().map(|arm| arm.verdicts.accuracy()).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        // Every seed has as many pairs, so the mean share is that of all pairs together.
        let (right, pairs) = self
            .arms
            .iter()
            .fold((0, 0), |(right, pairs), arm| (right + arm.verdicts.count(), pairs + arm.verdicts.pairs()));
        (mean, wilson(right, pairs))
    }

    fn to_json(&self) -> Value {
        let (accuracy, (low, high)) = self.accuracy();
        let seeds: Vec<Value> = self
            .arms
            .iter()
            .map(|arm| {
                let v = &arm.verdicts;
                let (low, high) = wilson(v.count(), v.pairs());
                json!({"accuracy": v.accuracy(), "interval": [low, high], "consistency": v.consistency(),
                       "invalid": v.invalid, "steps": arm.steps, "pairs_learned": arm.pairs})
            })
            .collect();
        json!({"judge": self.judge, "accuracy": accuracy, "interval": [low, high], "seeds": seeds})
    }
}

/// The chapter for programs.
pub fn to_json(outcomes: &[Outcome]) -> Value {
    let lines: Vec<Value> = lines(outcomes).iter().map(Line::to_json).collect();
    let compared: Vec<Value> = comparisons(outcomes).iter().map(Comparison::to_json).collect();
    let seed = |o: &Outcome| {
        let rates: Vec<Value> = o.rates.iter().map(|(lr, accuracy)| json!([lr, accuracy])).collect();
        json!({
            "seed": o.settings.seed, "label_only_rate": o.rate, "label_only_rates_on_validation": rates,
            "data": o.stats, "model": o.model.display().to_string(), "seconds": o.seconds,
        })
    };
    json!({
        "settings": outcomes.first().map(|o| &o.settings),
        "parameters": outcomes.first().map(|o| o.parameters),
        "test_pairs": outcomes.first().map(|o| o.settings.held_out),
        "table": lines,
        "comparisons": compared,
        "seeds": outcomes.iter().map(seed).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(right: &[bool]) -> Verdicts {
        Verdicts { right: right.to_vec(), ..Verdicts::default() }
    }

    #[test]
    fn wilsons_interval_is_the_published_one() {
        // Newcombe (1998), table I: 81 of 263 and 0 of 20.
        for (right, of, low, high) in [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (15, 148, 0.0624, 0.1605)] {
            let (l, h) = wilson(right, of);
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{right}/{of}: {l} {h}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn paired_differences_count_only_where_judges_differ() {
        let mut first = vec![true; 100];
        let mut second = vec![true; 100];
        second[..20].fill(false);
        first[20..25].fill(false);
        let d = Difference::of(&[(&verdicts(&first), &verdicts(&second))]);
        assert!((d.mean - 0.15).abs() < 1e-12);
        // b = 20, c = 5, n = 100.
        let (middle, half) = (15.0 / 102.0, Z * (26.0f64 - 225.0 / 102.0).sqrt() / 102.0);
        assert!((d.low - (middle - half)).abs() < 1e-12 && (d.high - (middle + half)).abs() < 1e-12);
        let back = Difference::of(&[(&verdicts(&second), &verdicts(&first))]);
        assert!((back.mean + d.mean).abs() < 1e-12 && (back.low + d.high).abs() < 1e-12);
        // Twice the same seed: the same mean, and an interval smaller by the root of two.
        let two = Difference::of(&[(&verdicts(&first), &verdicts(&second)); 2]);
        assert!((two.mean - d.mean).abs() < 1e-12);
        assert!(((d.high - d.low) / (two.high - two.low) - 2f64.sqrt()).abs() < 1e-9);
    }
}
