//! The forward pass. LLaMA-3.x, Qwen2.5 and Qwen3 differ by what the config says (biases, head norms, tied tables, rotation
//! scaling), not by code; prefill, decode and training share the layer and differ in the attention only.
//!
//! ```text
//! x = embed[ids]
//! for each layer:
//!     q, k, v = x' wq, x' wk, x' wv     with x' = rmsnorm(x)
//!     x = x + attention(rope(q), rope(k), v) wo
//!     x = x + (silu(x" wg) * (x" wu)) wd     with x" = rmsnorm(x)
//! head: hidden = rmsnorm(x[rows]), then logits, two verdict logits, or a score
//! ```
//! Each product with a weight is also one with an adapter's low-rank pair where there is one (`lora.rs`).

use super::Model;
use super::acts::{Acts, Keep, LayerActs};
use super::cache::Cache;
use super::lora::{LowRank, Projection};
use super::params::{LayerParams, Linear};
use super::paths::Attended;
use crate::device::{Device, Slot, View};
use crate::ops::attention::{attention_fwd, attention_gather_fwd};
use crate::ops::decode::decode_fwd;
use crate::ops::embed::embed_fwd;
use crate::ops::gemm::{gemm_gated, gemm_nt};
use crate::ops::pages::pages_write;
use crate::ops::rmsnorm::rmsnorm_fwd;
use crate::ops::rope::{QkNorm, rope_fwd, rope_pages_fwd};
use crate::ops::swiglu::swiglu_fwd;

/// Where attention finds keys and values.
#[derive(Clone, Copy)]
pub enum Attend<'a> {
    /// Whole packed sequences; nothing is kept.
    Packed,
    /// Whole packed sequences, whose keys and values are also written to the cache.
    Prefill(&'a Cache),
    /// One new token for each sequence, attending to the cache.
    Decode(&'a Cache),
    /// Packed sequences that go on from what the cache holds: their keys and values are written to it, and they attend to the rows
    /// of it that are listed. Numerically a prefill.
    Continue(&'a Cache, Attended<'a>),
}

/// How much of the capacity a pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub tokens: usize,
    pub sequences: usize,
}

/// Embeds the ids of `acts.inputs` and runs every layer; the result is in `acts.out`.
pub fn forward(dev: &Device, model: &Model, acts: &Acts, extent: Extent, attend: Attend) {
    let pass = Pass { dev, model, acts, extent };
    let ids = acts.at(&acts.inputs.ids).cols_in(0..extent.tokens);
    embed_fwd(dev, pass.at(&acts.layers[0].x), model.at(&model.params.embed), ids);
    if let Attend::Decode(cache) = attend {
        cache.find_shares(dev, extent.tokens);
    }
    for i in 0..acts.layers.len() {
        pass.attention(i, attend);
        pass.mlp(i);
    }
}

/// One pass over the layers: the operands that every step needs.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub dev: &'a Device,
    pub model: &'a Model,
    pub acts: &'a Acts,
    pub extent: Extent,
}

impl<'a> Pass<'a> {
    /// The used rows of an activation.
    pub fn at(&self, slot: &Slot) -> View<'a> {
        self.acts.at(slot).top(self.extent.tokens)
    }
    pub fn layer(&self, i: usize) -> (&'a LayerParams, &'a LayerActs) {
        (&self.model.params.layers[i], &self.acts.layers[i])
    }
    /// The residual stream after layer `i`.
    pub fn after(&self, i: usize) -> View<'a> {
        self.at(self.acts.layers.get(i + 1).map_or(&self.acts.out, |next| &next.x))
    }
    pub fn positions(&self) -> View<'a> {
        self.acts.at(&self.acts.inputs.positions).cols_in(0..self.extent.tokens)
    }
    pub fn starts(&self) -> View<'a> {
        self.acts.at(&self.acts.inputs.starts).cols_in(0..self.extent.sequences + 1)
    }
    pub fn head_norms(&self, p: &LayerParams) -> Option<QkNorm<'a>> {
        let eps = self.model.config.norm_eps;
        p.head_norms.as_ref().map(|n| QkNorm { q: self.model.at(&n.q), k: self.model.at(&n.k), eps })
    }
    /// Queries, keys and values as columns of a `[T, (H+2G) K]` tensor.
    pub fn split(&self, qkv: View<'a>) -> [View<'a>; 3] {
        let heads = self.model.config.heads;
        let (q, kv) = (heads.query * heads.size, heads.kv * heads.size);
        [qkv.cols_in(0..q), qkv.cols_in(q..q + kv), qkv.cols_in(q + kv..q + 2 * kv)]
    }
    /// Gate and up as columns of a `[T, 2F]` tensor.
    pub fn halves(&self, gate_up: View<'a>) -> [View<'a>; 2] {
        let f = self.model.config.ffn;
        [gate_up.cols_in(0..f), gate_up.cols_in(f..2 * f)]
    }
    /// The rotated queries and keys: their own tensor with head norms, else in place.
    pub fn rotated(&self, a: &LayerActs) -> [View<'a>; 2] {
        let [q, k, _] = self.split(self.at(&a.qkv));
        match &a.rotated {
            None => [q, k],
            Some(slot) => {
                let both = self.at(slot);
                [both.cols_in(0..q.cols()), both.cols_in(q.cols()..q.cols() + k.cols())]
            }
        }
    }
    pub fn head_rstd(&self, a: &LayerActs) -> View<'a> {
        self.at(a.head_rstd.as_ref().unwrap_or(&a.attn_rstd))
    }
    /// `y = x w^T (+ bias) (+ residual)`, and what the adapter adds to it.
    pub fn linear(&self, i: usize, projection: Projection, y: View, x: View, residual: Option<View>) {
        let (dev, model, p) = (self.dev, self.model, self.layer(i).0.projection(projection));
        gemm_nt(dev, y, x, model.at(&p.w), p.b.as_ref().map(|b| model.at(b)), residual);
        self.low_linear(i, projection, y, x);
    }
    /// Projections of one input, side by side in `y`: one product where their weights follow each other in memory. Same bits either way
    /// but for a GPU's choice of its product, which looks at the weight's shape.
    pub fn linears<const N: usize>(&self, i: usize, of: [Projection; N], y: View<'a>, x: View) {
        let p = of.map(|projection| self.layer(i).0.projection(projection));
        let joined = Linear::joined(p, |slots| self.model.joined(&slots));
        if let Some((w, b)) = joined {
            gemm_nt(self.dev, y, x, w, b, None);
        }
        let mut first = 0;
        for (projection, p) in of.into_iter().zip(p) {
            let y = y.cols_in(first..first + p.w.rows);
            first += p.w.rows;
            match joined {
                None => self.linear(i, projection, y, x, None),
                Some(_) => self.low_linear(i, projection, y, x),
            }
        }
    }
    /// Adds what the adapter does.
    fn low_linear(&self, i: usize, projection: Projection, y: View, x: View) {
        if let Some(low) = &self.layer(i).0.projection(projection).low {
            self.low_product(i, projection, x);
            gemm_nt(self.dev, y, self.product(i, projection, low), self.model.at(&low.b), None, Some(y));
        }
    }
    /// `h = s x a^T`, where there is a pair.
    pub fn low_product(&self, i: usize, projection: Projection, x: View) {
        if let Some(low) = &self.layer(i).0.projection(projection).low {
            let (u, h) = (self.low(&self.acts.unscaled, low), self.product(i, projection, low));
            gemm_nt(self.dev, u, x, self.model.at(&low.a), None, None);
            self.scale(h, u, low);
        }
    }
    /// The used rows and columns of room for a low-rank product.
    pub fn low(&self, slot: &Slot, low: &LowRank) -> View<'a> {
        self.at(slot).cols_in(0..low.a.rows)
    }
    /// The scaled low-rank product of a projection of layer `i`.
    pub fn product(&self, i: usize, projection: Projection, low: &LowRank) -> View<'a> {
        let slot = self.acts.layers[i].low[projection as usize].as_ref();
        self.low(slot.expect("activations made for an adapter of this rank"), low)
    }
    /// `to = s from`.
    pub fn scale(&self, to: View, from: View, low: &LowRank) {
        for (n, part) in low.scale.iter().enumerate() {
            gemm_nt(self.dev, to, from, self.model.at(part), None, (n > 0).then_some(to));
        }
    }

    pub fn attention(&self, i: usize, attend: Attend) {
        let (_, a) = self.layer(i);
        self.attn_norm(i);
        let x = self.at(&a.attn_in);
        let (qkv, [_, _, v]) = (self.at(&a.qkv), self.split(self.at(&a.qkv)));
        self.linears(i, Projection::QKV, qkv, x);
        match attend {
            Attend::Packed => self.rotate(i),
            // The packed keys are read once more, by the attention.
            Attend::Prefill(cache) => {
                self.rotate(i);
                let ([_, k], [k_pool, v_pool]) = (self.rotated(self.layer(i).1), cache.pools(i));
                pages_write(self.dev, k_pool, v_pool, k, v, cache.places(self.extent.tokens));
            }
            Attend::Decode(cache) => self.rotate_into(i, cache, cache.places(self.extent.tokens)),
            Attend::Continue(cache, attended) => self.rotate_into(i, cache, attended.writes),
        }
        self.attend(i, attend);
        self.linear(i, Projection::Out, self.at(&a.mid), self.at(&a.attn_out), Some(self.at(&a.x)));
    }

    pub fn attn_norm(&self, i: usize) {
        let (p, a) = self.layer(i);
        let eps = self.model.config.norm_eps;
        let w = self.model.at(&p.attn_norm);
        rmsnorm_fwd(self.dev, self.at(&a.attn_in), self.at(&a.attn_rstd), self.at(&a.x), w, eps);
    }

    pub fn rotate(&self, i: usize) {
        let (p, a) = self.layer(i);
        let [q, k, _] = self.split(self.at(&a.qkv));
        let [rq, rk] = self.rotated(a);
        let heads = self.model.config.heads;
        let (norm, table, positions) = (self.head_norms(p), self.acts.rope(), self.positions());
        rope_fwd(self.dev, rq, rk, self.head_rstd(a), q, k, norm, table, positions, heads);
    }

    /// As [`Pass::rotate`], with keys and values into the cache at once.
    fn rotate_into(&self, i: usize, cache: &Cache, places: View) {
        let (p, a) = self.layer(i);
        let (raw, [rq, _], rstd) = (self.split(self.at(&a.qkv)), self.rotated(a), self.head_rstd(a));
        let (norm, table, positions) = (self.head_norms(p), self.acts.rope(), self.positions());
        let heads = self.model.config.heads;
        rope_pages_fwd(self.dev, rq, cache.pools(i), rstd, raw, places, norm, table, positions, heads);
    }

    fn attend(&self, i: usize, attend: Attend) {
        let (_, a) = self.layer(i);
        let ([q, k], [_, _, v]) = (self.rotated(a), self.split(self.at(&a.qkv)));
        let (heads, scale, o) = (self.model.config.heads, self.model.config.heads.scale(), self.at(&a.attn_out));
        match attend {
            Attend::Continue(cache, attended) => {
                let [k_pool, v_pool] = cache.pools(i);
                let paths = attended.paths(self.starts());
                attention_gather_fwd(self.dev, o, self.at(&a.lse), q, k_pool, v_pool, paths, heads, scale);
            }
            Attend::Packed | Attend::Prefill(_) => {
                attention_fwd(self.dev, o, self.at(&a.lse), q, k, v, self.starts(), heads, scale)
            }
            Attend::Decode(cache) => {
                decode_fwd(self.dev, o, q, cache.paged(i, self.extent.tokens), heads, scale, cache.partials());
            }
        }
    }

    pub fn mlp(&self, i: usize) {
        let (_, a) = self.layer(i);
        self.mlp_norm(i);
        match self.gated(i) {
            // Nobody will read gate and up.
            Some(w) => gemm_gated(self.dev, self.at(&a.product), self.at(&a.gate_up), self.at(&a.mlp_in), w),
            None => {
                self.gate_and_up(i);
                self.swiglu(i);
            }
        }
        self.linear(i, Projection::Down, self.after(i), self.at(&a.product), Some(self.at(&a.mid)));
    }

    pub fn mlp_norm(&self, i: usize) {
        let (p, a) = self.layer(i);
        let eps = self.model.config.norm_eps;
        let w = self.model.at(&p.mlp_norm);
        rmsnorm_fwd(self.dev, self.at(&a.mlp_in), self.at(&a.mlp_rstd), self.at(&a.mid), w, eps);
    }

    /// The weight of gate and up, where the product and SwiGLU may be one op: they are nothing but a product, which no backward reads.
    fn gated(&self, i: usize) -> Option<View<'a>> {
        let (p, _) = self.layer(i);
        let plain = [&p.gate, &p.up].iter().all(|linear| linear.b.is_none() && linear.low.is_none());
        let forgotten = matches!(self.acts.capacity.keep, Keep::Nothing | Keep::Doors);
        (plain && forgotten).then(|| self.model.joined(&[&p.gate.w, &p.up.w])).flatten()
    }

    pub fn gate_and_up(&self, i: usize) {
        let (_, a) = self.layer(i);
        self.linears(i, Projection::GATE_UP, self.at(&a.gate_up), self.at(&a.mlp_in));
    }

    pub fn swiglu(&self, i: usize) {
        let (_, a) = self.layer(i);
        let [gate, up] = self.halves(self.at(&a.gate_up));
        swiglu_fwd(self.dev, self.at(&a.product), gate, up);
    }
}
