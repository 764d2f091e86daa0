//! The linear scan, repeated over those that remain.

use super::results::Results;

#[derive(Clone, Debug)]
pub struct Scan {
    placed: Vec<usize>,
    /// Not placed yet, in input order.
    left: Vec<usize>,
    incumbent: usize,
    /// The next of `left` that the incumbent meets.
    at: usize,
}

impl Scan {
    pub fn new(n: usize) -> Scan {
        Scan { placed: Vec::with_capacity(n), left: (0..n).collect(), incumbent: 0, at: 1 }
    }

    /// Goes on as far as is known; the comparison that is needed then.
    pub fn next(&mut self, results: &Results) -> Option<(usize, usize)> {
        while !self.left.is_empty() {
            while let Some(challenger) = self.left.get(self.at) {
                let Some(outcome) = results.get(self.incumbent, *challenger) else {
                    return Some((self.incumbent, *challenger));
                };
                if outcome.margin < 0.0 {
                    self.incumbent = *challenger;
                }
                self.at += 1;
            }
            self.left.retain(|i| *i != self.incumbent);
            self.placed.push(self.incumbent);
            self.incumbent = self.left.first().copied().unwrap_or(0);
            self.at = 1;
        }
        None
    }

    /// Those placed, the incumbent, the rest by strength.
    pub fn order(&self, by_strength: Vec<usize>) -> Vec<usize> {
        let incumbent = (!self.left.is_empty()).then_some(self.incumbent);
        let first: Vec<usize> = self.placed.iter().copied().chain(incumbent).collect();
        let rest = by_strength.into_iter().filter(|i| !first.contains(i));
        first.iter().copied().chain(rest).collect()
    }
}
