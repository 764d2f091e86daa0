//! The softmax statistics of one row, shared by the cross-entropy, sampling and decoding.

use crate::base::dtype::{Elem, Real};
use crate::base::simd::{LANES, sum_by};

/// The largest `f(i)` for `i` in `0..n`; minus infinity when there is none.
#[inline(always)]
pub(super) fn max_by<A: Real>(n: usize, f: impl Fn(usize) -> A) -> A {
    let mut lanes = [A::NEG_INFINITY; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: l < LANES, and whole <= n is a multiple of LANES. It spares `f` its bounds checks.
            unsafe { std::hint::assert_unchecked(i + l < n) };
            *lane = lane.max(f(i + l));
        }
        i += LANES;
    }
    let largest = lanes.into_iter().fold(A::NEG_INFINITY, Real::max);
    (whole..n).fold(largest, |largest, i| largest.max(f(i)))
}

/// `ln sum_i exp(x[i])`, with the largest element taken out first. A row that holds NaN or infinity, or only minus infinities,
/// gives NaN.
#[inline(always)]
pub(super) fn log_sum_exp<E: Elem>(x: &[E]) -> E::Acc {
    let largest = max_by(x.len(), |i| x[i].get());
    largest + sum_by(x.len(), |i| (x[i].get() - largest).exp()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::normals;

    #[test]
    fn log_sum_exp_of_any_length_and_magnitude() {
        for n in [1, 15, 16, 17, 100] {
            for shift in [-1e4, 0.0, 1e4] {
                let x: Vec<f64> = normals(n as u64, n).iter().map(|x| x + shift).collect();
                let want = shift + x.iter().map(|x| (x - shift).exp()).sum::<f64>().ln();
                assert!((log_sum_exp(&x) - want).abs() < 1e-9);
                let largest = x.iter().copied().fold(f64::MIN, f64::max);
                assert_eq!(max_by(n, |i| x[i]), largest);
            }
        }
        assert!(log_sum_exp(&[1.0, f32::NAN, 2.0]).is_nan());
        assert!(log_sum_exp(&[1.0, f32::INFINITY]).is_nan());
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 3.0]), 3.0);
    }
}
