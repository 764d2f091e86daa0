//! Turning pairwise probabilities into an order. Pure: a comparison is asked of a closure, in batches.
//!
//! A comparison of responses `i` and `j` is `p = P(i beats j)`, the mean over both orders of presentation, so
//! `P(j beats i) = 1 - p` exactly and no pair is ever asked twice.

use crate::error::Result;
use std::collections::BTreeMap;

/// How responses are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The papers' linear scan: the incumbent meets each response in turn and ties keep it; n - 1 comparisons find the
    /// best. The full order repeats the scan over those that remain, and what was compared before is not asked again.
    Linear,
    /// Every pair once: n (n - 1) / 2 comparisons, in one batch.
    RoundRobin,
}

/// An order of responses.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Indices of the responses, best first.
    pub order: Vec<usize>,
    /// For each response, in input order, its mean probability of beating those it was compared with (0.5 if none).
    pub scores: Vec<f64>,
    /// Pairs that were compared.
    pub comparisons: usize,
}

/// Ranks `n` responses. `compare` gets pairs `(i, j)` and answers `P(i beats j)` for each.
///
/// # Errors
/// Whatever `compare` returns.
pub fn rank(
    n: usize,
    method: Method,
    mut compare: impl FnMut(&[(usize, usize)]) -> Result<Vec<f64>>,
) -> Result<Ranking> {
    let mut known: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let order = match method {
        Method::RoundRobin => {
            let pairs: Vec<_> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
            let answers = if pairs.is_empty() { Vec::new() } else { compare(&pairs)? };
            known.extend(pairs.into_iter().zip(answers));
            let scores = scores(n, &known);
            let mut order: Vec<usize> = (0..n).collect();
            // Stable: equal scores keep the input's order.
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order
        }
        Method::Linear => {
            let mut left: Vec<usize> = (0..n).collect();
            let mut order = Vec::with_capacity(n);
            while let Some((&first, rest)) = left.split_first() {
                let mut best = first;
                for &challenger in rest {
                    if ask(best, challenger, &mut known, &mut compare)? < 0.5 {
                        best = challenger;
                    }
                }
                left.retain(|i| *i != best);
                order.push(best);
            }
            order
        }
    };
    Ok(Ranking { order, scores: scores(n, &known), comparisons: known.len() })
}

/// The order that scalar rewards give: largest first, equal ones as they came.
pub fn by_reward(rewards: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|a, b| rewards[*b].total_cmp(&rewards[*a]));
    order
}

fn ask(
    i: usize,
    j: usize,
    known: &mut BTreeMap<(usize, usize), f64>,
    compare: &mut impl FnMut(&[(usize, usize)]) -> Result<Vec<f64>>,
) -> Result<f64> {
    let (a, b) = (i.min(j), i.max(j));
    let p = match known.get(&(a, b)) {
        Some(p) => *p,
        None => *known.entry((a, b)).or_insert(compare(&[(a, b)])?[0]),
    };
    Ok(if i == a { p } else { 1.0 - p })
}

fn scores(n: usize, known: &BTreeMap<(usize, usize), f64>) -> Vec<f64> {
    let (mut sum, mut met) = (vec![0.0; n], vec![0usize; n]);
    for ((i, j), p) in known {
        sum[*i] += p;
        sum[*j] += 1.0 - p;
        met[*i] += 1;
        met[*j] += 1;
    }
    sum.iter().zip(met).map(|(s, m)| if m == 0 { 0.5 } else { s / m as f64 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Responses of known quality, compared without error.
    fn exact(quality: &[f64]) -> impl FnMut(&[(usize, usize)]) -> Result<Vec<f64>> + '_ {
        |pairs| Ok(pairs.iter().map(|(i, j)| 1.0 / (1.0 + (quality[*j] - quality[*i]).exp())).collect())
    }

    proptest! {
        #[test]
        fn a_consistent_judge_gives_the_true_order(quality in prop::collection::vec(-5i32..5, 0..12)) {
            let quality: Vec<f64> = quality.into_iter().map(f64::from).collect();
            let mut truth: Vec<usize> = (0..quality.len()).collect();
            truth.sort_by(|a, b| quality[*b].total_cmp(&quality[*a]));
            for method in [Method::Linear, Method::RoundRobin] {
                let ranking = rank(quality.len(), method, exact(&quality)).unwrap();
                let of = |order: &[usize]| order.iter().map(|i| quality[*i]).collect::<Vec<_>>();
                prop_assert_eq!(of(&ranking.order), of(&truth));
            }
        }

        #[test]
        fn every_method_returns_a_permutation_even_from_a_senseless_judge(
            n in 0usize..10, answers in prop::collection::vec(0.0f64..1.0, 64),
        ) {
            for method in [Method::Linear, Method::RoundRobin] {
                let ranking = rank(n, method, |pairs| {
                    Ok(pairs.iter().map(|(i, j)| answers[(i * 7 + j) % 64]).collect())
                }).unwrap();
                let mut order = ranking.order.clone();
                order.sort();
                prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn comparisons_are_counted_and_ties_keep_the_incumbent() {
        let flat = |pairs: &[(usize, usize)]| Ok(vec![0.5; pairs.len()]);
        assert_eq!(rank(4, Method::RoundRobin, flat).unwrap().comparisons, 6);
        let linear = rank(4, Method::Linear, flat).unwrap();
        assert_eq!(linear.order, vec![0, 1, 2, 3]);
        assert_eq!(linear.comparisons, 6);
        let mut asked = 0;
        let best = rank(2, Method::Linear, |pairs| {
            asked += pairs.len();
            Ok(vec![0.2; pairs.len()])
        });
        assert_eq!((best.unwrap().order, asked), (vec![1, 0], 1));
    }
}
