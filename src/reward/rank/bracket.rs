//! Single elimination.

use super::results::Results;

/// A bracket as far as it is known.
pub struct Bracket {
    /// Matches of the current round that are not played.
    pub open: Vec<(usize, usize)>,
    /// Rounds that each response survived.
    reached: Vec<usize>,
}

/// Plays the rounds whose matches are all known, and what is known of the next.
pub fn play(results: &Results) -> Bracket {
    let n = results.n;
    let mut bracket = Bracket { open: Vec::new(), reached: vec![0; n] };
    // After the first round a power of two is left.
    let byes = n.next_power_of_two() - n;
    let mut alive: Vec<usize> = (0..n).collect();
    let mut free = byes;
    while alive.len() > 1 && bracket.open.is_empty() {
        let (passing, playing) = alive.split_at(free);
        let mut next = passing.to_vec();
        for pair in playing.chunks(2) {
            match results.get(pair[0], pair[1]) {
                Some(outcome) => next.push(if outcome.margin < 0.0 { pair[1] } else { pair[0] }),
                None => bracket.open.push((pair[0], pair[1])),
            }
        }
        next.iter().for_each(|i| bracket.reached[*i] += 1);
        alive = next;
        free = 0;
    }
    bracket
}

impl Bracket {
    /// By the round reached, within it by strength.
    pub fn order(&self, mut by_strength: Vec<usize>) -> Vec<usize> {
        by_strength.sort_by_key(|i| std::cmp::Reverse(self.reached[*i])); // Stable.
        by_strength
    }
}
