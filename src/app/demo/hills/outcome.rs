//! What the first chapter found.

use super::Hills;
use super::world::Item;
use crate::train::log::Record as LogRecord;
use serde_json::{Value, json};
use std::path::PathBuf;

/// How a judge did on the held-out pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    pub pairs: usize,
    /// Right in the mean over both orders; a tie is wrong.
    pub right: usize,
    /// Same verdict in both orders.
    pub consistent: usize,
}

impl Score {
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.pairs.max(1) as f64
    }
    pub fn consistency(&self) -> f64 {
        self.consistent as f64 / self.pairs.max(1) as f64
    }
    /// Standard error of the accuracy.
    pub fn error(&self) -> f64 {
        let p = self.accuracy();
        (p * (1.0 - p) / self.pairs.max(1) as f64).sqrt()
    }
}

/// One trained judge.
pub struct Trained {
    pub score: Score,
    /// Loss at the end of fine-tuning.
    pub loss: f64,
    pub curve: Vec<LogRecord>,
    pub seconds: f64,
}

/// All of it.
pub struct Outcome {
    pub settings: Hills,
    pub parameters: usize,
    pub vocab: usize,
    pub pretraining: Vec<LogRecord>,
    pub pretraining_seconds: f64,
    /// Fine-tuned from the pre-trained weights, and from random ones.
    pub pretrained: Trained,
    pub scratch: Trained,
    pub ranked: Ranked,
    pub shown: Shown,
    pub seconds: f64,
    pub model: PathBuf,
}

/// What the world looks like: one pair of each kind.
pub struct Shown {
    pub unlabelled: Item,
    pub labelled: Item,
}

/// One list, ordered by the better judge.
pub struct Ranked {
    pub prompt: String,
    /// Best first, as the judge sees it.
    pub responses: Vec<Placed>,
}

/// A response in a ranked list.
#[derive(Debug)]
pub struct Placed {
    pub text: String,
    /// Height of its hill in metres.
    pub height: usize,
    /// Mean probability of beating the others.
    pub score: f64,
    /// Its place in the true order, 1 for the best.
    pub place: usize,
}

impl Outcome {
    /// The difference in accuracy that pre-training made, and its standard error. Both judges saw the same pairs, so the
    /// error of independent samples is too large rather than too small.
    pub fn gain(&self) -> (f64, f64) {
        let (a, b) = (self.pretrained.score, self.scratch.score);
        (a.accuracy() - b.accuracy(), (a.error().powi(2) + b.error().powi(2)).sqrt())
    }

    /// One sentence that claims no more than the numbers support.
    pub fn verdict(&self) -> String {
        let (gain, error) = self.gain();
        let points = format!("{:+.1} points (standard error {:.1})", 100.0 * gain, 100.0 * error);
        if gain > 2.0 * error {
            format!("Pre-training on unlabelled pairs helped: {points} with the same labels and the same fine-tuning.")
        } else if gain < -2.0 * error {
            format!("Pre-training on unlabelled pairs hurt in this run: {points}.")
        } else {
            format!("Pre-training on unlabelled pairs did not show an effect in this run: {points}.")
        }
    }

    /// The same numbers for programs.
    pub fn to_json(&self) -> Value {
        let judge = |t: &Trained| {
            json!({
                "accuracy": t.score.accuracy(),
                "standard_error": t.score.error(),
                "consistency": t.score.consistency(),
                "pairs": t.score.pairs,
                "final_loss": t.loss,
                "seconds": t.seconds,
            })
        };
        let s = &self.settings;
        let ranked: Vec<Value> = self
            .ranked
            .responses
            .iter()
            .map(|r| json!({"response": r.text, "score": r.score, "height": r.height, "true_place": r.place}))
            .collect();
        json!({
            "seed": s.seed,
            "verdict": self.verdict(),
            "parameters": self.parameters,
            "vocabulary": self.vocab,
            "unlabelled_pairs": s.unlabelled,
            "labelled_pairs": s.labelled,
            "held_out_pairs": s.held_out,
            "pretrain_seconds": self.pretraining_seconds,
            "pretrained": judge(&self.pretrained),
            "from_scratch": judge(&self.scratch),
            "gain": self.gain().0,
            "gain_standard_error": self.gain().1,
            "ranking": {"prompt": self.ranked.prompt, "order": ranked},
            "seconds": self.seconds,
            "model": self.model.display().to_string(),
        })
    }
}
