//! The judge itself, whatever the suite: does its verdict depend on the order of the responses or on their length, and do its
//! probabilities mean what they say.

use super::comparison::{Answer, Choice, Comparison};
use super::item::{Item, Kind};

/// A share of something: how many of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Comparisons whose two orders say the same.
    Consistent,
    /// Verdicts of single orders that prefer what was shown first.
    FirstShown,
    /// Verdicts that prefer the longer response, where the lengths differ.
    Longer,
    /// Right verdicts where the better response is the longer one, and where it is the shorter one.
    RightIfLonger,
    RightIfShorter,
    /// Readings without a verdict.
    Invalid,
    /// Replies of a judge that reasons which are not of the form that they must have.
    InvalidReplies,
}

impl Share {
    pub const ALL: [Share; 7] = [
        Share::Consistent,
        Share::FirstShown,
        Share::Longer,
        Share::RightIfLonger,
        Share::RightIfShorter,
        Share::Invalid,
        Share::InvalidReplies,
    ];

    /// As JSON names it.
    pub fn key(self) -> &'static str {
        match self {
            Share::Consistent => "position_consistency",
            Share::FirstShown => "first_position_rate",
            Share::Longer => "prefers_longer",
            Share::RightIfLonger => "accuracy_if_better_is_longer",
            Share::RightIfShorter => "accuracy_if_better_is_shorter",
            Share::Invalid => "invalid_rate",
            Share::InvalidReplies => "invalid_reply_rate",
        }
    }

    /// In words, and what a judge without fault would have.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Share::Consistent => ("same verdict in both orders", "100%"),
            Share::FirstShown => ("prefers what is shown first", "50%"),
            Share::Longer => ("prefers the longer response", "as often as it is better"),
            Share::RightIfLonger => ("right where the better one is longer", "equal to the next"),
            Share::RightIfShorter => ("right where the better one is shorter", "equal to the last"),
            Share::Invalid => ("without a verdict", "0%"),
            Share::InvalidReplies => ("replies that are invalid", "0%"),
        }
    }
}

/// Numerator and denominator of every share.
pub type Counts = [[f64; 2]; Share::ALL.len()];

/// Counts the comparisons of one item.
pub fn count(item: &Item, answer: &Answer) -> Counts {
    let mut counts = Counts::default();
    let mut add_all = |share: Share, part: usize, of: usize| {
        let [some, all] = &mut counts[share as usize];
        *some += part as f64;
        *all += of as f64;
    };
    for tally in answer.comparisons.iter().filter_map(|c| c.replies).flatten() {
        add_all(Share::InvalidReplies, tally.invalid, tally.cast());
    }
    let mut add = |share: Share, part: bool| add_all(share, usize::from(part), 1);
    for c in compared(item, answer) {
        for (order, opinion) in c.orders.iter().enumerate().filter_map(|(i, o)| Some((i, (*o)?))) {
            add(Share::Invalid, opinion.choice == Choice::Invalid);
            if let Choice::First | Choice::Second = opinion.choice {
                add(Share::FirstShown, (opinion.choice == Choice::First) == (order == 0));
            }
        }
        if let Some(consistent) = c.consistent() {
            add(Share::Consistent, consistent);
        } else if c.orders == [None, None] {
            add(Share::Invalid, c.verdict == Choice::Invalid);
        }
        let length = |i: usize| item.responses[i].chars().count();
        let (first, second) = (length(c.pair.0), length(c.pair.1));
        if first == second {
            continue;
        }
        if let Choice::First | Choice::Second = c.verdict {
            add(Share::Longer, (c.verdict == Choice::First) == (first > second));
        }
        if let Some(better) = item.first_is_better(c.pair) {
            let share = if better == (first > second) { Share::RightIfLonger } else { Share::RightIfShorter };
            add(share, c.verdict == if better { Choice::First } else { Choice::Second });
        }
    }
    counts
}

/// What was said of the pairs of an item; of rewards, those that the suite asks for.
fn compared(item: &Item, answer: &Answer) -> Vec<Comparison> {
    match answer.rewards {
        None => answer.comparisons.clone(),
        Some(_) => item.pairs.iter().filter_map(|pair| answer.find(*pair)).collect(),
    }
}

/// A stretch of confidences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub n: usize,
    /// Means over the comparisons in it.
    pub confidence: f64,
    pub accuracy: f64,
}

/// Do probabilities mean what they say.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Expected calibration error: the mean over comparisons of |accuracy - confidence| of their bin.
    pub ece: f64,
    /// Mean squared distance of the probability of the better response from 1.
    pub brier: f64,
    pub n: usize,
    /// Those with comparisons in them.
    pub bins: Vec<Bin>,
}

const BINS: usize = 10;

/// Of all comparisons with a probability and a better response. The confidence is the probability of the response that
/// was preferred, from 0.5 to 1, in ten equal bins; a tie is half right. Where a majority of votes goes against their mean
/// probability it is below 0.5, and counts in the lowest bin.
pub fn calibration(items: &[Item], answers: &[Answer]) -> Option<Calibration> {
    let mut sums = [[0.0; 3]; BINS];
    let (mut brier, mut n) = (0.0, 0usize);
    for (item, answer) in items.iter().zip(answers) {
        for c in compared(item, answer) {
            let (Some(p), Some(first)) = (c.p, item.first_is_better(c.pair)) else { continue };
            let Some(share) = c.verdict.share() else { continue };
            let right = if first { share } else { 1.0 - share };
            let confidence = match c.verdict {
                Choice::First => p,
                Choice::Second => 1.0 - p,
                _ => p.max(1.0 - p),
            };
            let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
            sums[bin].iter_mut().zip([1.0, confidence, right]).for_each(|(sum, x)| *sum += x);
            brier += (if first { 1.0 - p } else { p }).powi(2);
            n += 1;
        }
    }
    let width = 0.5 / BINS as f64;
    let bins: Vec<Bin> = (0..BINS)
        .filter(|i| sums[*i][0] > 0.0)
        .map(|i| {
            let [count, confidence, right] = sums[i];
            let from = 0.5 + width * i as f64;
            let (confidence, accuracy) = (confidence / count, right / count);
            Bin { from, to: from + width, n: count as usize, confidence, accuracy }
        })
        .collect();
    let ece = bins.iter().map(|b| b.n as f64 * (b.accuracy - b.confidence).abs()).sum::<f64>() / n as f64;
    (n > 0).then(|| Calibration { ece, brier: brier / n as f64, n, bins })
}

/// Accuracy by how much longer the better response is: in groups of about equal size, the mean difference in characters and
/// the share of right verdicts. Equal differences are of one group, so that no order among them decides what is shown.
pub fn by_length(items: &[Item], answers: &[Answer], groups: usize) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (item, answer) in items.iter().zip(answers) {
        for c in compared(item, answer) {
            let Some(first) = item.first_is_better(c.pair) else { continue };
            let length = |i: usize| item.responses[i].chars().count() as f64;
            let difference = length(c.pair.0) - length(c.pair.1);
            let right = c.verdict == if first { Choice::First } else { Choice::Second };
            all.push((if first { difference } else { -difference }, f64::from(u8::from(right))));
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mean = |of: &[(f64, f64)]| {
        let n = of.len() as f64;
        (of.iter().map(|x| x.0).sum::<f64>() / n, of.iter().map(|x| x.1).sum::<f64>() / n)
    };
    let (mut parts, mut rest) = (Vec::new(), &all[..]);
    while let Some(groups) = groups.checked_sub(parts.len()).filter(|_| !rest.is_empty()) {
        let last = rest[rest.len().div_ceil(groups.max(1)) - 1].0;
        let (part, later) = rest.split_at(rest.partition_point(|x| x.0 <= last));
        parts.push(mean(part));
        rest = later;
    }
    parts
}

/// By subset of samples, the area under the curve of rewards against truth: how often a right sample of any prompt has a higher
/// reward than a wrong one of any prompt, where equal rewards are half. Only where every sample has a reward.
pub fn areas(items: &[Item], answers: &[Answer]) -> Vec<(String, f64)> {
    let mut sets: Vec<(String, Vec<(f64, bool)>)> = Vec::new();
    for (item, answer) in items.iter().zip(answers).filter(|(item, _)| item.kind == Kind::Samples) {
        let Some(rewards) = &answer.rewards else { return Vec::new() };
        let at = sets.iter().position(|(name, _)| *name == item.subset).unwrap_or_else(|| {
            sets.push((item.subset.clone(), Vec::new()));
            sets.len() - 1
        });
        sets[at].1.extend(rewards.iter().zip(&item.truth).map(|(r, t)| (*r, *t > 0.5)));
    }
    sets.into_iter().filter_map(|(name, samples)| Some((name, area(samples)?))).collect()
}

fn area(mut samples: Vec<(f64, bool)>) -> Option<f64> {
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    let right = samples.iter().filter(|s| s.1).count() as f64;
    let wrong = samples.len() as f64 - right;
    let (mut above, mut below) = (0.0, 0.0);
    for equal in samples.chunk_by(|a, b| a.0 == b.0) {
        let good = equal.iter().filter(|s| s.1).count() as f64;
        let bad = equal.len() as f64 - good;
        above += good * (below + bad / 2.0);
        below += bad;
    }
    (right > 0.0 && wrong > 0.0).then(|| above / (right * wrong))
}

#[cfg(test)]
mod tests {
    use super::super::comparison::Opinion;
    use super::super::fixture;
    use super::*;
    use crate::reward::vote::Tally;

    fn asked(ab: Choice, ba: Choice) -> Answer {
        let orders = [ab, ba].map(|c| Some(Opinion::of_choice(c)));
        Answer { comparisons: vec![Comparison::of_orders((0, 1), orders)], ..Answer::default() }
    }

    fn share(counts: &Counts, share: Share) -> [f64; 2] {
        counts[share as usize]
    }

    #[test]
    fn positions_and_lengths_are_counted() {
        // "yes" against "not so": the second is longer, the first better.
        let item = fixture::pair("s", true);
        let always_first = count(&item, &asked(Choice::First, Choice::Second));
        assert_eq!(share(&always_first, Share::FirstShown), [2.0, 2.0]);
        assert_eq!(share(&always_first, Share::Consistent), [0.0, 1.0]);
        assert_eq!(share(&always_first, Share::Longer), [0.0, 0.0], "the orders tie");
        assert_eq!(share(&always_first, Share::RightIfShorter), [0.0, 1.0]);
        let right = count(&item, &asked(Choice::First, Choice::First));
        assert_eq!(share(&right, Share::FirstShown), [1.0, 2.0]);
        assert_eq!(share(&right, Share::Consistent), [1.0, 1.0]);
        assert_eq!(share(&right, Share::Longer), [0.0, 1.0]);
        assert_eq!(share(&right, Share::RightIfShorter), [1.0, 1.0]);
        assert_eq!(share(&right, Share::RightIfLonger), [0.0, 0.0]);
        let broken = count(&item, &asked(Choice::Invalid, Choice::First));
        assert_eq!(share(&broken, Share::Invalid), [1.0, 2.0]);
        assert_eq!(share(&broken, Share::Consistent), [0.0, 1.0]);
    }

    #[test]
    fn replies_are_counted_by_themselves() {
        let tally = |a, b, invalid| Tally { a, b, invalid };
        let comparison = |replies| Comparison { replies, ..asked(Choice::First, Choice::First).comparisons.remove(0) };
        let comparisons = vec![comparison(Some([tally(3, 0, 1), tally(0, 0, 2)])), comparison(None)];
        let counts = count(&fixture::pair("s", true), &Answer { comparisons, ..Answer::default() });
        assert_eq!((share(&counts, Share::InvalidReplies), share(&counts, Share::Invalid)), ([3.0, 6.0], [0.0, 4.0]));
    }

    #[test]
    fn a_majority_against_the_probability_is_not_confident() {
        let c = Comparison::of_verdict((0, 1), Choice::First, Some(0.3));
        let answer = Answer { comparisons: vec![c], ..Answer::default() };
        let found = calibration(&[fixture::pair("s", true)], &[answer]).unwrap();
        assert_eq!((found.bins[0].from, found.bins[0].confidence, found.bins[0].accuracy), (0.5, 0.3, 1.0));
        assert!((found.ece - 0.7).abs() < 1e-12 && (found.brier - 0.49).abs() < 1e-12);
    }

    fn sure(p: f64, first: bool) -> (Item, Answer) {
        let c = Comparison::of_verdict((0, 1), Choice::of(p, 0.5), Some(p));
        (fixture::pair("s", first), Answer { comparisons: vec![c], ..Answer::default() })
    }

    #[test]
    fn calibration_by_hand() {
        // Twice sure of 0.9: once right, once wrong. Once sure of 0.6, right. Once no preference.
        let (items, answers): (Vec<Item>, Vec<Answer>) =
            [sure(0.9, true), sure(0.9, false), sure(0.4, false), sure(0.5, true)].into_iter().unzip();
        let c = calibration(&items, &answers).unwrap();
        assert!((c.ece - (2.0 * 0.4 + 0.4 + 0.0) / 4.0).abs() < 1e-12, "{}", c.ece);
        assert!((c.brier - (0.01 + 0.81 + 0.16 + 0.25) / 4.0).abs() < 1e-12);
        assert_eq!((c.n, c.bins.len()), (4, 3));
        assert_eq!((c.bins[0].accuracy, c.bins[0].n), (0.5, 1));
        let certain = [sure(1.0, true)];
        let (items, answers): (Vec<Item>, Vec<Answer>) = certain.into_iter().unzip();
        assert_eq!(calibration(&items, &answers).unwrap().bins[0].to, 1.0);
        assert!(calibration(&items, &[asked(Choice::First, Choice::First)]).is_none(), "no probabilities");
    }

    #[test]
    fn areas_count_pairs_of_right_and_wrong_samples() {
        let of = |rewards: [f64; 3]| Answer { rewards: Some(rewards.into()), ..Answer::default() };
        let items = [fixture::samples(&[1.0, 0.0, 0.0], &[(0, 1)]), fixture::samples(&[0.0, 1.0, 0.0], &[(0, 1)])];
        // Right: 2 and 5. Wrong: 1, 2, 3, 0. Of 8 pairs, 2 wins over 1 and 0 and ties with 2; 5 over all.
        let found = areas(&items, &[of([2.0, 1.0, 2.0]), of([3.0, 5.0, 0.0])]);
        assert_eq!(found, [("MATH".to_string(), 6.5 / 8.0)]);
        assert!(areas(&items, &[of([2.0, 1.0, 2.0]), Answer::default()]).is_empty());
    }

    #[test]
    fn lengths_are_grouped_by_the_better_response() {
        let items = [fixture::pair("s", true), fixture::pair("s", false)];
        let answers = [asked(Choice::First, Choice::First), asked(Choice::First, Choice::First)];
        assert_eq!(by_length(&items, &answers, 5), [(-3.0, 1.0), (3.0, 0.0)]);
        assert!(by_length(&[], &[], 5).is_empty());
        // Four of one length, two right: one point, whatever the number of groups.
        let items: Vec<Item> = (0..4).map(|_| fixture::pair("s", true)).collect();
        let answers = [Choice::First, Choice::Second, Choice::First, Choice::Second].map(|c| asked(c, c));
        assert_eq!(by_length(&items, &answers, 3), [(-3.0, 0.5)]);
    }
}
