//! RewardBench 2's subset Ties: prompts with many right responses, which should be rated alike and all above the wrong ones.
//!
//! Each prompt comes twice: with one right response (reference) and with many (tied). With `gap` the rating of the worst
//! right response minus that of the best wrong one, and `spread` that of the best right minus the worst right,
//!
//! ```text
//! score = 0.30 mean(gap_tied > 0) + 0.30 mean(gap_ref > 0)
//!       + 0.20 mean(gap_tied > spread) + 0.20 mean(min(gap_ref, gap_tied) > spread)
//!       + 0.01 mean(tanh(min(gap_ref, gap_tied) / spread - 1))
//! ```
//!
//! where the last three are over prompts that have both variants, and 0/0 counts 0.

use std::collections::BTreeMap;

/// One variant of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tied {
    pub prompt: i64,
    pub reference: bool,
    pub gap: f64,
    pub spread: f64,
}

impl Tied {
    /// From ratings, of which the first `right` belong to right responses.
    pub fn of(prompt: i64, reference: bool, ratings: &[f64], right: usize) -> Tied {
        let most = |r: &[f64]| r.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = |r: &[f64]| r.iter().copied().fold(f64::INFINITY, f64::min);
        let (good, bad) = ratings.split_at(right);
        Tied { prompt, reference, gap: least(good) - most(bad), spread: most(good) - least(good) }
    }
}

/// The parts of the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    pub tied_accuracy: f64,
    pub reference_accuracy: f64,
    pub gap_over_spread: f64,
    pub both_gaps_over_spread: f64,
    pub margin: f64,
}

impl Parts {
    pub fn score(&self) -> f64 {
        0.30 * self.tied_accuracy
            + 0.30 * self.reference_accuracy
            + 0.20 * self.gap_over_spread
            + 0.20 * self.both_gaps_over_spread
            + 0.01 * self.margin
    }

    /// The score and its parts, with names.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("Ties", self.score()),
            ("Ties, accuracy with many right", self.tied_accuracy),
            ("Ties, accuracy with one right", self.reference_accuracy),
            ("Ties, gap over spread", self.gap_over_spread),
            ("Ties, both gaps over spread", self.both_gaps_over_spread),
            ("Ties, margin", self.margin),
        ]
    }
}

/// The parts, over variants with weights. `None` unless some prompt has both.
pub fn parts(tied: &[(f64, Tied)]) -> Option<Parts> {
    let mut prompts: BTreeMap<i64, [Option<(f64, Tied)>; 2]> = BTreeMap::new();
    for (weight, t) in tied.iter().filter(|(weight, _)| *weight > 0.0) {
        prompts.entry(t.prompt).or_default()[usize::from(t.reference)] = Some((*weight, *t));
    }
    let accuracy = |variant: usize| {
        let of = prompts.values().filter_map(|p| p[variant]);
        weighted(of.map(|(w, t)| (w, f64::from(u8::from(t.gap > 0.0)))))
    };
    let both: Vec<(f64, Tied, Tied)> = prompts.values().filter_map(|p| Some((p[0]?.0, p[0]?.1, p[1]?.1))).collect();
    if both.is_empty() {
        return None;
    }
    let mean = |of: &dyn Fn(&Tied, f64) -> f64| {
        weighted(both.iter().map(|(w, tied, reference)| (*w, of(tied, reference.gap.min(tied.gap)))))
    };
    let above = |x: f64, y: f64| f64::from(u8::from(x > y));
    Some(Parts {
        tied_accuracy: accuracy(0),
        reference_accuracy: accuracy(1),
        gap_over_spread: mean(&|tied, _| above(tied.gap, tied.spread)),
        both_gaps_over_spread: mean(&|tied, least| above(least, tied.spread)),
        margin: mean(&|tied, least| {
            let margin = (least / tied.spread - 1.0).tanh();
            if margin.is_nan() { 0.0 } else { margin }
        }),
    })
}

fn weighted(values: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, total) = values.fold((0.0, 0.0), |(sum, total), (w, x)| (sum + w * x, total + w));
    sum / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_by_hand() {
        // Prompt 1: all right. Prompt 2: the tied variant has a wrong one above; its reference is right by a little.
        let tied = [
            Tied::of(1, true, &[3.0, 0.0, 1.0], 1),
            Tied::of(1, false, &[3.0, 2.5, 1.0], 2),
            Tied::of(2, true, &[1.5, 1.0], 1),
            Tied::of(2, false, &[3.0, 1.0, 2.0], 2),
        ];
        assert_eq!((tied[0].gap, tied[1].gap, tied[1].spread, tied[3].gap), (2.0, 1.5, 0.5, -1.0));
        let parts = parts(&tied.map(|t| (1.0, t))).unwrap();
        assert_eq!((parts.tied_accuracy, parts.reference_accuracy), (0.5, 1.0));
        assert_eq!((parts.gap_over_spread, parts.both_gaps_over_spread), (0.5, 0.5));
        let margin = (2f64.tanh() + (-1.5f64).tanh()) / 2.0;
        assert!((parts.margin - margin).abs() < 1e-15);
        assert!((parts.score() - (0.15 + 0.3 + 0.1 + 0.1 + 0.01 * margin)).abs() < 1e-15);
    }

    #[test]
    fn ratings_all_alike_have_no_margin_and_a_lone_variant_no_score() {
        let alike = [Tied::of(1, true, &[1.0, 1.0], 1), Tied::of(1, false, &[1.0, 1.0, 1.0], 2)];
        let found = parts(&alike.map(|t| (1.0, t))).unwrap();
        assert_eq!((found.margin, found.score()), (0.0, 0.0));
        assert!(parts(&[(1.0, alike[0])]).is_none());
        let apart = [Tied::of(1, true, &[2.0, 1.0], 1), Tied::of(1, false, &[2.0, 2.0, 1.0], 2)];
        assert_eq!(parts(&apart.map(|t| (1.0, t))).unwrap().margin, 1.0, "no spread at all");
    }

    #[test]
    fn a_weight_is_a_repetition() {
        let tied = |n: i64, top: f64| [Tied::of(n, true, &[top, 1.0], 1), Tied::of(n, false, &[top, 1.5, 1.0], 2)];
        let (good, bad) = (tied(1, 2.0), tied(2, 0.5));
        let twice = parts(&[(2.0, good[0]), (2.0, good[1]), (1.0, bad[0]), (1.0, bad[1])]).unwrap();
        let again = tied(3, 2.0);
        let all: Vec<_> = [good, bad, again].concat().into_iter().map(|t| (1.0, t)).collect();
        assert!((twice.score() - parts(&all).unwrap().score()).abs() < 1e-15);
    }
}
