//! The backward pass, derived by hand, layer by layer in reverse. Gradients of parameters are added to what is there,
//! so that micro-batches accumulate.
//!
//! Overlays (declared in `acts.rs`): the gradient of SwiGLU's product lies over the product once the down projection's
//! weight gradient has read it; those of gate and up lie over gate and up; those of the norm outputs over the norm
//! outputs once the weight gradients have read them.

use super::Model;
use super::acts::{Acts, BackwardActs, Keep};
use super::forward::{Attend, Extent, Pass};
use super::params::Linear;
use crate::device::{Arena, Device, Slot, View};
use crate::ops::attention::attention_bwd;
use crate::ops::embed::embed_bwd;
use crate::ops::gemm::{Into, bias_bwd, gemm_nn, gemm_tn};
use crate::ops::rmsnorm::rmsnorm_bwd;
use crate::ops::rope::rope_bwd;
use crate::ops::swiglu::swiglu_bwd;

/// Back-propagates the gradient of `acts.out`, which the head left in `acts.backward.dx`, through every layer and the
/// embedding, adding to `grads` (an arena of the parameters' layout).
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
    embed_bwd(dev, grads.at(&model.params.embed), b.pass.at(&scratch.dx), ids, model.config.pad);
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
                let (p, a) = self.pass.layer(i);
                self.pass.linear(self.pass.at(&a.gate), self.pass.at(&a.mlp_in), &p.gate, None);
                self.pass.linear(self.pass.at(&a.up), self.pass.at(&a.mlp_in), &p.up, None);
                self.pass.swiglu(i);
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
        let (product, gate, up, x) = (at(&a.product), at(&a.gate), at(&a.up), at(&a.mlp_in));
        self.weights(&p.down, dx, product);
        self.input(product, dx, &p.down, Into::Store);
        swiglu_bwd(self.pass.dev, gate, up, product, gate, up);
        self.weights(&p.gate, gate, x);
        self.weights(&p.up, up, x);
        self.input(x, gate, &p.gate, Into::Store);
        self.input(x, up, &p.up, Into::Add);
        self.norm(dx, &p.mlp_norm, x, at(&a.mid), at(&a.mlp_rstd));
    }

    fn attention(&self, i: usize) {
        let (p, a) = self.pass.layer(i);
        let at = |slot: &Slot| self.pass.at(slot);
        let (dx, x, d_out) = (at(&self.scratch.dx), at(&a.attn_in), at(&self.scratch.d_attn_out));
        self.weights(&p.o, dx, at(&a.attn_out));
        self.input(d_out, dx, &p.o, Into::Store);
        let [dq, dk, dv] = self.pass.split(at(&self.scratch.dqkv));
        self.attention_core(i, [dq, dk, dv], d_out);
        self.weights(&p.q, dq, x);
        self.weights(&p.k, dk, x);
        self.weights(&p.v, dv, x);
        self.input(x, dq, &p.q, Into::Store);
        self.input(x, dk, &p.k, Into::Add);
        self.input(x, dv, &p.v, Into::Add);
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
        let d_norms = p.head_norms.as_ref().map(|n| (self.grads.at(&n.q), self.grads.at(&n.k)));
        let (norms, table, positions) = (self.pass.head_norms(p), self.pass.acts.rope(), self.pass.positions());
        rope_bwd(dev, dq, dk, d_norms, q, k, self.pass.head_rstd(a), norms, table, positions, heads);
    }

    fn weights(&self, p: &Linear, dy: View, x: View) {
        gemm_tn(self.pass.dev, self.grads.at(&p.w), dy, x, Into::Add);
        if let Some(b) = &p.b {
            bias_bwd(self.pass.dev, self.grads.at(b), dy);
        }
    }

    fn input(&self, dx: View, dy: View, p: &Linear, into: Into) {
        gemm_nn(self.pass.dev, dx, dy, self.pass.model.at(&p.w), into);
    }

    fn norm(&self, dx: View, w: &Slot, dy: View, x: View, rstd: View) {
        let rstd = rstd.reshape(1, rstd.len());
        rmsnorm_bwd(self.pass.dev, dx, self.grads.at(w), dy, x, rstd, self.pass.model.at(w));
    }
}
