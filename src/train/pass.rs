//! One micro-batch through the model: upload, forward, head, and for training the backward.

use super::objective::{MicroBatch, Targets};
use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Slot};
use crate::error::Result;
use crate::model::Model;
use crate::model::acts::Acts;
use crate::model::backward::backward;
use crate::model::cost::forward_flops;
use crate::model::forward::{Attend, Extent, forward};
use crate::model::head::Head;

/// What micro-batches add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Weighted loss: with [`Reduction::Mean`](super::objective::Reduction) the parts of one step add up to its mean.
    pub loss: f64,
    /// Sum of the losses of the tokens, verdicts or pairs, each counted once, and their number.
    pub nll: f64,
    pub terms: usize,
    /// Preferences decided rightly, out of `judged`; zero where text is learned.
    pub correct: usize,
    pub judged: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Operations of one forward over them.
    pub flops: f64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.loss += other.loss;
        self.nll += other.nll;
        self.terms += other.terms;
        self.correct += other.correct;
        self.judged += other.judged;
        self.tokens += other.tokens;
        self.flops += other.flops;
    }
    /// Share of preferences decided rightly; `None` where none were judged.
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.correct as f64 / self.judged as f64)
    }
    /// Mean loss of the tokens, verdicts or pairs.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.terms.max(1) as f64
    }
}

/// Forward and backward; gradients are added to `grads`.
///
/// # Errors
/// As [`Device::read`].
pub fn train(dev: &Device, model: &Model, grads: &Arena, acts: &Acts, batch: &MicroBatch) -> Result<Tally> {
    let extent = upload(dev, acts, batch);
    dev.install(|| {
        forward(dev, model, acts, extent, Attend::Packed);
        let head = Head::gather(dev, model, acts, extent, batch.targets.rows().len());
        match &batch.targets {
            Targets::Vocab { .. } => head.vocab_step(grads),
            Targets::Verdict { candidates, .. } => {
                head.verdict(*candidates);
                head.verdict_loss();
                head.verdict_bwd(grads, *candidates);
            }
            Targets::Scalar { chosen, .. } => {
                head.score();
                head.score_loss(chosen.len());
                head.score_bwd(grads);
            }
        }
        backward(dev, model, grads, acts, extent);
        Ok(tally(dev, model, acts, batch)?.0)
    })
}

/// Forward only. Also gives, for preferences, the logit (or reward) lead of the right one over the wrong one, in order.
///
/// # Errors
/// As [`Device::read`].
pub fn evaluate(dev: &Device, model: &Model, acts: &Acts, batch: &MicroBatch) -> Result<(Tally, Vec<f64>)> {
    let extent = upload(dev, acts, batch);
    dev.install(|| {
        forward(dev, model, acts, extent, Attend::Packed);
        let head = Head::gather(dev, model, acts, extent, batch.targets.rows().len());
        match &batch.targets {
            Targets::Vocab { .. } => head.vocab_loss(),
            Targets::Verdict { candidates, .. } => {
                head.verdict(*candidates);
                head.verdict_loss();
            }
            Targets::Scalar { chosen, .. } => {
                head.score();
                head.score_loss(chosen.len());
            }
        }
        tally(dev, model, acts, batch)
    })
}

fn upload(dev: &Device, acts: &Acts, batch: &MicroBatch) -> Extent {
    let ints = |slot: &Slot, data: &[i32]| dev.write(acts.at(slot).cols_in(0..data.len()), data);
    let reals = |slot: &Slot, data: &[f32]| {
        let view = acts.at(slot).cols_in(0..data.len());
        match view.dtype() {
            Dtype::F64 => dev.write(view, &data.iter().map(|x| *x as f64).collect::<Vec<_>>()),
            _ => dev.write(view, data),
        }
    };
    let inputs = &acts.inputs;
    ints(&inputs.ids, &batch.ids);
    ints(&inputs.positions, &batch.positions);
    ints(&inputs.starts, &batch.starts);
    ints(&inputs.rows, batch.targets.rows());
    reals(&inputs.weights, batch.targets.weights());
    match &batch.targets {
        Targets::Vocab { ids, .. } => ints(&inputs.targets, ids),
        Targets::Verdict { labels, smoothing, .. } => {
            ints(&inputs.targets, labels);
            reals(&inputs.smoothing, smoothing);
        }
        Targets::Scalar { chosen, rejected, margins, .. } => {
            ints(&inputs.targets, chosen);
            ints(&inputs.others, rejected);
            reals(&inputs.smoothing, margins);
        }
    }
    Extent { tokens: batch.ids.len(), sequences: batch.starts.len() - 1 }
}

/// What came out of a pass, and the lead of the right side in each preference.
fn tally(dev: &Device, model: &Model, acts: &Acts, batch: &MicroBatch) -> Result<(Tally, Vec<f64>)> {
    let weights = batch.targets.weights();
    let nll = read_f64(dev, acts.at(&acts.head.nll).cols_in(0..weights.len()))?;
    let leads: Vec<f64> = match &batch.targets {
        // On the same row, so that the normaliser cancels.
        Targets::Vocab { verdicts, .. } => verdicts.iter().map(|[right, wrong]| nll[*wrong] - nll[*right]).collect(),
        Targets::Verdict { labels, .. } => {
            let z = read_f64(dev, acts.at(&acts.head.verdict).top(labels.len()))?;
            z.chunks(2).zip(labels).map(|(z, label)| z[*label as usize] - z[1 - *label as usize]).collect()
        }
        Targets::Scalar { rows, chosen, rejected, .. } => {
            let s = read_f64(dev, acts.at(&acts.head.score).top(rows.len()))?;
            chosen.iter().zip(rejected).map(|(c, r)| s[*c as usize] - s[*r as usize]).collect()
        }
    };
    let vocab_rows = if let Targets::Vocab { rows, .. } = &batch.targets { rows.len() } else { 0 };
    let lengths = batch.starts.windows(2).map(|w| (w[1] - w[0]) as usize);
    let loss = nll.iter().zip(weights).map(|(l, w)| l * *w as f64).sum();
    let tally = Tally {
        loss,
        nll: loss * batch.divisor as f64,
        terms: batch.terms,
        correct: leads.iter().filter(|lead| **lead > 0.0).count(),
        judged: leads.len(),
        tokens: batch.ids.len(),
        flops: forward_flops(&model.config, lengths, vocab_rows),
    };
    Ok((tally, leads))
}

fn read_f64(dev: &Device, view: crate::device::View) -> Result<Vec<f64>> {
    Ok(match view.dtype() {
        Dtype::F64 => dev.read::<f64>(view)?,
        _ => dev.read::<f32>(view)?.into_iter().map(f64::from).collect(),
    })
}
