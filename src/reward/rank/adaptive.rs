//! The comparisons that tell most about the order.
//!
//! Of each neighbouring pair in the current order that is in doubt, the most doubtful first: the two are compared, or, if
//! they were already, the pair whose comparison lowers the variance of their difference most. A pair is given up when it
//! was compared, agrees with the order, and would stay in doubt with all comparisons there are.

use super::super::bradley_terry::Fit;
use super::results::Results;
use std::collections::BTreeSet;

/// The next batch; empty when nothing is in doubt that asking could settle.
pub fn next(results: &Results, confidence: f64) -> Vec<(usize, usize)> {
    let fit = results.fit();
    let order = results.by_strength(&fit);
    let completed = fit.completed();
    let hopeless = |a: usize, b: usize| {
        let agrees = results.get(a, b).is_some_and(|o| o.margin >= 0.0);
        agrees && completed.above(a, b) < confidence
    };
    let neighbours = order.windows(2).map(|w| (results.confidence(&fit, w[0], w[1]), (w[0], w[1])));
    let mut doubts: Vec<_> = neighbours.filter(|(c, (a, b))| *c < confidence && !hopeless(*a, *b)).collect();
    doubts.sort_by(|x, y| x.0.total_cmp(&y.0)); // Stable: of equal doubts the better-placed first.
    let mut unasked: BTreeSet<(usize, usize)> = (0..results.n)
        .flat_map(|i| (i + 1..results.n).map(move |j| (i, j)))
        .filter(|(i, j)| results.get(*i, *j).is_none())
        .collect();
    let mut batch = Vec::new();
    for (_, doubted) in doubts {
        if let Some(pair) = most_telling(&fit, doubted, &unasked) {
            unasked.remove(&pair);
            batch.push(pair);
        }
    }
    batch
}

/// The two themselves if they can be asked, else the pair that tells most about them.
fn most_telling(fit: &Fit, (a, b): (usize, usize), unasked: &BTreeSet<(usize, usize)>) -> Option<(usize, usize)> {
    let themselves = (a.min(b), a.max(b));
    if unasked.contains(&themselves) {
        return Some(themselves);
    }
    let mut best = None;
    let mut most = 0.0;
    for pair in unasked {
        let gain = fit.gain((a, b), *pair);
        if gain > most {
            (best, most) = (Some(*pair), gain);
        }
    }
    best
}
