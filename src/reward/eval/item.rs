//! One row of a suite, in the shape that all suites share.

use crate::text::message::Message;
use crate::text::source::Place;
use serde_json::Value;

/// A prompt with responses of which something is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The row's own id, or its number.
    pub id: Value,
    pub place: Place,
    /// What the suite counts it under.
    pub subset: String,
    pub prompt: Vec<Message>,
    pub responses: Vec<String>,
    /// By response, how good it is known to be; only the order counts.
    pub truth: Vec<f64>,
    /// The comparisons that the suite's rule needs, as indices of responses.
    pub pairs: Vec<(usize, usize)>,
    pub kind: Kind,
}

/// What a row asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which of two responses is better.
    Pair,
    /// RM-Bench: three right and three wrong responses, each concise, detailed, and detailed in Markdown.
    Styles,
    /// RewardBench 2: the first of four is right.
    BestOfFour,
    /// RewardBench 2, subset Ties: the right ones, of which there may be many, come first.
    Ties {
        /// The prompt's number; its variant with one right response and the one with many share it.
        prompt: i64,
        /// This is the variant with one right response.
        reference: bool,
    },
    /// RMB: the first is better than each of the others.
    BestOfMany,
    /// PPE's correctness sets: samples of which some are right.
    Samples,
}

impl Item {
    /// Which of two responses is better: `Some(true)` if it is the first, `None` if nothing is known.
    pub fn first_is_better(&self, (first, second): (usize, usize)) -> Option<bool> {
        let (a, b) = (self.truth[first], self.truth[second]);
        (a != b).then_some(a > b)
    }

    /// The id as one text, by which recorded answers are found.
    pub fn key(&self) -> String {
        key(&self.id)
    }
}

/// An id as a text: `7` and `"7"` are the same.
pub fn key(id: &Value) -> String {
    match id {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
