//! The row formats that preference data comes in, how one is recognised, and what its rows mean.
//!
//! A format is recognised by the columns of a file's first row (GRAM's own two, which share LLaMA-Factory's columns, by
//! their markers), in the fixed order of [`Format::ALL`], so the same file always reads the same way.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::example::{Example, Reason, Side};
use crate::text::message::Message;
use crate::text::rows::{is_ranked_output, prompt_column, response_columns, side, texts};

/// How the rows of a file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `conv_A`, `conv_B`, `conv_A_rating`, `conv_B_rating`.
    UnifiedFeedback,
    /// `context`, `response1`, `response2`, `overall_preference` in -3..3, negative where the first is better.
    HelpSteer3,
    /// `prompt`, `response_a`, `response_b` (or `_1`, `_2`; `_A`, `_B`) and perhaps `label`: A, B, A>B, B>A, tie.
    Responses,
    /// `prompt`, `responses`: a list of texts.
    Group,
    /// `conversations`, `chosen`, `rejected`: messages `{"from", "value"}` (LLaMA-Factory).
    ShareGptPreference,
    /// `instruction`, `input`, `chosen`, `rejected` (LLaMA-Factory).
    AlpacaPreference,
    /// `prompt`, `chosen`, `rejected` with lists of texts on both sides: every chosen one beats every rejected one.
    Lists,
    /// `chosen`, `rejected` as message lists with `score_chosen`, `score_rejected`.
    UltraFeedback,
    /// `chosen`, `rejected`, `prompt` or none (their common beginning), `margin` or none (TRL, OpenRLHF, Skywork).
    Preference,
    /// `prompt`, `completion`, `label`: a truth value (TRL).
    Unpaired,
    /// `prompt`, `completion`.
    PromptCompletion,
    /// `instruction`, `output`: GRAM's pre-training rows, told by their markers.
    GramPretraining,
    /// `instruction`, `output`: GRAM's fine-tuning rows, a judge prompt and A or B.
    GramVerdict,
    /// `instruction`, `input`, `output` (LLaMA-Factory).
    Alpaca,
    /// `conversations` of `{"from", "value"}` that end with the assistant.
    ShareGpt,
    /// `messages` of `{"role", "content"}` that end with the assistant.
    Messages,
}

/// What one row comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Keep(Example),
    Drop(Reason),
    /// Two responses of which one is better, in the row's own order.
    Compared {
        prompt: Vec<Message>,
        a: String,
        b: String,
        better: Side,
    },
    /// Two responses of which neither is better.
    Tied {
        prompt: Vec<Message>,
        a: String,
        b: String,
    },
    /// A completion judged by itself; it becomes half of a pair.
    Rated {
        prompt: Vec<Message>,
        completion: String,
        good: bool,
    },
}

type Object = Map<String, Value>;

impl Format {
    /// All formats, in the order in which they are tried.
    pub const ALL: [Format; 16] = [
        Format::UnifiedFeedback,
        Format::HelpSteer3,
        Format::Responses,
        Format::Group,
        Format::ShareGptPreference,
        Format::AlpacaPreference,
        Format::Lists,
        Format::UltraFeedback,
        Format::Preference,
        Format::Unpaired,
        Format::PromptCompletion,
        Format::GramPretraining,
        Format::GramVerdict,
        Format::Alpaca,
        Format::ShareGpt,
        Format::Messages,
    ];

    /// The name by which a format can be asked for.
    pub fn name(self) -> &'static str {
        match self {
            Format::UnifiedFeedback => "unified-feedback",
            Format::HelpSteer3 => "helpsteer3",
            Format::Responses => "responses",
            Format::Group => "group",
            Format::ShareGptPreference => "sharegpt-preference",
            Format::AlpacaPreference => "alpaca-preference",
            Format::Lists => "lists",
            Format::UltraFeedback => "ultrafeedback",
            Format::Preference => "preference",
            Format::Unpaired => "unpaired",
            Format::PromptCompletion => "prompt-completion",
            Format::GramPretraining => "gram-pretraining",
            Format::GramVerdict => "gram-verdict",
            Format::Alpaca => "alpaca",
            Format::ShareGpt => "sharegpt",
            Format::Messages => "messages",
        }
    }

    /// The format of that name.
    pub fn parse(name: &str) -> Result<Format> {
        Self::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::usage(format!("there is no dataset format {name:?}; the formats are {}", names.join(", ")))
        })
    }

    /// The format of a file that begins with this row.
    pub fn detect(row: &Object) -> Result<Format> {
        Self::ALL.into_iter().find(|f| f.fits(row)).ok_or_else(|| {
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            Error::data(format!(
                "the columns [{}] fit no known dataset format; name the format, or say which columns are which, \
                 for example prompt=COLUMN chosen=COLUMN rejected=COLUMN",
                columns.join(", ")
            ))
        })
    }

    fn fits(self, row: &Object) -> bool {
        let has = |names: &[&str]| names.iter().all(|n| row.contains_key(*n));
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or("");
        match self {
            Format::UnifiedFeedback => has(&["conv_A", "conv_B"]),
            Format::HelpSteer3 => has(&["context", "response1", "response2"]),
            Format::Responses => response_columns(row).is_some() && prompt_column(row).is_some(),
            Format::Group => has(&["prompt", "responses"]),
            Format::ShareGptPreference => has(&["conversations", "chosen", "rejected"]),
            Format::AlpacaPreference => has(&["instruction", "chosen", "rejected"]) || is_ranked_output(row),
            Format::Lists => {
                has(&["prompt"]) && texts(row.get("chosen")).is_some() && texts(row.get("rejected")).is_some()
            }
            Format::UltraFeedback => has(&["chosen", "rejected", "score_chosen", "score_rejected"]),
            Format::Preference => has(&["chosen", "rejected"]),
            Format::Unpaired => has(&["prompt", "completion", "label"]),
            Format::PromptCompletion => has(&["prompt", "completion"]),
            Format::GramPretraining => {
                text("instruction").starts_with("[User Question]\n")
                    && text("output").starts_with("[The Start of Assistant A's Answer]\n")
            }
            Format::GramVerdict => {
                text("instruction").contains("[The Start of Assistant A's ") && side(text("output")).is_some()
            }
            Format::Alpaca => has(&["instruction", "output"]),
            Format::ShareGpt => has(&["conversations"]),
            Format::Messages => has(&["messages"]),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
