//! Rotary position embeddings (Su et al., 2021), with the RMSNorm per head that some models put before them.
//!
//! For every head `x` of a query or key row at position `p`, with `h = K/2` and `i < h`:
//!
//! ```text
//! n        = x rstd w,  rstd = 1 / sqrt(mean_k x[k]^2 + eps)          (n = x without qk-norm)
//! out[i]   = n[i]   cos[p,i] - n[i+h] sin[p,i]
//! out[i+h] = n[i+h] cos[p,i] + n[i]   sin[p,i]
//!
//! dn[i]    = dout[i]   cos[p,i] + dout[i+h] sin[p,i]
//! dn[i+h]  = dout[i+h] cos[p,i] - dout[i]   sin[p,i]
//! dx       = rstd (dn w - x rstd^2 mean_k(dn w x))                     (dx = dn without qk-norm)
//! dw[k]   += sum over tokens and heads of dn[k] x[k] rstd
//! ```
//! The pairs `(i, i + K/2)` are those of Hugging Face checkpoints. Shapes: queries `[T, H*K]`, keys `[T, G*K]`, `rstd` `[T, H+G]`
//! in the statistics' type (queries first), norm weights `[K]`, tables `[max_positions, K/2]` in the statistics' type, `positions` `[T]`
//! of i32. Computed in the accumulator type, rounded once on storing. `K` is even and at most 256.
//!
//! Outputs may be the inputs themselves when there is no norm; `rstd` is then not touched and may be empty. The backward works in
//! place: gradients of the rotated rows become gradients of the raw rows.
//!
//! A position outside the tables panics on the CPU; a GPU turns its row into NaN.
//!
//! [`rope_pages_fwd`] writes keys straight to their places in a paged cache, `k_pool[places[t],:]`, and copies values to theirs. No two tokens
//! have one place. A place outside the pool panics on the CPU; a GPU leaves its token out.

mod cuda;

pub use super::angles::{Llama3Scaling, rope_angles};
use super::{Heads, indices};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::par::Pool;
use crate::base::simd::{sum_by, vectorize};
use crate::by_dtype;
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;

/// RMSNorm of each query and key head before the rotation: weights `[K]`.
#[derive(Clone, Copy)]
pub struct QkNorm<'a> {
    pub q: View<'a>,
    pub k: View<'a>,
    pub eps: f64,
}

/// Cosines and sines, `[max_positions, K/2]` each, in the statistics' type.
#[derive(Clone, Copy)]
pub struct RopeTable<'a> {
    pub cos: View<'a>,
    pub sin: View<'a>,
}

/// Tokens of work that one thread takes at a time.
const ROWS: usize = 16;
/// Stretches of tokens whose gradients of norm weights are summed apart, then together in order: as many for any number of threads.
const STRETCHES: usize = 32;
/// The largest head size: one head lies in local memory while it is worked on.
const SIZE: usize = 256;

/// Where keys and values of tokens go in a paged cache.
#[derive(Clone, Copy)]
struct Paged<'a> {
    v_pool: View<'a>,
    v: View<'a>,
    places: View<'a>,
}

/// Normalises (with `norm`) and rotates queries and keys; keeps `rstd`.
pub fn rope_fwd(
    dev: &Device,
    q_out: View,
    k_out: View,
    rstd: View,
    q: View,
    k: View,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    check("rope_fwd", [q_out, q], [k_out, k], rstd, norm, table, positions, heads);
    disjoint("rope_fwd", k_out, &[q]);
    if norm.is_some() {
        // The backward reads the raw rows.
        disjoint("rope_fwd", k_out, &[k]);
    }
    turn_fwd(dev, q_out, k_out, rstd, q, k, None, norm, table, positions, heads);
}

/// As [`rope_fwd`], with keys and values on their way into a paged cache: pools `[rows, G*K]`, `v` `[T, G*K]`, `places` `[T]` of i32.
pub fn rope_pages_fwd(
    dev: &Device,
    q_out: View,
    [k_pool, v_pool]: [View; 2],
    rstd: View,
    [q, k, v]: [View; 3],
    places: View,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    check("rope_pages_fwd", [q_out, q], [v, k], rstd, norm, table, positions, heads);
    assert!(
        k_pool.cols() == k.cols()
            && v_pool.shape() == k_pool.shape()
            && places.len() == q.rows()
            && [v, k_pool, v_pool].iter().all(|x| x.dtype() == k.dtype()),
        "rope_pages_fwd: pools {:?} and {:?}, k {:?}, v {:?}, places {:?}",
        k_pool.shape(),
        v_pool.shape(),
        k.shape(),
        v.shape(),
        places.shape()
    );
    disjoint("rope_pages_fwd", k_pool, &[v_pool, q, k, v]);
    disjoint("rope_pages_fwd", v_pool, &[q_out, q, k, v]);
    disjoint("rope_pages_fwd", q_out, &[v]);
    turn_fwd(dev, q_out, k_pool, rstd, q, k, Some(Paged { v_pool, v, places }), norm, table, positions, heads);
}

fn turn_fwd(
    dev: &Device,
    q_out: View,
    k_out: View,
    rstd: View,
    q: View,
    k: View,
    paged: Option<Paged>,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    disjoint("rope_fwd", q_out, &[k_out, k]);
    if norm.is_some() {
        disjoint("rope_fwd", q_out, &[q]);
    }
    match dev {
        Device::Cuda(gpu) => match norm {
            Some(norm) => cuda::norm_fwd(gpu, [q_out, k_out], rstd, [q, k], paged, norm, table, positions, heads),
            None => cuda::turn(gpu, [q_out, k_out], [q, k], paged, table, positions, heads, 1.0),
        },
        Device::Cpu(pool) => {
            let positions = indices("rope_fwd", "position", positions, table.cos.rows());
            let places = paged.map(|paged| distinct(paged.places, k_out.rows()));
            by_dtype!(q.dtype(), E => pool.ranges(q.rows(), ROWS, |rows| vectorize(#[inline(always)] || {
                let mut head = [<E as Elem>::Acc::ZERO; SIZE];
                for t in rows {
                    let angles = Angles::at(table, positions[t]);
                    let place = places.map_or(t, |places| places[t] as usize);
                    for j in 0..heads.query + heads.kv {
                        let (out, x, first) = side(heads, j, (q_out, q), (k_out, k));
                        let row = if j < heads.query { t } else { place };
                        let head = &mut head[..heads.size];
                        load(head, &x.row::<E>(t)[first..]);
                        if let Some(norm) = norm {
                            let w = if j < heads.query { norm.q } else { norm.k };
                            rstd.row_mut::<<E as Elem>::Acc>(t)[j] = normalise(head, w.slice::<E>(), norm.eps);
                        }
                        angles.rotate(head);
                        store(&mut out.row_mut::<E>(row)[first..], head);
                    }
                    if let Some(paged) = paged {
                        paged.v_pool.row_mut::<E>(place).copy_from_slice(paged.v.row(t));
                    }
                }
            })))
        }
    }
}

/// Places of which no two are the same, all of them in `0..rows`.
fn distinct(places: View<'_>, rows: usize) -> &[i32] {
    let places = indices("rope_pages_fwd", "place", places, rows);
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "rope_pages_fwd: place {} is that of two tokens", twice.expect("checked")[0]);
    places
}

/// Turns gradients of [`rope_fwd`]'s outputs into gradients of its inputs, in place, and adds the gradients of the norm
/// weights into `dnorm` (queries', keys'). `q`, `k` are the raw inputs; they and `rstd` are read only when there is a norm.
pub fn rope_bwd(
    dev: &Device,
    dq: View,
    dk: View,
    dnorm: Option<(View, View)>,
    q: View,
    k: View,
    rstd: View,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    check("rope_bwd", [dq, q], [dk, k], rstd, norm, table, positions, heads);
    if let Some((dqw, dkw)) = dnorm {
        assert!(
            norm.is_some() && dqw.len() == heads.size && dkw.len() == heads.size,
            "rope_bwd: gradients of norm weights {:?} and {:?}, {heads:?}, with a norm: {}",
            dqw.shape(),
            dkw.shape(),
            norm.is_some()
        );
        disjoint("rope_bwd", dqw, &[dkw, dq, dk, q, k, rstd]);
        disjoint("rope_bwd", dkw, &[dq, dk, q, k, rstd]);
    }
    disjoint("rope_bwd", dq, &[dk]);
    if norm.is_some() {
        disjoint("rope_bwd", dq, &[q, k, rstd]);
        disjoint("rope_bwd", dk, &[q, k, rstd]);
    }
    match dev {
        Device::Cuda(gpu) => match norm {
            Some(norm) => cuda::norm_bwd(gpu, [dq, dk], dnorm, [q, k], rstd, norm, table, positions, heads),
            None => cuda::turn(gpu, [dq, dk], [dq, dk], None, table, positions, heads, -1.0),
        },
        Device::Cpu(pool) => by_dtype!(q.dtype(), E => {
            type A = <E as Elem>::Acc;
            let positions = indices("rope_bwd", "position", positions, table.cos.rows());
            let mut sums = [A::ZERO; STRETCHES * 2 * SIZE];
            let sums = View::of(&mut sums).reshape(STRETCHES, 2 * SIZE);
            rows_bwd::<E>(pool, sums, [dq, dk], [q, k], rstd, norm, table, positions, heads);
            if let Some((dqw, dkw)) = dnorm {
                by_dtype!(dqw.dtype(), G => add_sums::<A, G>(dqw, sums.cols_in(0..heads.size)));
                by_dtype!(dkw.dtype(), G => add_sums::<A, G>(dkw, sums.cols_in(SIZE..SIZE + heads.size)));
            }
        }),
    }
}

fn check(
    op: &str,
    [q, raw_q]: [View; 2],
    [k, raw_k]: [View; 2],
    rstd: View,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    let (t, Heads { query, kv, size }) = (q.rows(), heads);
    assert!(size % 2 == 0 && size <= SIZE, "{op}: head size {size} is odd or above {SIZE}");
    assert!(
        [q, raw_q].iter().all(|v| v.shape() == [t, query * size])
            && [k, raw_k].iter().all(|v| v.shape() == [t, kv * size])
            && positions.len() == t,
        "{op}: queries {:?} and {:?}, keys {:?} and {:?}, positions {:?}, {heads:?}",
        q.shape(),
        raw_q.shape(),
        k.shape(),
        raw_k.shape(),
        positions.shape()
    );
    assert!(
        table.cos.cols() == size / 2 && table.sin.shape() == table.cos.shape(),
        "{op}: cosines {:?}, sines {:?}, head size {size}",
        table.cos.shape(),
        table.sin.shape()
    );
    if let Some(norm) = norm {
        assert!(
            norm.q.len() == size && norm.k.len() == size && rstd.shape() == [t, query + kv],
            "{op}: norm weights {:?} and {:?}, rstd {:?}, {heads:?}, {t} tokens",
            norm.q.shape(),
            norm.k.shape(),
            rstd.shape()
        );
    }
}

/// Head `j` of a row, queries first: the pair of views it belongs to, and its first column there.
#[inline(always)]
fn side<T>(heads: Heads, j: usize, q: (T, T), k: (T, T)) -> (T, T, usize) {
    if j < heads.query { (q.0, q.1, j * heads.size) } else { (k.0, k.1, (j - heads.query) * heads.size) }
}

/// The rotation of one position.
struct Angles<'a, A> {
    cos: &'a [A],
    sin: &'a [A],
}

impl<'a, A: Real> Angles<'a, A> {
    #[inline(always)]
    fn at(table: RopeTable<'a>, position: i32) -> Self {
        Angles { cos: table.cos.row(position as usize), sin: table.sin.row(position as usize) }
    }

    #[inline(always)]
    fn rotate(&self, head: &mut [A]) {
        let (low, high) = head.split_at_mut(self.cos.len());
        for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
            (*low, *high) = (*low * *cos - *high * *sin, *high * *cos + *low * *sin);
        }
    }

    #[inline(always)]
    fn rotate_back(&self, head: &mut [A]) {
        let (low, high) = head.split_at_mut(self.cos.len());
        for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
            (*low, *high) = (*low * *cos + *high * *sin, *high * *cos - *low * *sin);
        }
    }
}

#[inline(always)]
fn load<E: Elem>(to: &mut [E::Acc], from: &[E]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.get();
    }
}

#[inline(always)]
fn store<E: Elem>(to: &mut [E], from: &[E::Acc]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = E::put(*from);
    }
}

#[inline(always)]
fn normalise<E: Elem>(head: &mut [E::Acc], w: &[E], eps: f64) -> E::Acc {
    let n = head.len();
    let square = sum_by(n, |i| head[i] * head[i]);
    let rstd = E::Acc::ONE / (square / E::Acc::of(n as f64) + E::Acc::of(eps)).sqrt();
    for (x, w) in head.iter_mut().zip(w) {
        *x = *x * rstd * w.get();
    }
    rstd
}

/// `dn` becomes `dx`; `dn x rstd` is added to `sums`.
#[inline(always)]
fn normalise_bwd<E: Elem>(dn: &mut [E::Acc], sums: &mut [E::Acc], x: &[E], w: &[E], rstd: E::Acc) {
    let n = dn.len();
    let (sums, x, w) = (&mut sums[..n], &x[..n], &w[..n]);
    let gx = sum_by(n, |i| dn[i] * w[i].get() * x[i].get());
    let c = gx * rstd * rstd / E::Acc::of(n as f64);
    for i in 0..n {
        sums[i] += dn[i] * x[i].get() * rstd;
        dn[i] = rstd * (dn[i] * w[i].get() - x[i].get() * c);
    }
}

/// Gradients of every row in place; gradients of the norm weights of stretch `i` of the tokens into row `i` of `sums`, which is
/// zero: queries' from column 0, keys' from column `SIZE`.
fn rows_bwd<E: Elem>(
    pool: &Pool,
    sums: View,
    [dq, dk]: [View; 2],
    [q, k]: [View; 2],
    rstd: View,
    norm: Option<QkNorm>,
    table: RopeTable,
    positions: &[i32],
    heads: Heads,
) {
    let length = dq.rows().div_ceil(STRETCHES);
    let (q_sums, k_sums) = (sums.cols_in(0..heads.size), sums.cols_in(SIZE..SIZE + heads.size));
    pool.ranges(dq.rows(), length, |rows| {
        vectorize(
            #[inline(always)]
            || {
                let mut head = [E::Acc::ZERO; SIZE];
                let head = &mut head[..heads.size];
                let stretch = rows.start / length;
                for t in rows {
                    let angles = Angles::at(table, positions[t]);
                    for j in 0..heads.query + heads.kv {
                        let (dx, x, first) = side(heads, j, (dq, q), (dk, k));
                        load(head, &dx.row::<E>(t)[first..]);
                        angles.rotate_back(head);
                        if let Some(norm) = norm {
                            let (w, sums, _) = side(heads, j, (norm.q, q_sums), (norm.k, k_sums));
                            let x = &x.row::<E>(t)[first..first + heads.size];
                            normalise_bwd(head, sums.row_mut(stretch), x, w.slice(), rstd.row::<E::Acc>(t)[j]);
                        }
                        store(&mut dx.row_mut::<E>(t)[first..], head);
                    }
                }
            },
        )
    });
}

/// `dw += sums`, row after row.
fn add_sums<A: Real, G: Elem>(dw: View, sums: View) {
    for (i, dw) in dw.slice_mut::<G>().iter_mut().enumerate() {
        let sum = (0..sums.rows()).fold(A::ZERO, |sum, row| sum + sums.row::<A>(row)[i]);
        *dw = G::put(dw.get() + G::Acc::of(sum.f64()));
    }
}

/// What [`rope_fwd`] of `T` tokens costs; norms of heads included.
pub fn rope_fwd_cost(dtype: Dtype, t: usize, heads: Heads) -> Cost {
    let n = t * (heads.query + heads.kv) * heads.size;
    Cost::of(2 * n, dtype, 7 * n).and(t * heads.size, dtype.stat())
}

/// What [`rope_bwd`] of `T` tokens costs: it turns gradients in place and reads what the forward read.
pub fn rope_bwd_cost(dtype: Dtype, t: usize, heads: Heads) -> Cost {
    let n = t * (heads.query + heads.kv) * heads.size;
    Cost::of(3 * n, dtype, 14 * n).and(t * heads.size, dtype.stat())
}

#[cfg(test)]
mod tests;
