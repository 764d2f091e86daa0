//! The logits of any labels at the ends of prompts, each prompt's own.

use super::{Later, Scorer, fetch_f32};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::acts::Acts;
use crate::model::config::HeadKind;
use crate::model::head::Head;
use std::collections::BTreeSet;

/// The logits of some labels at the end of a prompt, f32, before any softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelLogits {
    pub logits: Vec<f32>,
    /// Log-sum-exp over the whole vocabulary.
    pub lse: f32,
}

impl Scorer<'_> {
    /// The logits of each prompt's own labels at its end, and the log-sum-exp of the whole vocabulary, in the prompts'
    /// order. Prompts with different labels share passes; a label's logit has the bits that [`Scorer::verdicts`] gives it.
    ///
    /// # Errors
    /// As [`Scorer::verdicts`].
    ///
    /// # Panics
    /// Labels outside the vocabulary; not as many lists of labels as prompts.
    pub fn labels(&mut self, prompts: &[Vec<i32>], labels: &[Vec<i32>]) -> Result<Vec<LabelLogits>> {
        if self.model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("this model has a scalar head and gives rewards, not label logits"));
        }
        assert_eq!(prompts.len(), labels.len(), "one list of labels for each prompt");
        let dev = self.dev;
        let distinct: BTreeSet<i32> = labels.iter().flatten().copied().collect();
        let distinct: Vec<i32> = distinct.into_iter().collect();
        // Every prompt is read at the labels of all: a column costs next to nothing, and equal prompts with other labels are one.
        let reads = self.passes(prompts, |head, acts, n| read_labels(dev, head, acts, n, &distinct))?;
        Ok(reads.into_iter().zip(labels).map(|(read, labels)| read.only(&distinct, labels)).collect())
    }
}

impl LabelLogits {
    /// Of logits at `distinct` labels, in ascending order, those at `labels`.
    pub(in crate::infer) fn only(&self, distinct: &[i32], labels: &[i32]) -> LabelLogits {
        let place = |id: &i32| distinct.binary_search(id).expect("all labels were read");
        LabelLogits { logits: labels.iter().map(|id| self.logits[place(id)]).collect(), lse: self.lse }
    }
}

/// The logits at these labels, all different, of each of the first `n` rows that the head gathered.
pub(in crate::infer) fn read_labels(
    dev: &Device,
    head: &Head,
    acts: &Acts,
    n: usize,
    distinct: &[i32],
) -> Result<Later<LabelLogits>> {
    head.vocab_lse();
    let lse = fetch_f32(dev, acts.at(&acts.head.lse).cols_in(0..n))?;
    let mut columns = Vec::new();
    for two in distinct.chunks(2) {
        // The head reads two different rows at a time; an odd one is read beside any other.
        head.verdict([two[0], if let [_, second] = two { *second } else { (two[0] == 0) as i32 }]);
        columns.push((two.len(), fetch_f32(dev, acts.at(&acts.head.verdict).top(n))?));
    }
    Ok(Box::new(move || {
        let mut reads: Vec<LabelLogits> =
            lse.wait()?.into_iter().map(|lse| LabelLogits { logits: Vec::new(), lse }).collect();
        for (two, z) in columns {
            for (read, z) in reads.iter_mut().zip(z.wait()?.chunks(2)) {
                read.logits.extend(&z[..two]);
            }
        }
        Ok(reads)
    }))
}
