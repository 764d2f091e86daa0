//! What a row of a dataset means, whatever format it came in; and why rows are left out.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::text::message::Message;
use crate::text::source::Place;

/// One of two responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Why a response is the better one, in words.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// A rationale, to the letter.
    Text(String),
    /// The sections of one, by name.
    Sections(Vec<(&'static str, String)>),
}

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Two responses, of which one is known to be better; `margin` is by how much, in the dataset's own unit.
    Pair { prompt: Vec<Message>, chosen: String, rejected: String, margin: Option<f64> },
    /// Two responses in the order given.
    Unlabelled { prompt: Vec<Message>, a: String, b: String },
    /// A prompt and what is to be written.
    Completion { prompt: Vec<Message>, completion: String },
    /// A filled judge prompt, to the letter, and its label.
    Judged { prompt: String, label: Side },
    /// Two responses in the order given, the better one, and perhaps why it is.
    Labelled { prompt: Vec<Message>, a: String, b: String, label: Side, why: Option<Why> },
    /// Any number of responses, to be ranked.
    Group { prompt: Vec<Message>, responses: Vec<String> },
}

impl Example {
    /// What kind of example it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Example::Pair { .. } => "preference pairs",
            Example::Unlabelled { .. } => "unlabelled pairs",
            Example::Completion { .. } => "completions",
            Example::Judged { .. } => "labelled judge prompts",
            Example::Labelled { .. } => "labelled pairs",
            Example::Group { .. } => "groups of responses",
        }
    }
}

/// An example, its row's `id` (or null), and where that row stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: Value,
    pub place: Place,
    pub example: Example,
}

/// Why an example was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Neither response is better.
    Tie,
    /// Both responses are the same text.
    Same,
    EmptyPrompt,
    EmptyResponse,
    /// Images, tool calls and other content that is not text.
    NotText,
    /// A response that goes on over several turns.
    SeveralTurns,
    /// A rated completion without a counterpart for the same prompt.
    Unpaired,
    /// More tokens than allowed. Nothing is ever cut.
    TooLong,
    /// An example that the stage of training has no use for.
    WrongKind,
    /// A label without a word about it.
    NoRationale,
    /// A rationale that breaks its form or speaks for the other response.
    BadRationale,
    /// A row that does not parse or lacks a field (only counted where bad rows are skipped).
    Malformed,
}

impl Reason {
    /// The reason, as it stands after a number.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Tie => "ties",
            Reason::Same => "identical responses",
            Reason::EmptyPrompt => "empty prompts",
            Reason::EmptyResponse => "empty responses",
            Reason::NotText => "not text",
            Reason::SeveralTurns => "responses of several turns",
            Reason::Unpaired => "without a counterpart",
            Reason::TooLong => "too long",
            Reason::WrongKind => "of a kind this stage has no use for",
            Reason::NoRationale => "without a rationale",
            Reason::BadRationale => "with a rationale that breaks its form",
            Reason::Malformed => "malformed rows",
        }
    }
}

/// How many examples were left out, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    counts: BTreeMap<Reason, u64>,
}

impl Drops {
    pub fn add(&mut self, reason: Reason) {
        self.add_many(reason, 1);
    }

    pub fn add_many(&mut self, reason: Reason, n: u64) {
        if n > 0 {
            *self.counts.entry(reason).or_default() += n;
        }
    }

    pub fn merge(&mut self, other: &Drops) {
        for (reason, n) in other.iter() {
            self.add_many(reason, n);
        }
    }

    pub fn of(&self, reason: Reason) -> u64 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.counts.iter().map(|(&reason, &n)| (reason, n))
    }
}

impl fmt::Display for Drops {
    /// `12 ties, 3 too long`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("none");
        }
        let parts: Vec<String> = self.iter().map(|(reason, n)| format!("{n} {}", reason.text())).collect();
        f.write_str(&parts.join(", "))
    }
}
