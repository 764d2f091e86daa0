//! Causal attention over packed sequences, with grouped key-value heads.
//!
//! ```text
//! for sequence b, positions i, j in starts[b]..starts[b+1], query head h, its key-value head g = h / (H / G):
//! s[i,j]   = scale q[i,h,:] . k[j,g,:]                       for j <= i
//! lse[i,h] = ln sum_{j<=i} exp(s[i,j])
//! p[i,j]   = exp(s[i,j] - lse[i,h])
//! o[i,h,:] = sum_{j<=i} p[i,j] v[j,g,:]
//!
//! delta[i,h] = do[i,h,:] . o[i,h,:]
//! ds[i,j]    = p[i,j] (do[i,h,:] . v[j,g,:] - delta[i,h])
//! dq[i,h,:]  = scale sum_{j<=i} ds[i,j] k[j,g,:]
//! dk[j,g,:]  = scale sum_h sum_{i>=j} ds[i,j] q[i,h,:]
//! dv[j,g,:]  = sum_h sum_{i>=j} p[i,j] do[i,h,:]
//! ```
//! Shapes: `q`, `o`, `dq`, `do` `[T, H*K]`; `k`, `v`, `dk`, `dv` `[T, G*K]`; `lse`, `delta` `[T, H]` in the statistics'
//! type; `starts` `[B+1]` i32, from 0 to T, not decreasing. All may have row strides: q, k and v are usually columns of
//! one buffer. Outputs overlap nothing else, save that `dq`, `dk` and `dv` may be columns of one buffer too.
//! Everything is computed in the accumulator type and rounded once, on storing. The backward overwrites.
//!
//! A row's bits depend on its own sequence up to it (backward: on its own sequence) and on nothing else: not on the
//! other sequences of the batch, on later tokens (forward), or on the number of threads.
//!
//! A sequence may also be continued ([`attention_gather_fwd`], forward only): its queries are then its last positions, and its keys and
//! values lie in rows, of tensors of their own, that a list names. So many sequences share the keys of a common beginning, and a long one
//! is computed in pieces, with the bits that a row has when its whole sequence is computed at once.
//!
//! f64 runs the oracle, plain loops; f32 and bf16 run `attention/flash.rs`. Probabilities stay in f32 between the two products, but
//! on a GPU's matrix units: there bf16 rounds them, and `ds`, to bf16. On a GPU, rows that the offsets leave out (they do not ascend from
//! 0 to T) keep what they held, and heads have at most 256 columns.

mod cuda;
mod flash;

use super::gemm::kernel::Kernel;
use super::{Heads, indices};
use crate::base::dtype::{Dtype, Elem, Real, bf16};
use crate::base::par::Pool;
use crate::base::simd::level;
use crate::by_dtype;
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use std::ops::Range;

/// What forward and backward share besides their tensors.
struct Packed<'a> {
    starts: &'a [i32],
    /// Where keys and values are, if not where their queries are; forward only.
    listed: Option<Listed<'a>>,
    heads: Heads,
    scale: f64,
}

/// Rows of keys and values, and where each sequence's begin in the list.
#[derive(Clone, Copy)]
struct Listed<'a> {
    starts: &'a [i32],
    places: &'a [i32],
}

/// One sequence of a forward.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    /// The row of the first query, and its position.
    row: usize,
    before: usize,
    /// Keys.
    len: usize,
    places: Option<&'a [i32]>,
}

impl Sequence<'_> {
    fn queries(&self) -> usize {
        self.len - self.before
    }
    /// The row of the key at a position.
    fn key(&self, position: usize) -> usize {
        self.places.map_or(self.row + position, |places| places[position] as usize)
    }
}

impl Packed<'_> {
    /// The rows of each sequence.
    fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }

    /// The sequences of a forward.
    fn continued(&self) -> impl Iterator<Item = Sequence<'_>> {
        self.sequences().enumerate().map(|(b, rows)| match self.listed {
            None => Sequence { row: rows.start, before: 0, len: rows.len(), places: None },
            Some(Listed { starts, places }) => {
                let places = &places[starts[b] as usize..starts[b + 1] as usize];
                let (row, before) = (rows.start, places.len() - rows.len());
                Sequence { row, before, len: places.len(), places: Some(places) }
            }
        })
    }
}

/// Which rows of `k` and `v` the sequences of [`attention_gather_fwd`] attend to.
#[derive(Clone, Copy)]
pub struct Paths<'a> {
    /// `[B+1]` i32, from 0 to T: where each sequence's queries start among the rows of `q`.
    pub queries: View<'a>,
    /// `[B+1]` i32, from 0 to N: where each sequence's keys start in `places`. A sequence has at least as many keys as queries.
    pub keys: View<'a>,
    /// `[N]` i32: the row of each key and value, in the order of positions.
    pub places: View<'a>,
}

/// `o = softmax(scale q k^T, causal) v` per sequence and head, keeping `lse`; `scale` multiplies the logits.
#[allow(clippy::too_many_arguments)]
pub fn attention_fwd(
    dev: &Device,
    o: View,
    lse: View,
    q: View,
    k: View,
    v: View,
    starts: View,
    heads: Heads,
    scale: f64,
) {
    check("attention_fwd", heads, q.rows(), &[("q", q), ("o", o)], &[("k", k), ("v", v)], &[("lse", lse)]);
    disjoint("attention_fwd", o, &[q, k, v, lse]);
    assert!(!starts.is_empty(), "attention_fwd: no offsets");
    match dev {
        Device::Cuda(gpu) => cuda::forward(gpu, o, lse, [q, k, v], starts, heads, scale),
        Device::Cpu(pool) => {
            let packed = Packed { starts: offsets("attention_fwd", starts, q.rows()), listed: None, heads, scale };
            forward(pool, o, lse, [q, k, v], &packed);
        }
    }
}

/// As [`attention_fwd`], of sequences whose queries are their last positions, and whose keys and values are the rows of `k` and `v`
/// (`[rows, G*K]`) that `paths` lists. Places outside of them panic on the CPU; a GPU reads zeros there.
#[allow(clippy::too_many_arguments)]
pub fn attention_gather_fwd(
    dev: &Device,
    o: View,
    lse: View,
    q: View,
    k: View,
    v: View,
    paths: Paths,
    heads: Heads,
    scale: f64,
) {
    const OP: &str = "attention_gather_fwd";
    check(OP, heads, k.rows(), &[("q", q), ("o", o)], &[("k", k), ("v", v)], &[("lse", lse)]);
    disjoint(OP, o, &[q, k, v, lse]);
    let Paths { queries, keys, places } = paths;
    let sequences = queries.len().saturating_sub(1);
    assert!(
        !queries.is_empty() && keys.len() == queries.len(),
        "{OP}: {} offsets of queries, {} of keys",
        queries.len(),
        keys.len()
    );
    match dev {
        Device::Cuda(gpu) => cuda::gather_forward(gpu, o, lse, [q, k, v], paths, heads, scale),
        Device::Cpu(pool) => {
            let starts = offsets(OP, queries, q.rows());
            let listed =
                Listed { starts: offsets(OP, keys, places.len()), places: indices(OP, "place", places, k.rows()) };
            for b in 0..sequences {
                let [queries, keys] = [starts, listed.starts].map(|s| s[b + 1] - s[b]);
                assert!(queries <= keys, "{OP}: sequence {b} has {queries} queries and {keys} keys");
            }
            forward(pool, o, lse, [q, k, v], &Packed { starts, listed: Some(listed), heads, scale });
        }
    }
}

fn forward(pool: &Pool, o: View, lse: View, [q, k, v]: [View; 3], packed: &Packed) {
    match q.dtype() {
        Dtype::F32 => flash::forward::<f32>(pool, Kernel::at(level()), o, lse, q, k, v, packed),
        Dtype::Bf16 => flash::forward::<bf16>(pool, Kernel::at(level()), o, lse, q, k, v, packed),
        other => by_dtype!(other, E => fwd_oracle::<E>(pool, o, lse, q, k, v, packed)),
    }
}

/// The gradients of [`attention_fwd`]: overwrites `dq`, `dk`, `dv` and the scratch `delta`.
#[allow(clippy::too_many_arguments)]
pub fn attention_bwd(
    dev: &Device,
    dq: View,
    dk: View,
    dv: View,
    delta: View,
    d_o: View,
    o: View,
    lse: View,
    q: View,
    k: View,
    v: View,
    starts: View,
    heads: Heads,
    scale: f64,
) {
    check(
        "attention_bwd",
        heads,
        q.rows(),
        &[("q", q), ("o", o), ("do", d_o), ("dq", dq)],
        &[("k", k), ("v", v), ("dk", dk), ("dv", dv)],
        &[("lse", lse), ("delta", delta)],
    );
    for (output, others) in [(dq, [dk, dv]), (dk, [dv, dq]), (dv, [dq, dk])] {
        disjoint("attention_bwd", output, &[others[0], others[1], d_o, o, lse, delta, q, k, v]);
    }
    disjoint("attention_bwd", delta, &[d_o, o, lse, q, k, v]);
    assert!(!starts.is_empty(), "attention_bwd: no offsets");
    match dev {
        Device::Cuda(gpu) => cuda::backward(gpu, [dq, dk, dv, delta], [d_o, o, lse, q, k, v], starts, heads, scale),
        Device::Cpu(pool) => {
            let packed = Packed { starts: offsets("attention_bwd", starts, q.rows()), listed: None, heads, scale };
            let (out, saved) = ([dq, dk, dv, delta], [d_o, o, lse, q, k, v]);
            match q.dtype() {
                Dtype::F32 => flash::backward::<f32>(pool, Kernel::at(level()), out, saved, &packed),
                Dtype::Bf16 => flash::backward::<bf16>(pool, Kernel::at(level()), out, saved, &packed),
                other => by_dtype!(other, E => bwd_oracle::<E>(pool, out, saved, &packed)),
            }
        }
    }
}

/// Asserts the shapes and types of the operands that are as wide as the query heads, as the key-value heads (of `keys` rows), and of
/// the statistics; the first query operand says how many rows the others have, and which type.
fn check(op: &str, heads: Heads, keys: usize, query: &[(&str, View)], kv: &[(&str, View)], stats: &[(&str, View)]) {
    assert!(
        heads.kv > 0 && heads.size > 0 && heads.query.is_multiple_of(heads.kv),
        "{op}: {heads:?}: every key-value head serves the same number of query heads"
    );
    let (rows, dtype) = (query[0].1.rows(), query[0].1.dtype());
    let of = |list: &[(&str, View)], rows, cols, dtype| {
        for (name, view) in list {
            assert!(
                view.shape() == [rows, cols] && view.dtype() == dtype,
                "{op}: {name} {:?} {}, not [{rows}, {cols}] {dtype}",
                view.shape(),
                view.dtype()
            );
        }
    };
    of(query, rows, heads.query * heads.size, dtype);
    of(kv, keys, heads.kv * heads.size, dtype);
    of(stats, rows, heads.query, dtype.stat());
}

/// The offsets of the sequences, which must cover the rows.
fn offsets<'a>(op: &str, starts: View<'a>, rows: usize) -> &'a [i32] {
    let starts = starts.slice::<i32>();
    assert!(
        starts.first() == Some(&0) && starts.last() == Some(&(rows as i32)) && starts.is_sorted(),
        "{op}: the sequences must cover the {rows} rows in order"
    );
    starts
}

fn fwd_oracle<E: Elem>(pool: &Pool, o: View, lse: View, q: View, k: View, v: View, packed: &Packed) {
    let (heads, scale) = (packed.heads, E::Acc::of(packed.scale));
    for seq in packed.continued() {
        pool.each(seq.queries(), 1, |r| {
            let i = seq.row + r;
            let keys = || (0..=seq.before + r).map(|j| seq.key(j));
            for h in 0..heads.query {
                let (mine, theirs) = (heads.columns(h), heads.columns(h / heads.group()));
                let q = &q.row::<E>(i)[mine.clone()];
                let s: Vec<E::Acc> = keys().map(|j| scale * dot::<E>(q, &k.row::<E>(j)[theirs.clone()])).collect();
                let top = s.iter().fold(E::Acc::NEG_INFINITY, |a, b| a.max(*b));
                let total: E::Acc = s.iter().map(|s| (*s - top).exp()).sum();
                let mut sum = vec![E::Acc::ZERO; heads.size];
                for (s, j) in s.iter().zip(keys()) {
                    axpy(&mut sum, (*s - top).exp() / total, &v.row::<E>(j)[theirs.clone()]);
                }
                store(&mut o.row_mut::<E>(i)[mine], &sum);
                lse.row_mut::<E::Acc>(i)[h] = top + total.ln();
            }
        });
    }
}

fn bwd_oracle<E: Elem>(pool: &Pool, out: [View; 4], saved: [View; 6], packed: &Packed) {
    let ([dq, dk, dv, delta], [d_o, o, lse, q, k, v]) = (out, saved);
    let (heads, scale) = (packed.heads, E::Acc::of(packed.scale));
    pool.each(q.rows(), 1, |i| {
        for h in 0..heads.query {
            let mine = heads.columns(h);
            delta.row_mut::<E::Acc>(i)[h] = dot::<E>(&d_o.row::<E>(i)[mine.clone()], &o.row::<E>(i)[mine]);
        }
    });
    // The probability and the gradient of the logit of one pair.
    let pair = |i: usize, j: usize, h: usize| {
        let (mine, theirs) = (heads.columns(h), heads.columns(h / heads.group()));
        let s = scale * dot::<E>(&q.row::<E>(i)[mine.clone()], &k.row::<E>(j)[theirs.clone()]);
        let p = (s - lse.row::<E::Acc>(i)[h]).exp();
        let dp = dot::<E>(&d_o.row::<E>(i)[mine], &v.row::<E>(j)[theirs]);
        (p, p * (dp - delta.row::<E::Acc>(i)[h]))
    };
    for rows in packed.sequences() {
        pool.each(rows.len(), 1, |r| {
            let at = rows.start + r;
            for h in 0..heads.query {
                let (mine, theirs) = (heads.columns(h), heads.columns(h / heads.group()));
                let mut sum = vec![E::Acc::ZERO; heads.size];
                for j in rows.start..=at {
                    axpy(&mut sum, scale * pair(at, j, h).1, &k.row::<E>(j)[theirs.clone()]);
                }
                store(&mut dq.row_mut::<E>(at)[mine], &sum);
            }
            for g in 0..heads.kv {
                let (mut to_k, mut to_v) = (vec![E::Acc::ZERO; heads.size], vec![E::Acc::ZERO; heads.size]);
                for h in g * heads.group()..(g + 1) * heads.group() {
                    for i in at..rows.end {
                        let (p, ds) = pair(i, at, h);
                        axpy(&mut to_k, scale * ds, &q.row::<E>(i)[heads.columns(h)]);
                        axpy(&mut to_v, p, &d_o.row::<E>(i)[heads.columns(h)]);
                    }
                }
                store(&mut dk.row_mut::<E>(at)[heads.columns(g)], &to_k);
                store(&mut dv.row_mut::<E>(at)[heads.columns(g)], &to_v);
            }
        });
    }
}

fn dot<E: Elem>(a: &[E], b: &[E]) -> E::Acc {
    a.iter().zip(b).map(|(a, b)| a.get() * b.get()).sum()
}

/// `y += a x`.
fn axpy<E: Elem>(y: &mut [E::Acc], a: E::Acc, x: &[E]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x.get();
    }
}

fn store<E: Elem>(to: &mut [E], from: &[E::Acc]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = E::put(*from);
    }
}

/// What [`attention_fwd`] over sequences of these lengths costs: two products over the causal pairs.
pub fn attention_fwd_cost(dtype: Dtype, lengths: &[usize], heads: Heads) -> Cost {
    let (t, pairs) = (lengths.iter().sum::<usize>(), lengths.iter().map(|n| n * (n + 1) / 2).sum::<usize>());
    forward_cost(dtype, [t, t], pairs, heads)
}

/// What [`attention_gather_fwd`] over sequences of so many keys costs, whose last `queries` positions are asked; the list of
/// places is read once, keys that sequences share once for each.
pub fn attention_gather_fwd_cost(dtype: Dtype, queries: &[usize], keys: &[usize], heads: Heads) -> Cost {
    let triangle = |n: usize| n * (n + 1) / 2;
    let pairs = queries.iter().zip(keys).map(|(q, k)| triangle(*k) - triangle(k - q)).sum();
    let [q, k] = [queries, keys].map(|n| n.iter().sum::<usize>());
    forward_cost(dtype, [q, k], pairs, heads).and(k, Dtype::I32)
}

/// So many queries and keys, and pairs of them.
fn forward_cost(dtype: Dtype, [q, k]: [usize; 2], pairs: usize, heads: Heads) -> Cost {
    let elements = 2 * (q * heads.query + k * heads.kv) * heads.size;
    Cost::of(elements, dtype, 4 * pairs * heads.query * heads.size).and(q * heads.query, dtype.stat())
}

/// What [`attention_bwd`] costs: five products over the causal pairs.
pub fn attention_bwd_cost(dtype: Dtype, lengths: &[usize], heads: Heads) -> Cost {
    let (t, pairs) = (lengths.iter().sum::<usize>(), lengths.iter().map(|n| n * (n + 1) / 2).sum::<usize>());
    let elements = 4 * t * (heads.query + heads.kv) * heads.size;
    Cost::of(elements, dtype, 10 * pairs * heads.query * heads.size).and(2 * t * heads.query, dtype.stat())
}

#[cfg(test)]
mod tests;
