//! Choosing the next token of every sequence.
//!
//! ```text
//! temperature 0:  id = argmax_v logits[v], the lowest id on ties
//! otherwise:      q[v] = exp((logits[v] - max) / temperature)
//!   top_k         keep the k tokens with the largest logits
//!   top_p         of these, keep the fewest with the largest logits that hold at least top_p of their mass
//!   min_p         of these, keep those with q[v] >= min_p max q
//!                 id = argmax over the kept of q[v] / e[v],  e[v] = -ln u[v],  u[v] uniform
//! logprob = logits[id] - ln sum_v exp(logits[v])
//! ```
//! The last argmax is the Gumbel-max trick (`ln q[v] - ln e[v]` is a logit plus Gumbel noise): token `v` wins with probability `q[v]` over
//! the kept sum. The bits of `u[v]` are keyed by (seed, step, token id), so a token depends on its row of logits and its own
//! settings, on nothing else. Filters come in the order of transformers; where logits tie at an edge, lower ids are kept. The
//! log-probability is that of the plain distribution: temperature 1, nothing filtered.
//!
//! Shapes: `logits` `[R, V]`, `ids` `[R]` of i32, `logprobs` `[R]` in the statistics' type, `settings` `[R, 8]` of i32: rows as
//! [`Sampling::row`] writes them, in the device's memory so that a recorded sequence of launches can be replayed. The edges of top-k and top-p
//! are found by selection over the bits of the logits (as f32), a few at a time: no sorting, no memory. Masses are summed in whole units
//! of 2^-40, exactly in any order, so a GPU keeps and draws the CPU's tokens. A row with NaN gives some id and a NaN log-probability.

use super::softmax::{log_sum_exp, max_by};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::rng::{Rng, Stream};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;

/// How one sequence draws its next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// In [0, 1]; 0 keeps all.
    pub min_p: f32,
    pub seed: u64,
    /// The number of the token in its sequence.
    pub step: u64,
}

impl Sampling {
    /// The most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, step: 0 };
    /// Columns of the table of settings.
    pub const WORDS: usize = 8;

    /// A row of the table of settings: the bits of each setting, low words first.
    ///
    /// # Panics
    /// Settings outside their ranges: callers check what people ask for.
    pub fn row(&self) -> [i32; Sampling::WORDS] {
        let Sampling { temperature, top_k, top_p, min_p, seed, step } = *self;
        let open = temperature >= 0.0 && temperature.is_finite() && top_p > 0.0 && (0.0..=1.0).contains(&min_p);
        assert!(open, "sample: {self:?}");
        let words = [temperature.to_bits(), top_k, top_p.to_bits(), min_p.to_bits()];
        let [words, halves] =
            [words, [seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32]].map(|w| w.map(|w| w as i32));
        std::array::from_fn(|i| if i < 4 { words[i] } else { halves[i - 4] })
    }

    pub(super) fn of(row: &[i32]) -> Sampling {
        let (float, wide) = (
            |i: usize| f32::from_bits(row[i] as u32),
            |i: usize| row[i] as u32 as u64 | (row[i + 1] as u32 as u64) << 32,
        );
        let (temperature, top_p, min_p) = (float(0), float(2), float(3));
        Sampling { temperature, top_k: row[1] as u32, top_p, min_p, seed: wide(4), step: wide(6) }
    }
}

/// Tokens whose noise is drawn at a time.
const BLOCK: usize = 256;

/// One token per row, each by its own settings.
pub fn sample(dev: &Device, ids: View, logprobs: View, logits: View, settings: View) {
    let [r, v] = logits.shape();
    assert!(
        ids.len() == r && logprobs.len() == r && settings.shape() == [r, Sampling::WORDS] && v > 0,
        "sample: ids {:?}, logprobs {:?}, logits {:?}, settings {:?}",
        ids.shape(),
        logprobs.shape(),
        logits.shape(),
        settings.shape()
    );
    assert!(settings.is_contiguous(), "sample: settings with gaps");
    disjoint("sample", ids, &[logprobs, logits, settings]);
    disjoint("sample", logprobs, &[logits, settings]);
    let (ids, logprobs) = (ids.reshape(r, 1), logprobs.reshape(r, 1));
    match dev {
        Device::Cuda(gpu) => {
            let (v, stride) = (v as i32, logits.stride() as i32);
            launch::sample(gpu, logits.dtype(), Grid::rows(r), ids, logprobs, logits, settings, v, stride);
        }
        Device::Cpu(pool) => by_dtype!(logits.dtype(), E => pool.each(r, 1, |i| {
            let row = logits.row::<E>(i);
            let id = choose(row, &Sampling::of(settings.row(i)));
            let lse = vectorize(#[inline(always)] || log_sum_exp(row));
            ids.row_mut::<i32>(i)[0] = id as i32;
            logprobs.row_mut::<<E as Elem>::Acc>(i)[0] = row[id].get() - lse;
        })),
    }
}

fn choose<E: Elem>(logits: &[E], s: &Sampling) -> usize {
    let largest = vectorize(
        #[inline(always)]
        || max_by(logits.len(), |i| logits[i].get()),
    );
    if s.temperature == 0.0 {
        return logits.iter().position(|x| x.get() == largest).unwrap_or(0);
    }
    let row = Row { logits, largest: largest.f64() as f32, inverse: 1.0 / s.temperature };
    let cut = row.cut(s);
    row.race(&cut, s)
}

/// A row of logits under a temperature.
struct Row<'a, E> {
    logits: &'a [E],
    largest: f32,
    /// 1 / temperature.
    inverse: f32,
}

/// Which tokens stay: those with a larger key, and the first `ties` ids among those with this key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    key: u32,
    ties: usize,
}

impl<E: Elem> Row<'_, E> {
    #[inline(always)]
    fn logit(&self, i: usize) -> f32 {
        self.logits[i].get().f64() as f32
    }

    /// Bits that order as the logits do. Zero has one sign.
    #[inline(always)]
    fn key(&self, i: usize) -> u32 {
        let bits = (self.logit(i) + 0.0).to_bits();
        if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
    }

    /// The probability of token `i`, up to the factor that makes the largest 1.
    #[inline(always)]
    fn mass(&self, i: usize) -> f32 {
        ((self.logit(i) - self.largest) * self.inverse).exp()
    }

    /// The same in whole units, so that sums are exact in any order.
    #[inline(always)]
    fn units(&self, i: usize) -> u64 {
        (self.mass(i) * (1u64 << 40) as f32) as u64
    }

    /// The edge of top-k, then that of top-p.
    fn cut(&self, s: &Sampling) -> Cut {
        let mut cut = Cut { key: 0, ties: usize::MAX };
        if s.top_k > 0 && (s.top_k as usize) < self.logits.len() {
            cut = self.select(&cut, s.top_k as u64, |_| 1);
        }
        if s.top_p < 1.0 {
            let mut total = 0;
            self.each_kept(&cut, |i, _| total += self.units(i));
            let limit = (s.top_p as f64 * total as f64).ceil() as u64;
            cut = self.select(&cut, limit.max(1), |i| self.units(i));
        }
        cut
    }

    /// Calls `f` with the id and key of every kept token, in ascending order of ids.
    fn each_kept(&self, cut: &Cut, mut f: impl FnMut(usize, u32)) {
        let mut ties = 0;
        for i in 0..self.logits.len() {
            let key = self.key(i);
            if key > cut.key {
                f(i, key);
            } else if key == cut.key && ties < cut.ties {
                ties += 1;
                f(i, key);
            }
        }
    }

    /// The smallest set of kept tokens, by descending logit and then ascending id, whose weights reach `limit`. Each pass fixes
    /// one more byte of the edge's key by a histogram of weights over that byte.
    fn select(&self, kept: &Cut, limit: u64, weight: impl Fn(usize) -> u64) -> Cut {
        let (mut edge, mut above, mut each) = (0u32, 0, 0);
        for shift in [24, 16, 8, 0] {
            let (mut weights, mut counts) = ([0u64; 256], [0u64; 256]);
            self.each_kept(kept, |i, key| {
                if (key ^ edge) as u64 >> (shift + 8) == 0 {
                    let byte = (key >> shift) as usize & 255;
                    weights[byte] += weight(i);
                    counts[byte] += 1;
                }
            });
            let mut byte = 255;
            while byte > 0 && above + weights[byte] < limit {
                above += weights[byte];
                byte -= 1;
            }
            edge |= (byte as u32) << shift;
            each = weights[byte].checked_div(counts[byte]).unwrap_or(0);
        }
        // Masses too small for a unit weigh nothing: such ties are all kept.
        let ties = if each == 0 { usize::MAX } else { limit.saturating_sub(above).max(1).div_ceil(each) as usize };
        Cut { key: edge, ties: if edge == kept.key { ties.min(kept.ties) } else { ties } }
    }

    fn keeps(&self, cut: &Cut, i: usize) -> bool {
        let key = self.key(i);
        key > cut.key || (key == cut.key && (0..i).filter(|j| self.key(*j) == key).count() < cut.ties)
    }

    /// The kept token with the largest `q / e`. Since `e = -ln u >= 1 - u`, most tokens lose by the cheap bound `q / (1 - u)`, and only a
    /// handful of logarithms and look-ups are needed.
    fn race(&self, cut: &Cut, s: &Sampling) -> usize {
        let rng = Rng::new(s.seed, Stream::Sample, s.step);
        let (mut best, mut winner) = (-1.0, 0);
        let (mut mass, mut uniform, mut bound) = ([0f32; BLOCK], [0f64; BLOCK], [0f64; BLOCK]);
        for start in (0..self.logits.len()).step_by(BLOCK) {
            let n = (self.logits.len() - start).min(BLOCK);
            vectorize(
                #[inline(always)]
                || {
                    for (j, mass) in mass[..n].iter_mut().enumerate() {
                        *mass = self.mass(start + j);
                    }
                    for (j, uniform) in uniform[..n].iter_mut().enumerate() {
                        *uniform = rng.uniform((start + j) as u64);
                        bound[j] = mass[j] as f64 / (1.0 - *uniform);
                    }
                },
            );
            for j in 0..n {
                if bound[j] > best && mass[j] >= s.min_p && self.keeps(cut, start + j) {
                    let score = mass[j] as f64 / -uniform[j].ln();
                    if score > best {
                        (best, winner) = (score, start + j);
                    }
                }
            }
        }
        winner
    }
}

/// What [`sample`] of `R` rows costs: each logit once.
pub fn sample_cost(dtype: Dtype, r: usize, v: usize) -> Cost {
    Cost::of(r * v, dtype, 0)
}

#[cfg(test)]
mod tests;
