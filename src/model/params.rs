//! The parameters of a model. The struct literal is the table: building it registers every tensor's name (Hugging
//! Face's), shape, type, decay class and initialisation, and the slots it holds index weights, gradients, moments and
//! master copies alike.

use super::config::{Config, HeadKind};
use super::lora::LowRank;
use crate::base::dtype::Dtype;
use crate::device::{Init, Layout, Slot};

/// A weight `[out, in]` with an optional bias `[out]`, and an adapter's low-rank pair beside it.
#[derive(Clone, Debug)]
pub struct Linear {
    pub w: Slot,
    pub b: Option<Slot>,
    pub low: Option<LowRank>,
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
        let (d, f, q, kv) = (c.width, c.ffn, c.heads.query * c.heads.size, c.heads.kv * c.heads.size);
        let embed = l.table("model.embed_tokens.weight", dtype, c.vocab, d, Init::Normal(std));
        let layers = (0..c.layers)
            .map(|i| {
                let mut at = Layer { l: &mut l, prefix: format!("model.layers.{i}"), dtype };
                LayerParams {
                    attn_norm: at.norm("input_layernorm", d),
                    q: at.linear("self_attn.q_proj", q, d, std, c.qkv_bias),
                    k: at.linear("self_attn.k_proj", kv, d, std, c.qkv_bias),
                    v: at.linear("self_attn.v_proj", kv, d, std, c.qkv_bias),
                    head_norms: c.qk_norm.then(|| HeadNorms {
                        q: at.norm("self_attn.q_norm", c.heads.size),
                        k: at.norm("self_attn.k_norm", c.heads.size),
                    }),
                    o: at.linear("self_attn.o_proj", d, q, out_std, c.o_bias),
                    mlp_norm: at.norm("post_attention_layernorm", d),
                    gate: at.linear("mlp.gate_proj", f, d, std, c.mlp_bias),
                    up: at.linear("mlp.up_proj", f, d, std, c.mlp_bias),
                    down: at.linear("mlp.down_proj", d, f, out_std, c.mlp_bias),
                }
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
    fn linear(&mut self, name: &str, rows: usize, cols: usize, std: f32, bias: bool) -> Linear {
        let name = format!("{}.{name}", self.prefix);
        Linear {
            w: self.l.matrix(format!("{name}.weight"), self.dtype, rows, cols, Init::Normal(std)),
            b: bias.then(|| self.l.vector(format!("{name}.bias"), self.dtype, rows, Init::Zeros)),
            low: None,
        }
    }
}
