//! Continuous batching: runs the [scheduler](super::scheduler)'s steps on a device.
//!
//! Work of many callers is packed into passes as it comes; what sequences have in common is computed once and stays in memory for those
//! to come. All of it is of the prefill class: a continued sequence has the bits of a whole one, so an answer has the same bits as when
//! its work is done alone. [`service`](super::service) puts a thread and a queue before it.

mod task;

pub use task::{Answer, Asked, Task};

use super::generator::Prompt;
use super::scheduler::{JobId, Limits, Micros, Piece, Scheduler, Step, Work};
use super::scorer::{read_f32, read_labels, write_inputs};
use crate::device::Device;
use crate::error::Result;
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::cache::{Cache, CacheShape, PAGE};
use crate::model::config::Config;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::model::lora;
use crate::model::paths::{PathShape, Paths};
use crate::model::room::Needs;
use std::collections::{BTreeMap, BTreeSet};

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Longest sequence.
    pub context: usize,
    /// Tokens of a pass. Changes no result.
    pub pass: usize,
    /// Tokens whose keys and values stay in memory; at least a sequence and a pass. Changes no result.
    pub kept: usize,
    /// Microseconds of waiting that count as much as one more priority.
    pub patience: Micros,
}

/// Keys that a pass may attend to for each token of it, each piece's counted by itself.
const KEYS_A_TOKEN: usize = 64;

impl Shape {
    /// Longest sequence of a model.
    pub fn longest(&self, config: &Config) -> usize {
        self.context.min(config.max_positions)
    }

    /// What the scheduler of such an engine may put into a step.
    pub fn limits(&self, config: &Config, adapters: usize) -> Limits {
        let (longest, tokens, pieces) = (self.longest(config), self.pass.max(1), self.pass.div_ceil(8).max(1));
        let rows = self.kept.max(longest + tokens);
        let keys = longest.max(KEYS_A_TOKEN * tokens);
        Limits { longest, tokens, pieces, keys, rows, adapters, patience: self.patience }
    }
}

/// A model, or several adapters of one base, that compute a scheduler's steps.
pub struct Engine<'m> {
    dev: &'m Device,
    models: Vec<&'m Model>,
    acts: Acts,
    cache: Cache,
    paths: Paths,
    /// Log-probabilities of work that takes several passes.
    begun: BTreeMap<JobId, Vec<f32>>,
    /// Rows where prompts of the latest pass end, by piece.
    ends: BTreeMap<usize, usize>,
}

/// A row of a pass that the head reads, for which piece.
struct Read {
    piece: usize,
    row: usize,
    target: i32,
}

impl<'m> Engine<'m> {
    /// For a scheduler with these limits.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &'m Device, models: &[&'m Model], limits: Limits) -> Result<Engine<'m>> {
        let Limits { longest, tokens, pieces, keys, rows, .. } = limits;
        let (model, ranks) = (models[0], lora::shared(models));
        let capacity = |longest: usize| Capacity {
            tokens,
            sequences: pieces,
            rows: tokens,
            positions: longest,
            keep: Keep::Nothing,
            ranks,
        };
        let cache = |rows: usize| CacheShape { pages: rows.div_ceil(PAGE), sequences: 1, tokens: PAGE, prefill: 1 };
        let paths = |keys: usize| PathShape { tokens, sequences: pieces, keys };
        let (c, dtype) = (&model.config, model.dtype);
        let parts = &["activations", "lists of keys", "keys and values"];
        let bytes = |longest: usize, keys: usize, rows: usize| {
            // A sequence and a pass at least.
            let kept = Cache::bytes(c, dtype, cache(rows.max(longest + tokens)));
            vec![Acts::bytes(c, dtype, capacity(longest)), Paths::bytes(paths(keys)), kept]
        };
        let least = |longest: usize| bytes(longest, longest.max(KEYS_A_TOKEN * tokens), 0);
        Needs { parts, bytes: &least, size: longest, unit: "tokens a text (--context)" }.allocate(dev, || Ok(()))?;
        let with = |rows| bytes(longest, keys, rows);
        let (acts, cache, paths) = Needs { parts, bytes: &with, size: rows, unit: "tokens in memory (--cache-tokens)" }
            .allocate(dev, || {
                let cache = Cache::new(dev, c, dtype, cache(rows))?;
                Ok((Acts::new(dev, c, dtype, capacity(longest))?, cache, Paths::new(dev, paths(keys))?))
            })?;
        Ok(Engine { dev, models: models.to_vec(), acts, cache, paths, begun: BTreeMap::new(), ends: BTreeMap::new() })
    }

    /// Computes a step that has pieces. For each of them: the answer, where it ends its work.
    ///
    /// # Errors
    /// When the device fails. What the memory holds is then unknown: [`Engine::clear`] and [`Scheduler::clear`].
    pub fn run(&mut self, step: &Step<Asked>, queue: &Scheduler<Asked>) -> Result<Vec<Option<Answer>>> {
        let answers = self.compute(self.models[step.adapter], &step.pieces)?;
        // What was cancelled, before this pass too.
        self.begun.retain(|job, _| queue.lives(*job));
        Ok(answers)
    }

    /// Where the prompt of a piece of the latest pass has been read to, as long as no other pass runs. `None` unless the piece ended one.
    pub fn prompt<'a>(&'a self, step: &'a Step<Asked>, piece: usize) -> Option<Prompt<'a>> {
        let row = *self.ends.get(&piece)?;
        let tokens = step.pieces.iter().map(|piece| piece.tokens.len()).sum();
        let end = self.acts.at(&self.acts.out).top(tokens).rows_in(row..row + 1);
        Some(Prompt { cache: &self.cache, rows: &step.pieces[piece].rows, end })
    }

    /// Forgets what is half done.
    pub fn clear(&mut self) {
        self.begun.clear();
        self.ends.clear();
    }

    /// Runs the pass of these pieces. For each: the answer, where it ends its work.
    fn compute(&mut self, model: &Model, pieces: &[Piece<Asked>]) -> Result<Vec<Option<Answer>>> {
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
        let (dev, acts, cache) = (self.dev, &self.acts, &self.cache);
        dev.install(|| forward(dev, model, acts, extent, Attend::Continue(cache, attended)));
        self.read(model, pieces, &starts, extent)
    }

    /// What the heads find at the rows that answers need.
    fn read(
        &mut self,
        model: &Model,
        pieces: &[Piece<Asked>],
        starts: &[i32],
        extent: Extent,
    ) -> Result<Vec<Option<Answer>>> {
        let (mut rows, mut rewards, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let (mut distinct, mut answers) = (BTreeSet::new(), vec![None; pieces.len()]);
        self.ends.clear();
        for (i, piece) in pieces.iter().enumerate() {
            let row = |position: usize| starts[i] as usize + position - piece.tokens.start;
            let (end, len) = (piece.tokens.end, piece.work.ids().len());
            let last = || Read { piece: i, row: row(end - 1), target: 0 };
            match &piece.work.task {
                Task::Logprobs { ids, from } => {
                    let rows = piece.tokens.start.max(from - 1)..end.min(len - 1);
                    tokens.extend(rows.map(|p| Read { piece: i, row: row(p), target: ids[p + 1] }));
                }
                _ if end < len => {}
                Task::Labels { labels, .. } => {
                    distinct.extend(labels);
                    rows.push(last());
                }
                Task::Reward { .. } => rewards.push(last()),
                Task::Prompt { .. } => {
                    self.ends.insert(i, row(end - 1));
                    answers[i] = Some(Answer::Prompt);
                }
            }
        }
        let dev = self.dev;
        let distinct: Vec<i32> = distinct.into_iter().collect();
        for (i, read) in
            self.head(model, extent, &rows, |head, acts, n| read_labels(dev, head, acts, n, &distinct)?())?
        {
            if let Task::Labels { labels, .. } = &pieces[i].work.task {
                answers[i] = Some(Answer::Labels(read.only(&distinct, labels)));
            }
        }
        let found = self.head(model, extent, &rewards, |head, acts, n| {
            head.score();
            read_f32(dev, acts.at(&acts.head.score).top(n))
        })?;
        found.into_iter().for_each(|(piece, reward)| answers[piece] = Some(Answer::Reward(reward)));
        let nlls = self.head(model, extent, &tokens, |head, acts, n| {
            head.vocab_loss();
            read_f32(dev, acts.at(&acts.head.nll).cols_in(0..n))
        })?;
        for (piece, nll) in nlls {
            self.begun.entry(pieces[piece].job).or_default().push(-nll);
        }
        for (piece, answer) in pieces.iter().zip(&mut answers) {
            if matches!(piece.work.task, Task::Logprobs { .. }) && piece.tokens.end == piece.work.ids().len() {
                *answer = self.begun.remove(&piece.job).map(Answer::Logprobs);
            }
        }
        Ok(answers)
    }

    /// Gathers rows and reads one thing of each; with each, its piece.
    fn head<R: Send>(
        &self,
        model: &Model,
        extent: Extent,
        reads: &[Read],
        read: impl Fn(&Head, &Acts, usize) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<(usize, R)>> {
        let (dev, acts) = (self.dev, &self.acts);
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
