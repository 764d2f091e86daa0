//! What an engine may be asked about a sequence, and what it answers. Pure.

#[cfg(doc)]
use super::Engine;
use crate::error::{Error, Result};
use crate::infer::scheduler::Work;
use crate::infer::scorer::{LabelLogits, check_prompt};
use crate::model::config::{Config, HeadKind};

/// Something to know about a sequence of token ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// The logits of labels at the end of a prompt.
    Labels { ids: Vec<i32>, labels: Vec<i32> },
    /// The scalar reward of a conversation.
    Reward { ids: Vec<i32> },
    /// Log-probabilities of the tokens from position `from` (1 or more) on, each after those before it.
    Logprobs { ids: Vec<i32>, from: usize },
    /// Nothing but its keys and values, and where its last token leads: for somebody who goes on writing. See [`Engine::prompt`].
    Prompt { ids: Vec<i32> },
}

impl Task {
    pub fn ids(&self) -> &[i32] {
        match self {
            Task::Labels { ids, .. } | Task::Reward { ids } | Task::Logprobs { ids, .. } | Task::Prompt { ids } => ids,
        }
    }

    /// The task, its sequence cut where a reward is read.
    ///
    /// # Errors
    /// As [`Task::check`].
    pub fn checked(self, config: &Config, context: usize) -> Result<Task> {
        self.check(config, context)?;
        Ok(match self {
            Task::Reward { ids } => Task::Reward { ids: ids[..config.scored(&ids)].to_vec() },
            other => other,
        })
    }

    /// Whether a model of this kind can do it.
    ///
    /// # Errors
    /// What it cannot do, by name.
    pub fn check(&self, config: &Config, context: usize) -> Result<()> {
        check_prompt(config, context, self.ids())?;
        let needed = if matches!(self, Task::Reward { .. }) { HeadKind::Scalar } else { HeadKind::LanguageModel };
        if config.head != needed {
            return Err(Error::model(match needed {
                HeadKind::Scalar => "this model is a language model without a reward head",
                HeadKind::LanguageModel => {
                    "this model has a scalar head and gives rewards; it cannot write text, and has neither labels nor log-probabilities"
                }
            }));
        }
        match self {
            Task::Labels { labels, .. } if labels.is_empty() => Err(Error::data("there are no labels to read")),
            Task::Labels { labels, .. } => match labels.iter().find(|id| **id < 0 || **id as usize >= config.vocab) {
                None => Ok(()),
                Some(id) => {
                    Err(Error::data(format!("label {id} is outside the model's vocabulary of {}", config.vocab)))
                }
            },
            Task::Logprobs { ids, from } if !(1..ids.len()).contains(from) => Err(Error::data(format!(
                "log-probabilities from position {from} of {} tokens; they start at 1 and end with the sequence",
                ids.len()
            ))),
            Task::Reward { .. } | Task::Logprobs { .. } | Task::Prompt { .. } => Ok(()),
        }
    }
}

/// A task for one of an engine's models.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Which of the models; the first is 0.
    pub adapter: usize,
    pub task: Task,
}

impl From<Task> for Asked {
    fn from(task: Task) -> Asked {
        Asked { adapter: 0, task }
    }
}

impl Work for Asked {
    fn ids(&self) -> &[i32] {
        self.task.ids()
    }
    fn skippable(&self) -> usize {
        match &self.task {
            Task::Labels { ids, .. } | Task::Reward { ids } | Task::Prompt { ids } => ids.len().saturating_sub(1),
            // The token before `from` says how likely the one at `from` is.
            Task::Logprobs { from, .. } => from.saturating_sub(1),
        }
    }
    fn adapter(&self) -> usize {
        self.adapter
    }
}

/// What a [`Task`] came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Labels(LabelLogits),
    Reward(f32),
    Logprobs(Vec<f32>),
    /// The prompt has been read.
    Prompt,
}
