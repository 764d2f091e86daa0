use super::*;
use crate::base::rng::{Rng, Stream};
use proptest::prelude::*;

fn every_pair(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Every pair, answered as the strengths say.
fn exact(s: &[f64]) -> Vec<(usize, usize, f64)> {
    every_pair(s.len()).map(|(i, j)| (i, j, sigmoid(s[i] - s[j]))).collect()
}

proptest! {
    #[test]
    fn planted_strengths_are_recovered(mut planted in prop::collection::vec(-1.5f64..1.5, 2..8)) {
        let mean = planted.iter().sum::<f64>() / planted.len() as f64;
        planted.iter_mut().for_each(|s| *s -= mean);
        let once = exact(&planted);
        let found = fit(planted.len(), &once);
        // One comparison of each pair outweighs the prior by far more than 10 to 1; a thousand drown it.
        prop_assert!(planted.iter().zip(&found.strengths).all(|(a, b)| (a - b).abs() < 0.35), "{found:?}");
        let often: Vec<_> = (0..1000).flat_map(|_| once.clone()).collect();
        let found = fit(planted.len(), &often);
        prop_assert!(planted.iter().zip(&found.strengths).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}");
        prop_assert!(found.residual < 1e-3);
    }

    #[test]
    fn the_sum_is_zero_and_no_direction_climbs(
        n in 1usize..7,
        asked in prop::collection::vec((0usize..7, 0usize..7, 0.0f64..=1.0), 0..30),
        direction in prop::collection::vec(-1.0f64..1.0, 7),
    ) {
        let asked: Vec<_> = asked.into_iter().map(|(i, j, p)| (i % n, j % n, p)).filter(|(i, j, _)| i != j).collect();
        let found = fit(n, &asked);
        prop_assert!(found.strengths.iter().sum::<f64>().abs() < 1e-9);
        let objective = |s: &[f64]| {
            let votes: f64 = asked
                .iter()
                .map(|(i, j, p)| p * sigmoid(s[*i] - s[*j]).ln() + (1.0 - p) * sigmoid(s[*j] - s[*i]).ln())
                .sum();
            let draws = |(i, j)| (sigmoid(s[i] - s[j]) * sigmoid(s[j] - s[i])).ln() / 2.0;
            votes + PRIOR / n as f64 * every_pair(n).map(draws).sum::<f64>()
        };
        let best = objective(&found.strengths);
        for scale in [1e-3, 0.1, 1.0] {
            let moved: Vec<f64> = found.strengths.iter().zip(&direction).map(|(s, d)| s + scale * d).collect();
            prop_assert!(objective(&moved) <= best + 1e-12);
        }
    }

    #[test]
    fn names_do_not_matter(
        asked in prop::collection::vec((0usize..5, 0usize..5, 0.0f64..=1.0), 1..12),
        key in 0u64..100,
    ) {
        let asked: Vec<_> = asked.into_iter().filter(|(i, j, _)| i != j).collect();
        let to: Vec<usize> = Rng::new(key, Stream::Test, 0).permutation(5).iter().map(|i| *i as usize).collect();
        let renamed: Vec<_> = asked.iter().rev().map(|(i, j, p)| (to[*j], to[*i], 1.0 - p)).collect();
        let (a, b) = (fit(5, &asked), fit(5, &renamed));
        for i in 0..5 {
            prop_assert!((a.strengths[i] - b.strengths[to[i]]).abs() < 1e-8);
            prop_assert!((a.error(i) - b.error(to[i])).abs() < 1e-8 * a.error(i));
        }
    }
}

#[test]
fn two_responses_have_a_closed_form() {
    // Three votes of 0.9 and PRIOR / 2 of a draw: sigmoid(difference) is the fraction won.
    let given = 3.0 + PRIOR / 2.0;
    let won = (2.7 + PRIOR / 4.0) / given;
    let found = fit(2, &[(0, 1, 0.9), (1, 0, 0.1), (0, 1, 0.9)]);
    let difference = (won / (1.0 - won)).ln();
    assert!((found.strengths[0] - difference / 2.0).abs() < 1e-10);
    // The difference has variance 1 / (given won (1 - won)), each strength a quarter of it.
    let error = (1.0 / (given * won * (1.0 - won))).sqrt();
    assert!((found.error(0) - error / 2.0).abs() < 1e-10 && (found.error(1) - error / 2.0).abs() < 1e-10);
    assert!((found.above(0, 1) - normal(difference / error)).abs() < 1e-12);
    assert!((found.above(0, 1) + found.above(1, 0) - 1.0).abs() < 1e-12);
}

/// Strength and standard error of each response in the next test.
const INDEPENDENT: [(f64, f64); 5] = [
    (0.885337364037, 1.082901063181),
    (-0.226559608549, 1.044682845985),
    (1.732057172851, 1.411231726098),
    (-1.097528128290, 1.212747995241),
    (-1.293306800048, 1.515376321086),
];

/// Against another algorithm in another language: minorisation-maximisation on `exp(s)` in NumPy, the covariance from its
/// pseudo-inverse.
#[test]
fn strengths_and_errors_equal_an_independent_fit() {
    let asked =
        [(0, 1, 0.8), (0, 2, 0.35), (1, 2, 0.1), (2, 3, 1.0), (1, 3, 0.62), (3, 4, 0.5), (0, 4, 0.97), (0, 1, 0.6)];
    let found = fit(5, &asked);
    for (i, (strength, error)) in INDEPENDENT.into_iter().enumerate() {
        assert!((found.strengths[i] - strength).abs() < 1e-9, "{i}: {} and {strength}", found.strengths[i]);
        assert!((found.error(i) - error).abs() < 1e-9, "{i}: {} and {error}", found.error(i));
    }
}

#[test]
fn the_undefeated_and_the_unmet_stay_finite() {
    let found = fit(4, &[(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)]);
    assert!(found.strengths[0] > found.strengths[1] && found.strengths[1] > found.strengths[2]);
    assert!(found.strengths.iter().all(|s| s.abs() < 10.0), "{:?}", found.strengths);
    assert!(found.error(3) > found.error(0), "who was never compared is known least");
    for n in 0..3 {
        let nothing = fit(n, &[]);
        assert_eq!(nothing.strengths, vec![0.0; n]);
        assert_eq!(nothing.residual, 0.0);
    }
    assert_eq!(fit(3, &[]).above(0, 1), 0.5);
    assert_eq!(fit(1, &[]).interval(0), [0.0, 0.0]);
}

#[test]
fn intervals_cover_as_often_as_they_say() {
    let (groups, n, votes) = (500, 8, 3);
    let (mut inside, mut all) = (0, 0);
    for group in 0..groups {
        let rng = Rng::new(7, Stream::Test, group);
        let mut planted: Vec<f64> = (0..n).map(|i| rng.normal(i as u64)).collect();
        let mean = planted.iter().sum::<f64>() / n as f64;
        planted.iter_mut().for_each(|s| *s -= mean);
        let mut element = 100;
        let mut asked = Vec::new();
        for (i, j) in (0..votes).flat_map(|_| every_pair(n)) {
            element += 1;
            let won = rng.uniform(element) < sigmoid(planted[i] - planted[j]);
            asked.push((i, j, f64::from(u8::from(won))));
        }
        let found = fit(n, &asked);
        inside += (0..n).filter(|i| (found.interval(*i)[0]..=found.interval(*i)[1]).contains(&planted[*i])).count();
        all += n;
    }
    let coverage = inside as f64 / all as f64;
    assert!((0.94..0.975).contains(&coverage), "{coverage}");
}

#[test]
fn a_comparison_lowers_the_variance_by_what_was_foretold() {
    let asked = exact(&[0.5, 0.1, -0.2, -0.4]);
    let some = fit(4, &asked[..4]);
    let (doubted, more) = ((1, 2), (1, 3));
    // The same strengths with one more vote in the information.
    let n = 4.0;
    let weight = |extra: f64| {
        let s = &some.strengths;
        let known: Vec<(usize, usize)> = asked[..4].iter().map(|(i, j, _)| (*i, *j)).collect();
        let votes = move |i, j| f64::from(u8::from(known.contains(&(i, j)))) + if (i, j) == more { extra } else { 0.0 };
        Fit { covariance: covariance(4, |i, j| (votes(i, j) + PRIOR / n) * spread(s[i] - s[j])), ..some.clone() }
    };
    let (before, after) = (weight(0.0), weight(1.0));
    assert_eq!(before.covariance, some.covariance);
    let fall = before.difference_covariance(doubted, doubted) - after.difference_covariance(doubted, doubted);
    assert!((some.gain(doubted, more) - fall).abs() < 1e-12 && fall > 0.01, "{fall}");
}

#[test]
fn the_normal_distribution_has_its_known_values() {
    // Abramowitz and Stegun, table 26.1.
    for (x, p) in
        [(0.0, 0.5), (1.0, 0.841_344_746_068_543), (1.96, 0.975_002_104_851_780), (3.0, 0.998_650_101_968_370)]
    {
        assert!((normal(x) - p).abs() < 1e-14, "{x}: {}", normal(x));
        assert!((normal(-x) - (1.0 - p)).abs() < 1e-14);
    }
    assert_eq!((normal(50.0), normal(-50.0)), (1.0, 0.0));
    assert!((normal(NINETY_FIVE) - 0.975).abs() < 1e-14);
}

#[test]
fn a_long_chain_of_certain_wins_converges() {
    let n = 60;
    let asked: Vec<_> = (1..n).map(|i| (i - 1, i, 1.0)).collect();
    let found = fit(n, &asked);
    assert!(found.strengths.windows(2).all(|w| w[0] > w[1]));
    let reversed: Vec<_> = asked.iter().map(|(i, j, p)| (n - 1 - i, n - 1 - j, *p)).collect();
    let mirrored = fit(n, &reversed);
    assert!((0..n).all(|i| (found.strengths[i] - mirrored.strengths[n - 1 - i]).abs() < 1e-9));
}
