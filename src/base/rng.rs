//! Random bits as a function of a key: (seed, stream, step, element). No state, so results never depend on threads,
//! launch geometry or the order of calls, and a resumed run draws what the uninterrupted one would have drawn.
//!
//! The function is Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).

use super::normal::normals;

/// What the bits are for. Each purpose has its own stream, so that no two ever share bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Weight initialisation; the element is the index within the tensor, the step the tensor's number.
    Init = 1,
    /// The order of training examples.
    Shuffle = 2,
    /// Which response is shown as A.
    Order = 3,
    /// Token sampling.
    Sample = 4,
    /// Stochastic rounding.
    Round = 5,
    /// Synthetic data.
    World = 6,
    /// Tests.
    Test = 7,
    /// Who is compared with whom in a group.
    Rivals = 11,
    /// Which rows a bootstrap sample holds; the step is the sample's number.
    Bootstrap = 20,
    /// Seeds of a judge's votes; the step is the prompt's key, the element the vote's number.
    Vote = 8,
    /// Which rows of a dataset are used, where not all are.
    Subset = 12,
    /// Seeds of a prover's proofs; the step is the claim's key, the element the proof's number.
    Proof = 9,
    /// Which proofs are learned without their context, too; the element is the example's number.
    Context = 10,
}

/// One keyed source of bits: `Rng::new(seed, stream, step)` then [`Rng::bits`] at any element.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    stream: u32,
    step: u32,
}

impl Rng {
    pub fn new(seed: u64, stream: Stream, step: u64) -> Self {
        // The step's high half goes into the key, where it is mixed as well as the seed is.
        let key = [seed as u32 ^ ((step >> 32) as u32).rotate_left(16), (seed >> 32) as u32];
        Rng { key, stream: stream as u32, step: step as u32 }
    }

    /// What [`Rng::words`] depends on besides the element, as kernels take it: two words of key, the stream, the step.
    pub fn key(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.stream, self.step]
    }

    /// Four independent 32-bit words for one element.
    #[inline(always)]
    pub fn words(&self, element: u64) -> [u32; 4] {
        philox([element as u32, (element >> 32) as u32, self.stream, self.step], self.key)
    }

    #[inline(always)]
    pub fn bits(&self, element: u64) -> u64 {
        let w = self.words(element);
        (w[0] as u64) << 32 | w[1] as u64
    }

    /// Uniform in the open interval (0, 1): never 0, so that its logarithm is finite.
    #[inline(always)]
    pub fn uniform(&self, element: u64) -> f64 {
        ((self.bits(element) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// One standard normal; [`normals`] has four for the same bits.
    pub fn normal(&self, element: u64) -> f64 {
        normals(self.words(element))[0]
    }

    /// Uniform in `0..n`; the bias is below n / 2^64.
    pub fn below(&self, element: u64, n: u64) -> u64 {
        ((self.bits(element) as u128 * n as u128) >> 64) as u64
    }

    /// A permutation of `0..n` (Fisher-Yates), the same for the same key.
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

#[inline(always)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = counter[0] as u64 * 0xD251_1F53;
        let b = counter[2] as u64 * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn permutations_are_permutations_and_differ_by_step() {
        let p = Rng::new(1, Stream::Shuffle, 0).permutation(100);
        let q = Rng::new(1, Stream::Shuffle, 1).permutation(100);
        let mut sorted = p.clone();
        sorted.sort();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
        assert_ne!(p, q);
    }
}
