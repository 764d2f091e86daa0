//! The three heads. Each gathers the rows it was told to read, applies the final norm, and computes its logits; the
//! training forms also leave the gradient of the residual stream in `acts.backward.dx`.
//!
//! Gathering first means that a batch with one labelled row for each sequence computes one row of logits for each
//! sequence, and a verdict never computes vocabulary logits at all.

use super::Model;
use super::acts::Acts;
use super::forward::Extent;
use crate::device::{Arena, Device, Slot, View};
use crate::ops::embed::{embed_bwd, embed_fwd};
use crate::ops::gemm::gemm_nt;
use crate::ops::rmsnorm::{rmsnorm_bwd, rmsnorm_fwd};
use crate::ops::scalar::{bradley_terry, score_bwd};
use crate::ops::verdict::{verdict_bwd, verdict_fwd, verdict_loss};
use crate::ops::xent::{head_lse, xent_fwd, xent_step};

/// A head over the first `rows` rows of `acts.inputs.rows`.
pub struct Head<'a> {
    dev: &'a Device,
    model: &'a Model,
    acts: &'a Acts,
    extent: Extent,
    rows: usize,
}

impl<'a> Head<'a> {
    /// Gathers the rows of `acts.out` and normalises them into `acts.head.hidden`.
    pub fn gather(dev: &'a Device, model: &'a Model, acts: &'a Acts, extent: Extent, rows: usize) -> Head<'a> {
        let head = Head { dev, model, acts, extent, rows };
        let out = acts.at(&acts.out).top(extent.tokens);
        embed_fwd(dev, head.top(&acts.head.x), out, head.list(&acts.inputs.rows));
        let w = model.at(&model.params.norm);
        let (hidden, x) = (head.top(&acts.head.hidden), head.top(&acts.head.x));
        rmsnorm_fwd(dev, hidden, head.list(&acts.head.rstd), x, w, model.config.norm_eps);
        head
    }

    /// `nll[r] = -log softmax(hidden[r] w^T)[targets[r]]` into `acts.head.nll`.
    pub fn vocab_loss(&self) {
        let (h, a) = (&self.acts.head, self);
        let (nll, lse, targets) = (a.list(&h.nll), a.list(&h.lse), a.list(&self.acts.inputs.targets));
        xent_fwd(self.dev, nll, lse, a.top(&h.hidden), self.vocab(), targets, self.acts.at(&h.logits));
    }

    /// As [`Head::vocab_loss`], and back to the residual stream and the head's weights.
    pub fn vocab_step(&self, grads: &Arena) {
        let (h, a) = (&self.acts.head, self);
        let (nll, lse, dh, hidden) = (a.list(&h.nll), a.list(&h.lse), a.d_hidden(), a.top(&h.hidden));
        let (targets, weights) = (a.list(&self.acts.inputs.targets), a.list(&self.acts.inputs.weights));
        let dw = grads.find(self.vocab_slot());
        xent_step(self.dev, nll, lse, dh, dw, hidden, self.vocab(), targets, weights, self.acts.at(&h.logits));
        self.back_to_stream(grads);
    }

    /// The two logits of the candidate labels into `acts.head.verdict`.
    pub fn verdict(&self, labels: [i32; 2]) {
        let h = &self.acts.head;
        verdict_fwd(self.dev, self.top(&h.verdict), self.top(&h.hidden), self.vocab(), labels);
    }

    /// Log-sum-exp of the whole vocabulary's logits into `acts.head.lse`.
    pub fn vocab_lse(&self) {
        let h = &self.acts.head;
        head_lse(self.dev, self.list(&h.lse), self.top(&h.hidden), self.vocab(), self.acts.at(&h.logits));
    }

    /// The label-smoothed two-candidate loss of [`Head::verdict`]'s logits into `acts.head.nll`, and its gradient into
    /// `acts.head.d_verdict`.
    pub fn verdict_loss(&self) {
        let (h, i) = (&self.acts.head, &self.acts.inputs);
        let (labels, eps, weights) = (self.list(&i.targets), self.list(&i.smoothing), self.list(&i.weights));
        verdict_loss(self.dev, self.list(&h.nll), self.top(&h.d_verdict), self.top(&h.verdict), labels, eps, weights);
    }

    /// From `acts.head.d_verdict` back to the residual stream and the two rows of the head.
    pub fn verdict_bwd(&self, grads: &Arena, labels: [i32; 2]) {
        let h = &self.acts.head;
        let (dz, hidden) = (self.top(&h.d_verdict), self.top(&h.hidden));
        verdict_bwd(self.dev, self.d_hidden(), grads.find(self.vocab_slot()), dz, hidden, self.vocab(), labels);
        self.back_to_stream(grads);
    }

    /// The scalar rewards into `acts.head.score`.
    pub fn score(&self) {
        let h = &self.acts.head;
        gemm_nt(self.dev, self.top(&h.score), self.top(&h.hidden), self.model.at(self.score_slot()), None, None);
    }

    /// Bradley-Terry loss of `pairs` pairs of [`Head::score`]'s rewards, and its gradient.
    pub fn score_loss(&self, pairs: usize) {
        let (h, i) = (&self.acts.head, &self.acts.inputs);
        let first = |slot: &Slot| self.acts.at(slot).cols_in(0..pairs);
        let (scores, d_scores) = (self.top(&h.score), self.top(&h.d_score));
        let row = |v: View<'a>| v.reshape(1, self.rows);
        let (chosen, rejected, margins, weights) =
            (first(&i.targets), first(&i.others), first(&i.smoothing), first(&i.weights));
        bradley_terry(self.dev, first(&h.nll), row(d_scores), row(scores), chosen, rejected, margins, weights);
    }

    /// From `acts.head.d_score` back to the residual stream and the reward row.
    pub fn score_bwd(&self, grads: &Arena) {
        let h = &self.acts.head;
        let (ds, slot, hidden) = (self.top(&h.d_score), self.score_slot(), self.top(&h.hidden));
        score_bwd(self.dev, self.d_hidden(), grads.find(slot), ds, hidden, self.model.at(slot));
        self.back_to_stream(grads);
    }

    /// Vocabulary logits of all rows (at most [`LOGIT_ROWS`](super::acts::LOGIT_ROWS)) for sampling.
    pub fn logits(&self) -> View<'a> {
        let logits = self.top(&self.acts.head.logits);
        gemm_nt(self.dev, logits, self.top(&self.acts.head.hidden), self.vocab(), None, None);
        logits
    }

    /// Through the final norm, and scattered to the rows it came from.
    fn back_to_stream(&self, grads: &Arena) {
        let h = &self.acts.head;
        let d_x = self.top(h.d_x.as_ref().expect("activations made for training"));
        self.dev.zero(d_x);
        let norm = &self.model.params.norm;
        let (x, rstd) = (self.top(&h.x), self.list(&h.rstd));
        rmsnorm_bwd(self.dev, d_x, grads.find(norm), self.d_hidden(), x, rstd, self.model.at(norm));
        let scratch = self.acts.backward.as_ref().expect("activations made for training");
        let dx = self.acts.at(&scratch.dx).top(self.extent.tokens);
        self.dev.zero(dx);
        embed_bwd(self.dev, dx, d_x, self.list(&self.acts.inputs.rows), None);
    }

    fn d_hidden(&self) -> View<'a> {
        self.top(self.acts.head.d_hidden.as_ref().expect("activations made for training"))
    }
    fn vocab_slot(&self) -> &'a Slot {
        self.model.params.vocab_head.as_ref().expect("a language-model head")
    }
    fn vocab(&self) -> View<'a> {
        self.model.at(self.vocab_slot())
    }
    fn score_slot(&self) -> &'a Slot {
        self.model.params.score_head.as_ref().expect("a scalar head")
    }
    /// The used rows of a `[R, ..]` tensor.
    fn top(&self, slot: &Slot) -> View<'a> {
        self.acts.at(slot).top(self.rows)
    }
    /// The used part of a `[R]` list.
    fn list(&self, slot: &Slot) -> View<'a> {
        self.acts.at(slot).cols_in(0..self.rows)
    }
}
