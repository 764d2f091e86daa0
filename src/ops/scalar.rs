//! The backward of the scalar head, and the Bradley-Terry loss of its rewards.
//!
//! ```text
//! s[r]    = h[r,:] . w                    (a product with one row: `gemm_nt`)
//! dh[r,:] = ds[r] w                       dw += sum_r ds[r] h[r,:], in ascending order of r
//!
//! Delta[p]        = s[chosen[p]] - s[rejected[p]] - margins[p]
//! nll[p]          = -ln sigma(Delta[p])
//! ds[chosen[p]]   += -weights[p] sigma(-Delta[p])                 weights[p] = d total / d nll[p]
//! ds[rejected[p]] +=  weights[p] sigma(-Delta[p])
//! ```
//! Shapes: `s`, `ds` `[R]`, one reward per response; `chosen`, `rejected` `[P]` of i32 in `0..R`, one entry per pair, in which a response may
//! occur any number of times; `nll`, `margins`, `weights` `[P]`. All but the indices have the statistics' type. `ds` is zeroed, then
//! pairs add to it in ascending order. A pair is computed in f64 and rounded once, so it neither overflows nor saturates.

use super::indices;
use super::verdict::log_sigmoid;
use crate::base::dtype::{Elem, Real};
use crate::device::{Device, View, disjoint};

/// From the gradients of the rewards `ds [R]` (statistics' type) to those of the hidden rows `dh [R,D]`, stored, and of the
/// head's row `dw [D]`, added.
pub fn score_bwd(dev: &Device, dh: View, dw: View, ds: View, h: View, w: View) {
    let [r, d] = h.shape();
    assert!(
        dh.shape() == [r, d] && ds.len() == r && w.len() == d && dw.len() == d,
        "score_bwd: h {:?}, dh {:?}, ds {:?}, w {:?}, dw {:?}",
        h.shape(),
        dh.shape(),
        ds.shape(),
        w.shape(),
        dw.shape()
    );
    disjoint("score_bwd", dh, &[dw, ds, h, w]);
    match dev {
        Device::Cuda(_) => panic!("no CUDA kernel yet"),
        Device::Cpu(_) => by_gradient!(h.dtype(), dw.dtype(), E, G => {
            let (w, dw, ds) = (w.slice::<E>(), dw.slice_mut::<G>(), ds.slice::<<E as Elem>::Acc>());
            for (i, ds) in ds.iter().enumerate() {
                let (dh, h) = (dh.row_mut::<E>(i), h.row::<E>(i));
                for c in 0..d {
                    dh[c] = E::put(*ds * w[c].get());
                    dw[c] = G::put(dw[c].get() + *ds * h[c].get());
                }
            }
        }),
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
    let chosen = indices("bradley_terry", "chosen response", chosen, r);
    let rejected = indices("bradley_terry", "rejected response", rejected, r);
    match dev {
        Device::Cuda(_) => panic!("no CUDA kernel yet"),
        Device::Cpu(_) => by_stat!(s.dtype(), A => {
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
    use crate::ops::check::{dot, gradient, normals, stored};

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
}
