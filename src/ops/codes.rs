//! One byte for a moment of an optimizer, relative to the scale of its block: the largest `|m|`, the largest `sqrt(v)`.
//!
//! ```text
//! m       = scale c |c| / 127^2      c in -127..=127, stored as two's complement
//! sqrt(v) = scale (c / 255)^2        c in 0..=255
//! ```
//! Codes are companded by squares, so that small values beside an outlier keep their digits. They are rounded at random, right on
//! average, because rounding to the nearest would freeze a slowly decaying average; and a `v` that is not zero keeps a code that is
//! not zero, or `m / sqrt(v)` would explode.

#[inline(always)]
pub(super) fn decode_signed(code: u8, scale: f32) -> f32 {
    let c = code as i8 as f32;
    c * c.abs() * (scale * (1.0 / (127.0 * 127.0)))
}

#[inline(always)]
pub(super) fn decode_unsigned(code: u8, scale: f32) -> f32 {
    let c = code as f32;
    c * c * (scale * (1.0 / (255.0 * 255.0)))
}

/// The code of `x` in `-1..=1`.
#[inline(always)]
pub(super) fn encode_signed(x: f32, word: u32) -> u8 {
    let c = compand(x.abs(), 127.0, word);
    low_byte(if x < 0.0 { -c } else { c })
}

/// The code of `x` in `0..=1`; not zero unless `x` is.
#[inline(always)]
pub(super) fn encode_unsigned(x: f32, word: u32) -> u8 {
    let c = compand(x, 255.0, word);
    low_byte(if x > 0.0 && c == 0.0 { 1.0 } else { c })
}

/// The low byte of a small integer, negative ones in two's complement: adding 1.5 * 2^23 puts it into the low bits, and
/// spares a saturating conversion.
#[inline(always)]
fn low_byte(c: f32) -> u8 {
    (c + 12_582_912.0).to_bits() as u8
}

/// The `c` in `0..=top` with `(c / top)^2` near `x`, one of the two neighbours, such that the mean of the square is right.
#[inline(always)]
fn compand(x: f32, top: f32, word: u32) -> f32 {
    let target = x * (top * top);
    // The largest integer whose square is not above the target; a root that was rounded up may lead to the next one.
    let root = target.sqrt().floor().min(top);
    let low = if root * root > target { root - 1.0 } else { root };
    let draw = (word >> 8) as f32 * (1.0 / (1 << 24) as f32);
    let up = target - low * low > draw * (2.0 * low + 1.0);
    (if up { low + 1.0 } else { low }).min(top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rounding::{BLOCK, Draws};

    #[test]
    fn codes_are_right_on_average_and_zero_only_for_zero() {
        let draws = Draws::new(1, 1);
        for x in [0.0, 1e-6, 0.001, 0.02, 0.3, 0.77, 1.0f32] {
            let words: Vec<u32> = (0..80).flat_map(|b| draws.block::<1>(b * BLOCK as u64)[0]).collect();
            let mean = |f: &dyn Fn(u32) -> f32| words.iter().map(|w| f(*w) as f64).sum::<f64>() / words.len() as f64;
            let signed = mean(&|w| decode_signed(encode_signed(-x, w), 1.0));
            assert!((signed + x as f64).abs() < 3e-4, "{x}: {signed}");
            let unsigned = mean(&|w| decode_unsigned(encode_unsigned(x, w), 1.0));
            assert!((unsigned - x as f64).abs() < 2e-4, "{x}: {unsigned}");
            assert_eq!(x == 0.0, encode_unsigned(x, u32::MAX) == 0);
        }
        assert_eq!((encode_signed(1.0, 0), encode_signed(-1.0, 0)), (127, (-127i8) as u8));
    }
}
