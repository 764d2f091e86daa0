//! The backward of the scalar head, and the Bradley-Terry loss of its rewards.
//!
//! ```text
//! s[r]    = h[r,:] . w                    (a product with one row: `gemm_nt`)
//! dh[r,:] = ds[r] w                       dw += sum_r ds[r] h[r,:]
//!
//! Delta[p]        = s[chosen[p]] - s[rejected[p]] - margins[p]
//! nll[p]          = -ln sigma(Delta[p])
//! ds[chosen[p]]   += -weights[p] sigma(-Delta[p])                 weights[p] = d total / d nll[p]
//! ds[rejected[p]] +=  weights[p] sigma(-Delta[p])
//! ```
//! Shapes: `s`, `ds` `[R]`, one reward per response; `chosen`, `rejected` `[P]` of i32 in `0..R`, one entry per pair, in which a response may
//! occur any number of times; `nll`, `margins`, `weights` `[P]`. All but the indices have the statistics' type. `ds` is zeroed, then
//! pairs add to it in ascending order. A pair is computed in f64 and rounded once, so it neither overflows nor saturates. `dw` is summed in the
//! accumulator type and rounded once. An index outside `0..R` panics on the CPU; a GPU gives NaN to its pair and to the other response.

use super::indices;
use super::verdict::{dw_cols, log_sigmoid};
use super::{stretches, vector_grid};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::partials::partials_add;

/// Columns of `dw` that one thread sums at a time.
const COLS: usize = 128;

/// From the gradients of the rewards `ds [R]` (statistics' type) to those of the hidden rows `dh [R,D]`, stored, and of the
/// head's row `dw [D]`, added; without `dw` the row is frozen.
pub fn score_bwd(dev: &Device, dh: View, dw: Option<View>, ds: View, h: View, w: View) {
    let [r, d] = h.shape();
    assert!(
        dh.shape() == [r, d] && ds.len() == r && w.len() == d && dw.is_none_or(|dw| dw.len() == d),
        "score_bwd: h {:?}, dh {:?}, ds {:?}, w {:?}, dw {:?}",
        h.shape(),
        dh.shape(),
        ds.shape(),
        w.shape(),
        dw.map(|dw| dw.shape())
    );
    disjoint("score_bwd", dh, &[ds, h, w]);
    match dev {
        Device::Cuda(gpu) => {
            let (stretch, parts) = stretches(r);
            let partials = gpu.workspace(Dtype::F32, parts, d);
            let across = vector_grid(h.top(r.min(1)), launch::SCORE_BWD_F32_THREADS, 1).x as usize;
            let [r, d, ld_dh, ld_h, stretch] = [r, d, dh.stride(), h.stride(), stretch].map(|n| n as i32);
            let grid = Grid::new(across, parts, 1);
            launch::score_bwd(gpu, h.dtype(), grid, dh, partials, ds, h, w, r, d, ld_dh, ld_h, stretch);
            if let Some(dw) = dw {
                partials_add(gpu, dw, partials);
            }
        }
        Device::Cpu(pool) => {
            by_dtype!(h.dtype(), E => {
                let (w, ds) = (w.slice::<E>(), ds.slice::<<E as Elem>::Acc>());
                for (i, ds) in ds.iter().enumerate() {
                    for (dh, w) in dh.row_mut::<E>(i).iter_mut().zip(w) {
                        *dh = E::put(*ds * w.get());
                    }
                }
            });
            let (Some(dw), ds) = (dw, ds.reshape(r, 1)) else { return };
            by_gradient!(h.dtype(), dw.dtype(), E, G => pool.ranges(d, COLS, |cols| {
                let (dw, h) = (dw.cols_in(cols.clone()), h.cols_in(cols));
                vectorize(#[inline(always)] || dw_cols::<E, G>(dw.row_mut(0), ds, h));
            }));
        }
    }
}

/// The loss of every pair and the gradient of every reward.
pub fn bradley_terry(
    dev: &Device,
    nll: View,
    ds: View,
    s: View,
    chosen: View,
    rejected: View,
    margins: View,
    weights: View,
) {
    let (p, r) = (nll.len(), s.len());
    assert!(
        [chosen, rejected, margins, weights].iter().all(|v| v.len() == p) && ds.len() == r,
        "bradley_terry: nll {:?}, chosen {:?}, rejected {:?}, margins {:?}, weights {:?}, ds {:?}, s {:?}",
        nll.shape(),
        chosen.shape(),
        rejected.shape(),
        margins.shape(),
        weights.shape(),
        ds.shape(),
        s.shape()
    );
    disjoint("bradley_terry", ds, &[s, nll, margins, weights]);
    match dev {
        Device::Cuda(gpu) => {
            let pull = gpu.workspace(Dtype::F64, 1, p);
            let pairs = Grid::cover(p, launch::BRADLEY_TERRY_FWD_THREADS as usize);
            let responses = Grid::cover(r, launch::BRADLEY_TERRY_BWD_THREADS as usize);
            let (p, r) = (p as i32, r as i32);
            launch::bradley_terry_fwd(gpu, pairs, nll, pull, s, chosen, rejected, margins, weights, p, r);
            launch::bradley_terry_bwd(gpu, responses, ds, pull, chosen, rejected, p, r);
        }
        Device::Cpu(_) => by_stat!(s.dtype(), A => {
            let chosen = indices("bradley_terry", "chosen response", chosen, r);
            let rejected = indices("bradley_terry", "rejected response", rejected, r);
            let (nll, ds, s) = (nll.slice_mut::<A>(), ds.slice_mut::<A>(), s.slice::<A>());
            let (margins, weights) = (margins.slice::<A>(), weights.slice::<A>());
            ds.fill(A::ZERO);
            for i in 0..p {
                let (c, r) = (chosen[i] as usize, rejected[i] as usize);
                let (loss, miss) = log_sigmoid(s[c].f64() - s[r].f64() - margins[i].f64());
                let pull = weights[i].f64() * miss;
                nll[i] = A::of(loss);
                ds[c] = A::of(ds[c].f64() - pull);
                ds[r] = A::of(ds[r].f64() + pull);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Bed, F32, F32_GRADIENT, agree, dot, gpus, gradient, normals, stored, within};

    const CHOSEN: [i32; 4] = [0, 2, 0, 4];
    const REJECTED: [i32; 4] = [1, 0, 3, 1];

    fn loss<A: Real>(s: &[f64], margins: &[f64], weights: &[f64]) -> (Vec<A>, Vec<A>) {
        let (mut chosen, mut rejected) = (CHOSEN, REJECTED);
        let [mut s, mut margins, mut weights]: [Vec<A>; 3] = [s, margins, weights].map(stored);
        let (mut nll, mut ds) = (vec![A::ZERO; 4], vec![A::of(f64::NAN); s.len()]);
        let [chosen, rejected] = [View::of(&mut chosen), View::of(&mut rejected)];
        let [s, margins, weights] = [View::of(&mut s), View::of(&mut margins), View::of(&mut weights)];
        let (nll_view, ds_view) = (View::of(&mut nll), View::of(&mut ds));
        bradley_terry(&Device::cpu(1), nll_view, ds_view, s, chosen, rejected, margins, weights);
        (nll, ds)
    }

    #[test]
    fn the_gradient_is_the_derivative() {
        let (s, margins, weights) = (normals(1, 5), normals(2, 4), normals(3, 4));
        let (nll, ds) = loss::<f64>(&s, &margins, &weights);
        gradient("ds", &s, &ds, |s| dot(&loss::<f64>(s, &margins, &weights).0, &weights));
        for i in 0..4 {
            let delta = s[CHOSEN[i] as usize] - s[REJECTED[i] as usize] - margins[i];
            assert!((nll[i] - (1.0 + (-delta).exp()).ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn it_is_stable_at_any_magnitude() {
        let (nll, ds) = loss::<f32>(&[1e30, 0.0, -1e30, 0.0, 50.0], &[0.0; 4], &[1.0; 4]);
        assert_eq!((nll[0], nll[1], nll[2]), (0.0, 2e30, 0.0));
        assert!((nll[3] as f64 / (-50f64).exp() - 1.0).abs() < 1e-6);
        assert_eq!((ds[0], ds[2]), (1.0, -1.0));
    }

    #[test]
    fn gpus_agree_on_the_head() {
        for (stored, dw_type) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)] {
            for [r, d] in [[1, 1], [3, 5], [2, 72], [530, 16], [3, 1500]] {
                agree(&format!("score_bwd {stored}, {dw_type} dw, [{r}, {d}]"), |bed| {
                    let (h, w) = (bed.normals(stored, r, d, 1, 1e4), bed.normals(stored, 1, d, 2, 1.0));
                    let (dh, dw) = (bed.zeros(stored, r, d), bed.normals(dw_type, 1, d, 4, 1.0));
                    score_bwd(&bed.dev, dh, Some(dw), bed.normals(Dtype::F32, 1, r, 3, 1.0), h, w);
                    let sums = if dw_type == Dtype::F32 { F32_GRADIENT } else { within(dw_type) };
                    vec![("dh", within(stored), bed.get(dh)), ("dw", sums, bed.get(dw))]
                });
            }
        }
    }

    /// A case of `r` rewards and `p` pairs in which responses repeat.
    fn pairs<'a>(bed: &'a Bed, r: usize, p: usize, scale: f64) -> [View<'a>; 7] {
        let [chosen, rejected] =
            [7, 3].map(|k| bed.ints(1, p, &(0..p).map(|i| ((i * k + i / 5) % r) as i32).collect::<Vec<_>>()));
        let [margins, weights] = [2, 3].map(|key| bed.normals(Dtype::F32, 1, p, key, 1.0));
        let nll = bed.zeros(Dtype::F32, 1, p);
        [
            nll,
            bed.normals(Dtype::F32, 1, r, 4, 1.0),
            bed.normals(Dtype::F32, 1, r, 1, scale),
            chosen,
            rejected,
            margins,
            weights,
        ]
    }

    #[test]
    fn gpus_agree_on_pairs() {
        for (r, p, scale) in [(2, 1, 1.0), (5, 0, 1.0), (200, 333, 3.0), (10, 40, 1e4), (1, 3, 1.0)] {
            agree(&format!("bradley_terry of {r} rewards times {scale} in {p} pairs"), |bed| {
                let [nll, ds, s, chosen, rejected, margins, weights] = pairs(bed, r, p, scale);
                bradley_terry(&bed.dev, nll, ds, s, chosen, rejected, margins, weights);
                vec![("nll", F32, bed.get(nll)), ("ds", F32, bed.get(ds))]
            });
        }
    }

    #[test]
    fn on_gpus_an_index_that_is_no_response_gives_nan() {
        for (_, dev) in gpus() {
            let bed = Bed::new(dev);
            let [nll, ds, _, _, _, margins, weights] = pairs(&bed, 3, 4, 1.0);
            // With numbers behind the last reward.
            let s = bed.normals(Dtype::F32, 1, 5, 4, 1.0).cols_in(0..3);
            let (chosen, rejected) = (bed.ints(1, 4, &[0, 1, -1, 3]), bed.ints(1, 4, &[1, 3, 1, 2]));
            bradley_terry(&bed.dev, nll, ds, s, chosen, rejected, margins, weights);
            let nan = |x: View| bed.get(x).iter().map(|x| x.is_nan()).collect::<Vec<_>>();
            assert_eq!((nan(nll), nan(ds)), (vec![false, true, true, true], vec![false, true, true]));
        }
    }
}
