//! What the tests of the ops share: reproducible inputs and central differences in f64.

use crate::base::dtype::{Elem, Pod, Real};
use crate::base::rng::{Rng, Stream};
use crate::device::View;

/// `n` standard normal numbers; another `key`, other numbers.
pub fn normals(key: u64, n: usize) -> Vec<f64> {
    let rng = Rng::new(0x5eed, Stream::Test, key);
    (0..n as u64).map(|i| rng.normal(i)).collect()
}

/// Asserts that `analytic` is the gradient of `f` at `x`, coordinate by coordinate, by central differences:
/// `|difference| <= 1e-6 * max(1, |gradient|)`.
pub fn gradient(name: &str, x: &[f64], analytic: &[f64], mut f: impl FnMut(&[f64]) -> f64) {
    assert_eq!(x.len(), analytic.len(), "{name}: one derivative per coordinate");
    let mut at = x.to_vec();
    for i in 0..x.len() {
        let h = 1e-5 * x[i].abs().max(1.0);
        at[i] = x[i] + h;
        let up = f(&at);
        at[i] = x[i] - h;
        let down = f(&at);
        at[i] = x[i];
        let numeric = (up - down) / (2.0 * h);
        let error = (numeric - analytic[i]).abs() / numeric.abs().max(1.0);
        assert!(error < 1e-6, "{name}[{i}]: analytic {} numeric {numeric}", analytic[i]);
    }
}

/// `sum_i a_i b_i`: turns a vector output into the scalar that [`gradient`] differentiates.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Host data as a matrix of this many rows.
pub fn matrix<T: Pod>(data: &mut [T], rows: usize) -> View<'_> {
    let cols = data.len() / rows;
    View::of(data).reshape(rows, cols)
}

/// The numbers rounded to a storage type.
pub fn stored<E: Elem>(x: &[f64]) -> Vec<E> {
    x.iter().map(|&x| E::put(E::Acc::of(x))).collect()
}

/// Asserts that `got` is `want` up to `bound * max(1, |want|)`, element by element.
pub fn close<E: Elem>(name: &str, got: &[E], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{name}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.get().f64();
        assert!((got - want).abs() <= bound * want.abs().max(1.0), "{name}[{i}]: {got}, expected {want}");
    }
}
