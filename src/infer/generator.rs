//! Batched generation with a paged key-value cache.
//!
//! Sequences join the batch as pages and places come free and leave it when they finish, so short answers do not wait
//! for long ones. A sequence's tokens depend on its own prompt, settings and seed alone: the ops' rows are independent,
//! and its random bits are keyed by its seed and its own token count.

use super::scorer::{read_f32, write_prompts};
use crate::device::{Device, Replays, View};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::cache::{Cache, CacheShape, PAGE, PageList};
use crate::model::config::HeadKind;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::ops::sample::{Sampling, sample};
use std::collections::VecDeque;
use std::iter::Enumerate;
use std::slice::Iter;

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
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<i32>,
    pub settings: Settings,
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
    pub finish: Finish,
}

/// What happens to a sequence after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    GoOn,
    /// Nobody wants it any more: its place and its pages are free at once.
    Drop,
}

/// A token that was just written.
pub struct Written<'a> {
    /// What the sequence holds so far.
    pub made: &'a Generation,
    /// Nothing follows. Where the sequence ended with an end-of-sequence token, `made` did not grow.
    pub ended: bool,
    dev: &'a Device,
    logits: View<'a>,
}

impl Written<'_> {
    /// The logits of the whole vocabulary that the token was drawn from, f32.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn logits(&self) -> Result<Vec<f32>> {
        read_f32(self.dev, self.logits)
    }
}

/// Who asks for sequences and watches them being written.
pub trait Feed {
    /// Requests to start, at most `room`, each with a number to know it by; asked between steps. The run ends when it
    /// has nothing to write and none come.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn more(&mut self, room: usize) -> Result<Vec<(u64, Request)>>;

    /// A sequence got a token.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn wrote(&mut self, number: u64, written: &Written) -> Result<Flow>;
}

/// Sizes of a generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences that decode together.
    pub sequences: usize,
    /// Longest sequence, prompt and answer.
    pub context: usize,
}

/// A model ready to write, with its cache.
pub struct Generator<'m> {
    dev: &'m Device,
    model: &'m Model,
    shape: Shape,
    stop: Vec<i32>,
    acts: Acts,
    cache: Cache,
    pages: PageList,
    /// Decode steps by the number of rows.
    replays: Replays,
}

/// A sequence in the batch.
struct Active {
    number: u64,
    request: Request,
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    cached: usize,
    /// Most tokens it may write.
    budget: usize,
    made: Generation,
}

impl<'m> Generator<'m> {
    /// Allocates for a shape. `stop` are the ids that end a sequence.
    ///
    /// # Errors
    /// A scalar model; memory that is not there.
    pub fn new(dev: &'m Device, model: &'m Model, shape: Shape, stop: &[i32]) -> Result<Generator<'m>> {
        if model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and cannot write text"));
        }
        let context = shape.context.min(model.config.max_positions);
        let shape = Shape { context, sequences: shape.sequences.clamp(1, crate::model::acts::LOGIT_ROWS) };
        let pages = shape.sequences * context.div_ceil(PAGE);
        let capacity = Capacity {
            tokens: context.max(shape.sequences),
            sequences: shape.sequences,
            rows: shape.sequences,
            positions: context,
            keep: Keep::Nothing,
        };
        let cache_shape = CacheShape { pages, sequences: shape.sequences, tokens: context, prefill: capacity.tokens };
        Ok(Generator {
            dev,
            model,
            shape,
            stop: stop.to_vec(),
            acts: Acts::new(dev, &model.config, model.dtype, capacity)?,
            cache: Cache::new(dev, &model.config, model.dtype, cache_shape)?,
            pages: PageList::new(pages),
            replays: Replays::default(),
        })
    }

    /// Longest sequence, prompt and answer.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// Continues every prompt; results come in the requests' order. `done` is called as each one finishes.
    ///
    /// # Errors
    /// A prompt that is empty, leaves no room for an answer, or holds an id outside the vocabulary; bad settings.
    pub fn generate(&mut self, requests: &[Request], done: impl FnMut(usize, &Generation)) -> Result<Vec<Generation>> {
        for (i, request) in requests.iter().enumerate() {
            self.check(request).map_err(|e| e.at(format!("prompt {i}")))?;
        }
        let mut list = List { left: requests.iter().enumerate(), done, results: vec![None; requests.len()] };
        self.run(&mut list)?;
        Ok(list.results.into_iter().map(|r| r.expect("every request finishes")).collect())
    }

    /// Writes what `feed` asks for until it asks for nothing more.
    ///
    /// # Errors
    /// As [`Generator::generate`]; whatever `feed` returns. What was being written is then lost.
    pub fn run(&mut self, feed: &mut impl Feed) -> Result<()> {
        let mut active = Vec::new();
        let ran = self.steps(feed, &mut active);
        active.drain(..).for_each(|a: Active| self.pages.give_back(a.pages));
        ran
    }

    fn steps(&mut self, feed: &mut impl Feed, active: &mut Vec<Active>) -> Result<()> {
        let mut waiting: VecDeque<(u64, Request)> = VecDeque::new();
        loop {
            let room = self.shape.sequences.saturating_sub(active.len() + waiting.len());
            for (number, request) in feed.more(room)? {
                self.check(&request)?;
                waiting.push_back((number, request));
            }
            if waiting.is_empty() && active.is_empty() {
                return Ok(());
            }
            let joined = self.admit(&mut waiting, active.len());
            let first = if joined.is_empty() { 0 } else { active.len() };
            let stepped = if joined.is_empty() {
                self.decode(active)?
            } else {
                let sampled = self.prefill(&joined)?;
                active.extend(joined);
                sampled
            };
            for (row, (token, logprob)) in stepped.into_iter().enumerate().rev() {
                let a = &mut active[first + row];
                let ended = self.take(a, token, logprob);
                let logits = self.acts.at(&self.acts.head.logits).rows_in(row..row + 1);
                let flow = feed.wrote(a.number, &Written { made: &a.made, ended, dev: self.dev, logits })?;
                if ended || flow == Flow::Drop {
                    let ended = active.remove(first + row);
                    self.pages.give_back(ended.pages);
                }
            }
        }
    }

    /// Requests that can start now: a place in the batch, pages for their longest answer, room in one pass.
    fn admit(&mut self, waiting: &mut VecDeque<(u64, Request)>, running: usize) -> Vec<Active> {
        let mut joined: Vec<Active> = Vec::new();
        let mut tokens = 0;
        while let Some((_, Request { prompt, settings })) = waiting.front() {
            let budget = settings.max_tokens.min(self.shape.context - prompt.len());
            tokens += prompt.len();
            if running + joined.len() == self.shape.sequences || tokens > self.acts.capacity.tokens {
                break;
            }
            let Some(pages) = self.pages.take(prompt.len() + budget) else { break };
            let made = Generation { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
            let (number, request) = waiting.pop_front().expect("it was just looked at");
            joined.push(Active { number, pages, cached: request.prompt.len(), budget, made, request });
        }
        joined
    }

    fn prefill(&mut self, joined: &[Active]) -> Result<Vec<(i32, f32)>> {
        let prompts = joined.iter().map(|a| a.request.prompt.as_slice());
        let extent = write_prompts(self.dev, &self.acts, prompts);
        let places: Vec<(&[u32], usize)> = joined.iter().map(|a| (a.pages.as_slice(), a.cached)).collect();
        self.cache.set_prefill(self.dev, &places);
        let settings = joined.iter().map(|a| self.sampling(a)).collect::<Vec<_>>();
        let (dev, model, acts, cache) = (self.dev, self.model, &self.acts, &self.cache);
        dev.install(|| {
            forward(dev, model, acts, extent, Attend::Prefill(cache));
            Head::gather(dev, model, acts, extent, joined.len()).logits();
        });
        self.choose(&settings)
    }

    fn decode(&mut self, active: &[Active]) -> Result<Vec<(i32, f32)>> {
        let n = active.len();
        // Rows beyond the active ones compute something that nobody reads, and write nothing to the cache.
        let rows = self.dev.bucket(n, self.shape.sequences);
        let mut last: Vec<i32> = active.iter().map(|a| *a.made.tokens.last().expect("prefill wrote one")).collect();
        // The newest token is not in the cache yet: it goes to position `cached`.
        let mut positions: Vec<i32> = active.iter().map(|a| a.cached as i32).collect();
        last.resize(rows, 0);
        positions.resize(rows, 0);
        let all: Vec<i32> = (0..rows as i32).collect();
        let inputs = &self.acts.inputs;
        for (slot, data) in [(&inputs.ids, &last), (&inputs.positions, &positions), (&inputs.rows, &all)] {
            self.dev.write(self.acts.at(slot).cols_in(0..rows), data);
        }
        let places: Vec<(&[u32], usize)> = active.iter().map(|a| (a.pages.as_slice(), a.cached + 1)).collect();
        self.cache.set_decode(self.dev, &places, rows);
        let settings = active.iter().map(|a| self.sampling(a)).collect::<Vec<_>>();
        let (dev, model, acts, cache) = (self.dev, self.model, &self.acts, &self.cache);
        dev.replay(&mut self.replays, rows, || {
            let extent = Extent { tokens: rows, sequences: rows };
            forward(dev, model, acts, extent, Attend::Decode(cache));
            Head::gather(dev, model, acts, extent, rows).logits();
        })?;
        self.choose(&settings)
    }

    /// Draws the next token of the first rows of logits.
    fn choose(&self, settings: &[Sampling]) -> Result<Vec<(i32, f32)>> {
        let (dev, acts, n) = (self.dev, &self.acts, settings.len());
        let ids = acts.at(&acts.inputs.targets).cols_in(0..n);
        let logprobs = acts.at(&acts.head.nll).cols_in(0..n);
        let table = acts.at(&acts.inputs.sampling).top(n);
        dev.write(table, &settings.iter().flat_map(Sampling::row).collect::<Vec<_>>());
        dev.install(|| sample(dev, ids, logprobs, acts.at(&acts.head.logits).top(n), table));
        let logprobs = read_f32(dev, logprobs)?;
        Ok(dev.read::<i32>(ids)?.into_iter().zip(logprobs).collect())
    }

    fn sampling(&self, a: &Active) -> Sampling {
        let Settings { temperature, top_k, top_p, min_p, seed, .. } = a.request.settings;
        Sampling { temperature, top_k, top_p, min_p, seed, step: a.made.tokens.len() as u64 }
    }

    /// Adds a sampled token; whether the sequence is finished.
    fn take(&self, a: &mut Active, token: i32, logprob: f32) -> bool {
        if self.stop.contains(&token) {
            a.made.finish = Finish::Stop;
            return true;
        }
        // All but the first sampled token came from a decode step, which cached the token before it.
        if !a.made.tokens.is_empty() {
            a.cached += 1;
        }
        a.made.tokens.push(token);
        a.made.logprobs.push(logprob);
        a.made.tokens.len() == a.budget
    }

    /// Whether a request can be written at all.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn check(&self, request: &Request) -> Result<()> {
        request.settings.check()?;
        let (len, most) = (request.prompt.len(), self.shape.context);
        if len == 0 {
            return Err(Error::data("the prompt has no tokens"));
        }
        if len >= most {
            return Err(Error::data(format!("{len} tokens leave no room for an answer in a context of {most}")));
        }
        match request.prompt.iter().find(|id| **id < 0 || **id as usize >= self.model.config.vocab) {
            None => Ok(()),
            Some(id) => Err(Error::data(format!(
                "token {id} is outside the model's vocabulary of {}; is this the model's own tokenizer?",
                self.model.config.vocab
            ))),
        }
    }
}

/// A list of requests, all of which are wanted to their end.
struct List<'r, D> {
    left: Enumerate<Iter<'r, Request>>,
    done: D,
    results: Vec<Option<Generation>>,
}

impl<D: FnMut(usize, &Generation)> Feed for List<'_, D> {
    fn more(&mut self, room: usize) -> Result<Vec<(u64, Request)>> {
        Ok(self.left.by_ref().take(room).map(|(i, request)| (i as u64, request.clone())).collect())
    }

    fn wrote(&mut self, number: u64, written: &Written) -> Result<Flow> {
        if written.ended {
            (self.done)(number as usize, written.made);
            self.results[number as usize] = Some(written.made.clone());
        }
        Ok(Flow::GoOn)
    }
}
