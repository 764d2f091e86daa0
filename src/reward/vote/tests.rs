use super::*;
use crate::base::rng::{Rng, Stream};
use proptest::prelude::*;

fn vote(order: Order, label: example::Side, margin: f32) -> Vote {
    let logprob = if label == example::Side::A { -(1.0 + (-margin).exp()).ln() } else { -(1.0 + margin.exp()).ln() };
    Vote { order, label, margin, logprob, label_mass: 1.0, rationale: format!("{order:?} {label:?} {margin}") }
}

/// Votes that wrote the likelier label of their margin.
fn votes(ab: &[f32], ba: &[f32]) -> Votes {
    let side = |m: f32| if m > 0.0 { example::Side::A } else { example::Side::B };
    let of = |order: Order, margins: &[f32]| margins.iter().map(move |m| vote(order, side(*m), *m)).collect::<Vec<_>>();
    Votes { valid: [of(Order::Ab, ab), of(Order::Ba, ba)].concat(), invalid: Vec::new() }
}

#[test]
fn orders_are_mapped_back_and_weigh_the_same() {
    let v = votes(&[2.0, 0.0], &[-1.0]);
    // Order ab: 0.880797 and 0.5; order ba: 1 - sigmoid(-1) = 0.731059.
    let want = ((0.880_797 + 0.5) / 2.0 + 0.731_059) / 2.0;
    assert!((v.p_a().unwrap() - want).abs() < 1e-6);
    assert_eq!((v.margin(Order::Ab), v.margin(Order::Ba)), (Some(1.0), Some(-1.0)));
    assert_eq!(v.tally(Order::Ab), Tally { a: 1, b: 1, invalid: 0 });
    assert_eq!(v.tally(Order::Ba), Tally { a: 1, b: 0, invalid: 0 });
    assert_eq!((v.counts(), v.verdict(Rule::Soft), v.verdict(Rule::Majority)), ([2, 1], Some(Side::A), Some(Side::A)));
    // A judge that always likes the first place is undecided.
    let biased = votes(&[3.0, 3.0, 3.0], &[3.0]);
    assert_eq!((biased.p_a(), biased.verdict(Rule::Soft)), (Some(0.5), Some(Side::Tie)));
    assert!(!biased.consistent(Rule::Soft) && !biased.consistent(Rule::Majority));
}

#[test]
fn probabilities_and_labels_may_disagree_and_margins_decide_where_probabilities_saturate() {
    let v = votes(&[9.0, -0.1, -0.1], &[]);
    assert_eq!((v.verdict(Rule::Soft), v.verdict(Rule::Majority)), (Some(Side::A), Some(Side::B)));
    let saturated = votes(&[90.0], &[80.0]);
    assert_eq!((saturated.p_a(), saturated.verdict(Rule::Soft)), (Some(0.5), Some(Side::A)));
    // One greedy vote of each order is the one-pass judge's rule: the margins are compared.
    for (ab, ba) in [(1.0f32, 0.5f32), (-0.25, 1.5), (0.1, 0.3), (2.0, 2.0)] {
        let want = if ab > ba {
            Side::A
        } else if ab < ba {
            Side::B
        } else {
            Side::Tie
        };
        assert_eq!(votes(&[ab], &[ba]).verdict(Rule::Soft), Some(want), "{ab} {ba}");
    }
}

#[test]
fn a_tie_of_labels_goes_to_the_surer_ones() {
    let v = votes(&[0.2, 3.0], &[0.1, 0.3]);
    assert_eq!((v.counts(), v.verdict(Rule::Majority)), ([2, 2], Some(Side::A)));
    let even = votes(&[1.0], &[1.0]);
    assert_eq!(even.verdict(Rule::Majority), Some(Side::Tie));
}

#[test]
fn invalid_votes_abstain_and_are_counted() {
    let mut v = votes(&[], &[-2.0]);
    v.invalid = vec![(Order::Ab, Invalid::NoAnswer), (Order::Ab, Invalid::CutOff), (Order::Ba, Invalid::CutOff)];
    assert_eq!(v.verdict(Rule::Soft), Some(Side::A));
    assert!(!v.consistent(Rule::Soft), "one order has nothing to say");
    assert_eq!((v.tally(Order::Ab).cast(), v.tally(Order::Ba).cast(), v.margin(Order::Ab)), (2, 2, None));
    assert_eq!(v.reasons(), BTreeMap::from([(Invalid::CutOff, 2), (Invalid::NoAnswer, 1)]));
    v.valid.clear();
    for rule in [Rule::Soft, Rule::Majority] {
        assert_eq!((v.verdict(rule), v.typical(rule), v.settled(rule, 2, 0.6)), (None, None, false));
    }
    assert_eq!((v.p_a(), v.label_mass()), (None, None));
}

#[test]
fn the_typical_rationale_is_the_winners_median_in_the_rows_own_order_if_it_can_be() {
    let v = votes(&[5.0, 1.0, 3.0, -1.0], &[-9.0]);
    assert_eq!(v.typical(Rule::Majority).unwrap().margin, 3.0);
    assert_eq!(votes(&[5.0, 1.0], &[-9.0]).typical(Rule::Majority).unwrap().margin, 1.0);
    let only_ba = votes(&[-1.0], &[-9.0, -2.0, -3.0]);
    assert_eq!(only_ba.typical(Rule::Majority).unwrap().rationale, "Ba B -3");
    let against = votes(&[-3.0], &[1.0]);
    assert_eq!(against.typical(Rule::Majority).unwrap().order, Order::Ab);
    assert_eq!(votes(&[1.0], &[1.0]).typical(Rule::Soft), None);
}

#[test]
fn the_posterior_is_the_upper_half_of_a_beta() {
    for (leads, trails, want) in
        [(0, 0, 0.5), (1, 0, 0.75), (2, 0, 0.875), (4, 0, 0.968_75), (1, 1, 0.5), (3, 1, 0.8125)]
    {
        assert!((posterior(leads, trails) - want).abs() < 1e-15, "{leads} {trails}");
    }
    // Against the integral of the density.
    for (leads, trails) in [(7usize, 3usize), (12, 9), (40, 20)] {
        let density = |q: f64| q.powi(leads as i32) * (1.0 - q).powi(trails as i32);
        let steps = 200_000;
        let mass = |from: f64| -> f64 {
            let h = (1.0 - from) / steps as f64;
            (0..steps).map(|i| density(from + (i as f64 + 0.5) * h) * h).sum()
        };
        let want = mass(0.5) / mass(0.0);
        assert!((posterior(leads, trails) - want).abs() < 1e-8, "{leads} {trails}");
    }
    assert_eq!(posterior(512, 0), 1.0);
    assert!((posterior(256, 256) - 0.5).abs() < 1e-9);
}

#[test]
fn voting_ends_when_it_is_settled() {
    for rule in [Rule::Soft, Rule::Majority] {
        let unanimous = votes(&[2.0, 2.0], &[-2.0, -2.0]);
        assert!(unanimous.settled(rule, 16, 0.95), "0.969");
        assert!(!unanimous.settled(rule, 16, 0.99));
        assert!(!votes(&[2.0, -2.0], &[-2.0, -2.0]).settled(rule, 16, 0.95));
        assert!(!votes(&[2.0, 2.0], &[2.0, 2.0]).settled(rule, 16, 0.5), "a tie leads nowhere");
    }
    // Certainty asks that the rest cannot change it.
    let v = votes(&[9.0; 9], &[-9.0; 8]);
    assert!(v.settled(Rule::Majority, 16, 1.0) && v.settled(Rule::Soft, 16, 1.0));
    let v = votes(&[9.0; 8], &[-9.0; 8]);
    assert!(!v.settled(Rule::Majority, 16, 1.0), "16 are still to come");
    // The labels say a, the probabilities b: go on.
    let torn = votes(&[0.1, 0.1, 0.1, 0.1, -9.0], &[-0.1, -0.1, -0.1, -0.1, 9.0]);
    assert_eq!((torn.counts(), torn.verdict(Rule::Soft)), ([8, 2], Some(Side::B)));
    assert!(!torn.settled(Rule::Soft, 16, 0.5) && torn.settled(Rule::Majority, 16, 0.9));
}

#[test]
fn rounds_double() {
    assert_eq!(rounds(16), [2, 4, 8, 16]);
    assert_eq!(rounds(10), [2, 4, 8, 10]);
    assert_eq!((rounds(1), rounds(2), rounds(3)), (vec![1], vec![2], vec![2, 3]));
}

proptest! {
    /// Swapping the responses mirrors everything.
    #[test]
    fn swapped_responses_mirror_the_verdict(
        ab in prop::collection::vec(-4f32..4.0, 0..6), ba in prop::collection::vec(-4f32..4.0, 0..6),
    ) {
        let (v, w) = (votes(&ab, &ba), votes(&ba, &ab));
        prop_assert_eq!(v.counts(), { let [a, b] = w.counts(); [b, a] });
        if let (Some(p), Some(q)) = (v.p_a(), w.p_a()) {
            prop_assert!((p + q - 1.0).abs() < 1e-12);
        }
        let mirrored = |s: Option<Side>| s.map(|s| match s { Side::A => Side::B, Side::B => Side::A, Side::Tie => Side::Tie });
        prop_assert_eq!(v.verdict(Rule::Majority), mirrored(w.verdict(Rule::Majority)));
        for rule in [Rule::Soft, Rule::Majority] {
            prop_assert_eq!(v.consistent(rule), w.consistent(rule));
        }
    }

    /// What was certain stays, whatever the votes that come.
    #[test]
    fn certainty_is_kept(seed: u64, n in 1usize..6, total in 1usize..9, lean in -1f32..1.0) {
        let rng = Rng::new(seed, Stream::Test, 0);
        let margin = |i: usize, lean: f32| lean + 6.0 * (rng.uniform(i as u64) as f32 - 0.5);
        let n = n.min(total);
        let [ab, ba]: [Vec<f32>; 2] = [1.0, -1.0].map(|way| (0..total)
            .map(|i| if i < n { margin(2 * i + (way > 0.0) as usize, 3.0 * way * lean) } else { -way * lean.signum() * 30.0 })
            .collect());
        for rule in [Rule::Soft, Rule::Majority] {
            let early = votes(&ab[..n], &ba[..n]);
            if early.settled(rule, total, 1.0) {
                prop_assert_eq!(early.verdict(rule), votes(&ab, &ba).verdict(rule));
            }
        }
    }
}
