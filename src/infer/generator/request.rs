//! What is asked of a generator and what comes back.

use crate::error::{Error, Result};
use crate::infer::scorer::Verdict;

/// How to choose tokens. Temperature 0 is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub temperature: f32,
    /// Keep the k likeliest; 0 for all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 for all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 for all.
    pub min_p: f32,
    pub max_tokens: usize,
    pub seed: u64,
}

impl Default for Settings {
    /// Greedy, 256 tokens.
    fn default() -> Settings {
        Settings { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens: 256, seed: 0 }
    }
}

impl Settings {
    /// # Errors
    /// The first setting outside its range, by name.
    pub fn check(&self) -> Result<()> {
        let fault =
            |name: &str, value: f32, range: &str| Err(Error::usage(format!("{name} is {value}; it must be {range}")));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fault("temperature", self.temperature, "0 (greedy) or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return fault("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return fault("min_p", self.min_p, "between 0 and 1");
        }
        if self.max_tokens == 0 {
            return fault("max_tokens", 0.0, "at least 1");
        }
        Ok(())
    }
}

/// A prompt to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub prompt: Vec<i32>,
    pub settings: Settings,
}

/// What is wanted of a sequence besides its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The logits of these two tokens, and the log-sum-exp, wherever a token is drawn.
    pub labels: Option<[i32; 2]>,
    /// The logits of the whole vocabulary, for whoever sees a token as it is written.
    pub logits: bool,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It wrote an end-of-sequence token, which is not part of the tokens.
    Stop,
    /// It reached its `max_tokens` or the model's context.
    Length,
}

impl Finish {
    /// The name that OpenAI-shaped answers use.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// What a request became.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub tokens: Vec<i32>,
    /// Log-probability of each token under the model itself (temperature 1, nothing filtered).
    pub logprobs: Vec<f32>,
    /// What the watched labels' logits were where each token was drawn; empty where none are watched.
    pub verdicts: Vec<Verdict>,
    pub finish: Finish,
}

/// Sizes of a generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences that decode together.
    pub sequences: usize,
    /// Longest sequence, prompt and answer.
    pub context: usize,
}

/// What a generator has done so far, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the prompts of all requests.
    pub asked: usize,
    /// Of the prompts that were read: those that requests share count once.
    pub computed: usize,
    /// Drawn, ends of sequences included.
    pub generated: usize,
}
