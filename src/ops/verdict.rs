//! The two-row head: a verdict between two candidate label tokens, and its label-smoothed ranking loss.
//!
//! ```text
//! z[r,c]      = sum_d h[r,d] w[ids[c],d]                          c = 0, 1
//! Delta[r]    = z[r, labels[r]] - z[r, 1 - labels[r]]
//! nll[r]      = -ln sigma(Delta) + eps[r] Delta                   = -(1-eps) ln sigma(Delta) - eps ln sigma(-Delta)
//!
//! dDelta[r]   = weights[r] (eps[r] - sigma(-Delta))               weights[r] = d total / d nll[r]
//! dz[r, labels[r]] = dDelta,  dz[r, 1 - labels[r]] = -dDelta
//! dh[r,d]     = sum_c dz[r,c] w[ids[c],d]
//! dw[ids[c],d] += sum_r dz[r,c] h[r,d]
//! ```
//! The softmax is over the two candidates alone; no other row of the head is read or written. `eps` is half of what PyTorch
//! calls `label_smoothing`, so the loss is least at `Delta = ln((1-eps)/eps)`.
//!
//! Shapes: `h`, `dh` `[R, D]`, `w`, `dw` `[V, D]`; `z`, `dz` `[R, 2]` and `nll`, `eps`, `weights` `[R]` in the statistics' type; `labels` `[R]`
//! of i32, 0 or 1. Dot products sum in the fixed lanes of `sum_by`; the loss of a row is computed in f64 and rounded once,
//! so it neither overflows nor saturates. A label other than 0 and 1 panics on the CPU; a GPU gives NaN. `dh` is stored, `dw` added to; each may have the type of `h` or its statistics' type.

use super::indices;
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::{sum_by, vectorize};
use crate::by_dtype;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::partials::partials_add;
use crate::ops::{stretches, vector_grid};

/// Rows of work that one thread takes at a time.
const ROWS: usize = 16;
/// Columns of `dw` that one thread sums at a time.
const COLS: usize = 128;

/// `z[r,c] = h[r] . w[ids[c]]`.
pub fn verdict_fwd(dev: &Device, z: View, h: View, w: View, ids: [i32; 2]) {
    let (r, ids) = (h.rows(), rows("verdict_fwd", h, w, ids));
    assert!(z.shape() == [r, 2], "verdict_fwd: z {:?}, h {:?}", z.shape(), h.shape());
    disjoint("verdict_fwd", z, &[h, w]);
    match dev {
        Device::Cuda(gpu) => {
            let [a, b, d, ld_z, ld_h, ld_w] =
                [ids[0], ids[1], h.cols(), z.stride(), h.stride(), w.stride()].map(|n| n as i32);
            launch::verdict_fwd(gpu, h.dtype(), Grid::rows(r), z, h, w, a, b, d, ld_z, ld_h, ld_w);
        }
        Device::Cpu(pool) => by_dtype!(h.dtype(), E => pool.each(r, ROWS, |i| {
            let (z, h) = (z.row_mut::<<E as Elem>::Acc>(i), h.row::<E>(i));
            for (z, id) in z.iter_mut().zip(ids) {
                let w = w.row::<E>(id);
                *z = vectorize(#[inline(always)] || sum_by(h.len(), |i| h[i].get() * w[i].get()));
            }
        })),
    }
}

/// The loss of every row and `dz`.
pub fn verdict_loss(dev: &Device, nll: View, dz: View, z: View, labels: View, eps: View, weights: View) {
    let r = z.rows();
    assert!(
        z.shape() == [r, 2] && dz.shape() == [r, 2] && [nll, labels, eps, weights].iter().all(|v| v.len() == r),
        "verdict_loss: z {:?}, dz {:?}, nll {:?}, labels {:?}, eps {:?}, weights {:?}",
        z.shape(),
        dz.shape(),
        nll.shape(),
        labels.shape(),
        eps.shape(),
        weights.shape()
    );
    disjoint("verdict_loss", dz, &[z, nll, eps, weights]);
    match dev {
        Device::Cuda(gpu) => {
            let grid = Grid::cover(r, launch::VERDICT_LOSS_THREADS as usize);
            let [r, ld_dz, ld_z] = [r, dz.stride(), z.stride()].map(|n| n as i32);
            launch::verdict_loss(gpu, grid, nll, dz, z, labels, eps, weights, r, ld_dz, ld_z);
        }
        Device::Cpu(_) => by_stat!(z.dtype(), A => {
            let labels = indices("verdict_loss", "label", labels, 2);
            let (nll, eps, weights) = (nll.slice_mut::<A>(), eps.slice::<A>(), weights.slice::<A>());
            for (i, label) in labels.iter().enumerate() {
                let (label, z, dz) = (*label as usize, z.row::<A>(i), dz.row_mut::<A>(i));
                let (eps, delta) = (eps[i].f64(), z[label].f64() - z[1 - label].f64());
                let (loss, miss) = log_sigmoid(delta);
                nll[i] = A::of(loss + eps * delta);
                let ddelta = weights[i].f64() * (eps - miss);
                dz[label] = A::of(ddelta);
                dz[1 - label] = A::of(-ddelta);
            }
        }),
    }
}

/// `dh = dz w`, `dw += dz^T h`, on the two rows; without `dw` the head is frozen.
pub fn verdict_bwd(dev: &Device, dh: View, dw: Option<View>, dz: View, h: View, w: View, ids: [i32; 2]) {
    let ([r, d], ids) = (h.shape(), rows("verdict_bwd", h, w, ids));
    assert!(
        dh.shape() == [r, d] && dw.is_none_or(|dw| dw.shape() == w.shape()) && dz.shape() == [r, 2],
        "verdict_bwd: dh {:?}, dw {:?}, dz {:?}, h {:?}, w {:?}",
        dh.shape(),
        dw.map(|dw| dw.shape()),
        dz.shape(),
        h.shape(),
        w.shape()
    );
    disjoint("verdict_bwd", dh, &[dz, h, w]);
    if let Some(dw) = dw {
        disjoint("verdict_bwd", dw, &[dh, dz, h, w]);
    }
    match dev {
        Device::Cuda(gpu) => gpu_bwd(gpu, dh, dw, dz, h, w, ids),
        Device::Cpu(pool) => {
            by_gradient!(h.dtype(), dh.dtype(), E, G => pool.each(r, ROWS, |i| {
                let (dh, dz, w) = (dh.row_mut(i), dz.row(i), ids.map(|id| w.row(id)));
                vectorize(#[inline(always)] || dh_row::<E, G>(dh, dz, w));
            }));
            let Some(dw) = dw else { return };
            by_gradient!(h.dtype(), dw.dtype(), E, G => pool.ranges(d, COLS, |cols| {
                let (dw, h) = (dw.cols_in(cols.clone()), h.cols_in(cols));
                for (c, id) in ids.iter().enumerate() {
                    let (dw, dz) = (dw.row_mut(*id), dz.cols_in(c..c + 1));
                    vectorize(#[inline(always)] || dw_cols::<E, G>(dw, dz, h));
                }
            }));
        }
    }
}

fn gpu_bwd(gpu: &Gpu, dh: View, dw: Option<View>, dz: View, h: View, w: View, ids: [usize; 2]) {
    let [r, d] = h.shape();
    let (stretch, parts) = stretches(r);
    let partials = gpu.workspace(Dtype::F32, 2 * parts, d);
    let grid = vector_grid(h.top(r.min(1)), launch::VERDICT_BWD_F32_F32_THREADS, 1);
    let grid = Grid::new(grid.x as usize, parts, 1);
    let [a, b, r, d, stretch] = [ids[0], ids[1], r, d, stretch].map(|n| n as i32);
    let [ld_dh, ld_dz, ld_h, ld_w] = [dh, dz, h, w].map(|v| v.stride() as i32);
    match h.dtype() {
        Dtype::F32 => launch::verdict_bwd_f32_f32(
            gpu, grid, dh, partials, dz, h, w, a, b, r, d, ld_dh, ld_dz, ld_h, ld_w, stretch,
        ),
        _ => launch::verdict_bwd_bf16(
            gpu,
            dh.dtype(),
            grid,
            dh,
            partials,
            dz,
            h,
            w,
            a,
            b,
            r,
            d,
            ld_dh,
            ld_dz,
            ld_h,
            ld_w,
            stretch,
        ),
    }
    let Some(dw) = dw else { return };
    for (c, id) in ids.into_iter().enumerate() {
        partials_add(gpu, dw.rows_in(id..id + 1), partials.rows_in(c * parts..(c + 1) * parts));
    }
}

/// `-ln sigma(x)` and `sigma(-x)`, exact at any magnitude.
pub(super) fn log_sigmoid(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    let loss = (-x).max(0.0) + small.ln_1p();
    (loss, if x >= 0.0 { small } else { 1.0 } / (1.0 + small))
}

fn rows(op: &str, h: View, w: View, ids: [i32; 2]) -> [usize; 2] {
    assert!(
        h.cols() == w.cols() && h.dtype() == w.dtype(),
        "{op}: h {:?} of {}, w {:?} of {}",
        h.shape(),
        h.dtype(),
        w.shape(),
        w.dtype()
    );
    assert!(
        ids[0] != ids[1] && ids.iter().all(|id| *id >= 0 && (*id as usize) < w.rows()),
        "{op}: label ids {ids:?} must be two different rows of {:?}",
        w.shape()
    );
    ids.map(|id| id as usize)
}

#[inline(always)]
fn dh_row<E: Elem, G: Elem>(dh: &mut [G], dz: &[E::Acc], w: [&[E]; 2]) {
    for ((dh, w0), w1) in dh.iter_mut().zip(w[0]).zip(w[1]) {
        *dh = G::put(G::Acc::of((dz[0] * w0.get() + dz[1] * w1.get()).f64()));
    }
}

/// `dw += dz^T h` for one column of `dz` and at most [`COLS`] columns of `h`.
#[inline(always)]
pub(super) fn dw_cols<E: Elem, G: Elem>(dw: &mut [G], dz: View, h: View) {
    let mut sum = [E::Acc::ZERO; COLS];
    for i in 0..h.rows() {
        let dz = dz.row::<E::Acc>(i)[0];
        for (sum, h) in sum.iter_mut().zip(h.row::<E>(i)) {
            *sum += dz * h.get();
        }
    }
    for (dw, sum) in dw.iter_mut().zip(sum) {
        *dw = G::put(dw.get() + G::Acc::of(sum.f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::bf16;
    use crate::ops::check::{
        Bed, F32, F32_GRADIENT, agree, close, dot, gpus, gradient, matrix, normals, stored, within,
    };

    const R: usize = 5;
    const D: usize = 150;
    const V: usize = 4;
    const IDS: [i32; 2] = [3, 1];
    const LABELS: [i32; R] = [0, 1, 1, 0, 1];
    const EPS: [f64; R] = [0.0, 0.05, 0.1, 0.25, 0.5];

    fn logits<E: Elem>(threads: usize, h: &[E], w: &[E]) -> Vec<E::Acc> {
        let (mut h, mut w, mut z) = (h.to_vec(), w.to_vec(), vec![E::Acc::ZERO; 2 * h.len() / D]);
        let r = h.len() / D;
        verdict_fwd(&Device::cpu(threads), matrix(&mut z, r), matrix(&mut h, r), matrix(&mut w, V), IDS);
        z
    }

    fn loss<A: Real>(z: &[A], labels: &[i32], eps: &[f64], weights: &[f64]) -> (Vec<A>, Vec<A>) {
        let (mut z, mut labels, r) = (z.to_vec(), labels.to_vec(), labels.len());
        let (mut eps, mut weights): (Vec<A>, Vec<A>) = (stored(eps), stored(weights));
        let (mut nll, mut dz) = (vec![A::ZERO; r], vec![A::ZERO; 2 * r]);
        let (labels, eps, weights) = (View::of(&mut labels), View::of(&mut eps), View::of(&mut weights));
        let [dz_view, z] = [matrix(&mut dz, r), matrix(&mut z, r)];
        verdict_loss(&Device::cpu(1), View::of(&mut nll), dz_view, z, labels, eps, weights);
        (nll, dz)
    }

    fn backward<E: Elem>(threads: usize, dz: &[E::Acc], h: &[E], w: &[E]) -> (Vec<E>, Vec<E::Acc>) {
        let (mut dz, mut h, mut w) = (dz.to_vec(), h.to_vec(), w.to_vec());
        let (mut dh, mut dw) = (h.clone(), vec![E::Acc::ZERO; V * D]);
        let (dh_view, dw_view, dz) = (matrix(&mut dh, R), matrix(&mut dw, V), matrix(&mut dz, R));
        verdict_bwd(&Device::cpu(threads), dh_view, Some(dw_view), dz, matrix(&mut h, R), matrix(&mut w, V), IDS);
        (dh, dw)
    }

    #[test]
    fn backward_is_the_derivative() {
        let (h, w, weights) = (normals(1, R * D), normals(2, V * D), normals(3, R));
        let total = |h: &[f64], w: &[f64]| dot(&loss(&logits(1, h, w), &LABELS, &EPS, &weights).0, &weights);
        let (_, dz) = loss(&logits(2, &h, &w), &LABELS, &EPS, &weights);
        let (dh, dw) = backward(2, &dz, &h, &w);
        gradient("dh", &h, &dh, |h| total(h, &w));
        gradient("dw", &w, &dw, |w| total(&h, w));
        assert!(dw[..D].iter().chain(&dw[2 * D..3 * D]).all(|x| *x == 0.0), "rows of other tokens stay untouched");
    }

    /// Cross-entropy over two classes with PyTorch's smoothing `alpha = 2 eps`, written out as PyTorch defines it.
    #[test]
    fn the_loss_is_smoothed_cross_entropy_over_two_candidates() {
        for (a, b, eps) in [(1.5, -0.5, 0.05), (-2.0, 3.0, 0.1), (0.0, 0.0, 0.0), (0.3, 0.2, 0.075)] {
            let normaliser = f64::exp(a) + f64::exp(b);
            let (pa, pb) = (f64::exp(a) / normaliser, f64::exp(b) / normaliser);
            let alpha = 2.0 * eps;
            let want = -(1.0 - alpha) * pa.ln() - alpha / 2.0 * (pa.ln() + pb.ln());
            let (nll, dz) = loss(&[a, b], &[0], &[eps], &[1.0]);
            assert!((nll[0] - want).abs() < 1e-12);
            assert!((dz[0] - (pa - (1.0 - eps))).abs() < 1e-12 && dz[1] == -dz[0]);
            let (swapped, _) = loss(&[b, a], &[1], &[eps], &[1.0]);
            assert_eq!(swapped, nll);
        }
    }

    #[test]
    fn it_is_stable_at_any_magnitude() {
        let (nll, dz) = loss::<f32>(&[1e30, -1e30, -1e30, 1e30, 40.0, 0.0], &[0, 0, 0], &[0.0; 3], &[1.0; 3]);
        assert_eq!((nll[0], dz[0]), (0.0, 0.0));
        assert_eq!((nll[1], dz[2]), (2e30, -1.0));
        // exp(-40) is far below f32's resolution at 1, and survives.
        assert!((nll[2] as f64 / (-40f64).exp() - 1.0).abs() < 1e-6 && dz[4] == -nll[2]);
        let (nll, _) = loss::<f32>(&[100.0, 0.0], &[0], &[0.1], &[1.0]);
        assert_eq!(nll[0], 10.0);
    }

    #[test]
    fn stored_types_follow_f64_and_neither_threads_nor_neighbours_change_a_bit() {
        let (h, w, dz) = (normals(1, R * D), normals(2, V * D), normals(3, 2 * R));
        let exact = logits(1, &h, &w);
        let (h32, w32, dz32): (Vec<f32>, Vec<f32>, Vec<f32>) = (stored(&h), stored(&w), stored(&dz));
        let z = logits(1, &h32, &w32);
        close("z", &z, &exact, 1e-5);
        assert_eq!(logits(2, &h32, &w32), z);
        assert_eq!(logits(1, &h32[D..2 * D], &w32), z[2..4]);
        let (dh, dw) = backward(1, &dz32, &h32, &w32);
        assert_eq!(backward(2, &dz32, &h32, &w32), (dh, dw));
        close("bf16 z", &logits::<bf16>(1, &stored(&h), &stored(&w)), &exact, 0.2);
        let (exact_dh, exact_dw) = backward(1, &dz, &h, &w);
        let (dh, dw) = backward::<bf16>(2, &dz32, &stored(&h), &stored(&w));
        close("bf16 dh", &dh, &exact_dh, 0.03);
        close("bf16 dw", &dw, &exact_dw, 0.03);
    }

    #[test]
    fn gpus_agree() {
        let types = [
            (Dtype::F32, Dtype::F32, Dtype::F32),
            (Dtype::Bf16, Dtype::F32, Dtype::Bf16),
            (Dtype::Bf16, Dtype::Bf16, Dtype::F32),
        ];
        for (stored, dh_type, dw_type) in types {
            for [r, d] in [[1, 1], [3, 5], [2, 72], [530, 16], [3, 1500]] {
                agree(&format!("verdict {stored}, {dh_type} dh, {dw_type} dw, [{r}, {d}]"), |bed| {
                    let (h, w) = (bed.normals(stored, r, d, 1, 10.0), bed.normals(stored, V, d, 2, 1.0));
                    let [z, dz] = [(); 2].map(|()| bed.zeros(Dtype::F32, r, 2));
                    let (nll, weights) = (bed.zeros(Dtype::F32, 1, r), bed.normals(Dtype::F32, 1, r, 3, 1.0));
                    let labels: Vec<i32> = (0..r as i32).map(|i| i * 5 % 3 % 2).collect();
                    let eps: Vec<f64> = (0..r).map(|i| EPS[i % R]).collect();
                    let (labels, eps) = (bed.ints(1, r, &labels), bed.put(Dtype::F32, 1, r, &eps));
                    let (dh, dw) = (bed.zeros(dh_type, r, d), bed.normals(dw_type, V, d, 4, 1.0));
                    verdict_fwd(&bed.dev, z, h, w, IDS);
                    verdict_loss(&bed.dev, nll, dz, z, labels, eps, weights);
                    verdict_bwd(&bed.dev, dh, Some(dw), bed.normals(Dtype::F32, r, 2, 5, 1.0), h, w, IDS);
                    let sums = if dw_type == Dtype::F32 { F32_GRADIENT } else { within(dw_type) };
                    vec![
                        ("z", F32, bed.get(z)),
                        ("nll", F32_GRADIENT, bed.get(nll)),
                        ("dz", F32_GRADIENT, bed.get(dz)),
                        ("dh", within(dh_type), bed.get(dh)),
                        ("dw", sums, bed.get(dw)),
                    ]
                });
            }
        }
    }

    #[test]
    fn gpus_lose_nothing_at_large_magnitudes() {
        agree("verdict_loss of logits up to 1e30", |bed| {
            let z = [1e30, -1e30, -1e30, 1e30, 40.0, 0.0, 0.0, 40.0, 1e4, -1e4];
            let (z, ones) = (bed.put(Dtype::F32, 5, 2, &z), bed.put(Dtype::F32, 1, 5, &[1.0; 5]));
            let eps = bed.put(Dtype::F32, 1, 5, &[0.0, 0.0, 0.0, 0.1, 0.1]);
            let (nll, dz) = (bed.zeros(Dtype::F32, 1, 5), bed.zeros(Dtype::F32, 5, 2));
            verdict_loss(&bed.dev, nll, dz, z, bed.ints(1, 5, &[0; 5]), eps, ones);
            // Each by itself, for the first would hide the others.
            let [nll, dz] = [nll, dz].map(|v| bed.get(v));
            let logs = |x: Vec<f64>| x.iter().map(|x| x.signum() * (x.abs() + 1e-30).ln()).collect();
            vec![("nll", F32, logs(nll)), ("dz", F32, logs(dz))]
        });
    }

    #[test]
    fn gpus_see_which_operand_is_off_its_alignment() {
        for odd in 0..4 {
            agree(&format!("verdict, operand {odd} off"), |bed| {
                let of = |rows, i| bed.placed(Dtype::Bf16, rows, 24, i, i == odd);
                let (h, w, dh) = (of(3, 0), of(V, 1), of(3, 2));
                let (z, dz) = (bed.zeros(Dtype::F32, 3, 2), bed.normals(Dtype::F32, 3, 2, 5, 1.0));
                let dw = bed.zeros(Dtype::F32, V, 24);
                verdict_fwd(&bed.dev, z, h, w, IDS);
                verdict_bwd(&bed.dev, dh, Some(dw), dz, h, w, IDS);
                let bf16 = within(Dtype::Bf16);
                vec![("z", F32, bed.get(z)), ("dh", bf16, bed.get(dh)), ("dw", F32_GRADIENT, bed.get(dw))]
            });
        }
    }

    #[test]
    fn gpus_take_windows_of_wider_tensors() {
        for cols in [3..20, 8..24] {
            agree(&format!("verdict of columns {cols:?}"), |bed| {
                let window = |rows, key| bed.normals(Dtype::Bf16, rows, 40, key, 1.0);
                let (h, w) = (window(3, 1).cols_in(cols.clone()), window(V, 2).cols_in(cols.clone()));
                let (dh, dw) = (window(3, 3), bed.normals(Dtype::F32, V, cols.len(), 4, 1.0));
                let (z, dz) = (bed.zeros(Dtype::F32, 3, 4), bed.normals(Dtype::F32, 3, 5, 5, 1.0).cols_in(1..3));
                verdict_fwd(&bed.dev, z.cols_in(1..3), h, w, IDS);
                verdict_bwd(&bed.dev, dh.cols_in(cols.clone()), Some(dw), dz, h, w, IDS);
                let bf16 = within(Dtype::Bf16);
                vec![("z", F32, bed.get(z)), ("dh", bf16, bed.get(dh)), ("dw", F32_GRADIENT, bed.get(dw))]
            });
        }
    }

    #[test]
    fn on_gpus_a_label_that_is_none_gives_nan() {
        for (_, dev) in gpus() {
            let bed = Bed::new(dev);
            let (z, eps) = (bed.normals(Dtype::F32, 3, 2, 1, 1.0), bed.zeros(Dtype::F32, 1, 3));
            let (nll, dz) = (bed.zeros(Dtype::F32, 1, 3), bed.zeros(Dtype::F32, 3, 2));
            verdict_loss(&bed.dev, nll, dz, z, bed.ints(1, 3, &[2, 1, -1]), eps, eps);
            assert_eq!(bed.get(nll).iter().map(|x| x.is_nan()).collect::<Vec<_>>(), [true, false, true]);
            assert_eq!(
                bed.get(dz).iter().map(|x| x.is_nan()).collect::<Vec<_>>(),
                [true, true, false, false, true, true]
            );
        }
    }
}
