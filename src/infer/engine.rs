//! Continuous batching: runs the [scheduler](super::scheduler)'s steps on a device.
//!
//! Work of many callers is packed into passes as it comes; what sequences have in common is computed once and stays in memory for those
//! to come. All of it is of the prefill class: a continued sequence has the bits of a whole one, so an answer has the same bits as when
//! its work is done alone. [`service`](super::service) puts a thread and a queue before it.

use super::generator::Generation;
use super::scheduler::{Counts, JobId, Limits, Micros, Piece, Refusal, Scheduler, Terms, Waiter, Work};
use super::scorer::{Verdict, check_prompt, read_f32, write_inputs};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::cache::{Cache, CacheShape, PAGE};
use crate::model::config::HeadKind;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::model::lora;
use crate::model::paths::{PathShape, Paths};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Something to know about a sequence of token ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// The logits of two labels at the end of a prompt.
    Verdict { ids: Vec<i32>, labels: [i32; 2] },
    /// The scalar reward of a conversation.
    Reward { ids: Vec<i32> },
    /// Log-probabilities of the tokens from position `from` (1 or more) on, each after those before it.
    Logprobs { ids: Vec<i32>, from: usize },
}

impl Work for Task {
    fn ids(&self) -> &[i32] {
        match self {
            Task::Verdict { ids, .. } | Task::Reward { ids } | Task::Logprobs { ids, .. } => ids,
        }
    }
    fn skippable(&self) -> usize {
        match self {
            Task::Verdict { ids, .. } | Task::Reward { ids } => ids.len().saturating_sub(1),
            // The token before `from` says how likely the one at `from` is.
            Task::Logprobs { from, .. } => from.saturating_sub(1),
        }
    }
}

/// What a [`Task`] came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Verdict(Verdict),
    Reward(f32),
    Logprobs(Vec<f32>),
    /// What a [`service`](super::service) was asked to write.
    Generation(Generation),
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// As much waits as may wait: come back later.
    Full,
    /// The deadline passed first.
    Expired,
    /// The engine was stopped.
    Stopped,
    /// The work cannot be done.
    Refused(Error),
    /// The device failed.
    Broken(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Full => f.write_str("the queue is full; try again later"),
            Failure::Expired => f.write_str("the deadline passed before there was an answer"),
            Failure::Stopped => f.write_str("the engine was stopped"),
            Failure::Refused(e) | Failure::Broken(e) => e.fmt(f),
        }
    }
}

/// An answer, or why there is none.
pub type Outcome = std::result::Result<Answer, Failure>;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Longest sequence.
    pub context: usize,
    /// Tokens of a pass. Changes no result.
    pub pass: usize,
    /// Tokens whose keys and values stay in memory; at least a sequence and a pass. Changes no result.
    pub kept: usize,
    /// Most that may wait.
    pub waiting: usize,
    /// Microseconds of waiting that count as much as one more priority.
    pub patience: Micros,
}

/// Keys that a pass may attend to for each token of it, each piece's counted by itself.
const KEYS_A_TOKEN: usize = 64;

/// A model that answers what is asked of it, pass by pass.
pub struct Engine<'m> {
    dev: &'m Device,
    model: &'m Model,
    context: usize,
    acts: Acts,
    cache: Cache,
    paths: Paths,
    scheduler: Scheduler<Task>,
    /// Log-probabilities of work that takes several passes.
    begun: BTreeMap<JobId, Vec<f32>>,
}

/// A row of a pass that the head reads, for which piece.
struct Read {
    piece: usize,
    row: usize,
    target: i32,
}

impl<'m> Engine<'m> {
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &'m Device, model: &'m Model, shape: Shape) -> Result<Engine<'m>> {
        let context = shape.context.min(model.config.max_positions);
        let (tokens, pieces) = (shape.pass.max(1), shape.pass.div_ceil(8).max(1));
        let rows = shape.kept.max(context + tokens);
        let keys = context.max(KEYS_A_TOKEN * tokens);
        let (waiting, patience) = (shape.waiting, shape.patience);
        let limits = Limits { waiting, longest: context, tokens, pieces, keys, rows, patience };
        let ranks = lora::shared(&[model]);
        let capacity =
            Capacity { tokens, sequences: pieces, rows: tokens, positions: context, keep: Keep::Nothing, ranks };
        let cache = CacheShape { pages: rows.div_ceil(PAGE), sequences: 1, tokens: PAGE, prefill: 1 };
        Ok(Engine {
            dev,
            model,
            context,
            acts: Acts::new(dev, &model.config, model.dtype, capacity)?,
            cache: Cache::new(dev, &model.config, model.dtype, cache)?,
            paths: Paths::new(dev, PathShape { tokens, sequences: pieces, keys })?,
            scheduler: Scheduler::new(limits),
            begun: BTreeMap::new(),
        })
    }

    /// Longest sequence.
    pub fn context(&self) -> usize {
        self.context
    }
    /// Those without an answer.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }
    pub fn counts(&self) -> Counts {
        self.scheduler.counts()
    }
    /// Tokens for which memory is not in use by work.
    pub fn unused(&self) -> usize {
        self.scheduler.unused_rows()
    }

    /// Takes work into the queue; its outcome comes from a later [`Engine::step`].
    ///
    /// # Errors
    /// Work that this model cannot do, by name; a full queue.
    pub fn submit(&mut self, now: Micros, terms: Terms, task: Task) -> std::result::Result<Waiter, Failure> {
        let task = self.checked(task).map_err(Failure::Refused)?;
        self.scheduler.submit(now, terms, Arc::new(task)).map_err(|refusal| match refusal {
            Refusal::Full => Failure::Full,
            Refusal::Empty | Refusal::Long => Failure::Refused(Error::data("a sequence that does not fit")),
        })
    }

    /// Forgets who asked; nobody hears of it any more.
    pub fn cancel(&mut self, waiter: Waiter) {
        self.scheduler.cancel(waiter);
    }

    /// Forgets those whose deadline has passed.
    pub fn expire(&mut self, now: Micros) -> Vec<Waiter> {
        self.scheduler.expire(now)
    }

    /// Forgets everything: those who wait, who are returned, and what was kept in memory. After an error, and before the weights change.
    pub fn clear(&mut self) -> Vec<Waiter> {
        self.begun.clear();
        self.scheduler.clear()
    }

    /// Runs one pass; who has an outcome now.
    ///
    /// # Errors
    /// When the device fails. What the memory holds is then unknown: [`Engine::clear`].
    pub fn step(&mut self, now: Micros) -> Result<Vec<(Waiter, Outcome)>> {
        let step = self.scheduler.step(now);
        let mut outcomes: Vec<(Waiter, Outcome)> =
            step.expired.iter().map(|waiter| (*waiter, Err(Failure::Expired))).collect();
        if step.pieces.is_empty() {
            return Ok(outcomes);
        }
        let answers = self.compute(&step.pieces)?;
        for (waiters, answer) in self.scheduler.complete(&step).into_iter().zip(answers) {
            if let Some(answer) = answer {
                outcomes.extend(waiters.into_iter().map(|waiter| (waiter, Ok(answer.clone()))));
            }
        }
        let scheduler = &self.scheduler;
        self.begun.retain(|job, _| scheduler.lives(*job));
        Ok(outcomes)
    }

    /// The task, its sequence cut where a reward is read.
    fn checked(&self, task: Task) -> Result<Task> {
        check_prompt(self.model, self.context, task.ids())?;
        let config = &self.model.config;
        let needed = if matches!(task, Task::Reward { .. }) { HeadKind::Scalar } else { HeadKind::LanguageModel };
        if config.head != needed {
            return Err(Error::model(match needed {
                HeadKind::Scalar => "this model has no scalar head (its architecture is a language model)",
                HeadKind::LanguageModel => {
                    "this model has a scalar head and gives rewards, neither verdicts nor log-probabilities"
                }
            }));
        }
        match &task {
            Task::Verdict { labels, .. } => match labels.iter().find(|id| **id < 0 || **id as usize >= config.vocab) {
                None => Ok(task),
                Some(id) => {
                    Err(Error::data(format!("label {id} is outside the model's vocabulary of {}", config.vocab)))
                }
            },
            Task::Reward { ids } => Ok(Task::Reward { ids: ids[..config.scored(ids)].to_vec() }),
            Task::Logprobs { ids, from } if (1..ids.len()).contains(from) => Ok(task),
            Task::Logprobs { ids, from } => Err(Error::data(format!(
                "log-probabilities from position {from} of {} tokens: the first token has none, and at least one is needed",
                ids.len()
            ))),
        }
    }

    /// Runs the pass of these pieces. For each: the answer, where it ends its work.
    fn compute(&mut self, pieces: &[Piece<Task>]) -> Result<Vec<Option<Answer>>> {
        let (mut ids, mut positions, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        let (mut writes, mut key_starts, mut places) = (Vec::new(), vec![0], Vec::<i32>::new());
        for piece in pieces {
            ids.extend_from_slice(&piece.work.ids()[piece.tokens.clone()]);
            positions.extend(piece.tokens.clone().map(|p| p as i32));
            starts.push(ids.len() as i32);
            places.extend(piece.rows.iter().map(|row| *row as i32));
            writes.extend(piece.rows[piece.tokens.clone()].iter().map(|row| *row as i32));
            key_starts.push(places.len() as i32);
        }
        write_inputs(self.dev, &self.acts, [&ids, &positions, &starts, &[]]);
        let attended = self.paths.set(self.dev, &writes, &key_starts, &places);
        let extent = Extent { tokens: ids.len(), sequences: pieces.len() };
        let (dev, model, acts, cache) = (self.dev, self.model, &self.acts, &self.cache);
        dev.install(|| forward(dev, model, acts, extent, Attend::Continue(cache, attended)));
        self.read(pieces, &starts, extent)
    }

    /// What the heads find at the rows that answers need.
    fn read(&mut self, pieces: &[Piece<Task>], starts: &[i32], extent: Extent) -> Result<Vec<Option<Answer>>> {
        let (mut verdicts, mut rewards, mut tokens) = (BTreeMap::<[i32; 2], Vec<Read>>::new(), Vec::new(), Vec::new());
        for (i, piece) in pieces.iter().enumerate() {
            let row = |position: usize| starts[i] as usize + position - piece.tokens.start;
            let (end, len) = (piece.tokens.end, piece.work.ids().len());
            let last = || Read { piece: i, row: row(end - 1), target: 0 };
            match &*piece.work {
                Task::Verdict { labels, .. } if end == len => verdicts.entry(*labels).or_default().push(last()),
                Task::Reward { .. } if end == len => rewards.push(last()),
                Task::Verdict { .. } | Task::Reward { .. } => {}
                Task::Logprobs { ids, from } => {
                    let rows = piece.tokens.start.max(from - 1)..end.min(len - 1);
                    tokens.extend(rows.map(|p| Read { piece: i, row: row(p), target: ids[p + 1] }));
                }
            }
        }
        let (dev, mut answers) = (self.dev, vec![None; pieces.len()]);
        for (labels, reads) in &verdicts {
            let found = self.head(extent, reads, |head, acts, n| {
                head.verdict(*labels);
                head.vocab_lse();
                let z = read_f32(dev, acts.at(&acts.head.verdict).top(n))?;
                let lse = read_f32(dev, acts.at(&acts.head.lse).cols_in(0..n))?;
                Ok(z.chunks(2).zip(lse).map(|(z, lse)| Verdict { logits: [z[0], z[1]], lse }).collect())
            })?;
            found.into_iter().for_each(|(piece, verdict)| answers[piece] = Some(Answer::Verdict(verdict)));
        }
        let found = self.head(extent, &rewards, |head, acts, n| {
            head.score();
            read_f32(dev, acts.at(&acts.head.score).top(n))
        })?;
        found.into_iter().for_each(|(piece, reward)| answers[piece] = Some(Answer::Reward(reward)));
        let nlls = self.head(extent, &tokens, |head, acts, n| {
            head.vocab_loss();
            read_f32(dev, acts.at(&acts.head.nll).cols_in(0..n))
        })?;
        for (piece, nll) in nlls {
            self.begun.entry(pieces[piece].job).or_default().push(-nll);
        }
        for (piece, answer) in pieces.iter().zip(&mut answers) {
            if matches!(&*piece.work, Task::Logprobs { .. }) && piece.tokens.end == piece.work.ids().len() {
                *answer = self.begun.remove(&piece.job).map(Answer::Logprobs);
            }
        }
        Ok(answers)
    }

    /// Gathers rows and reads one thing of each; with each, its piece.
    fn head<R: Send>(
        &self,
        extent: Extent,
        reads: &[Read],
        read: impl Fn(&Head, &Acts, usize) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<(usize, R)>> {
        let (dev, model, acts) = (self.dev, self.model, &self.acts);
        let mut found = Vec::with_capacity(reads.len());
        if !reads.is_empty() {
            let n = reads.len();
            let list = |of: fn(&Read) -> i32| reads.iter().map(of).collect::<Vec<i32>>();
            dev.write(acts.at(&acts.inputs.rows).cols_in(0..n), &list(|r| r.row as i32));
            dev.write(acts.at(&acts.inputs.targets).cols_in(0..n), &list(|r| r.target));
            found = dev.install(|| read(&Head::gather(dev, model, acts, extent, n), acts, n))?;
        }
        Ok(reads.iter().map(|r| r.piece).zip(found).collect())
    }
}

#[cfg(test)]
pub(super) mod tests;
