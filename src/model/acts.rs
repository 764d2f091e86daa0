//! The activations of a pass: what each tensor is, which layers share one, and what the backward reuses.
//!
//! Sharing *is* the recompute policy. A tensor that is kept has a slot for each layer; one that is recomputed has a
//! single slot that all layers write in turn. The backward's large temporaries are declared overlays of activations
//! that are dead by then; each is named where it is declared.

use super::config::Config;
use super::lora::{Each, Projection, Ranks};
use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::Result;
use crate::ops::rope::RopeTable;
use crate::ops::sample::Sampling;

/// What the forward keeps for the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Inference: nothing. All layers share all tensors.
    Nothing,
    /// Only the residual stream at each layer's door; the backward runs each layer's forward again.
    Doors,
    /// Everything but what is cheap to compute again: norm outputs, rotated heads, SwiGLU's product.
    Costly,
    /// Everything.
    All,
}

/// The largest pass that a set of activations can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Packed tokens, `T`.
    pub tokens: usize,
    /// Sequences, `B`.
    pub sequences: usize,
    /// Rows that a head reads, `R`.
    pub rows: usize,
    /// Longest sequence: the size of the rotation table.
    pub positions: usize,
    pub keep: Keep,
    /// Room for the low-rank products of the adapters that passes run with; zeros for none.
    pub ranks: Ranks,
}

/// Rows of logits in memory at once.
pub const LOGIT_ROWS: usize = 1024;

/// One layer's activations, in the order of the forward.
#[derive(Clone, Debug)]
pub struct LayerActs {
    /// The residual stream entering the layer, `[T, D]`.
    pub x: Slot,
    pub attn_rstd: Slot,
    /// `[T, D]`; the backward's gradient of it overlays it.
    pub attn_in: Slot,
    /// Projections before rotation, queries then keys then values, `[T, (H+2G) K]`.
    pub qkv: Slot,
    /// Queries and keys after norm and rotation, `[T, (H+G) K]`. Without head norms: the same columns of `qkv`.
    pub rotated: Option<Slot>,
    /// `[T, H+G]`, with head norms only.
    pub head_rstd: Option<Slot>,
    /// `[T, H K]`.
    pub attn_out: Slot,
    /// `[T, H]`.
    pub lse: Slot,
    /// The residual stream after attention, `[T, D]`.
    pub mid: Slot,
    pub mlp_rstd: Slot,
    /// `[T, D]`; the backward's gradient of it overlays it.
    pub mlp_in: Slot,
    /// Gate, then up, `[T, 2F]`; the backward's gradients of both overlay them.
    pub gate_up: Slot,
    /// SwiGLU's product, `[T, F]`; the backward's gradient of it overlays it.
    pub product: Slot,
    /// Scaled low-rank products `h [T, r]` of the projections that some adapter has a pair beside; the backward's gradient
    /// of each overlays it.
    pub low: Each<Option<Slot>>,
}

/// What a head reads and writes.
#[derive(Clone, Debug)]
pub struct HeadActs {
    /// Gathered rows of the residual stream, `[R, D]`; the backward's gradient of `hidden` overlays it last.
    pub x: Slot,
    pub rstd: Slot,
    /// After the final norm, `[R, D]`.
    pub hidden: Slot,
    /// Gradients of `hidden` and of `x`, `[R, D]`; training only.
    pub d_hidden: Option<Slot>,
    pub d_x: Option<Slot>,
    /// At most [`LOGIT_ROWS`] rows of logits, `[.., V]`.
    pub logits: Slot,
    /// Log-sum-exp over the vocabulary and negative log-likelihood, `[R]`.
    pub lse: Slot,
    pub nll: Slot,
    /// The two verdict logits and their gradients, `[R, 2]`.
    pub verdict: Slot,
    pub d_verdict: Slot,
    /// The scalar rewards and their gradients, `[R, 1]`.
    pub score: Slot,
    pub d_score: Slot,
}

/// What the host writes before a pass.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `[T]` token ids and positions within their sequences.
    pub ids: Slot,
    pub positions: Slot,
    /// `[B+1]` where each sequence starts.
    pub starts: Slot,
    /// `[R]` rows that the head reads, their targets (token ids, labels or pair members) and their weights.
    pub rows: Slot,
    pub targets: Slot,
    pub others: Slot,
    pub weights: Slot,
    /// `[R]` label smoothing, or the margin of a Bradley-Terry pair.
    pub smoothing: Slot,
    /// `[R, 8]` how each row's next token is drawn, as `ops::sample` takes it; inference only.
    pub sampling: Slot,
}

/// Shared temporaries of the backward.
#[derive(Clone, Debug)]
pub struct BackwardActs {
    /// Gradient of the residual stream, `[T, D]`.
    pub dx: Slot,
    /// Gradient of the attention output, `[T, H K]`.
    pub d_attn_out: Slot,
    /// `[T, H]`, row sums of `d_attn_out * attn_out`.
    pub delta: Slot,
    /// `[T, (H+2G) K]`.
    pub dqkv: Slot,
}

/// Activations and inputs of a pass in one arena. Made once; never grows.
pub struct Acts {
    pub capacity: Capacity,
    pub inputs: Inputs,
    pub layers: Vec<LayerActs>,
    /// The residual stream after the last layer, `[T, D]`.
    pub out: Slot,
    pub head: HeadActs,
    pub backward: Option<BackwardActs>,
    /// A low-rank product, or the gradient of one, before it is scaled: `[T, r]` for the largest `r`.
    pub unscaled: Slot,
    cos: Slot,
    sin: Slot,
    arena: Arena,
}

impl Acts {
    /// The bytes that [`Acts::new`] would allocate.
    pub fn bytes(c: &Config, dtype: Dtype, capacity: Capacity) -> usize {
        Tables::new(c, dtype, capacity).layout.bytes()
    }

    /// Allocates the activations of passes up to `capacity` and computes the rotation table.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, c: &Config, dtype: Dtype, capacity: Capacity) -> Result<Acts> {
        let t = Tables::new(c, dtype, capacity);
        let arena = Arena::new(dev, "activations", &t.layout)?;
        let (cos, sin) = crate::ops::rope::rope_angles(c.rope_theta, c.rope_scaling, c.heads.size, capacity.positions);
        fill(dev, arena.at(&t.cos), &cos);
        fill(dev, arena.at(&t.sin), &sin);
        let Tables { inputs, layers, out, head, backward, unscaled, cos, sin, .. } = t;
        Ok(Acts { capacity, inputs, layers, out, head, backward, unscaled, cos, sin, arena })
    }

    pub fn at(&self, slot: &Slot) -> View<'_> {
        self.arena.at(slot)
    }

    pub fn rope(&self) -> RopeTable<'_> {
        RopeTable { cos: self.at(&self.cos), sin: self.at(&self.sin) }
    }
}

fn fill(dev: &Device, view: View, angles: &[f32]) {
    match view.dtype() {
        Dtype::F64 => dev.write(view, &angles.iter().map(|x| *x as f64).collect::<Vec<_>>()),
        _ => dev.write(view, angles),
    }
}

/// [`Acts`] before it has memory.
struct Tables {
    layout: Layout,
    inputs: Inputs,
    layers: Vec<LayerActs>,
    out: Slot,
    head: HeadActs,
    backward: Option<BackwardActs>,
    unscaled: Slot,
    cos: Slot,
    sin: Slot,
}

impl Tables {
    fn new(c: &Config, dtype: Dtype, capacity: Capacity) -> Tables {
        let mut l = Layout::new();
        let Capacity { tokens: t, sequences: b, rows: r, positions, keep, ranks } = capacity;
        let (d, stat) = (c.width, dtype.stat());
        let inputs = Inputs {
            ids: l.buffer("ids", Dtype::I32, 1, t),
            positions: l.buffer("positions", Dtype::I32, 1, t),
            starts: l.buffer("starts", Dtype::I32, 1, b + 1),
            rows: l.buffer("rows", Dtype::I32, 1, r),
            targets: l.buffer("targets", Dtype::I32, 1, r),
            others: l.buffer("others", Dtype::I32, 1, r),
            weights: l.buffer("weights", stat, 1, r),
            smoothing: l.buffer("smoothing", stat, 1, r),
            sampling: l.buffer("sampling", Dtype::I32, if keep == Keep::Nothing { r } else { 0 }, Sampling::WORDS),
        };
        let out = l.buffer("out", dtype, t, d);
        let mut table = LayerTable { l: &mut l, c, dtype, t, keep, ranks, first: None };
        let layers = (0..c.layers).map(|i| table.layer(i, &out)).collect();
        let training = keep != Keep::Nothing;
        let vocab_rows = if c.head == super::config::HeadKind::LanguageModel { r.min(LOGIT_ROWS) } else { 0 };
        let head = HeadActs {
            x: l.buffer("head.x", dtype, r, d),
            rstd: l.buffer("head.rstd", stat, 1, r),
            hidden: l.buffer("head.hidden", dtype, r, d),
            d_hidden: training.then(|| l.buffer("head.d_hidden", dtype, r, d)),
            d_x: training.then(|| l.buffer("head.d_x", dtype, r, d)),
            logits: l.buffer("head.logits", stat, vocab_rows, c.vocab),
            lse: l.buffer("head.lse", stat, 1, r),
            nll: l.buffer("head.nll", stat, 1, r),
            verdict: l.buffer("head.verdict", stat, r, 2),
            d_verdict: l.buffer("head.d_verdict", stat, r, 2),
            score: l.buffer("head.score", stat, r, 1),
            d_score: l.buffer("head.d_score", stat, r, 1),
        };
        let (q, qkv) = (c.heads.query * c.heads.size, (c.heads.query + 2 * c.heads.kv) * c.heads.size);
        let backward = training.then(|| BackwardActs {
            dx: l.buffer("backward.dx", dtype, t, d),
            d_attn_out: l.buffer("backward.d_attn_out", dtype, t, q),
            delta: l.buffer("backward.delta", stat, t, c.heads.query),
            dqkv: l.buffer("backward.dqkv", dtype, t, qkv),
        });
        let unscaled = l.buffer("unscaled", dtype, t, ranks.into_iter().max().unwrap_or(0));
        let cos = l.buffer("rope.cos", stat, positions, c.heads.size / 2);
        let sin = l.buffer("rope.sin", stat, positions, c.heads.size / 2);
        Tables { layout: l, inputs, layers, out, head, backward, unscaled, cos, sin }
    }
}

/// Registers layers one by one; a tensor that the policy does not keep is the first layer's.
struct LayerTable<'a> {
    l: &'a mut Layout,
    c: &'a Config,
    dtype: Dtype,
    t: usize,
    keep: Keep,
    ranks: Ranks,
    first: Option<LayerActs>,
}

impl LayerTable<'_> {
    fn layer(&mut self, i: usize, out: &Slot) -> LayerActs {
        let Config { width: d, ffn: f, heads, qk_norm, .. } = *self.c;
        let (e, stat) = (self.dtype, self.dtype.stat());
        let (q, qk) = (heads.query * heads.size, (heads.query + heads.kv) * heads.size);
        let (doors, costly, cheap) = match self.keep {
            Keep::Nothing => (false, false, false),
            Keep::Doors => (true, false, false),
            Keep::Costly => (true, true, false),
            Keep::All => (true, true, true),
        };
        let acts = LayerActs {
            // In inference the stream is updated in place: every layer's door is the final output.
            x: if doors { self.slot(true, i, "x", e, d, |a| &a.x) } else { out.clone() },
            attn_rstd: self.slot(costly, i, "attn_rstd", stat, 1, |a| &a.attn_rstd),
            attn_in: self.slot(cheap, i, "attn_in", e, d, |a| &a.attn_in),
            qkv: self.slot(costly, i, "qkv", e, qk + heads.kv * heads.size, |a| &a.qkv),
            rotated: qk_norm.then(|| self.slot(cheap, i, "rotated", e, qk, |a| a.rotated.as_ref().unwrap())),
            head_rstd: qk_norm.then(|| {
                self.slot(costly, i, "head_rstd", stat, heads.query + heads.kv, |a| a.head_rstd.as_ref().unwrap())
            }),
            attn_out: self.slot(costly, i, "attn_out", e, q, |a| &a.attn_out),
            lse: self.slot(costly, i, "lse", stat, heads.query, |a| &a.lse),
            mid: if doors { self.slot(costly, i, "mid", e, d, |a| &a.mid) } else { out.clone() },
            mlp_rstd: self.slot(costly, i, "mlp_rstd", stat, 1, |a| &a.mlp_rstd),
            mlp_in: self.slot(cheap, i, "mlp_in", e, d, |a| &a.mlp_in),
            gate_up: self.slot(costly, i, "gate_up", e, 2 * f, |a| &a.gate_up),
            product: self.slot(cheap, i, "product", e, f, |a| &a.product),
            low: Projection::ALL.map(|p| self.low(costly, i, p)),
        };
        self.first.get_or_insert_with(|| acts.clone());
        acts
    }

    fn low(&mut self, own: bool, i: usize, p: Projection) -> Option<Slot> {
        let rank = self.ranks[p as usize];
        (rank > 0).then(|| match &self.first {
            Some(first) if !own => first.low[p as usize].clone().expect("the first layer has what all layers share"),
            _ => self.l.buffer(format!("layers.{i}.low.{}", p.name()), self.dtype, self.t, rank),
        })
    }

    fn slot(&mut self, own: bool, i: usize, name: &str, e: Dtype, cols: usize, of: fn(&LayerActs) -> &Slot) -> Slot {
        match &self.first {
            Some(first) if !own => of(first).clone(),
            _ => self.l.buffer(format!("layers.{i}.{name}"), e, self.t, cols),
        }
    }
}
