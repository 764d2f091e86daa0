//! Rounds of neighbours in the standing.

use super::results::Results;

/// From the top of the standing, each response meets the next below that is free and that it has not met.
pub fn round(results: &Results) -> Vec<(usize, usize)> {
    let standing = results.by_strength(&results.fit());
    let mut free = vec![true; results.n];
    let mut pairs = Vec::new();
    for (place, a) in standing.iter().enumerate() {
        if !free[*a] {
            continue;
        }
        let opponent = standing[place + 1..].iter().find(|b| free[**b] && results.get(*a, **b).is_none());
        if let Some(b) = opponent {
            (free[*a], free[*b]) = (false, false);
            pairs.push((*a, *b));
        }
    }
    pairs
}
