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

use super::Model;
use super::acts::{Acts, LayerActs};
use super::cache::Cache;
use super::params::{LayerParams, Linear};
use super::paths::Attended;
use crate::device::{Device, Slot, View};
use crate::ops::attention::{attention_fwd, attention_gather_fwd};
use crate::ops::decode::decode_fwd;
use crate::ops::embed::embed_fwd;
use crate::ops::gemm::gemm_nt;
use crate::ops::pages::pages_write;
use crate::ops::rmsnorm::rmsnorm_fwd;
use crate::ops::rope::{QkNorm, rope_fwd};
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
    pub fn linear(&self, y: View, x: View, p: &Linear, residual: Option<View>) {
        gemm_nt(self.dev, y, x, self.model.at(&p.w), p.b.as_ref().map(|b| self.model.at(b)), residual);
    }

    pub fn attention(&self, i: usize, attend: Attend) {
        let (p, a) = self.layer(i);
        self.attn_norm(i);
        let x = self.at(&a.attn_in);
        let [q, k, v] = self.split(self.at(&a.qkv));
        self.linear(q, x, &p.q, None);
        self.linear(k, x, &p.k, None);
        self.linear(v, x, &p.v, None);
        self.rotate(i);
        self.attend(i, attend);
        self.linear(self.at(&a.mid), self.at(&a.attn_out), &p.o, Some(self.at(&a.x)));
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

    fn attend(&self, i: usize, attend: Attend) {
        let (_, a) = self.layer(i);
        let ([q, k], [_, _, v]) = (self.rotated(a), self.split(self.at(&a.qkv)));
        let (heads, scale, o) = (self.model.config.heads, self.model.config.heads.scale(), self.at(&a.attn_out));
        if let Attend::Prefill(cache) | Attend::Decode(cache) = attend {
            let [k_pool, v_pool] = cache.pools(i);
            pages_write(self.dev, k_pool, v_pool, k, v, cache.places(self.extent.tokens));
        }
        match attend {
            Attend::Continue(cache, attended) => {
                let [k_pool, v_pool] = cache.pools(i);
                pages_write(self.dev, k_pool, v_pool, k, v, attended.writes);
                let paths = attended.paths(self.starts());
                attention_gather_fwd(self.dev, o, self.at(&a.lse), q, k_pool, v_pool, paths, heads, scale);
            }
            Attend::Packed | Attend::Prefill(_) => {
                attention_fwd(self.dev, o, self.at(&a.lse), q, k, v, self.starts(), heads, scale)
            }
            Attend::Decode(cache) => {
                let [k_pool, v_pool] = cache.pools(i);
                let (table, lens) = (cache.table(self.extent.tokens), cache.lens(self.extent.tokens));
                decode_fwd(self.dev, o, q, k_pool, v_pool, table, lens, cache.page(), heads, scale, cache.partials());
            }
        }
    }

    pub fn mlp(&self, i: usize) {
        let (p, a) = self.layer(i);
        self.mlp_norm(i);
        let x = self.at(&a.mlp_in);
        self.linear(self.at(&a.gate), x, &p.gate, None);
        self.linear(self.at(&a.up), x, &p.up, None);
        self.swiglu(i);
        self.linear(self.after(i), self.at(&a.product), &p.down, Some(self.at(&a.mid)));
    }

    pub fn mlp_norm(&self, i: usize) {
        let (p, a) = self.layer(i);
        let eps = self.model.config.norm_eps;
        let w = self.model.at(&p.mlp_norm);
        rmsnorm_fwd(self.dev, self.at(&a.mlp_in), self.at(&a.mlp_rstd), self.at(&a.mid), w, eps);
    }

    pub fn swiglu(&self, i: usize) {
        let (_, a) = self.layer(i);
        swiglu_fwd(self.dev, self.at(&a.product), self.at(&a.gate), self.at(&a.up));
    }
}
