//! Prompt scoring: one forward over packed prompts, read at the last token of each.
//!
//! Prompts of any lengths share a pass without padding. Every op's rows are independent and sum in a fixed order, so a
//! prompt's score has the same bits alone, in any batch, in any order, with any number of threads.

use crate::base::dtype::{Dtype, Elem, bf16};
use crate::device::{Device, View};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
#[cfg(doc)]
use crate::model::config::Config;
use crate::model::config::HeadKind;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// The logits of some labels at the end of a prompt, f32, before any softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelLogits {
    pub logits: Vec<f32>,
    /// Log-sum-exp over the whole vocabulary.
    pub lse: f32,
}

/// Sizes of a scorer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Longest prompt.
    pub context: usize,
    /// Tokens of a pass; a longer prompt gets a pass of its own. Changes no result.
    pub pass: usize,
}

/// A model ready to score prompts, with memory for one pass.
pub struct Scorer<'m> {
    dev: &'m Device,
    model: &'m Model,
    shape: Shape,
    acts: Acts,
}

impl<'m> Scorer<'m> {
    /// Reserves memory for the longest prompt; pages that no prompt touches cost nothing.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &'m Device, model: &'m Model, shape: Shape) -> Result<Scorer<'m>> {
        let context = shape.context.min(model.config.max_positions);
        let tokens = context.max(shape.pass);
        let sequences = shape.pass.div_ceil(8);
        let capacity = Capacity { tokens, sequences, rows: sequences, positions: context, keep: Keep::Nothing };
        let acts = Acts::new(dev, &model.config, model.dtype, capacity)?;
        Ok(Scorer { dev, model, shape: Shape { context, ..shape }, acts })
    }

    /// Longest prompt that fits.
    pub fn context(&self) -> usize {
        self.shape.context
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
            let z = read_f32(dev, acts.at(&acts.head.verdict).top(n))?;
            let lse = read_f32(dev, acts.at(&acts.head.lse).cols_in(0..n))?;
            Ok(z.chunks(2).zip(lse).map(|(z, lse)| Verdict { logits: [z[0], z[1]], lse }).collect())
        })
    }

    /// The logits of each prompt's own labels at its end, and the log-sum-exp of the whole vocabulary, in the prompts'
    /// order. Prompts with different labels share passes; a label's logit has the bits that [`Scorer::verdicts`] gives it.
    ///
    /// # Errors
    /// As [`Scorer::verdicts`].
    ///
    /// # Panics
    /// Labels outside the vocabulary.
    pub fn labels(&mut self, prompts: &[Vec<i32>], labels: &[Vec<i32>]) -> Result<Vec<LabelLogits>> {
        if self.model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and gives rewards, not label logits"));
        }
        let dev = self.dev;
        let first = AtomicUsize::new(0);
        self.passes(prompts, |head, acts, n| {
            let start = first.fetch_add(n, Ordering::Relaxed);
            let wanted = &labels[start..start + n];
            head.vocab_lse();
            let lse = read_f32(dev, acts.at(&acts.head.lse).cols_in(0..n))?;
            let mut found: BTreeMap<i32, Vec<f32>> = BTreeMap::new();
            let distinct: BTreeSet<i32> = wanted.iter().flatten().copied().collect();
            let distinct: Vec<i32> = distinct.into_iter().collect();
            for two in distinct.chunks(2) {
                // The head reads two different rows at a time; an odd one is read beside any other.
                let pair = [two[0], if let [_, second] = two { *second } else { (two[0] == 0) as i32 }];
                head.verdict(pair);
                let z = read_f32(dev, acts.at(&acts.head.verdict).top(n))?;
                found.insert(pair[0], z.iter().step_by(2).copied().collect());
                found.insert(pair[1], z.iter().skip(1).step_by(2).copied().collect());
            }
            let of = |row: usize, label: &i32| found[label][row];
            let rows = wanted.iter().zip(lse).enumerate();
            Ok(rows.map(|(i, (l, lse))| LabelLogits { logits: l.iter().map(|l| of(i, l)).collect(), lse }).collect())
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
            read_f32(dev, acts.at(&acts.head.score).top(n))
        })
    }

    /// Cuts the prompts into passes that fit and collects what `read` finds at their last rows.
    fn passes<R: Send>(
        &mut self,
        prompts: &[Vec<i32>],
        read: impl Fn(&Head, &Acts, usize) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<R>> {
        for (i, prompt) in prompts.iter().enumerate() {
            self.check(prompt).map_err(|e| e.at(format!("prompt {i}")))?;
        }
        let most = self.acts.capacity.sequences;
        let mut results = Vec::with_capacity(prompts.len());
        let mut rest = prompts;
        while !rest.is_empty() {
            let mut total = 0;
            let fits = |p: &&Vec<i32>| {
                total += p.len();
                total <= self.shape.pass
            };
            let (now, later) = rest.split_at(rest.iter().take(most).take_while(fits).count().max(1));
            results.extend(self.pass(now, &read)?);
            rest = later;
        }
        Ok(results)
    }

    fn pass<R: Send>(
        &mut self,
        prompts: &[Vec<i32>],
        read: &(impl Fn(&Head, &Acts, usize) -> Result<Vec<R>> + Sync),
    ) -> Result<Vec<R>> {
        let (dev, model, acts) = (self.dev, self.model, &self.acts);
        let extent = write_prompts(dev, acts, prompts.iter().map(|p| p.as_slice()));
        dev.install(|| {
            forward(dev, model, acts, extent, Attend::Packed);
            let head = Head::gather(dev, model, acts, extent, prompts.len());
            read(&head, acts, prompts.len())
        })
    }

    fn check(&self, prompt: &[i32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::data("the prompt has no tokens"));
        }
        if prompt.len() > self.context() {
            let (len, most) = (prompt.len(), self.context());
            return Err(Error::data(format!("{len} tokens, but at most {most} fit; it is not cut, shorten it")));
        }
        match prompt.iter().find(|id| **id < 0 || **id as usize >= self.model.config.vocab) {
            None => Ok(()),
            Some(id) => Err(Error::data(format!(
                "token {id} is outside the model's vocabulary of {}; is this the model's own tokenizer?",
                self.model.config.vocab
            ))),
        }
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
    let inputs = &acts.inputs;
    for (slot, data) in
        [(&inputs.ids, &ids), (&inputs.positions, &positions), (&inputs.starts, &starts), (&inputs.rows, &rows)]
    {
        dev.write(acts.at(slot).cols_in(0..data.len()), data);
    }
    Extent { tokens: ids.len(), sequences: rows.len() }
}

/// Reads a tensor of any floating-point type as f32.
pub(super) fn read_f32(dev: &Device, view: View) -> Result<Vec<f32>> {
    Ok(match view.dtype() {
        Dtype::F64 => dev.read::<f64>(view)?.into_iter().map(|x| x as f32).collect(),
        Dtype::Bf16 => dev.read::<bf16>(view)?.into_iter().map(|x| x.get()).collect(),
        _ => dev.read::<f32>(view)?,
    })
}
