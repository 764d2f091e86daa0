//! Batched generation with a paged key-value cache.
//!
//! Sequences join the batch as pages and places come free and leave it when they finish, so short answers do not wait
//! for long ones. A sequence's tokens depend on its own prompt, settings and seed alone: the ops' rows are independent,
//! and its random bits are keyed by its seed and its own token count.
//!
//! Requests with equal prompts share it. It is read once; its whole pages serve all of them, counted, and the page that it fills
//! in part is copied for each. A first token is drawn from the same row of logits as if its request were alone, and from then on
//! each decodes by itself over keys and values with the same bits at the same positions: sharing changes no bit. Where not all can
//! start at once the prompt is held for the others, or, in a pool too small for that, read again. Under continuous load prompts are read
//! elsewhere, in the passes of others, and handed over (`seats.rs`).

mod admission;
mod decode;
mod draw;
mod queue;
mod request;
mod seats;

pub use request::{Counts, Finish, Generation, Request, Settings, Shape, Watch};
pub use seats::{Prompt, Written};

use super::scorer::write_prompts;
use crate::device::{Device, Replays};
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::cache::{Cache, CacheShape, PAGE, PageList};
use crate::model::config::HeadKind;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::model::lora;
use crate::model::room::Needs;
use crate::ops::embed::embed_fwd;
use admission::{Held, Wave};
use draw::{Drawing, add};
use queue::Queue;
use std::sync::Arc;

/// A model ready to write, with its cache.
pub struct Generator<'m> {
    dev: &'m Device,
    model: &'m Model,
    shape: Shape,
    stop: Vec<i32>,
    acts: Acts,
    cache: Cache,
    pages: PageList,
    queue: Queue,
    active: Vec<Active>,
    /// Those whose prompts are being read elsewhere.
    seated: Vec<Active>,
    /// Requests taken so far.
    taken: usize,
    held: Option<Held>,
    watched: Watch,
    counts: Counts,
    /// Decode steps by the number of rows.
    replays: Replays,
    /// Drawings so far.
    turns: usize,
    /// The step that was launched before the tokens of the one before it were here.
    ahead: Option<Drawing>,
}

/// A sequence in the batch.
struct Active {
    number: usize,
    asked: Arc<Request>,
    watch: Watch,
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
        Generator::over(dev, &[model], shape, stop)
    }

    /// As [`Generator::new`], with room for every one of these models, which are adapters of one base; the first one writes
    /// until [`Generator::switch`].
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn over(dev: &'m Device, models: &[&'m Model], shape: Shape, stop: &[i32]) -> Result<Generator<'m>> {
        Generator::with_pages(dev, models, shape, stop, usize::MAX)
    }

    /// As [`Generator::over`], with at most so many pages of [`PAGE`] tokens in the cache, and no fewer than the longest sequence
    /// needs. Fewer pages make sequences wait for each other; they change no result.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn with_pages(
        dev: &'m Device,
        models: &[&'m Model],
        shape: Shape,
        stop: &[i32],
        pages: usize,
    ) -> Result<Generator<'m>> {
        let (model, ranks) = (models[0], lora::shared(models));
        if model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and cannot write text"));
        }
        let context = shape.context.min(model.config.max_positions);
        let shape = Shape { context, sequences: shape.sequences.clamp(1, crate::model::acts::LOGIT_ROWS) };
        // Room for all at their longest, and for the last page of a prompt that is held.
        let longest = context.div_ceil(PAGE);
        let sizes = |sequences: usize| {
            let pages = (sequences * longest + 1).min(pages.max(longest));
            let (tokens, positions) = (context.max(sequences), context);
            let capacity = Capacity { tokens, sequences, rows: sequences, positions, keep: Keep::Nothing, ranks };
            (capacity, CacheShape { pages, sequences, tokens: context, prefill: tokens })
        };
        let (c, dtype) = (&model.config, model.dtype);
        let bytes = |(capacity, cache)| vec![Acts::bytes(c, dtype, capacity), Cache::bytes(c, dtype, cache)];
        let (acts, cache) = Needs {
            parts: &["activations", "keys and values"],
            bytes: &|n| bytes(sizes(n)),
            size: shape.sequences,
            unit: &format!("sequences of {context} tokens (--batch, --context)"),
        }
        .allocate(dev, || {
            let (capacity, cache) = sizes(shape.sequences);
            Ok((Acts::new(dev, c, dtype, capacity)?, Cache::new(dev, c, dtype, cache)?))
        })?;
        let pages = sizes(shape.sequences).1.pages;
        Ok(Generator {
            dev,
            model,
            shape,
            stop: stop.to_vec(),
            acts,
            cache,
            pages: PageList::new(pages),
            queue: Queue::default(),
            active: Vec::new(),
            seated: Vec::new(),
            taken: 0,
            held: None,
            watched: Watch::default(),
            counts: Counts::default(),
            replays: Replays::default(),
            turns: 0,
            ahead: None,
        })
    }

    /// From now on another of the models that it was made for.
    ///
    /// # Panics
    /// A model of another base, or with a larger adapter; requests under way, which the other model has begun.
    pub fn switch(&mut self, model: &'m Model) {
        model.fits(self.model, self.acts.capacity.ranks);
        assert!(self.is_idle(), "the model is switched while it writes");
        if !std::ptr::eq(self.model, model) {
            // Recorded steps read the weights of the model that they were recorded with.
            self.replays = Replays::default();
            self.model = model;
        }
    }

    /// Whether this is the model that writes.
    pub fn writes_with(&self, model: &Model) -> bool {
        std::ptr::eq(self.model, model)
    }

    /// Longest sequence, prompt and answer.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// Also returns, for every token, what the logits of these two tokens were when it was drawn, and the log-sum-exp: those
    /// very logits, in bits. `None` watches nothing, which costs nothing.
    ///
    /// # Panics
    /// Ids outside the vocabulary.
    pub fn watch(&mut self, labels: Option<[i32; 2]>) {
        let known = |id: &i32| (0..self.model.config.vocab as i32).contains(id);
        assert!(labels.iter().flatten().all(known), "labels {labels:?} of {} tokens", self.model.config.vocab);
        self.watched = Watch { labels, logits: false };
    }

    /// What was done since the generator was made.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Continues every prompt; results come in the requests' order. `done` is called as each one finishes.
    ///
    /// # Errors
    /// A prompt that is empty, leaves no room for an answer, or holds an id outside the vocabulary; bad settings.
    pub fn generate(&mut self, requests: &[Request], done: impl FnMut(usize, &Generation)) -> Result<Vec<Generation>> {
        self.generate_until(requests, done, &|| false)
    }

    /// As [`Generator::generate`], but gives up between two tokens when `stop` says so.
    ///
    /// # Errors
    /// As [`Generator::generate`]; [`Kind::Interrupted`] where it gave up.
    pub fn generate_until(
        &mut self,
        requests: &[Request],
        mut done: impl FnMut(usize, &Generation),
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Generation>> {
        for (i, request) in requests.iter().enumerate() {
            self.check(request).map_err(|e| e.at(format!("prompt {i}")))?;
        }
        // Also what a call that failed left behind.
        self.clear();
        let order = queue::together(requests);
        let first = self.taken;
        for i in &order {
            self.line(Arc::new(requests[*i].clone()));
        }
        let mut results: Vec<Option<Generation>> = vec![None; requests.len()];
        while !self.is_idle() {
            if stop() {
                return Err(Error::new(Kind::Interrupted, "stopped while it wrote"));
            }
            for (number, made) in self.turn()? {
                let request = order[number - first];
                done(request, &made);
                results[request] = Some(made);
            }
        }
        Ok(results.into_iter().map(|r| r.expect("every request finishes")).collect())
    }

    fn line(&mut self, request: Arc<Request>) -> usize {
        let number = self.taken;
        self.taken += 1;
        self.queue.push(number, request);
        number
    }

    /// Drops every request.
    pub fn clear(&mut self) {
        self.queue = Queue::default();
        self.active.clear();
        self.seated.clear();
        (self.held, self.pages, self.ahead) = (None, self.pages.emptied(), None);
    }

    /// Whether no request waits or writes.
    pub fn is_idle(&self) -> bool {
        self.queue.next().is_none() && self.active.is_empty() && self.seated.is_empty()
    }
    /// Pages that nobody uses.
    pub fn free_pages(&self) -> usize {
        self.pages.free()
    }

    /// Starts the requests that can start, which gives each its first token; or, if none can, gives one token to each that writes.
    /// Who has finished, and with what.
    fn turn(&mut self) -> Result<Vec<(usize, Generation)>> {
        let mut wave = self.admit();
        if wave.joined.is_empty() {
            return self.next(&mut |_, _| Ok(()));
        }
        self.join(&wave);
        let first = self.active.len();
        self.active.append(&mut wave.joined);
        self.write_sampling(first, self.active.len() - first);
        let drawing = self.draw(first)?;
        self.take(drawing, &mut |_, _| Ok(()))
    }

    /// Gives sequences the tokens that were drawn for them; those that have left get none. Who has finished, and with what.
    fn take(&mut self, drawing: Drawing, wrote: &mut Wrote) -> Result<Vec<(usize, Generation)>> {
        let latest = drawing.turn == self.turns;
        let drawn = drawing.wait()?;
        let (mut finished, mut i) = (Vec::new(), self.active.len());
        for (row, (number, drawn)) in drawn.into_iter().enumerate().rev() {
            // Rows are in the order of the active.
            let Some(at) = self.active[..i].iter().rposition(|a| a.number == number) else { continue };
            i = at;
            self.counts.generated += 1;
            let ended = add(&self.stop, &mut self.active[i], drawn);
            let logits = latest.then(|| self.acts.at(&self.acts.head.logits).rows_in(row..row + 1));
            let Active { number, made, .. } = &self.active[i];
            wrote(*number, &Written { made, ended, dev: self.dev, logits })?;
            if ended {
                let gone = self.active.remove(i);
                self.pages.give_back(gone.pages);
                finished.push((gone.number, gone.made));
            }
        }
        Ok(finished)
    }

    /// Reads the wave's prompts, up to the logits of their first tokens, and gives every sequence its own copy of a shared page that
    /// it will write to.
    fn join(&mut self, wave: &Wave) {
        let (dev, model, acts, cache) = (self.dev, self.model, &self.acts, &self.cache);
        let prompt = |i: &usize| wave.joined[*i].asked.prompt.as_slice();
        let asked = wave.joined.iter().map(|a| a.cached);
        self.counts.asked += asked.sum::<usize>();
        self.counts.computed += wave.read.iter().map(|i| prompt(i).len()).sum::<usize>();
        let rows = acts.at(&acts.inputs.rows).cols_in(0..wave.joined.len());
        let (extent, ends) = if wave.read.is_empty() {
            (Extent { tokens: 1, sequences: 1 }, vec![0])
        } else {
            let extent = write_prompts(dev, acts, wave.read.iter().map(prompt));
            let places: Vec<(&[u32], usize)> =
                wave.read.iter().map(|i| (wave.joined[*i].pages.as_slice(), prompt(i).len())).collect();
            cache.set_prefill(dev, &places);
            let ends = wave.read.iter().scan(-1, |end, i| {
                *end += prompt(i).len() as i32;
                Some(*end)
            });
            (extent, ends.collect())
        };
        dev.write(rows, &wave.prompts.iter().map(|p| ends[*p]).collect::<Vec<i32>>());
        let (out, last) = (acts.at(&acts.out).top(extent.tokens), rows.len() - 1);
        dev.install(|| {
            if wave.read.is_empty() {
                embed_fwd(dev, out, cache.held(), rows.cols_in(0..1));
            } else {
                forward(dev, model, acts, extent, Attend::Prefill(cache));
                if self.held.is_some() {
                    embed_fwd(dev, cache.held(), out, rows.cols_in(last..last + 1));
                }
            }
            Head::gather(dev, model, acts, extent, wave.joined.len()).logits();
        });
        self.copy(&self.cache, &wave.from, &wave.to);
    }

    /// Copies pool rows of a cache to ours, by way of activations that nobody needs between passes.
    fn copy(&self, source: &Cache, from: &[i32], to: &[i32]) {
        let (dev, acts, cache) = (self.dev, &self.acts, &self.cache);
        let heads = self.model.config.heads;
        let (q, kv) = (heads.query * heads.size, heads.kv * heads.size);
        let most = acts.capacity.tokens;
        for (from, to) in from.chunks(most).zip(to.chunks(most)) {
            let n = from.len();
            let (ids, places) = (acts.at(&acts.inputs.ids).cols_in(0..n), cache.places(n));
            dev.write(ids, from);
            dev.write(places, to);
            let scratch = acts.at(&acts.layers[0].qkv).top(n);
            let scratch = [scratch.cols_in(q..q + kv), scratch.cols_in(q + kv..q + 2 * kv)];
            dev.install(|| cache.copy(dev, source, ids, places, scratch));
        }
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

/// Sees every token as it is written.
type Wrote<'w> = dyn FnMut(usize, &Written) -> Result<()> + 'w;
