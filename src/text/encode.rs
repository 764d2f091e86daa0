//! Examples to token sequences, one way for each stage of training.
//!
//! | stage    | from            | prompt                         | what is learned                                        |
//! |----------|-----------------|--------------------------------|--------------------------------------------------------|
//! | pretrain | two responses   | the user's question            | both responses, in GRAM's blocks, and the end of turn  |
//! | finetune | a labelled pair | the judge prompt               | A or B at the last position                            |
//! | sft      | a completion    | the conversation so far        | the completion and the end of turn                     |
//! | prove    | a completion    | the proving prompt             | the proof and the end of turn                          |
//! | scalar   | a labelled pair | both conversations, whole      | that the chosen one's reward is the higher             |
//!
//! Labelled pairs with a rationale become completions first: see [`Lesson`](super::proving::Lesson).
//!
//! A prompt is always rendered as it is for generation, so that what is trained is what will be asked.

use crate::error::{Error, Result};
use crate::text::chat::{Chat, Completed, Ending, Rendered};
use crate::text::example::{Example, Reason, Side};
use crate::text::labels;
use crate::text::message::{Message, transcript};
use crate::text::template::{JudgeTemplate, pretraining_turns};

/// What is being trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Pretrain,
    Finetune,
    Sft,
    Scalar,
    Prove,
}

impl Stage {
    pub const ALL: [Stage; 5] = [Stage::Pretrain, Stage::Finetune, Stage::Sft, Stage::Scalar, Stage::Prove];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Pretrain => "pretrain",
            Stage::Finetune => "finetune",
            Stage::Sft => "sft",
            Stage::Scalar => "scalar",
            Stage::Prove => "prove",
        }
    }

    pub fn parse(name: &str) -> Result<Stage> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            Error::usage(format!(
                "there is no stage {name:?}; the stages are pretrain, finetune, sft, scalar and prove"
            ))
        })
    }

    /// What examples it learns from.
    pub fn wants(self) -> &'static str {
        match self {
            Stage::Pretrain => "pairs of responses",
            Stage::Finetune => "preference pairs or labelled judge prompts",
            Stage::Sft => "completions, or labelled pairs with a rationale",
            Stage::Scalar => "preference pairs",
            Stage::Prove => "labelled pairs with a rationale",
        }
    }
}

/// One unit of training: token ids, and what is to be learned from them.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// `ids[start..]` are predicted, each from what precedes it. `start` is at least 1.
    Tokens { ids: Vec<i32>, start: usize },
    /// The label is read at the last position.
    Verdict { ids: Vec<i32>, label: Side },
    /// The reward at the last position of `chosen` is to exceed that of `rejected` (by `margin`, 0 if unknown).
    Scalar { chosen: Vec<i32>, rejected: Vec<i32>, margin: f64 },
}

impl Item {
    /// The sequences of the item: one, or two for [`Item::Scalar`].
    pub fn sequences(&self) -> Vec<&[i32]> {
        match self {
            Item::Tokens { ids, .. } | Item::Verdict { ids, .. } => vec![ids],
            Item::Scalar { chosen, rejected, .. } => vec![chosen, rejected],
        }
    }

    /// Tokens in all sequences together.
    pub fn tokens(&self) -> usize {
        self.sequences().iter().map(|s| s.len()).sum()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences().iter().map(|s| s.len()).max().unwrap_or(0)
    }
}

/// An example, rendered: the item with its texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Draft {
    Tokens(Completed),
    Verdict(Rendered, Side),
    Scalar { chosen: Rendered, rejected: Rendered, margin: f64 },
}

impl From<Draft> for Item {
    fn from(draft: Draft) -> Item {
        match draft {
            Draft::Tokens(c) => Item::Tokens { start: c.start.max(1), ids: c.ids },
            Draft::Verdict(prompt, label) => Item::Verdict { ids: prompt.ids, label },
            Draft::Scalar { chosen, rejected, margin } => {
                Item::Scalar { chosen: chosen.ids, rejected: rejected.ids, margin }
            }
        }
    }
}

/// Makes items of examples.
#[derive(Clone)]
pub struct Encoder {
    pub chat: Chat,
    pub template: JudgeTemplate,
    pub stage: Stage,
}

impl Encoder {
    /// True if the stage shows the example's responses in an order that is to be drawn.
    pub fn has_order(&self, example: &Example) -> bool {
        match self.stage {
            Stage::Finetune => matches!(example, Example::Pair { .. }),
            Stage::Pretrain => matches!(example, Example::Pair { .. } | Example::Unlabelled { .. }),
            Stage::Sft | Stage::Scalar | Stage::Prove => false,
        }
    }

    /// Renders an example; `first` is the place of its first (of a pair: the chosen) response. The inner `Err` is why
    /// there is nothing to learn from it.
    pub fn draft(&self, example: &Example, first: Side) -> Result<std::result::Result<Draft, Reason>> {
        match (self.stage, example) {
            (Stage::Finetune, Example::Pair { prompt, chosen, rejected, .. }) => {
                let Some(prompt) = transcript(prompt) else { return Ok(Err(Reason::NotText)) };
                let (a, b) = in_order(chosen, rejected, first);
                let prompt = self.chat.render(&self.template.messages(&prompt, a, b), Ending::Open)?;
                Ok(Ok(Draft::Verdict(prompt, first)))
            }
            (Stage::Finetune, Example::Judged { prompt, label }) => {
                let prompt = self.chat.render(&[Message::user(prompt.as_str())], Ending::Open)?;
                Ok(Ok(Draft::Verdict(prompt, *label)))
            }
            (Stage::Pretrain, Example::Pair { prompt, chosen: x, rejected: y, .. })
            | (Stage::Pretrain, Example::Unlabelled { prompt, a: x, b: y }) => {
                let Some(prompt) = transcript(prompt) else { return Ok(Err(Reason::NotText)) };
                let (a, b) = in_order(x, y, first);
                let (user, assistant) = pretraining_turns(&prompt, a, b);
                Ok(Ok(Draft::Tokens(self.chat.complete(&[Message::user(user)], &assistant)?)))
            }
            (Stage::Pretrain | Stage::Sft | Stage::Prove, Example::Completion { prompt, completion }) => {
                Ok(Ok(Draft::Tokens(self.chat.complete(prompt, completion)?)))
            }
            (Stage::Sft, Example::Judged { prompt, label }) => {
                let label = labels::NAMES[*label as usize];
                Ok(Ok(Draft::Tokens(self.chat.complete(&[Message::user(prompt.as_str())], label)?)))
            }
            (Stage::Scalar, Example::Pair { prompt, chosen, rejected, margin }) => {
                let whole = |response: &str| {
                    let mut messages = prompt.clone();
                    messages.push(Message::assistant(response));
                    self.chat.render(&messages, Ending::Closed)
                };
                let (chosen, rejected) = (whole(chosen)?, whole(rejected)?);
                Ok(Ok(Draft::Scalar { chosen, rejected, margin: margin.unwrap_or(0.0) }))
            }
            _ => Ok(Err(Reason::WrongKind)),
        }
    }

    /// Like [`Encoder::draft`], ids alone.
    pub fn item(&self, example: &Example, first: Side) -> Result<std::result::Result<Item, Reason>> {
        Ok(self.draft(example, first)?.map(Item::from))
    }
}

fn in_order<'a>(first: &'a str, second: &'a str, place: Side) -> (&'a str, &'a str) {
    match place {
        Side::A => (first, second),
        Side::B => (second, first),
    }
}
