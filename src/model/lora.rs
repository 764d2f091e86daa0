//! Low-rank adaptation (LoRA, Hu et al., 2021): beside a frozen projection `w [out, in]` stands a trained pair
//! `a [r, in]`, `b [out, r]`.
//!
//! ```text
//! y   = x w^T (+ bias) + h b^T      h  = s x a^T
//! dx += du a                        du = s dy b
//! da += du^T x                      db += dy^T h
//! s   = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski, 2023)
//! ```
//! Products are all there is: multiplying by `s` is a product with `s` times the identity `[r, r]`, exact because every
//! other term of its sums is zero. Where bf16 does not hold `s`, two such matrices whose sum comes as close as 16 bits
//! do are applied one after the other.
//!
//! A [`Shape`] says which projections have a pair; [`Params::adapted`] gives them slots. Pairs lie in an arena of their own
//! ([`Part::Adapter`]), so gradients, moments and master copies exist for them alone.

use super::Model;
use super::config::{Config, HeadKind};
use super::params::{Linear, Params};
use crate::base::dtype::{Dtype, bf16};
use crate::device::{Arena, Device, Init, Layout, Part, Slot};
use crate::error::Result;

/// A projection of a layer, in the order of the forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    Query,
    Key,
    Value,
    Out,
    Gate,
    Up,
    Down,
}

/// One value for each projection of a layer.
pub type Each<T> = [T; 7];

/// Columns of each projection's low-rank product, as activations reserve them; 0 where no adapter has a pair.
pub type Ranks = Each<usize>;

impl Projection {
    pub const ALL: Each<Projection> = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Out,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    /// Those that read the attention's input, and those that read the feed-forward part's, as their outputs lie side by side.
    pub const QKV: [Projection; 3] = [Projection::Query, Projection::Key, Projection::Value];
    pub const GATE_UP: [Projection; 2] = [Projection::Gate, Projection::Up];

    /// Its module's name inside a layer.
    pub const fn name(self) -> &'static str {
        match self {
            Projection::Query => "self_attn.q_proj",
            Projection::Key => "self_attn.k_proj",
            Projection::Value => "self_attn.v_proj",
            Projection::Out => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        }
    }

    /// The last part of its name: `q_proj`.
    pub fn short(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// `[out, in]` of its weight.
    pub fn shape(self, c: &Config) -> [usize; 2] {
        let (d, f, q, kv) = (c.width, c.ffn, c.heads.query * c.heads.size, c.heads.kv * c.heads.size);
        match self {
            Projection::Query => [q, d],
            Projection::Key | Projection::Value => [kv, d],
            Projection::Out => [d, q],
            Projection::Gate | Projection::Up => [f, d],
            Projection::Down => [d, f],
        }
    }
}

/// Size and strength of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub rank: usize,
    /// `s`.
    pub scale: f64,
}

/// What an adapter adds to a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The pair of each projection of each layer.
    pub layers: Vec<Each<Option<Pair>>>,
    /// A reward row of its own takes the place of the model's.
    pub score: bool,
}

impl Shape {
    /// The largest rank of each projection.
    pub fn ranks(&self) -> Ranks {
        let rank = |p: usize| self.layers.iter().filter_map(|l| l[p].map(|pair| pair.rank)).max().unwrap_or(0);
        std::array::from_fn(rank)
    }
}

/// Room for the low-rank products of any of these models.
pub fn shared(models: &[&Model]) -> Ranks {
    models.iter().map(|model| model.ranks()).fold([0; 7], join)
}

fn join(a: Ranks, b: Ranks) -> Ranks {
    std::array::from_fn(|p| a[p].max(b[p]))
}

/// The slots of a pair.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[r, in]`.
    pub a: Slot,
    /// `[out, r]`.
    pub b: Slot,
    /// `[r, r]` each: multiples of the identity that add up to `s`.
    pub scale: Vec<Slot>,
}

/// The tables of an adapter.
pub struct Tables {
    pub params: Params,
    /// What is trained, named as PEFT names it.
    pub layout: Layout,
    /// The scaled identities, and what each is scaled by.
    pub constants: Layout,
    pub factors: Vec<f64>,
}

impl Params {
    /// These parameters with the pairs of an adapter, stored as `dtype`, beside them.
    pub fn adapted(&self, c: &Config, dtype: Dtype, shape: &Shape) -> Tables {
        let mut t = Tables {
            params: self.clone(),
            layout: Layout::of(Part::Adapter),
            constants: Layout::of(Part::Constant),
            factors: Vec::new(),
        };
        let mut known: Vec<(Pair, Vec<Slot>)> = Vec::new();
        for (i, pairs) in shape.layers.iter().enumerate() {
            for (projection, pair) in Projection::ALL.into_iter().zip(pairs) {
                let Some(pair) = pair else { continue };
                let scale = match known.iter().find(|(other, _)| other == pair) {
                    Some((_, scale)) => scale.clone(),
                    None => t.scale(dtype, *pair),
                };
                known.push((*pair, scale.clone()));
                let [rows, cols] = projection.shape(c);
                let name = |half| format!("base_model.model.model.layers.{i}.{}.lora_{half}.weight", projection.name());
                // The variance of PEFT's uniform numbers between -1/sqrt(in) and 1/sqrt(in).
                let init = Init::Normal((1.0 / (3.0 * cols as f64).sqrt()) as f32);
                let a = t.layout.matrix(name('A'), dtype, pair.rank, cols, init);
                let b = t.layout.matrix(name('B'), dtype, rows, pair.rank, Init::Zeros);
                t.params.layers[i].projection_mut(projection).low = Some(LowRank { a, b, scale });
            }
        }
        if shape.score && c.head == HeadKind::Scalar {
            let init = Init::Normal(c.init_std as f32);
            t.params.score_head = Some(t.layout.table(SCORE, dtype, 1, c.width, init));
        }
        t
    }
}

/// PEFT's name of a reward row that was saved whole (`modules_to_save`).
pub const SCORE: &str = "base_model.model.score.weight";

impl Tables {
    fn scale(&mut self, dtype: Dtype, pair: Pair) -> Vec<Slot> {
        let slot = |t: &mut Tables, factor: f64| {
            let name = format!("scale.{}", t.factors.len());
            t.factors.push(factor);
            t.constants.buffer(name, dtype, pair.rank, pair.rank)
        };
        split(dtype, pair.scale).into_iter().map(|factor| slot(self, factor)).collect()
    }

    /// The scaled identities in memory.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn constants(&self, dev: &Device) -> Result<Arena> {
        let arena = Arena::new(dev, "an adapter's scales", &self.constants)?;
        for (slot, factor) in self.constants.slots().iter().zip(&self.factors) {
            let n = slot.rows;
            let element = |i: usize| if i / n == i % n { *factor } else { 0.0 };
            let view = arena.at(slot);
            match slot.dtype {
                Dtype::F64 => dev.write(view, &(0..n * n).map(element).collect::<Vec<f64>>()),
                Dtype::Bf16 => {
                    dev.write(view, &(0..n * n).map(|i| bf16::from_f32(element(i) as f32)).collect::<Vec<_>>())
                }
                _ => dev.write(view, &(0..n * n).map(|i| element(i) as f32).collect::<Vec<f32>>()),
            }
        }
        Ok(arena)
    }
}

/// Numbers of a type that add up to `s` as nearly as two of them can; one where that is exact, or as near as the type gets.
fn split(dtype: Dtype, s: f64) -> Vec<f64> {
    if dtype != Dtype::Bf16 {
        return vec![s];
    }
    let round = |x: f64| bf16::from_f32(x as f32).to_f32() as f64;
    let (first, rest) = (round(s), round(s - round(s)));
    if rest == 0.0 { vec![first] } else { vec![first, rest] }
}

impl super::params::LayerParams {
    pub fn projection(&self, projection: Projection) -> &Linear {
        match projection {
            Projection::Query => &self.q,
            Projection::Key => &self.k,
            Projection::Value => &self.v,
            Projection::Out => &self.o,
            Projection::Gate => &self.gate,
            Projection::Up => &self.up,
            Projection::Down => &self.down,
        }
    }
    fn projection_mut(&mut self, projection: Projection) -> &mut Linear {
        match projection {
            Projection::Query => &mut self.q,
            Projection::Key => &mut self.k,
            Projection::Value => &mut self.v,
            Projection::Out => &mut self.o,
            Projection::Gate => &mut self.gate,
            Projection::Up => &mut self.up,
            Projection::Down => &mut self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_that_bf16_does_not_hold_are_sums_of_two() {
        assert_eq!(split(Dtype::Bf16, 2.0), [2.0]);
        assert_eq!(split(Dtype::F32, 16.0 / 12.0), [16.0 / 12.0]);
        for s in [16.0 / 12.0, 16.0 / 8f64.sqrt(), 0.1] {
            let parts = split(Dtype::Bf16, s);
            assert_eq!(parts.len(), 2);
            assert!((parts[0] - s).abs() > 1e-4 * s && (parts.iter().sum::<f64>() - s).abs() < 1e-5 * s, "{parts:?}");
        }
    }

    #[test]
    fn ranks_are_the_largest_of_all_layers_and_adapters() {
        let pair = |rank| Some(Pair { rank, scale: 1.0 });
        let mut layers = vec![[None; 7]; 2];
        (layers[0][0], layers[1][0], layers[1][6]) = (pair(2), pair(8), pair(3));
        let ranks = Shape { layers, score: false }.ranks();
        assert_eq!(ranks, [8, 0, 0, 0, 0, 0, 3]);
        assert_eq!(join(ranks, [1, 2, 0, 0, 0, 0, 4]), [8, 2, 0, 0, 0, 0, 4]);
    }
}
