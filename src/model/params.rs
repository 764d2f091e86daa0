//! The parameters of a model. The struct literal is the table: building it registers every tensor's name (Hugging
//! Face's), shape, type, decay class and initialisation, and the slots it holds index weights, gradients, moments and
//! master copies alike.

use super::config::{Config, HeadKind};
use super::lora::LowRank;
use crate::base::dtype::Dtype;
use crate::device::{Init, Layout, Slot, View};

/// A weight `[out, in]` with an optional bias `[out]`, and an adapter's low-rank pair beside it.
#[derive(Clone, Debug)]
pub struct Linear {
    pub w: Slot,
    pub b: Option<Slot>,
    pub low: Option<LowRank>,
}

impl Linear {
    /// Weights and biases of several projections of one input, each as one tensor, where `join` finds that they lie so.
    pub fn joined<'v, const N: usize>(
        of: [&Linear; N],
        join: impl Fn([&Slot; N]) -> Option<View<'v>>,
    ) -> Option<(View<'v>, Option<View<'v>>)> {
        let w = join(of.map(|p| &p.w))?;
        match of.map(|p| p.b.as_ref()) {
            none if none.iter().all(Option::is_none) => Some((w, None)),
            all if all.iter().all(Option::is_some) => Some((w, Some(join(all.map(|b| b.expect("checked")))?))),
            _ => None,
        }
    }
}

/// RMSNorm weights over each head of the queries and of the keys (Qwen3).
#[derive(Clone, Debug)]
pub struct HeadNorms {
    pub q: Slot,
    pub k: Slot,
}

#[derive(Clone, Debug)]
pub struct LayerParams {
    pub attn_norm: Slot,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub head_norms: Option<HeadNorms>,
    pub o: Linear,
    pub mlp_norm: Slot,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

#[derive(Clone, Debug)]
pub struct Params {
    pub embed: Slot,
    pub layers: Vec<LayerParams>,
    pub norm: Slot,
    /// What turns the last hidden state into logits `[V, D]`: the embedding table again when tied.
    pub vocab_head: Option<Slot>,
    /// The scalar reward's row `[1, D]`.
    pub score_head: Option<Slot>,
}

impl Params {
    /// Lists the parameters of a model, stored as `dtype`.
    pub fn layout(c: &Config, dtype: Dtype) -> (Layout, Params) {
        let mut l = Layout::new();
        let std = c.init_std as f32;
        // Residual outputs start smaller, so that the stream's variance does not grow with depth (GPT-2's rule).
        let out_std = std / ((2 * c.layers) as f32).sqrt();
        let (d, f, wide, narrow) = (c.width, c.ffn, c.heads.query * c.heads.size, c.heads.kv * c.heads.size);
        let embed = l.table("model.embed_tokens.weight", dtype, c.vocab, d, Init::Normal(std));
        let layers = (0..c.layers)
            .map(|i| {
                let mut at = Layer { l: &mut l, prefix: format!("model.layers.{i}"), dtype };
                let attn_norm = at.norm("input_layernorm", d);
                let qkv = [("self_attn.q_proj", wide), ("self_attn.k_proj", narrow), ("self_attn.v_proj", narrow)];
                let [q, k, v] = at.linears(qkv, d, std, c.qkv_bias);
                let head_norms = c.qk_norm.then(|| HeadNorms {
                    q: at.norm("self_attn.q_norm", c.heads.size),
                    k: at.norm("self_attn.k_norm", c.heads.size),
                });
                let [o] = at.linears([("self_attn.o_proj", d)], wide, out_std, c.o_bias);
                let mlp_norm = at.norm("post_attention_layernorm", d);
                let [gate, up] = at.linears([("mlp.gate_proj", f), ("mlp.up_proj", f)], d, std, c.mlp_bias);
                let [down] = at.linears([("mlp.down_proj", d)], f, out_std, c.mlp_bias);
                LayerParams { attn_norm, q, k, v, head_norms, o, mlp_norm, gate, up, down }
            })
            .collect();
        let norm = l.vector("model.norm.weight", dtype, d, Init::Ones);
        let (vocab_head, score_head) = match c.head {
            HeadKind::LanguageModel if c.tied => (Some(embed.clone()), None),
            HeadKind::LanguageModel => (Some(l.table("lm_head.weight", dtype, c.vocab, d, Init::Normal(std))), None),
            HeadKind::Scalar => (None, Some(l.table("score.weight", dtype, 1, d, Init::Normal(std)))),
        };
        (l, Params { embed, layers, norm, vocab_head, score_head })
    }
}

/// Registers the tensors of one layer under its prefix.
struct Layer<'a> {
    l: &'a mut Layout,
    prefix: String,
    dtype: Dtype,
}

impl Layer<'_> {
    fn norm(&mut self, name: &str, len: usize) -> Slot {
        self.l.vector(format!("{}.{name}.weight", self.prefix), self.dtype, len, Init::Ones)
    }
    /// Projections of one input, by name and rows: their weights follow each other, then their biases, so that one product computes all.
    fn linears<const N: usize>(&mut self, of: [(&str, usize); N], cols: usize, std: f32, bias: bool) -> [Linear; N] {
        let Layer { l, prefix, dtype } = self;
        let weights =
            of.map(|(name, rows)| l.matrix(format!("{prefix}.{name}.weight"), *dtype, rows, cols, Init::Normal(std)));
        let mut biases =
            of.map(|(name, rows)| bias.then(|| l.vector(format!("{prefix}.{name}.bias"), *dtype, rows, Init::Zeros)));
        let mut n = 0;
        weights.map(|w| {
            n += 1;
            Linear { w, b: biases[n - 1].take(), low: None }
        })
    }
}
