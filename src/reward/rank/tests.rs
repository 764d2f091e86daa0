use super::*;
use crate::base::rng::{Rng, Stream};
use proptest::prelude::*;
use std::collections::BTreeSet;

const METHODS: [Method; 6] = [
    Method::Linear,
    Method::Knockout,
    Method::RoundRobin,
    Method::Swiss,
    Method::Anchor { anchors: 2 },
    Method::Adaptive { confidence: 0.95 },
];
/// Those that promise the true order of a judge that agrees with itself.
const EXACT: [Method; 3] = [Method::Linear, Method::RoundRobin, Method::Adaptive { confidence: 0.95 }];

fn rules(method: Method, budget: Option<usize>) -> Rules {
    Rules::new(method, budget).unwrap()
}

/// Answers from the difference in quality.
fn outcome(difference: f64) -> Outcome {
    Outcome { p: 1.0 / (1.0 + (-difference).exp()), margin: difference }
}

/// Responses of known quality, compared without error.
fn consistent(quality: &[f64]) -> impl FnMut(&[(usize, usize)]) -> Result<Vec<Outcome>> + '_ {
    |pairs| Ok(pairs.iter().map(|(i, j)| outcome(quality[*i] - quality[*j])).collect())
}

fn sorted(order: &[usize]) -> Vec<usize> {
    let mut sorted = order.to_vec();
    sorted.sort();
    sorted
}

fn method() -> impl Strategy<Value = Method> {
    (0usize..6, 1usize..4, 0.6f64..0.99).prop_map(|(which, anchors, confidence)| match METHODS[which] {
        Method::Anchor { .. } => Method::Anchor { anchors },
        Method::Adaptive { .. } => Method::Adaptive { confidence },
        other => other,
    })
}

proptest! {
    #[test]
    fn a_consistent_judge_gives_the_true_order(
        quality in prop::collection::vec(-5i32..5, 0..14), scale in prop::sample::select(vec![0.1, 1.0, 10.0, 1000.0]),
    ) {
        let quality: Vec<f64> = quality.into_iter().map(|q| q as f64 * scale).collect();
        let mut truth: Vec<usize> = (0..quality.len()).collect();
        truth.sort_by(|a, b| quality[*b].total_cmp(&quality[*a]));
        let of = |order: &[usize]| order.iter().map(|i| quality[*i]).collect::<Vec<_>>();
        for method in EXACT {
            let ranking = rank(quality.len(), rules(method, None), consistent(&quality)).unwrap();
            prop_assert_eq!(of(&ranking.order), of(&truth), "{:?}", method);
            prop_assert!(ranking.cycles.is_empty());
        }
        if let Some(best) = truth.first() {
            for budget in [None, Some(quality.len() - 1)] {
                for method in [Method::Knockout, Method::Linear] {
                    let ranking = rank(quality.len(), rules(method, budget), consistent(&quality)).unwrap();
                    prop_assert_eq!(quality[ranking.order[0]], quality[*best], "{:?} finds the best", method);
                }
            }
        }
    }

    #[test]
    fn margins_order_where_probabilities_saturate(quality in prop::collection::btree_set(-50i32..50, 0..10), key: u64) {
        let sorted: Vec<i32> = quality.into_iter().collect();
        let seats = Rng::new(key, Stream::Test, 0).permutation(sorted.len());
        let quality: Vec<f64> = seats.iter().map(|i| sorted[*i as usize] as f64).collect();
        let mut truth: Vec<usize> = (0..quality.len()).collect();
        truth.sort_by(|a, b| quality[*b].total_cmp(&quality[*a]));
        for method in EXACT {
            // A judge who always says A with certainty: both orders cancel in p, but not in the margins.
            let ranking = rank(quality.len(), rules(method, None), |pairs| {
                Ok(pairs.iter().map(|(i, j)| Outcome { p: 0.5, margin: quality[*i] - quality[*j] }).collect())
            }).unwrap();
            prop_assert_eq!(&ranking.order, &truth, "{:?}", method);
            prop_assert!(ranking.ties.is_empty());
        }
    }

    #[test]
    fn any_judge_gets_a_permutation_within_the_budget_and_is_asked_each_pair_once(
        n in 0usize..12, method in method(), budget in prop::option::of(0usize..50),
        answers in prop::collection::vec((0.0f64..1.0, -1i8..2), 66),
    ) {
        let mut seen = BTreeSet::new();
        let ranking = rank(n, rules(method, budget), |pairs| {
            assert!(pairs.iter().all(|pair| pair.0 < pair.1 && pair.1 < n && seen.insert(*pair)));
            let answer = |(i, j): &(usize, usize)| {
                let (p, margin) = answers[j * (j - 1) / 2 + i];
                Outcome { p, margin: f64::from(margin) }
            };
            Ok(pairs.iter().map(answer).collect())
        }).unwrap();
        prop_assert_eq!(sorted(&ranking.order), (0..n).collect::<Vec<_>>());
        prop_assert_eq!(ranking.comparisons, seen.len());
        prop_assert!(ranking.comparisons <= budget.unwrap_or(usize::MAX));
        prop_assert_eq!(ranking.saved() + seen.len(), all_pairs(n));
        prop_assert_eq!(ranking.confidence.len(), n.saturating_sub(1));
        prop_assert!(ranking.confidence.iter().all(|c| (0.0..=1.0).contains(c)));
        prop_assert!(ranking.scores.iter().all(|s| (0.0..=1.0).contains(s)));
        if ranking.stopped == Stopped::Budget {
            prop_assert_eq!(Some(ranking.comparisons), budget, "a budget that ends a ranking was spent");
        }
        let ties = ranking.ties.iter().all(|(i, j)| answers[j * (j - 1) / 2 + i].1 == 0);
        prop_assert!(ties);
    }

    #[test]
    fn lock_step_changes_nothing(
        sizes in prop::collection::vec(0usize..9, 0..6), method in method(), budget in prop::option::of(1usize..20), key: u64,
    ) {
        let answer = |group: usize, (i, j): (usize, usize)| {
            outcome(Rng::new(key, Stream::Test, group as u64).normal((i * 100 + j) as u64))
        };
        let new = |n: &usize| Tournament::new(*n, rules(method, budget)).unwrap();
        let mut together: Vec<Tournament> = sizes.iter().map(new).collect();
        play(&mut together, |open| Ok(open.iter().map(|(group, pair)| answer(*group, *pair)).collect())).unwrap();
        for (group, n) in sizes.iter().enumerate() {
            let alone = rank(*n, rules(method, budget), |pairs| {
                Ok(pairs.iter().map(|pair| answer(group, *pair)).collect())
            }).unwrap();
            prop_assert_eq!(&together[group].ranking(), &alone);
        }
    }

    #[test]
    fn cycles_are_those_of_the_definition(n in 1usize..7, edges in prop::collection::vec((0usize..7, 0usize..7), 0..15)) {
        let edges: Vec<(usize, usize)> = edges.into_iter().map(|(i, j)| (i % n, j % n)).filter(|(i, j)| i != j).collect();
        let mut reaches = vec![vec![false; n]; n];
        edges.iter().for_each(|(i, j)| reaches[*i][*j] = true);
        for k in 0..n {
            for i in 0..n {
                for j in 0..n {
                    reaches[i][j] |= reaches[i][k] && reaches[k][j];
                }
            }
        }
        let both = |i: usize, j: usize| i == j || reaches[i][j] && reaches[j][i];
        let of = |i: usize| (0..n).filter(|j| both(i, *j)).collect::<Vec<_>>();
        let truth: BTreeSet<Vec<usize>> = (0..n).map(of).filter(|members| members.len() > 1).collect();
        prop_assert_eq!(cycles(n, edges.into_iter()), truth.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_pair_is_in_the_round_robin_once_and_prefixes_are_balanced(n in 0usize..20, cut in 0usize..200) {
        let pairs = pairs::round_robin(n);
        let set: BTreeSet<_> = pairs.iter().map(|(i, j)| (i.min(j), i.max(j))).collect();
        prop_assert!(set.len() == pairs.len() && pairs.len() == all_pairs(n));
        let mut met = vec![0usize; n];
        pairs[..cut.min(pairs.len())].iter().for_each(|(i, j)| { met[*i] += 1; met[*j] += 1 });
        let (least, most) = (met.iter().min().copied().unwrap_or(0), met.iter().max().copied().unwrap_or(0));
        prop_assert!(most - least <= 2, "{met:?}");
    }
}

fn flat(pairs: &[(usize, usize)]) -> Result<Vec<Outcome>> {
    Ok(vec![Outcome { p: 0.5, margin: 0.0 }; pairs.len()])
}

#[test]
fn ties_keep_the_input_order_and_are_reported() {
    for method in METHODS {
        let ranking = rank(4, rules(method, None), flat).unwrap();
        assert_eq!(ranking.order[0], 0, "{method:?}");
        assert_eq!(ranking.ties.len(), ranking.comparisons, "{method:?}");
    }
    let all = rank(4, rules(Method::RoundRobin, None), flat).unwrap();
    assert_eq!((all.order, all.comparisons, all.stopped), (vec![0, 1, 2, 3], 6, Stopped::Complete));
    assert_eq!(all.ties, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]);
    assert_eq!(rank(4, rules(Method::Linear, None), flat).unwrap().order, [0, 1, 2, 3]);
}

/// Batches that each method asks of a consistent judge.
fn batches(n: usize, method: Method, budget: Option<usize>) -> (Vec<usize>, Ranking) {
    let quality: Vec<f64> = Rng::new(3, Stream::Test, 0).permutation(n).iter().map(|q| *q as f64).collect();
    let mut sizes = Vec::new();
    let ranking = rank(n, rules(method, budget), |pairs| {
        sizes.push(pairs.len());
        consistent(&quality)(pairs)
    });
    (sizes, ranking.unwrap())
}

#[test]
fn methods_ask_as_much_as_they_say() {
    assert_eq!(batches(13, Method::Knockout, None).0, [5, 4, 2, 1], "three pass the first round");
    assert_eq!(batches(16, Method::Knockout, None).0, [8, 4, 2, 1]);
    assert_eq!(batches(9, Method::RoundRobin, None).0, [36]);
    assert_eq!(batches(9, Method::Anchor { anchors: 2 }, None).0, [2 * 7 + 1]);
    assert_eq!(batches(3, Method::Anchor { anchors: 8 }, None).0, [3], "all are anchors");
    assert_eq!(batches(13, Method::Swiss, None).0, [6, 6, 6, 6]);
    assert!(batches(13, Method::Linear, None).0.iter().all(|size| *size == 1));
    let (sizes, ranking) = batches(8, Method::Swiss, Some(18));
    assert_eq!((sizes, ranking.stopped), (vec![4, 4, 4, 4, 2], Stopped::Budget), "as many rounds as are paid for");
    assert_eq!(batches(8, Method::Swiss, Some(1000)).1.stopped, Stopped::Complete);
    for method in METHODS {
        let (_, ranking) = batches(8, method, Some(5));
        assert_eq!((ranking.comparisons, ranking.stopped), (5, Stopped::Budget), "{method:?}");
        let (_, ranking) = batches(1, method, None);
        assert_eq!((ranking.order, ranking.comparisons), (vec![0], 0), "{method:?}");
    }
}

#[test]
fn knockout_places_by_the_round_reached() {
    let quality = [3.0, 4.0, 0.0, 1.0, 5.0, 6.0, 7.0, 2.0];
    let order = rank(8, rules(Method::Knockout, None), consistent(&quality)).unwrap().order;
    // 1, 3, 5, 6 survive the first round, 1 and 6 the second, 6 wins.
    assert_eq!(order[..2], [6, 1]);
    assert_eq!(sorted(&order[2..4]), [3, 5]);
    assert_eq!(sorted(&order[4..]), [0, 2, 4, 7]);
}

#[test]
fn a_scan_that_runs_out_of_budget_puts_its_incumbent_next() {
    let quality = [4.0, 3.0, 1.0, 2.0, 0.0];
    // Four comparisons place 0; two more, and 1 stands against 4.
    let ranking = rank(5, rules(Method::Linear, Some(6)), consistent(&quality)).unwrap();
    assert_eq!(ranking.order, [0, 1, 3, 2, 4]);
    assert_eq!(ranking.stopped, Stopped::Budget);
    // 1 beats 0 and is the incumbent, whatever the strengths say of 2.
    let first = rank(3, rules(Method::Linear, Some(1)), consistent(&[0.0, 1.0, 9.0])).unwrap();
    assert_eq!((first.order, first.stopped), (vec![1, 2, 0], Stopped::Budget));
}

#[test]
fn a_circle_is_reported_and_gets_no_confidence() {
    // 1 beats 2 beats 3 beats 1; all beat 4 and lose to 0.
    let beats = |i: usize, j: usize| match (i, j) {
        (1, 3) => -2.0,
        (1, 2) | (2, 3) => 2.0,
        _ => 3.0,
    };
    let answer = |pairs: &[(usize, usize)]| Ok(pairs.iter().map(|(i, j)| outcome(beats(*i, *j))).collect());
    let ranking = rank(5, rules(Method::RoundRobin, None), answer).unwrap();
    assert_eq!((ranking.order[0], ranking.order[4]), (0, 4));
    assert_eq!(ranking.cycles.len(), 1);
    assert_eq!(sorted(&ranking.cycles[0]), [1, 2, 3]);
    assert_eq!(ranking.cycles[0], ranking.order[1..4], "as they stand in the order");
    assert!(ranking.strengths.residual > 0.1);
    let adaptive = rank(5, rules(Method::Adaptive { confidence: 0.9 }, None), answer).unwrap();
    assert_ne!(adaptive.stopped, Stopped::Decided);
}

#[test]
fn adaptive_saves_comparisons_and_says_why_it_stopped() {
    let adaptive = Method::Adaptive { confidence: 0.95 };
    for (n, most) in [(8, 22), (16, 60), (32, 160)] {
        let quality: Vec<f64> =
            Rng::new(11, Stream::Test, n).permutation(n as usize).iter().map(|q| 4.0 * *q as f64).collect();
        let clear = rank(n as usize, rules(adaptive, None), consistent(&quality)).unwrap();
        assert_eq!(clear.stopped, Stopped::Decided);
        assert!(clear.confidence.iter().all(|c| *c >= 0.95));
        assert!(clear.comparisons <= most, "{n}: {}", clear.comparisons);
    }
    // Nothing to find out: it does not ask for all 120.
    let same = rank(16, rules(adaptive, None), flat).unwrap();
    assert_eq!(same.stopped, Stopped::Undecidable);
    assert!(same.comparisons <= 30, "{}", same.comparisons);
    assert_eq!(rank(1, rules(adaptive, None), flat).unwrap().stopped, Stopped::Decided);
}

#[test]
fn senseless_rules_are_refused() {
    assert!(Rules::new(Method::Anchor { anchors: 0 }, None).is_err());
    for confidence in [0.5, 1.0, f64::NAN, -1.0] {
        assert!(Rules::new(Method::Adaptive { confidence }, None).is_err(), "{confidence}");
    }
    assert!(Tournament::new(MOST + 1, rules(Method::Linear, None)).is_err());
}
