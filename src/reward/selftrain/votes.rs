//! From votes to pseudo-labels, and what a round came to in numbers. Pure.
//!
//! ```text
//! agreement  = votes of the majority / all votes, invalid ones too
//! confidence = mean over the valid votes of P(majority's label) at the answer
//! kept      <=> agreement >= reward.agreement and confidence >= reward.tau       (GRAM-R2, section 3.3)
//! ```

use crate::text::example::Side;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a judge's votes on a pair came to, mapped back to the pair's own order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ballot {
    pub a: usize,
    pub b: usize,
    pub invalid: usize,
    /// Mean over the valid votes of the probability that the answer is A; 0.5 without one.
    pub p_a: f64,
}

/// Why a pair gets no label. They are looked for in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// No vote is valid.
    Invalid,
    /// As many votes for A as for B.
    Split,
    /// The majority is too small.
    Disagreement,
    /// The label is not probable enough.
    Unsure,
}

impl Doubt {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Doubt::Invalid => "invalid",
            Doubt::Split => "split",
            Doubt::Disagreement => "disagreement",
            Doubt::Unsure => "unsure",
        }
    }
}

impl Ballot {
    /// The majority's label; `None` where there is none.
    pub fn label(&self) -> Option<Side> {
        match self.a.cmp(&self.b) {
            std::cmp::Ordering::Greater => Some(Side::A),
            std::cmp::Ordering::Less => Some(Side::B),
            std::cmp::Ordering::Equal => None,
        }
    }

    /// Share of the majority in all votes.
    pub fn agreement(&self) -> f64 {
        self.a.max(self.b) as f64 / (self.a + self.b + self.invalid).max(1) as f64
    }

    /// Mean probability of the majority's label; of the likelier one where there is no majority.
    pub fn confidence(&self) -> f64 {
        match self.label() {
            Some(Side::A) => self.p_a,
            Some(Side::B) => 1.0 - self.p_a,
            None => self.p_a.max(1.0 - self.p_a),
        }
    }

    /// The pseudo-label, if it is good enough.
    ///
    /// # Errors
    /// The first condition that fails.
    pub fn decide(&self, agreement: f64, tau: f64) -> Result<Side, Doubt> {
        // Shares of small numbers of votes: 4 of 5 is 0.8 whatever its last bit.
        let below = |x: f64, least: f64| x < least - 1e-9;
        match self.label() {
            _ if self.a + self.b == 0 => Err(Doubt::Invalid),
            None => Err(Doubt::Split),
            Some(_) if below(self.agreement(), agreement) => Err(Doubt::Disagreement),
            Some(_) if below(self.confidence(), tau) => Err(Doubt::Unsure),
            Some(label) => Ok(label),
        }
    }
}

/// Labels held against the truth, where it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    pub right: usize,
    pub known: usize,
}

impl Right {
    pub fn add(&mut self, label: Side, truth: Option<Side>) {
        if let Some(truth) = truth {
            self.known += 1;
            self.right += usize::from(truth == label);
        }
    }

    /// Share of right ones; `None` where nothing is known.
    pub fn share(&self) -> Option<f64> {
        (self.known > 0).then(|| self.right as f64 / self.known as f64)
    }
}

/// Bins of a histogram over 0..=1.
pub const BINS: usize = 10;

/// Counts by tenths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram(pub [usize; BINS]);

impl Histogram {
    /// 1 counts with the last bin.
    pub fn add(&mut self, x: f64) {
        self.0[((x * BINS as f64 + 1e-9) as usize).min(BINS - 1)] += 1;
    }

    /// `0.6-0.7: 3, 0.9-1.0: 12`: the bins that hold something.
    pub fn describe(&self) -> String {
        let edge = |i: usize| i as f64 / BINS as f64;
        let full = self.0.iter().enumerate().filter(|(_, n)| **n > 0);
        full.map(|(i, n)| format!("{:.1}-{:.1}: {n}", edge(i), edge(i + 1))).collect::<Vec<_>>().join(", ")
    }
}

/// What became of a set of pairs on its way to training data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Pairs that came in.
    pub pairs: usize,
    /// Pairs with a label to prove: all labelled ones, or those whose votes were good enough.
    pub labelled: usize,
    /// Pairs with a sound proof: the training data.
    pub accepted: usize,
    /// Pairs without a label or a proof, by reason.
    pub reasons: BTreeMap<String, usize>,
    /// Proofs written, those that were sound, and the others by flaw.
    pub proofs: usize,
    pub sound: usize,
    pub flaws: BTreeMap<String, usize>,
    /// Of the votes: share of the majority, and mean probability of its label.
    pub agreement: Histogram,
    pub confidence: Histogram,
    /// Majorities, labels that were good enough, and labels of the training data, against the truth.
    pub voted: Right,
    pub kept: Right,
    pub learned: Right,
}

impl Stats {
    /// In one line, what kept the pairs from becoming data, and what to do about it; for a set that came to nothing.
    pub fn nothing(&self, what: &str) -> String {
        let list = |counts: &BTreeMap<String, usize>| {
            counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!("{what}: none of {} pairs became training data ({})", self.pairs, list(&self.reasons));
        if self.agreement.0.iter().any(|n| *n > 0) {
            text += &format!(
                "; agreement of the votes {}; confidence {}",
                self.agreement.describe(),
                self.confidence.describe()
            );
        }
        if self.proofs > 0 {
            text += &format!("; of {} proofs {} are sound (not: {})", self.proofs, self.sound, list(&self.flaws));
        }
        let advice = match self.labelled {
            0 => "lower reward.tau or reward.agreement, train the judge longer, or give it more labelled pairs",
            _ => {
                "train the prover longer or on more rationales, raise prover.proofs or prover.max_tokens, or loosen [rules]"
            }
        };
        text + ": " + advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ballot(a: usize, b: usize, invalid: usize, p_a: f64) -> Ballot {
        Ballot { a, b, invalid, p_a }
    }

    #[test]
    fn labels_need_a_majority_that_is_large_and_sure() {
        for (ballot, decided) in [
            (ballot(4, 1, 0, 0.8), Ok(Side::A)),
            (ballot(1, 4, 0, 0.1), Ok(Side::B)),
            (ballot(0, 0, 5, 0.5), Err(Doubt::Invalid)),
            (ballot(2, 2, 1, 0.9), Err(Doubt::Split)),
            (ballot(3, 0, 2, 1.0), Err(Doubt::Disagreement)),
            (ballot(5, 0, 0, 0.79), Err(Doubt::Unsure)),
            // The probability of the label, not of the likelier side.
            (ballot(4, 0, 0, 0.1), Err(Doubt::Unsure)),
        ] {
            assert_eq!(ballot.decide(0.8, 0.8), decided, "{ballot:?}");
        }
        assert!(ballot(1, 0, 9, 0.0).decide(0.0, 0.0).is_ok());
    }

    #[test]
    fn histograms_count_by_tenths() {
        let mut h = Histogram::default();
        for x in [0.0, 0.05, 0.1, 0.8, 0.7999999999999999, 1.0] {
            h.add(x);
        }
        assert_eq!(h.0, [2, 1, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(h.describe(), "0.0-0.1: 2, 0.1-0.2: 1, 0.8-0.9: 2, 0.9-1.0: 1");
    }

    #[test]
    fn a_set_that_came_to_nothing_says_where_it_failed() {
        let mut stats = Stats { pairs: 7, reasons: [("unsure".to_string(), 7)].into(), ..Stats::default() };
        stats.agreement.add(1.0);
        stats.confidence.add(0.55);
        let text = stats.nothing("round 2");
        for words in ["round 2", "none of 7", "7 unsure", "0.9-1.0: 1", "0.5-0.6: 1", "lower reward.tau"] {
            assert!(text.contains(words), "{text}");
        }
        let stats = Stats { labelled: 3, proofs: 12, flaws: [("leak".to_string(), 12)].into(), ..stats };
        assert!(stats.nothing("x").contains("12 leak") && stats.nothing("x").contains("[rules]"));
    }

    proptest! {
        /// Exchanging the responses exchanges the label and changes nothing else.
        #[test]
        fn ballots_have_no_side(a in 0usize..9, b in 0usize..9, invalid in 0usize..9, p in 0.0f64..1.0, tau in 0.0f64..1.0) {
            let (one, other) = (ballot(a, b, invalid, p), ballot(b, a, invalid, 1.0 - p));
            let decided = other.decide(0.5, tau);
            prop_assert_eq!(one.decide(0.5, tau), decided.map(Side::other));
            prop_assert!(one.agreement() <= 1.0 && (one.confidence() - other.confidence()).abs() < 1e-12);
        }
    }
}
