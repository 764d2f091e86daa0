//! Rewards for reinforcement learning out of a judge that compares.
//!
//! - Against a reference (GRAM, 2506.14175, for PPO): the probability that a response beats a reference response, such as the
//!   policy's own greedy one.
//! - Within a group (for GRPO and its kin): a response's mean probability of beating rivals from its own group.
//!
//! Both average both orders of presentation. A reward depends on the texts and the seed alone, not on what else is asked in
//! the same batch.

use super::group::Group;
use super::judge::{EncodedPair, Judge, Judgment};
use super::rank::{Outcome, win_rates};
use crate::base::rng::{Rng, Stream};
use crate::error::Result;
use crate::text::message::transcript;
use sha2::{Digest, Sha256};

/// How much better than its reference a response is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgainstReference {
    /// Probability that the response is better, the mean over both orders.
    pub reward: f64,
    /// The two orders' difference in margins: above zero if the response is better, also where the probability saturates.
    pub margin: f64,
    /// Both orders agree.
    pub consistent: bool,
}

impl From<&Judgment> for AgainstReference {
    fn from(judgment: &Judgment) -> AgainstReference {
        let Outcome { p, margin } = judgment.into();
        AgainstReference { reward: p, margin, consistent: judgment.consistent }
    }
}

/// How many of its group each response is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    All,
    /// So many, drawn at random; all, where the group has no more.
    Random(usize),
}

impl Default for Rivals {
    /// Three: all pairs up to groups of four.
    fn default() -> Self {
        Rivals::Random(3)
    }
}

/// Rewards of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct WithinGroup {
    /// By response; 0.5 for one without rivals.
    pub rewards: Vec<f64>,
    pub comparisons: usize,
}

/// What becomes of a group's rewards before they weigh a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advantage {
    /// `r - mean`.
    Centered,
    /// `(r - mean) / std` with the standard deviation of a sample (divisor n - 1); 0 where all rewards are equal.
    Normalized,
}

/// The pairs to compare in a group of `n`, `i < j` in each, none twice. A comparison serves both sides, so that each response meets
/// exactly as many rivals as it should at half the price of drawing for each; where both numbers are odd, one response
/// meets one more.
///
/// The draw seats the responses at random around a table. Each meets those up to `k / 2` seats away, and for odd `k`
/// the one opposite.
pub fn pairings(n: usize, rivals: Rivals, rng: Rng) -> Vec<(usize, usize)> {
    let k = match rivals {
        Rivals::Random(k) if k + 1 < n => k,
        _ => return (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect(),
    };
    let seats = rng.permutation(n);
    let near = (1..=k / 2).flat_map(|away| (0..n).map(move |seat| (seat, (seat + away) % n)));
    // With an odd number of seats the last one shares its opposite with the first.
    let across = (0..if k % 2 == 1 { n.div_ceil(2) } else { 0 }).map(|seat| (seat, seat + n / 2));
    let mut pairs: Vec<(usize, usize)> = near
        .chain(across)
        .map(|(a, b)| (seats[a] as usize, seats[b] as usize))
        .map(|(i, j)| (i.min(j), i.max(j)))
        .collect();
    pairs.sort();
    pairs
}

/// Advantages of a group's rewards.
pub fn advantages(rewards: &[f64], form: Advantage) -> Vec<f64> {
    let n = rewards.len() as f64;
    let equal = rewards.windows(2).all(|w| w[0] == w[1]);
    if equal {
        return vec![0.0; rewards.len()]; // Exactly: their mean may round.
    }
    let mean = rewards.iter().sum::<f64>() / n;
    let centered = rewards.iter().map(|r| r - mean);
    match form {
        Advantage::Centered => centered.collect(),
        Advantage::Normalized => {
            let deviation = (centered.clone().map(|d| d * d).sum::<f64>() / (n - 1.0)).sqrt();
            centered.map(|d| d / deviation).collect()
        }
    }
}

impl Judge<'_> {
    /// Compares responses with references: each pair's first response is the one to reward, the second its reference.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn against_reference(&mut self, pairs: &[EncodedPair]) -> Result<Vec<AgainstReference>> {
        Ok(self.judge(pairs)?.iter().map(AgainstReference::from).collect())
    }

    /// Win rates within each group. Who meets whom is drawn from `seed` and the group's own texts.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn within_groups(&mut self, groups: &[&Group], rivals: Rivals, seed: u64) -> Result<Vec<WithinGroup>> {
        let draw = |group: &&Group| {
            pairings(group.responses.len(), rivals, Rng::new(seed, Stream::Rivals, fingerprint(group)))
        };
        let drawn: Vec<Vec<(usize, usize)>> = groups.iter().map(draw).collect();
        let all: Vec<_> = drawn.iter().enumerate().flat_map(|(g, pairs)| pairs.iter().map(move |p| (g, *p))).collect();
        let mut outcomes = self.compare(groups, &all)?.into_iter();
        let reward = |(group, pairs): (&&Group, &Vec<(usize, usize)>)| {
            let answered = pairs.iter().copied().zip(outcomes.by_ref()).map(|(pair, o)| (pair, o.p));
            WithinGroup { rewards: win_rates(group.responses.len(), answered), comparisons: pairs.len() }
        };
        Ok(groups.iter().zip(&drawn).map(reward).collect())
    }
}

/// A number that is the same for the same texts.
fn fingerprint(group: &Group) -> u64 {
    let mut hash = Sha256::new();
    // A prompt that is not text is refused when it is encoded.
    let prompt = transcript(&group.prompt).unwrap_or_default();
    for text in [&prompt].into_iter().chain(&group.responses) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_response_meets_as_many_rivals_as_it_should(n in 0usize..40, k in 0usize..12, seed: u64) {
            let pairs = pairings(n, Rivals::Random(k), Rng::new(seed, Stream::Test, 0));
            let mut met = vec![0; n];
            for (i, j) in &pairs {
                prop_assert!(i < j && *j < n);
                met[*i] += 1;
                met[*j] += 1;
            }
            prop_assert!(pairs.windows(2).all(|w| w[0] < w[1]), "none twice");
            let due = k.min(n.saturating_sub(1));
            let odd = n * due % 2;
            prop_assert!(met.iter().all(|m| *m == due || *m == due + 1));
            prop_assert_eq!(met.iter().filter(|m| **m != due).count(), odd);
        }
    }

    #[test]
    fn the_draw_depends_on_its_key_and_favours_no_one() {
        let draw = |step| pairings(6, Rivals::default(), Rng::new(5, Stream::Test, step));
        assert_eq!(draw(1), draw(1));
        let mut met = [[0u32; 6]; 6];
        for step in 0..2000 {
            for (i, j) in draw(step) {
                met[i][j] += 1;
            }
        }
        // Each of 15 pairs is in 3 / 5 of the draws: 1200 of 2000, within 6 standard deviations of 22.
        let counts: Vec<u32> = (0..6).flat_map(|i| (i + 1..6).map(move |j| (i, j))).map(|(i, j)| met[i][j]).collect();
        assert!(counts.iter().all(|c| (1070..1330).contains(c)), "{counts:?}");
    }

    #[test]
    fn three_rivals_are_all_of_a_group_of_four() {
        let rng = Rng::new(0, Stream::Test, 0);
        for n in 0..=4 {
            assert_eq!(pairings(n, Rivals::default(), rng), pairings(n, Rivals::All, rng));
        }
        assert_eq!(pairings(8, Rivals::default(), rng).len(), 12);
        assert_eq!(pairings(8, Rivals::All, rng).len(), 28);
    }

    #[test]
    fn advantages_are_centred_and_of_unit_deviation() {
        let rewards = [0.1, 0.4, 0.7];
        let close = |a: Vec<f64>, b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(advantages(&rewards, Advantage::Centered), [-0.3, 0.0, 0.3]));
        assert!(close(advantages(&rewards, Advantage::Normalized), [-1.0, 0.0, 1.0]));
        for form in [Advantage::Centered, Advantage::Normalized] {
            assert_eq!(advantages(&[0.1; 3], form), [0.0; 3]);
            assert_eq!(advantages(&[0.3], form), [0.0]);
            assert!(advantages(&[], form).is_empty());
        }
    }
}
