//! The backward pass, derived by hand, layer by layer in reverse. Gradients of parameters are added to what is there,
//! so that micro-batches accumulate. What the arena of gradients has no place for is frozen and gets none.
//!
//! Overlays (declared in `acts.rs`): the gradient of SwiGLU's product lies over the product once the down projection's
//! weight gradient has read it; those of gate and up lie over gate and up; those of the norm outputs over the norm
//! outputs once the weight gradients have read them; that of an adapter's low-rank product over the product once `db` has
//! read it.

use super::Model;
use super::acts::{Acts, BackwardActs, Keep};
use super::forward::{Attend, Extent, Pass};
use super::lora::Projection;
use super::params::Linear;
use crate::device::{Arena, Device, Slot, View};
use crate::ops::attention::attention_bwd;
use crate::ops::embed::embed_bwd;
use crate::ops::gemm::{Into, bias_bwd, gemm_nn, gemm_tn};
use crate::ops::rmsnorm::rmsnorm_bwd;
use crate::ops::rope::rope_bwd;
use crate::ops::swiglu::swiglu_bwd;

/// Back-propagates the gradient of `acts.out`, which the head left in `acts.backward.dx`, through every layer and the
/// embedding, adding to `grads` (an arena of the layout of what is trained).
pub fn backward(dev: &Device, model: &Model, grads: &Arena, acts: &Acts, extent: Extent) {
    let scratch = acts.backward.as_ref().expect("activations made for training");
    let b = Back { pass: Pass { dev, model, acts, extent }, grads, scratch };
    for i in (0..acts.layers.len()).rev() {
        b.recompute(i);
        b.mlp(i);
        b.attention(i);
    }
    let ids = acts.at(&acts.inputs.ids).cols_in(0..extent.tokens);
    // transformers gives its embedding the padding token as `padding_idx`: looking it up trains nothing.
    if let Some(d_embed) = grads.find(&model.params.embed) {
        embed_bwd(dev, d_embed, b.pass.at(&scratch.dx), ids, model.config.pad);
    }
}

struct Back<'a> {
    pass: Pass<'a>,
    grads: &'a Arena,
    scratch: &'a BackwardActs,
}

impl<'a> Back<'a> {
    /// Brings back what the policy did not keep of layer `i`.
    fn recompute(&self, i: usize) {
        match self.pass.acts.capacity.keep {
            Keep::Nothing => panic!("backward over activations made for inference"),
            Keep::Doors => {
                self.pass.attention(i, Attend::Packed);
                self.pass.mlp_norm(i);
                self.pass.gate_and_up(i);
                self.pass.swiglu(i);
                self.pass.low_product(i, Projection::Down, self.pass.at(&self.pass.layer(i).1.product));
            }
            Keep::Costly => {
                self.pass.attn_norm(i);
                if self.pass.layer(i).1.rotated.is_some() {
                    self.pass.rotate(i);
                }
                self.pass.mlp_norm(i);
                self.pass.swiglu(i);
            }
            Keep::All => {}
        }
    }

    fn mlp(&self, i: usize) {
        let (p, a) = self.pass.layer(i);
        let at = |slot: &Slot| self.pass.at(slot);
        let dx = at(&self.scratch.dx);
        let (product, gate_up, x) = (at(&a.product), at(&a.gate_up), at(&a.mlp_in));
        let [gate, up] = self.pass.halves(gate_up);
        self.weights(i, Projection::Down, dx, product);
        self.input(i, Projection::Down, product, dx, Into::Store);
        swiglu_bwd(self.pass.dev, gate, up, product, gate, up);
        self.linears(i, x, Projection::GATE_UP, gate_up);
        self.norm(dx, &p.mlp_norm, x, at(&a.mid), at(&a.mlp_rstd));
    }

    fn attention(&self, i: usize) {
        let (p, a) = self.pass.layer(i);
        let at = |slot: &Slot| self.pass.at(slot);
        let (dx, x, d_out) = (at(&self.scratch.dx), at(&a.attn_in), at(&self.scratch.d_attn_out));
        self.weights(i, Projection::Out, dx, at(&a.attn_out));
        self.input(i, Projection::Out, d_out, dx, Into::Store);
        let dqkv = at(&self.scratch.dqkv);
        self.attention_core(i, self.pass.split(dqkv), d_out);
        self.linears(i, x, Projection::QKV, dqkv);
        self.norm(dx, &p.attn_norm, x, at(&a.x), at(&a.attn_rstd));
    }

    /// From the gradient of the attention output to those of the projections before rotation.
    fn attention_core(&self, i: usize, [dq, dk, dv]: [View; 3], d_out: View) {
        let Pass { dev, model, .. } = self.pass;
        let (p, a) = self.pass.layer(i);
        let at = |slot: &Slot| self.pass.at(slot);
        let ([rq, rk], [q, k, v]) = (self.pass.rotated(a), self.pass.split(at(&a.qkv)));
        let (heads, scale) = (model.config.heads, model.config.heads.scale());
        let (delta, o, lse) = (at(&self.scratch.delta), at(&a.attn_out), at(&a.lse));
        attention_bwd(dev, dq, dk, dv, delta, d_out, o, lse, rq, rk, v, self.pass.starts(), heads, scale);
        let d_norms = p.head_norms.as_ref().and_then(|n| self.grads.find(&n.q).zip(self.grads.find(&n.k)));
        let (norms, table, positions) = (self.pass.head_norms(p), self.pass.acts.rope(), self.pass.positions());
        rope_bwd(dev, dq, dk, d_norms, q, k, self.pass.head_rstd(a), norms, table, positions, heads);
    }

    /// Projections of one input, whose gradients lie side by side in `dy`; that of the input comes to lie over it: all weights first, for they
    /// read it. One product each where weights, or their gradients, follow each other in memory.
    fn linears<const N: usize>(&self, i: usize, x: View, of: [Projection; N], dy: View<'a>) {
        let Pass { dev, model, .. } = self.pass;
        let p = of.map(|projection| self.pass.layer(i).0.projection(projection));
        let mut end = 0;
        let parts = p.map(|p| {
            end += p.w.rows;
            dy.cols_in(end - p.w.rows..end)
        });
        let gradients = Linear::joined(p, |slots| self.grads.joined(&slots));
        if let Some((dw, db)) = gradients {
            gemm_tn(dev, dw, dy, x, Into::Add);
            if let Some(db) = db {
                bias_bwd(dev, db, dy);
            }
        }
        for (projection, dy) in of.into_iter().zip(parts) {
            match gradients {
                None => self.weights(i, projection, dy, x),
                Some(_) => self.low_weights(i, projection, dy, x),
            }
        }
        let joined = model.joined(&p.map(|p| &p.w));
        if let Some(w) = joined {
            gemm_nn(dev, x, dy, w, Into::Store);
        }
        for (n, (projection, dy)) in of.into_iter().zip(parts).enumerate() {
            match joined {
                None => self.input(i, projection, x, dy, if n == 0 { Into::Store } else { Into::Add }),
                Some(_) => self.low_input(i, projection, x),
            }
        }
    }

    fn weights(&self, i: usize, projection: Projection, dy: View, x: View) {
        let p = self.pass.layer(i).0.projection(projection);
        if let Some(dw) = self.grads.find(&p.w) {
            gemm_tn(self.pass.dev, dw, dy, x, Into::Add);
        }
        if let Some(db) = p.b.as_ref().and_then(|b| self.grads.find(b)) {
            bias_bwd(self.pass.dev, db, dy);
        }
        self.low_weights(i, projection, dy, x);
    }

    /// Gradients of the adapter's pair; leaves that of the low-rank product over the product.
    fn low_weights(&self, i: usize, projection: Projection, dy: View, x: View) {
        let Pass { dev, model, acts, .. } = self.pass;
        if let Some(low) = &self.pass.layer(i).0.projection(projection).low {
            let (h, unscaled) = (self.pass.product(i, projection, low), self.pass.low(&acts.unscaled, low));
            gemm_tn(dev, self.grads.at(&low.b), dy, h, Into::Add);
            gemm_nn(dev, unscaled, dy, model.at(&low.b), Into::Store);
            self.pass.scale(h, unscaled, low);
            gemm_tn(dev, self.grads.at(&low.a), h, x, Into::Add);
        }
    }

    /// Comes after [`Back::weights`].
    fn input(&self, i: usize, projection: Projection, dx: View, dy: View, into: Into) {
        gemm_nn(self.pass.dev, dx, dy, self.pass.model.at(&self.pass.layer(i).0.projection(projection).w), into);
        self.low_input(i, projection, dx);
    }

    /// Adds the part of the gradient of an input that comes through the adapter's pair.
    fn low_input(&self, i: usize, projection: Projection, dx: View) {
        let Pass { dev, model, .. } = self.pass;
        if let Some(low) = &self.pass.layer(i).0.projection(projection).low {
            gemm_nn(dev, dx, self.pass.product(i, projection, low), model.at(&low.a), Into::Add);
        }
    }

    fn norm(&self, dx: View, w: &Slot, dy: View, x: View, rstd: View) {
        let rstd = rstd.reshape(1, rstd.len());
        rmsnorm_bwd(self.pass.dev, dx, self.grads.find(w), dy, x, rstd, self.pass.model.at(w));
    }
}
