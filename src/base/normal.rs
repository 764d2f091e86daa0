//! Standard normal numbers from random words, without calls and branches, so that loops over them vectorise; and, unlike
//! the system's logarithm and cosine, the same bits on every machine.
//!
//! Box and Muller's transform, which keeps both coordinates of a random point: for `u`, `v` uniform in (0, 1),
//!
//! ```text
//! r = sqrt(-2 ln u)        r cos(2 pi v)        r sin(2 pi v)
//! ```
//! The functions are Taylor series to the precision of f64 on a reduced range; their errors stay below 1e-15 of the result's
//! scale, which no rounding to f32 shows more than once in millions of draws.

use std::f64::consts::{LN_2, SQRT_2, TAU};

/// Four standard normals from four words.
#[inline(always)]
pub fn normals(words: [u32; 4]) -> [f64; 4] {
    let [a, b] = point(words[0], words[1]);
    let [c, d] = point(words[2], words[3]);
    [a, b, c, d]
}

#[inline(always)]
fn point(a: u32, b: u32) -> [f64; 2] {
    // In the open interval (0, 1): never 0, so that the logarithm is finite.
    let uniform = |word: u32| (word as f64 + 0.5) * (1.0 / 4_294_967_296.0);
    let radius = (-2.0 * ln(uniform(a))).sqrt();
    let [cos, sin] = cos_sin_turn(uniform(b));
    [radius * cos, radius * sin]
}

/// `ln x` for normal `x > 0`: `x = 2^e m` with `m` in `[1/sqrt 2, sqrt 2)`, and `ln m = 2 atanh((m - 1) / (m + 1))`.
#[inline(always)]
fn ln(x: f64) -> f64 {
    const ONE: u64 = 1.0f64.to_bits();
    // Bits of the fraction at which m passes sqrt 2.
    const HALF: u64 = SQRT_2.to_bits() - ONE;
    let raised = x.to_bits().wrapping_add((1 << 52) - HALF - 1);
    let e = (raised >> 52) as u32 as f64 - 1023.0;
    let m = f64::from_bits((raised & ((1 << 52) - 1)).wrapping_add(ONE).wrapping_sub((1 << 52) - HALF - 1));
    let s = (m - 1.0) / (m + 1.0);
    const TERMS: [f64; 11] = odd_reciprocals();
    let series = polynomial(s * s, TERMS);
    e.mul_add(LN_2, 2.0 * s * series)
}

/// 1, 1/3, 1/5, ...
const fn odd_reciprocals<const N: usize>() -> [f64; N] {
    let mut terms = [0.0; N];
    let mut i = 0;
    while i < N {
        terms[i] = 1.0 / (2 * i + 1) as f64;
        i += 1;
    }
    terms
}

/// `cos(2 pi t)` and `sin(2 pi t)` for `t` in `[0, 1]`: the nearest quarter turn is taken out, exactly.
#[inline(always)]
fn cos_sin_turn(t: f64) -> [f64; 2] {
    const COS: [f64; 10] = alternating_factorials(0);
    const SIN: [f64; 9] = alternating_factorials(1);
    let quarter = (4.0 * t + 0.5) as u32 as f64;
    let angle = TAU * quarter.mul_add(-0.25, t);
    let square = angle * angle;
    let (cos, sin) = (polynomial(square, COS), angle * polynomial(square, SIN));
    // (c, s), (-s, c), (-c, -s), (s, -c), and round again.
    let quarter = quarter as u32;
    let (x, y) = if quarter & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let flip = |x: f64, sign: u32| f64::from_bits(x.to_bits() ^ (sign as u64) << 63);
    [flip(x, (quarter + 1) >> 1 & 1), flip(y, quarter >> 1 & 1)]
}

/// `(-1)^i / (2i + first)!`
const fn alternating_factorials<const N: usize>(first: usize) -> [f64; N] {
    let mut terms = [1.0; N];
    let mut i = 1;
    while i < N {
        let n = (2 * i + first) as f64;
        terms[i] = -terms[i - 1] / (n * (n - 1.0));
        i += 1;
    }
    terms
}

/// `sum_i terms[i] x^i`.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, terms: [f64; N]) -> f64 {
    let mut sum = terms[N - 1];
    for term in terms.iter().rev().skip(1) {
        sum = sum.mul_add(x, *term);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words over the whole range and at its ends, and where quarters of a turn and powers of two meet.
    fn words() -> impl Iterator<Item = u32> {
        let joints =
            (0..=32u64).flat_map(|k| [(1 << k) - 2, (1 << k) - 1, 1 << k]).map(|x| x.min(u32::MAX as u64) as u32);
        let quarters = (1..4u32).flat_map(|q| (0..4).map(move |i| (q << 30) - 2 + i));
        (0..=u32::MAX).step_by(4_391).chain(joints).chain(quarters).chain([u32::MAX])
    }

    #[test]
    fn functions_agree_with_the_systems() {
        for word in words() {
            let x = (word as f64 + 0.5) / 4_294_967_296.0;
            let (got, want) = (ln(x), x.ln());
            assert!((got - want).abs() <= 1e-15 * want.abs(), "ln {x}: {got}, {want}");
            let [cos, sin] = cos_sin_turn(x);
            // The system's are those of a rounded angle, off by as much as the angle's rounding.
            assert!((cos - (TAU * x).cos()).abs() < 8e-16, "cos {x}");
            assert!((sin - (TAU * x).sin()).abs() < 8e-16, "sin {x}");
        }
    }

    #[test]
    fn moments_are_those_of_four_independent_normals() {
        let n = 100_000;
        let rng = crate::base::rng::Rng::new(7, crate::base::rng::Stream::Test, 0);
        let drawn: Vec<[f64; 4]> = (0..n).map(|i| normals(rng.words(i))).collect();
        for a in 0..4 {
            let mean = drawn.iter().map(|x| x[a]).sum::<f64>() / n as f64;
            let fourth = drawn.iter().map(|x| x[a].powi(4)).sum::<f64>() / n as f64;
            assert!(mean.abs() < 0.02 && (fourth - 3.0).abs() < 0.15, "mean {mean}, fourth moment {fourth}");
            for b in 0..4 {
                let product = drawn.iter().map(|x| x[a] * x[b]).sum::<f64>() / n as f64;
                assert!((product - (a == b) as u8 as f64).abs() < 0.02, "{a} {b}: {product}");
            }
        }
    }
}
