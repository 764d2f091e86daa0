//! Vector code without intrinsics: plain loops compiled once per instruction set, chosen at run time.
//!
//! [`vectorize`] runs a closure inside a function that was compiled for the best instruction set of this machine, so
//! LLVM vectorises the loops in it. Rust never contracts or reassociates floating-point expressions, so the bits are
//! the same on every machine; sums that should vectorise keep [`LANES`] partial sums explicitly ([`sum_by`]).

use crate::base::dtype::Real;

/// Partial sums of a vectorised reduction. Fixed, so that the order of additions is the same everywhere.
pub const LANES: usize = 16;

/// What the processor offers; the rungs for which hand-written microkernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the target guarantees.
    Baseline,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, VL, BW, DQ.
    Avx512,
}

/// The level of this machine, or the lower one that `GRAMOPHONE_SIMD` (`baseline`, `avx2`, `avx512`) asks for.
pub fn level() -> Level {
    static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        let asked = match std::env::var("GRAMOPHONE_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        detected().min(asked)
    })
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    let has512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Level::Baseline
    } else if has512 {
        Level::Avx512
    } else {
        Level::Avx2
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Baseline
}

/// Runs `f` compiled for this machine's instruction set. Mark `f` itself (`vectorize(#[inline(always)] || ..)`) and what it
/// calls `#[inline(always)]`: a large body that is not inlined here is compiled for the baseline, and is many times slower.
#[inline]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi2")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma,bmi2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match level() {
            // SAFETY: `level` never exceeds what the processor was found to have.
            Level::Avx512 => return unsafe { avx512(f) },
            Level::Avx2 => return unsafe { avx2(f) },
            Level::Baseline => {}
        }
    }
    f()
}

/// The sum of `f(i)` for `i` in `0..n`, in [`LANES`] interleaved partial sums that are then added as a fixed tree.
#[inline(always)]
pub fn sum_by<A: Real>(n: usize, f: impl Fn(usize) -> A) -> A {
    let mut lanes = [A::ZERO; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: l < LANES, and whole <= n is a multiple of LANES. It spares `f` its bounds checks.
            unsafe { std::hint::assert_unchecked(i + l < n) };
            *lane += f(i + l);
        }
        i += LANES;
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n - whole) {
        *lane += f(whole + l);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `e^x` in f32, at most 2 units in the last place off, the same bits on every machine, and free of branches so that
/// loops over it vectorise. Below -103.97 it is 0, above 88.72 infinity; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a call.
    const ROUND: f32 = 12_582_912.0;
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5e-1);
    let p = p.mul_add(r * r, r) + 1.0;
    // 2^n in two factors: n may be as low as -150 and as high as 128. The integer n lies in the low bits of `shifted`,
    // which spares a saturating conversion. (A NaN gives any n and comes back through p.)
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    p * scale(half) * scale(n - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulps() {
        let mut worst = 0.0f64;
        for i in -8_700_000..=8_872_000i32 {
            let x = i as f32 * 1e-5;
            let (got, want) = (exp(x) as f64, (x as f64).exp());
            let ulp = (f32::from_bits((want as f32).to_bits() + 1) as f64 - want as f32 as f64).abs();
            worst = worst.max((got - want).abs() / ulp);
        }
        assert!(worst <= 2.0, "worst error {worst} ulp");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_have_the_same_bits_vectorised_or_not() {
        for n in [0, 1, 15, 16, 17, 100, 1000] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.1).collect();
            let plain = sum_by(n, |i| x[i] * x[i]);
            let vector = vectorize(|| sum_by(n, |i| x[i] * x[i]));
            assert_eq!(plain.to_bits(), vector.to_bits());
        }
    }
}
