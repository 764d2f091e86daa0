//! How an optimizer stores a parameter: as it is, or rounded at random so that updates below the resolution of bf16
//! survive on average (Gupta et al., 2015).

use crate::base::dtype::{Elem, bf16};
use crate::base::rng::{Rng, Stream};
use crate::base::simd::vectorize;

/// Elements whose random words are drawn at a time.
pub(super) const BLOCK: usize = 256;

/// The random words of rounding, keyed by (seed, step, element).
#[derive(Clone, Copy)]
pub(super) struct Draws(Rng);

impl Draws {
    pub(super) fn new(seed: u64, step: u64) -> Draws {
        Draws(Rng::new(seed, Stream::Round, step))
    }

    /// As [`Rng::key`].
    pub(super) fn key(&self) -> [u32; 4] {
        self.0.key()
    }

    /// `W` (1, 2 or 4) arrays of words, entry `i` for the element whose index in the whole arena is `first + i`. A counter gives four
    /// words, so `4 / W` neighbouring elements share one: element `e` owns the words from `e W` of all counters' words in a row.
    pub(super) fn block<const W: usize>(&self, first: u64) -> [[u32; BLOCK]; W] {
        const { assert!(4 % W == 0) };
        let (counter, skip) = (first / (4 / W) as u64, (first % (4 / W) as u64) as usize);
        let mut row = [[0; 4]; BLOCK + 1];
        let mut words = [[0; BLOCK]; W];
        vectorize(
            #[inline(always)]
            || {
                for (i, row) in row.iter_mut().enumerate().take(BLOCK * W / 4 + 1) {
                    *row = self.0.words(counter + i as u64);
                }
                let row = &row.as_flattened()[skip * W..][..BLOCK * W];
                for (w, words) in words.iter_mut().enumerate() {
                    for (i, word) in words.iter_mut().enumerate() {
                        *word = row[i * W + w];
                    }
                }
            },
        );
        words
    }
}

/// A storage type that an optimizer can write without a master copy beside it.
pub(super) trait Rounded: Elem {
    /// Stores `x`. Where that takes rounding, the two neighbours of `x` are chosen with the probabilities that make it
    /// right on average; the upper 16 bits of `word` decide.
    fn put_random(x: Self::Acc, word: u32) -> Self;
}

impl Rounded for f64 {
    #[inline(always)]
    fn put_random(x: f64, _: u32) -> f64 {
        x
    }
}

impl Rounded for f32 {
    #[inline(always)]
    fn put_random(x: f32, _: u32) -> f32 {
        x
    }
}

impl Rounded for bf16 {
    #[inline(always)]
    fn put_random(x: f32, word: u32) -> bf16 {
        // Adding 16 random bits below the last kept one carries into it with the right probability.
        let rounded = (x.to_bits().wrapping_add(word >> 16) >> 16) as u16;
        if x.is_finite() { bf16::from_bits(rounded) } else { bf16::put(x) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_the_same_words_in_any_block() {
        let draws = Draws::new(3, 1);
        let (pairs, singles) = (draws.block::<2>(1000), draws.block::<1>(1000));
        for shift in 1..6 {
            let (shifted, single) = (draws.block::<2>(1000 + shift as u64), draws.block::<1>(1000 + shift as u64));
            for w in 0..2 {
                assert_eq!(shifted[w][..BLOCK - shift], pairs[w][shift..]);
            }
            assert_eq!(single[0][..BLOCK - shift], singles[0][shift..]);
        }
        let mut all = pairs.concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * BLOCK);
    }

    #[test]
    fn random_rounding_is_right_on_average_and_exact_where_it_can_be() {
        let draws = Draws::new(3, 1);
        for x in [1.0 + 1.0 / 1024.0, -3.004, 1e-3, 7.7e20f32] {
            let n = 160 * BLOCK;
            let words = (0..160).flat_map(|b| draws.block::<1>(b * BLOCK as u64)[0]);
            let values: Vec<f32> = words.map(|word| bf16::put_random(x, word).to_f32()).collect();
            let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            assert!(low <= x && x <= high && high.to_bits().abs_diff(low.to_bits()) == 1 << 16, "two neighbours");
            let mean = values.iter().map(|v| *v as f64).sum::<f64>() / n as f64;
            let spread = (high - low) as f64;
            assert!((mean - x as f64).abs() < 4.0 * 0.5 * spread / (n as f64).sqrt(), "{x}: mean {mean}");
        }
        for word in [0, 1 << 31, u32::MAX] {
            assert_eq!(bf16::put_random(1.5, word).to_f32(), 1.5);
            assert_eq!(bf16::put_random(f32::INFINITY, word).to_f32(), f32::INFINITY);
            assert!(bf16::put_random(f32::NAN, word).to_f32().is_nan());
        }
    }
}
