//! The log-probability of a text after another: what proofs are scored by.
//!
//! ```text
//! sum = sum_{t >= start} log p(ids[t] | ids[..t])
//! ```
//! Each term is an f32 of its own row, so it has the same bits in any batch; the terms are added in f64, in order.

use super::{Scorer, write_prompts};
use crate::base::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::config::HeadKind;
use crate::model::forward::{Attend, forward};
use crate::model::head::Head;

/// The log-probability of some tokens, each given all before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProb {
    pub sum: f64,
    /// How many tokens.
    pub tokens: usize,
}

impl LogProb {
    /// The mean over the tokens; 0 of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }
}

impl Scorer<'_> {
    /// For each `(ids, start)`, the log-probability of `ids[start..]` after `ids[..start]`, in the sequences' order.
    ///
    /// # Errors
    /// As [`Scorer::verdicts`]; a `start` of 0, since nothing predicts the first token, or beyond the end.
    pub fn logprobs(&mut self, sequences: &[(Vec<i32>, usize)]) -> Result<Vec<LogProb>> {
        if self.model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and gives rewards, not probabilities of text"));
        }
        for (i, (ids, start)) in sequences.iter().enumerate() {
            self.check(ids).map_err(|e| e.at(format!("sequence {i}")))?;
            if !(1..=ids.len()).contains(start) {
                let message = format!("sequence {i}: tokens from {start} on, but it has {}; the first is 1", ids.len());
                return Err(Error::data(message));
            }
        }
        let most = self.acts.capacity.sequences;
        let mut results = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            let mut total = 0;
            let fits = |(ids, _): &&(Vec<i32>, usize)| {
                total += ids.len();
                total <= self.shape.pass
            };
            let (now, later) = rest.split_at(rest.iter().take(most).take_while(fits).count().max(1));
            results.extend(self.continuations(now)?);
            rest = later;
        }
        Ok(results)
    }

    /// One pass; the head reads its rows in turns of as many as there is room for.
    fn continuations(&mut self, sequences: &[(Vec<i32>, usize)]) -> Result<Vec<LogProb>> {
        let (dev, model, acts) = (self.dev, self.model, &self.acts);
        let (mut rows, mut targets, mut first) = (Vec::new(), Vec::new(), 0);
        for (ids, start) in sequences {
            rows.extend((start - 1..ids.len() - 1).map(|t| (first + t) as i32));
            targets.extend_from_slice(&ids[*start..]);
            first += ids.len();
        }
        let extent = write_prompts(dev, acts, sequences.iter().map(|(ids, _)| ids.as_slice()));
        dev.install(|| forward(dev, model, acts, extent, Attend::Packed));
        let mut nll = Vec::with_capacity(rows.len());
        let room = acts.capacity.rows;
        for (rows, targets) in rows.chunks(room).zip(targets.chunks(room)) {
            let n = rows.len();
            dev.write(acts.at(&acts.inputs.rows).cols_in(0..n), rows);
            dev.write(acts.at(&acts.inputs.targets).cols_in(0..n), targets);
            dev.install(|| Head::gather(dev, model, acts, extent, n).vocab_loss());
            let losses = acts.at(&acts.head.nll).cols_in(0..n);
            match losses.dtype() {
                Dtype::F64 => nll.extend(dev.read::<f64>(losses)?),
                _ => nll.extend(dev.read::<f32>(losses)?.into_iter().map(f64::from)),
            }
        }
        let mut nll = nll.into_iter();
        let sum = |(ids, start): &(Vec<i32>, usize)| {
            let tokens = ids.len() - start;
            LogProb { sum: -nll.by_ref().take(tokens).sum::<f64>(), tokens }
        };
        Ok(sequences.iter().map(sum).collect())
    }
}
