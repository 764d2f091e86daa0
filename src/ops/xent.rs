//! The language-model head and its cross-entropy, exact, with only a chunk of logits in memory.
//!
//! ```text
//! logits[r,v]  = sum_d h[r,d] w[v,d]
//! lse[r]       = ln sum_v exp(logits[r,v])
//! nll[r]       = lse[r] - logits[r, targets[r]]
//!
//! dlogits[r,v] = weights[r] (exp(logits[r,v] - lse[r]) - [v = targets[r]])        weights[r] = d total / d nll[r]
//! dh[r,d]      = sum_v dlogits[r,v] w[v,d]
//! dw[v,d]     += sum_r dlogits[r,v] h[r,d]
//! ```
//! Shapes: `h` `[R, D]` (labelled rows only: gather them first), `w` `[V, D]` of the same type; `nll`, `lse`, `weights` `[R]` and the
//! scratch `logits` `[chunk, V]` (contiguous) in the statistics' type; `targets` `[R]` of i32 in `0..V`. Rows go through the scratch `chunk`
//! at a time, in ascending order. Gradients of the logits overwrite them, rounded to the type of `h`, as the products
//! take their inputs. `dh` is stored, `dw` added to; each may have the type of `h` or its statistics' type.
//!
//! On the CPU a target outside `0..V` panics before any work; on a GPU its row gets the loss NaN and no gradient of its own.
//!
//! The sum of a row of `dw` continues from chunk to chunk where it stopped, so where `dw` has the accumulator type, no result
//! depends on the size of the chunk.

use super::gemm::{Into, gemm_nn, gemm_nt, gemm_tn};
use super::indices;
use super::softmax::log_sum_exp;
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use std::ops::Range;

/// Columns of logits turned into gradients at a time, in local memory.
const BLOCK: usize = 256;

/// `nll` and `lse` of every row.
pub fn xent_fwd(dev: &Device, nll: View, lse: View, h: View, w: View, targets: View, logits: View) {
    check("xent_fwd", [nll, lse], h, w, logits);
    assert_eq!(targets.len(), h.rows(), "xent_fwd: one target per row");
    if let Device::Cpu(_) = dev {
        indices("xent_fwd", "target", targets, w.rows());
    }
    by_chunk(dev, h, w, logits, |rows, logits| match dev {
        Device::Cuda(gpu) => {
            let [nll, lse, targets] = [nll, lse, targets].map(|v| part(v, &rows));
            launch::xent_fwd(gpu, Grid::rows(rows.len()), Some(nll), lse, logits, Some(targets), logits.cols() as i32);
        }
        Device::Cpu(pool) => by_stat!(logits.dtype(), A => {
            let targets = targets.slice::<i32>();
            pool.each(rows.len(), 1, |i| {
                row_loss::<A>(nll, lse, rows.start + i, logits.row(i), targets[rows.start + i] as usize);
            })
        }),
    });
}

/// `nll`, `lse`, `dh` and `dw` in one pass over the chunks; without `dw` the head is frozen.
pub fn xent_step(
    dev: &Device,
    nll: View,
    lse: View,
    dh: View,
    dw: Option<View>,
    h: View,
    w: View,
    targets: View,
    weights: View,
    logits: View,
) {
    check("xent_step", [nll, lse], h, w, logits);
    assert!(
        dh.shape() == h.shape() && dw.is_none_or(|dw| dw.shape() == w.shape()) && weights.len() == h.rows(),
        "xent_step: dh {:?}, dw {:?}, weights {:?}, h {:?}, w {:?}",
        dh.shape(),
        dw.map(|dw| dw.shape()),
        weights.shape(),
        h.shape(),
        w.shape()
    );
    assert_eq!(targets.len(), h.rows(), "xent_step: one target per row");
    if let Device::Cpu(_) = dev {
        indices("xent_step", "target", targets, w.rows());
    }
    by_chunk(dev, h, w, logits, |rows, logits| {
        let dlogits = logits.narrowed(h.dtype());
        match dev {
            Device::Cuda(gpu) => {
                let [nll, lse, targets, weights] = [nll, lse, targets, weights].map(|v| part(v, &rows));
                let (grid, v) = (Grid::rows(rows.len()), logits.cols() as i32);
                launch::xent_step(gpu, h.dtype(), grid, nll, lse, logits, targets, weights, v);
            }
            Device::Cpu(pool) => by_dtype!(h.dtype(), E => {
                let targets = targets.slice::<i32>();
                pool.each(rows.len(), 1, |i| {
                    let (r, weight) = (rows.start + i, weights.slice::<<E as Elem>::Acc>()[rows.start + i]);
                    let lse = row_loss(nll, lse, r, logits.row(i), targets[r] as usize);
                    vectorize(#[inline(always)] || row_bwd::<E>(dlogits, logits, i, lse, targets[r] as usize, weight));
                });
            }),
        }
        gemm_nn(dev, dh.rows_in(rows.clone()), dlogits, w, Into::Store);
        if let Some(dw) = dw {
            gemm_tn(dev, dw, dlogits, h.rows_in(rows), Into::Add);
        }
    });
}

/// Only `lse`: the normaliser that turns single logits into probabilities over the vocabulary.
pub fn head_lse(dev: &Device, lse: View, h: View, w: View, logits: View) {
    check("head_lse", [lse, lse], h, w, logits);
    by_chunk(dev, h, w, logits, |rows, logits| logits_lse(dev, part(lse, &rows), logits));
}

/// `lse[r] = ln sum_v exp(logits[r,v])` of logits that are there already.
pub fn logits_lse(dev: &Device, lse: View, logits: View) {
    let [r, v] = logits.shape();
    assert!(
        lse.len() == r && lse.dtype() == logits.dtype() && logits.is_contiguous(),
        "logits_lse: lse {:?} of {}, logits {:?} of {}",
        lse.shape(),
        lse.dtype(),
        logits.shape(),
        logits.dtype()
    );
    disjoint("logits_lse", lse, &[logits]);
    match dev {
        Device::Cuda(gpu) => launch::xent_fwd(gpu, Grid::rows(r), None, lse, logits, None, v as i32),
        Device::Cpu(pool) => by_stat!(logits.dtype(), A => pool.each(r, 1, |i| {
            let row = logits.row::<A>(i);
            *at::<A>(lse, i) = vectorize(#[inline(always)] || log_sum_exp(row));
        })),
    }
}

fn check(op: &str, stats: [View; 2], h: View, w: View, logits: View) {
    let (r, stat) = (h.rows(), h.dtype().stat());
    assert!(
        w.cols() == h.cols() && w.dtype() == h.dtype() && stats.iter().all(|s| s.len() == r && s.dtype() == stat),
        "{op}: h {:?} of {}, w {:?} of {}, statistics {:?} and {:?}",
        h.shape(),
        h.dtype(),
        w.shape(),
        w.dtype(),
        stats[0].shape(),
        stats[1].shape()
    );
    assert!(
        logits.cols() == w.rows() && logits.rows() > 0 && logits.dtype() == stat && logits.is_contiguous(),
        "{op}: logits {:?} of {}, w {:?}",
        logits.shape(),
        logits.dtype(),
        w.shape()
    );
    disjoint(op, logits, &[h, w, stats[0], stats[1]]);
}

/// Calls `f` with each range of rows and its logits.
fn by_chunk(dev: &Device, h: View, w: View, logits: View, f: impl Fn(Range<usize>, View)) {
    for start in (0..h.rows()).step_by(logits.rows()) {
        let rows = start..(start + logits.rows()).min(h.rows());
        let logits = logits.top(rows.len());
        gemm_nt(dev, logits, h.rows_in(rows.clone()), w, None, None);
        f(rows, logits);
    }
}

/// Some elements of a vector with one for each row.
fn part<'a>(vector: View<'a>, rows: &Range<usize>) -> View<'a> {
    vector.reshape(vector.len(), 1).rows_in(rows.clone())
}

/// Element `r` of a vector of statistics; each row's item writes its own.
fn at<A: Real>(vector: View<'_>, r: usize) -> &mut A {
    &mut vector.reshape(vector.len(), 1).row_mut::<A>(r)[0]
}

fn row_loss<A: Real>(nll: View, lse: View, r: usize, logits: &[A], target: usize) -> A {
    let sum = vectorize(
        #[inline(always)]
        || log_sum_exp(logits),
    );
    *at::<A>(lse, r) = sum;
    *at::<A>(nll, r) = sum - logits[target];
    sum
}

/// Turns row `i` of the logits into their gradients, in the same memory. Gradients are no wider than logits, so a block's
/// gradients cover only logits that were read before them.
#[inline(always)]
fn row_bwd<E: Elem>(dlogits: View, logits: View, i: usize, lse: E::Acc, target: usize, weight: E::Acc) {
    let mut block = [E::Acc::ZERO; BLOCK];
    for start in (0..logits.cols()).step_by(BLOCK) {
        let cols = start..(start + BLOCK).min(logits.cols());
        for (to, x) in block.iter_mut().zip(&logits.row::<E::Acc>(i)[cols.clone()]) {
            *to = weight * (*x - lse).exp();
        }
        if cols.contains(&target) {
            block[target - start] -= weight;
        }
        for (to, x) in dlogits.row_mut::<E>(i)[cols].iter_mut().zip(&block) {
            *to = E::put(*x);
        }
    }
}

/// What [`xent_fwd`] of `R` rows, width `D` and vocabulary `V` costs; logits are not counted, they need not reach memory.
pub fn xent_fwd_cost(dtype: Dtype, r: usize, d: usize, v: usize) -> Cost {
    Cost::of((r + v) * d, dtype, 2 * r * d * v)
}

/// What [`xent_step`] costs: the product and those of its two gradients. The weight's gradient is read and written.
pub fn xent_step_cost(dtype: Dtype, gradient: Dtype, r: usize, d: usize, v: usize) -> Cost {
    Cost::of((2 * r + v) * d, dtype, 6 * r * d * v).and(2 * v * d, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::{Dtype, bf16};
    use crate::ops::check::{
        BF16, Bed, F32, F32_GRADIENT, Within, agree, close, dot, gpus, gradient, matrix, normals, stored,
    };

    const R: usize = 7;
    const D: usize = 6;
    const V: usize = 300;
    const TARGETS: [i32; R] = [0, 299, 17, 17, 255, 256, 3];

    #[derive(PartialEq, Debug, Clone)]
    struct Out<A, E> {
        nll: Vec<A>,
        lse: Vec<A>,
        dh: Vec<E>,
        dw: Vec<A>,
    }

    fn step<E: Elem>(threads: usize, chunk: usize, h: &[E], w: &[E]) -> Out<E::Acc, E> {
        let zeros = |n: usize| vec![E::Acc::ZERO; n];
        let (mut h, mut w, mut targets) = (h.to_vec(), w.to_vec(), TARGETS);
        let mut weights: Vec<E::Acc> = stored(&weights());
        let mut out = Out { nll: zeros(R), lse: zeros(R), dh: h.clone(), dw: zeros(V * D) };
        let mut logits = zeros(chunk * V);
        let [nll, lse] = [View::of(&mut out.nll), View::of(&mut out.lse)];
        let [dh, dw] = [matrix(&mut out.dh, R), matrix(&mut out.dw, V)];
        let (h, w, logits) = (matrix(&mut h, R), matrix(&mut w, V), matrix(&mut logits, chunk));
        let (targets, weights) = (View::of(&mut targets), View::of(&mut weights));
        xent_step(&Device::cpu(threads), nll, lse, dh, Some(dw), h, w, targets, weights, logits);
        out
    }

    fn forward<E: Elem>(chunk: usize, h: &[E], w: &[E]) -> (Vec<E::Acc>, Vec<E::Acc>) {
        let (mut h, mut w, mut targets) = (h.to_vec(), w.to_vec(), TARGETS);
        let mut logits = vec![E::Acc::ZERO; chunk * V];
        let [mut nll, mut lse, mut lse_only] = [(); 3].map(|()| vec![E::Acc::ZERO; R]);
        let (h, w, logits) = (matrix(&mut h, R), matrix(&mut w, V), matrix(&mut logits, chunk));
        let dev = Device::cpu(1);
        xent_fwd(&dev, View::of(&mut nll), View::of(&mut lse), h, w, View::of(&mut targets), logits);
        head_lse(&dev, View::of(&mut lse_only), h, w, logits);
        assert_eq!(lse, lse_only);
        (nll, lse)
    }

    fn weights() -> Vec<f64> {
        normals(9, R)
    }

    #[test]
    fn losses_are_those_of_the_formula() {
        let (h, w) = (normals(1, R * D), normals(2, V * D));
        let (nll, lse) = forward(3, &h, &w);
        for r in 0..R {
            let z: Vec<f64> = (0..V).map(|v| dot(&h[r * D..(r + 1) * D], &w[v * D..(v + 1) * D])).collect();
            let want = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            assert!((lse[r] - want).abs() < 1e-12 && (nll[r] - (want - z[TARGETS[r] as usize])).abs() < 1e-12);
        }
    }

    #[test]
    fn backward_is_the_derivative() {
        let (h, w) = (normals(1, R * D), normals(2, V * D));
        let out = step(2, 4, &h, &w);
        let n = 10 * D;
        let loss = |h: &[f64], w: &[f64]| dot(&forward(R, h, w).0, &weights());
        gradient("dh", &h, &out.dh, |h| loss(h, &w));
        gradient("dw", &w[..n], &out.dw[..n], |top| loss(&h, &[top, &w[n..]].concat()));
        let last = V * D - n;
        gradient("dw", &w[last..], &out.dw[last..], |end| loss(&h, &[&w[..last], end].concat()));
    }

    #[test]
    fn neither_chunk_nor_threads_change_a_bit_and_the_step_is_the_forward() {
        let (h, w): (Vec<f32>, Vec<f32>) = (stored(&normals(1, R * D)), stored(&normals(2, V * D)));
        let one = step(1, R, &h, &w);
        for (threads, chunk) in [(2, R), (1, 1), (2, 3), (2, 64)] {
            assert_eq!(step(threads, chunk, &h, &w), one);
        }
        assert_eq!(forward(2, &h, &w), (one.nll, one.lse));
    }

    #[test]
    fn stored_types_follow_f64() {
        let (h, w) = (normals(1, R * D), normals(2, V * D));
        let exact = step(1, 3, &h, &w);
        let single = step::<f32>(1, 3, &stored(&h), &stored(&w));
        close("nll", &single.nll, &exact.nll, 1e-5);
        close("dh", &single.dh, &exact.dh, 1e-5);
        close("dw", &single.dw, &exact.dw, 1e-5);
        let half = step::<bf16>(2, 3, &stored(&h), &stored(&w));
        close("bf16 nll", &half.nll, &exact.nll, 0.03);
        close("bf16 dh", &half.dh, &exact.dh, 0.05);
        close("bf16 dw", &half.dw, &exact.dw, 0.05);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let h: Vec<f32> = stored(&normals(1, R * D).iter().map(|x| x * 1e4).collect::<Vec<_>>());
        let out = step(1, 2, &h, &stored(&normals(2, V * D)));
        assert!(out.nll.iter().chain(&out.dh).chain(&out.dw).all(|x| x.is_finite()));
    }

    /// `[R, D, V, chunk]`: a row, tails of vectors and chunks, rows that a block sweeps more than once.
    const CASES: [[usize; 4]; 4] = [[1, 8, 5, 4], [5, 24, 37, 2], [20, 16, 300, 16], [3, 8, 8204, 2]];

    #[test]
    fn gpus_agree() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for scale in [1.0, 1e4] {
                agree(&format!("xent {dtype}, logits times {scale}"), |bed| {
                    CASES.iter().flat_map(|case| on_bed(bed, dtype, *case, scale)).collect()
                });
            }
        }
    }

    fn on_bed(
        bed: &Bed,
        dtype: Dtype,
        [r, d, v, chunk]: [usize; 4],
        scale: f64,
    ) -> Vec<(&'static str, Within, Vec<f64>)> {
        let (h, w) = (bed.normals(dtype, r, d, 1, scale), bed.normals(dtype, v, d, 2, 1.0));
        let targets = bed.ints(1, r, &(0..r).map(|i| ((i * 7919) % v) as i32).collect::<Vec<_>>());
        let weights = bed.normals(Dtype::F32, 1, r, 3, 1.0);
        let [nll, lse, only, forward] = [(); 4].map(|()| bed.zeros(Dtype::F32, 1, r));
        let (dh, dw) = (bed.zeros(dtype, r, d), bed.normals(Dtype::F32, v, d, 4, 1.0));
        let logits = bed.zeros(Dtype::F32, chunk, v);
        xent_fwd(&bed.dev, forward, lse, h, w, targets, logits);
        head_lse(&bed.dev, only, h, w, logits);
        xent_step(&bed.dev, nll, lse, dh, Some(dw), h, w, targets, weights, logits);
        assert_eq!(bed.get(lse), bed.get(only));
        assert_eq!(bed.get(nll), bed.get(forward));
        // The logits of bf16 operands are tensor-core sums; a loss is a difference of two of them.
        let gradient = if dtype == Dtype::F32 { F32_GRADIENT } else { BF16 };
        vec![
            ("nll", F32_GRADIENT, bed.get(nll)),
            ("lse", F32, bed.get(lse)),
            ("dh", gradient, bed.get(dh)),
            ("dw", gradient, bed.get(dw)),
        ]
    }

    #[test]
    fn a_gpu_gives_nan_for_what_is_no_number_or_no_target() {
        for (called, dev) in gpus() {
            let bed = Bed::new(dev);
            let h = bed.put(Dtype::F32, 4, 1, &[1.0, f64::NAN, f64::INFINITY, 1.0]);
            let (w, targets) = (bed.put(Dtype::F32, 3, 1, &[1.0, 2.0, 3.0]), bed.ints(1, 4, &[3, 0, 0, 2]));
            let (nll, lse, logits) =
                (bed.zeros(Dtype::F32, 1, 4), bed.zeros(Dtype::F32, 1, 4), bed.zeros(Dtype::F32, 4, 3));
            xent_fwd(&bed.dev, nll, lse, h, w, targets, logits);
            let numbers = |x: View| bed.get(x).into_iter().map(f64::is_finite).collect::<Vec<_>>();
            assert_eq!(numbers(lse), [true, false, false, true], "{called}");
            assert_eq!(numbers(nll), [false, false, false, true], "{called}");
        }
    }
}
