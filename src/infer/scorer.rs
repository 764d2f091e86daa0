//! Prompt scoring: one forward over packed prompts, read at the last token of each.
//!
//! Prompts of any lengths share a pass without padding. Every op's rows are independent and sum in a fixed order, so a
//! prompt's score has the same bits alone, in any batch, in any order, with any number of threads. Prompts that share beginnings are
//! walked as a [trie](super::trie), which computes every token once and changes no bit either.

use super::trie::{Limits, Tokens, Trie, Walk};
use crate::base::dtype::{Dtype, Elem, bf16};
use crate::device::{Device, Fetched, View};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::cache::{Cache, CacheShape, PAGE};
use crate::model::config::{Config, HeadKind};
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use crate::model::lora::{self, Ranks};
use crate::model::paths::{PathShape, Paths};
use crate::model::room::{Needs, fitting};
use std::ops::Range;

mod labels;
mod logprobs;

pub use labels::LabelLogits;
pub(super) use labels::read_labels;
pub use logprobs::LogProb;

/// The logits of the two candidate labels at the end of a prompt, f32, before any softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub logits: [f32; 2],
    /// Log-sum-exp over the whole vocabulary.
    pub lse: f32,
}

impl Verdict {
    /// Logit A minus logit B.
    pub fn margin(&self) -> f32 {
        self.logits[0] - self.logits[1]
    }
    /// The probability that the whole vocabulary's softmax gives to the two labels together.
    pub fn label_mass(&self) -> f32 {
        self.logits.iter().map(|z| (z - self.lse).exp()).sum()
    }
}

/// Sizes of a scorer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Longest prompt.
    pub context: usize,
    /// Tokens of a pass; a longer prompt gets a pass of its own. Changes no result. On a GPU with little memory free, passes have as
    /// many as fit.
    pub pass: usize,
}

/// Whether prompts share what they have in common. Changes no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Where it saves at least one token in [`WORTH`].
    WherePaying,
    Always,
    Never,
}

/// Sharing costs a copy of keys and values and their memory: tokens of which it should save one.
pub const WORTH: usize = 12;

/// A model ready to score prompts, with memory for one pass.
pub struct Scorer<'m> {
    dev: &'m Device,
    model: &'m Model,
    shape: Shape,
    acts: Acts,
    sharing: Sharing,
    /// Made when prompts first share.
    shared: Option<Shared>,
    tokens: Tokens,
}

/// Memory for keys and values that prompts share: those of one path and one pass.
struct Shared {
    cache: Cache,
    paths: Paths,
    limits: Limits,
    rows: usize,
    /// The longest prompt that fits.
    longest: usize,
}

/// Keys that a pass may attend to for each token of it, each piece's counted by itself. Enough for many short ends of a long beginning.
const KEYS_A_TOKEN: usize = 64;
/// Tokens that a pass has room for however little memory there is: with fewer, all weights would be read for next to nothing.
const LEAST: usize = 64;

/// The largest pass: of prompts of at most `context` tokens, as many as `pass` tokens hold.
fn capacity(context: usize, pass: usize, ranks: Ranks) -> Capacity {
    let (tokens, sequences) = (context.max(pass), pass.div_ceil(8));
    Capacity { tokens, sequences, rows: sequences, positions: context, keep: Keep::Nothing, ranks }
}

impl Shared {
    /// How prompts of at most `longest` tokens are cut into passes of `pass`.
    fn limits(longest: usize, pass: usize) -> Limits {
        let tokens = pass.max(1);
        Limits { tokens, pieces: pass.div_ceil(8), keys: longest.max(KEYS_A_TOKEN * tokens) }
    }

    fn shapes(longest: usize, limits: Limits) -> (CacheShape, PathShape) {
        let rows = Walk::rows(longest, limits);
        let cache = CacheShape { pages: rows.div_ceil(PAGE), sequences: 1, tokens: PAGE, prefill: 1 };
        (cache, PathShape { tokens: limits.tokens, sequences: limits.pieces, keys: limits.keys })
    }

    /// The bytes that [`Shared::new`] would allocate.
    fn bytes(c: &Config, dtype: Dtype, longest: usize, pass: usize) -> [usize; 2] {
        let (cache, paths) = Shared::shapes(longest, Shared::limits(longest, pass));
        [Cache::bytes(c, dtype, cache), Paths::bytes(paths)]
    }

    /// For prompts of at most `longest` tokens.
    fn new(dev: &Device, model: &Model, longest: usize, pass: usize) -> Result<Shared> {
        let limits = Shared::limits(longest, pass);
        let (cache, paths) = Shared::shapes(longest, limits);
        Ok(Shared {
            cache: Cache::new(dev, &model.config, model.dtype, cache)?,
            paths: Paths::new(dev, paths)?,
            limits,
            rows: Walk::rows(longest, limits),
            longest,
        })
    }
}

/// What a pass found, once it is here.
pub(super) type Later<R> = Box<dyn FnOnce() -> Result<Vec<R>> + Send>;

impl<'m> Scorer<'m> {
    /// Reserves memory for the longest prompt; on a CPU, pages that no prompt touches cost nothing. On a GPU, what prompts share is
    /// allocated when first they do, and must have room from the start.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &'m Device, model: &'m Model, shape: Shape) -> Result<Scorer<'m>> {
        Scorer::over(dev, &[model], shape)
    }

    /// As [`Scorer::new`], with room for every one of these models, which are adapters of one base; the first one scores until
    /// [`Scorer::switch`].
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn over(dev: &'m Device, models: &[&'m Model], shape: Shape) -> Result<Scorer<'m>> {
        let (model, ranks) = (models[0], lora::shared(models));
        let (c, dtype, context) = (&model.config, model.dtype, shape.context.min(model.config.max_positions));
        let bytes = |context: usize, pass: usize| {
            let [keys, lists] = Shared::bytes(c, dtype, context, pass);
            vec![Acts::bytes(c, dtype, capacity(context, pass, ranks)), keys, lists]
        };
        let least = shape.pass.min(LEAST);
        let pass = fitting(dev, least..=shape.pass, |pass| bytes(context, pass));
        let acts = Needs {
            parts: &["activations", "keys and values", "lists of keys"],
            bytes: &|context| bytes(context, least),
            size: context,
            unit: "tokens a text (--context)",
        }
        .allocate(dev, || Acts::new(dev, c, dtype, capacity(context, pass, ranks)))?;
        let (sharing, shared, tokens) = (Sharing::WherePaying, None, Tokens::default());
        Ok(Scorer { dev, model, shape: Shape { context, pass }, acts, sharing, shared, tokens })
    }

    /// Chooses whether prompts share; by default, where it pays.
    pub fn share(&mut self, sharing: Sharing) {
        self.sharing = sharing;
    }

    /// Tokens so far: those of all prompts, and those that were computed.
    pub fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// From now on another of the models that it was made for.
    ///
    /// # Panics
    /// A model of another base, or with a larger adapter.
    pub fn switch(&mut self, model: &'m Model) {
        model.fits(self.model, self.acts.capacity.ranks);
        self.model = model;
    }

    /// Longest prompt that fits.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// Tokens of a pass: what was asked for, or what there is memory for.
    pub fn pass_tokens(&self) -> usize {
        self.shape.pass
    }

    /// The label logits at the end of each prompt, in the prompts' order.
    ///
    /// # Errors
    /// A prompt that is empty, longer than [`Scorer::context`] or holds an id outside the vocabulary.
    pub fn verdicts(&mut self, prompts: &[Vec<i32>], labels: [i32; 2]) -> Result<Vec<Verdict>> {
        if self.model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and gives rewards, not verdicts"));
        }
        let dev = self.dev;
        self.passes(prompts, |head, acts, n| {
            head.verdict(labels);
            head.vocab_lse();
            let z = fetch_f32(dev, acts.at(&acts.head.verdict).top(n))?;
            let lse = fetch_f32(dev, acts.at(&acts.head.lse).cols_in(0..n))?;
            let verdict = |(z, lse): (&[f32], f32)| Verdict { logits: [z[0], z[1]], lse };
            Ok(Box::new(move || Ok(z.wait()?.chunks(2).zip(lse.wait()?).map(verdict).collect())))
        })
    }

    /// The scalar reward at the end of each conversation, in order: where [`Config::scored`] says.
    ///
    /// # Errors
    /// As [`Scorer::verdicts`]; also a model without a scalar head.
    pub fn rewards(&mut self, conversations: &[Vec<i32>]) -> Result<Vec<f32>> {
        if self.model.config.head != HeadKind::Scalar {
            return Err(Error::model("this model has no scalar head (its architecture is a language model)"));
        }
        let dev = self.dev;
        let scored = |ids: &Vec<i32>| ids[..self.model.config.scored(ids)].to_vec();
        let conversations: Vec<Vec<i32>> = conversations.iter().map(scored).collect();
        self.passes(&conversations, |head, acts, n| {
            head.score();
            let found = fetch_f32(dev, acts.at(&acts.head.score).top(n))?;
            Ok(Box::new(|| found.wait()))
        })
    }

    /// Cuts the prompts into passes that fit and collects what `read` finds at their last rows. A pass is waited for once the next
    /// one has been launched, so that a device that queues its work always has some.
    fn passes<R: Send + Clone>(
        &mut self,
        prompts: &[Vec<i32>],
        read: impl Fn(&Head, &Acts, usize) -> Result<Later<R>> + Sync,
    ) -> Result<Vec<R>> {
        for (i, prompt) in prompts.iter().enumerate() {
            self.check(prompt).map_err(|e| e.at(format!("prompt {i}")))?;
        }
        let trie = (self.sharing != Sharing::Never).then(|| Trie::new(prompts));
        let flat = prompts.iter().map(Vec::len).sum();
        let tokens = trie.as_ref().map_or(Tokens { computed: flat, flat }, Trie::tokens);
        let pays = (flat - tokens.computed) * WORTH >= flat;
        if let Some(trie) = trie.filter(|_| pays || self.sharing == Sharing::Always) {
            self.tokens.add(tokens);
            return self.walk(&trie, prompts.len(), &read);
        }
        self.tokens.add(Tokens { computed: flat, flat });
        let most = self.acts.capacity.sequences;
        let mut results = Vec::with_capacity(prompts.len());
        let (mut rest, mut before): (_, Option<Later<R>>) = (prompts, None);
        while !rest.is_empty() {
            let mut total = 0;
            let fits = |p: &&Vec<i32>| {
                total += p.len();
                total <= self.shape.pass
            };
            let (now, later) = rest.split_at(rest.iter().take(most).take_while(fits).count().max(1));
            if let Some(found) = before.replace(self.pass(now, &read)?) {
                results.extend(found()?);
            }
            rest = later;
        }
        if let Some(found) = before {
            results.extend(found()?);
        }
        Ok(results)
    }

    fn pass<R: Send>(
        &mut self,
        prompts: &[Vec<i32>],
        read: &(impl Fn(&Head, &Acts, usize) -> Result<Later<R>> + Sync),
    ) -> Result<Later<R>> {
        let (dev, model, acts) = (self.dev, self.model, &self.acts);
        let extent = write_prompts(dev, acts, prompts.iter().map(|p| p.as_slice()));
        dev.install(|| {
            forward(dev, model, acts, extent, Attend::Packed);
            let head = Head::gather(dev, model, acts, extent, prompts.len());
            read(&head, acts, prompts.len())
        })
    }

    /// Walks the prompts as a trie and collects what `read` finds at the last row of each.
    fn walk<R: Send + Clone>(
        &mut self,
        trie: &Trie,
        prompts: usize,
        read: &(impl Fn(&Head, &Acts, usize) -> Result<Later<R>> + Sync),
    ) -> Result<Vec<R>> {
        let longest = trie.longest();
        let shared = match self.shared.take().filter(|shared| shared.longest >= longest) {
            Some(shared) => shared,
            None => {
                let room = longest.next_power_of_two().min(self.shape.context);
                Shared::new(self.dev, self.model, room, self.shape.pass)?
            }
        };
        let shared = &*self.shared.insert(shared);
        let (dev, model, acts) = (self.dev, self.model, &self.acts);
        let mut results: Vec<Option<R>> = vec![None; prompts];
        let mut collect = |(found, ended): (Later<R>, Vec<Range<usize>>)| -> Result<()> {
            for (found, ended) in found()?.into_iter().zip(ended) {
                for prompt in &trie.order()[ended] {
                    results[*prompt] = Some(found.clone());
                }
            }
            Ok(())
        };
        let mut before = None;
        for pass in Walk::new(trie, shared.limits, shared.rows) {
            let extent = Extent { tokens: pass.ids.len(), sequences: pass.starts.len() - 1 };
            write_inputs(dev, acts, [&pass.ids, &pass.positions, &pass.starts, &pass.ends]);
            let attended = shared.paths.set(dev, &pass.writes, &pass.key_starts, &pass.places);
            let found = dev.install(|| {
                forward(dev, model, acts, extent, Attend::Continue(&shared.cache, attended));
                if pass.ends.is_empty() {
                    return Ok(Box::new(|| Ok(Vec::new())) as Later<R>);
                }
                read(&Head::gather(dev, model, acts, extent, pass.ends.len()), acts, pass.ends.len())
            })?;
            before.replace((found, pass.ended)).map_or(Ok(()), &mut collect)?;
        }
        before.map_or(Ok(()), &mut collect)?;
        Ok(results.into_iter().map(|r| r.expect("every prompt ends in a pass")).collect())
    }

    fn check(&self, prompt: &[i32]) -> Result<()> {
        check_prompt(&self.model.config, self.context(), prompt)
    }
}

/// # Errors
/// A prompt that is empty, longer than the context or holds an id outside the vocabulary.
pub(super) fn check_prompt(config: &Config, context: usize, prompt: &[i32]) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::data("the prompt has no tokens"));
    }
    if prompt.len() > context {
        let len = prompt.len();
        return Err(Error::data(format!("{len} tokens, but at most {context} fit; it is not cut, shorten it")));
    }
    match prompt.iter().find(|id| **id < 0 || **id as usize >= config.vocab) {
        None => Ok(()),
        Some(id) => Err(Error::data(format!(
            "token {id} is outside the model's vocabulary of {}; is this the model's own tokenizer?",
            config.vocab
        ))),
    }
}

/// Writes packed sequences, and as the head's rows the last token of each, into the inputs of a pass.
pub(super) fn write_prompts<'p>(dev: &Device, acts: &Acts, prompts: impl Iterator<Item = &'p [i32]>) -> Extent {
    let (mut ids, mut positions, mut starts, mut rows) = (Vec::new(), Vec::new(), vec![0i32], Vec::new());
    for prompt in prompts {
        ids.extend_from_slice(prompt);
        positions.extend(0..prompt.len() as i32);
        starts.push(ids.len() as i32);
        rows.push(ids.len() as i32 - 1);
    }
    write_inputs(dev, acts, [&ids, &positions, &starts, &rows]);
    Extent { tokens: ids.len(), sequences: rows.len() }
}

/// Writes the inputs of a pass: token ids and positions, where sequences start, and the rows that the head reads.
pub(super) fn write_inputs(dev: &Device, acts: &Acts, [ids, positions, starts, rows]: [&[i32]; 4]) {
    let inputs = &acts.inputs;
    for (slot, data) in
        [(&inputs.ids, ids), (&inputs.positions, positions), (&inputs.starts, starts), (&inputs.rows, rows)]
    {
        if !data.is_empty() {
            dev.write(acts.at(slot).cols_in(0..data.len()), data);
        }
    }
}

/// Reads a tensor of any floating-point type as f32.
pub(super) fn read_f32(dev: &Device, view: View) -> Result<Vec<f32>> {
    Ok(match view.dtype() {
        Dtype::F64 => dev.read::<f64>(view)?.into_iter().map(|x| x as f32).collect(),
        Dtype::Bf16 => dev.read::<bf16>(view)?.into_iter().map(|x| x.get()).collect(),
        _ => dev.read::<f32>(view)?,
    })
}

/// As [`read_f32`], later.
pub(super) fn fetch_f32(dev: &Device, view: View) -> Result<Fetched<f32>> {
    match view.dtype() {
        Dtype::F32 => Ok(dev.fetch(view)),
        _ => read_f32(dev, view).map(Fetched::from),
    }
}

#[cfg(test)]
pub(super) mod tests;
