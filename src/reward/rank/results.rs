//! The comparisons that were made, and what follows from them whatever the method.

use super::super::bradley_terry::{self, Fit};
use super::{Outcome, cycles::cycles};
use std::collections::BTreeMap;

/// Strengths are found by iteration; what is closer than this is equal.
const SAME: f64 = 1e-9;

/// Answers by pair, `i < j`. The map is ordered, so that nothing depends on the order in which answers came.
#[derive(Clone, Debug)]
pub struct Results {
    pub n: usize,
    known: BTreeMap<(usize, usize), Outcome>,
}

impl Results {
    pub fn new(n: usize) -> Results {
        Results { n, known: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn insert(&mut self, (i, j): (usize, usize), outcome: Outcome) {
        assert!(i < j && j < self.n, "({i}, {j}) is no pair of {} responses", self.n);
        assert!(self.known.insert((i, j), outcome).is_none(), "({i}, {j}) was asked twice");
    }

    /// What was said of `(i, j)`, if they were compared.
    pub fn get(&self, i: usize, j: usize) -> Option<Outcome> {
        let found = self.known.get(&(i.min(j), i.max(j)))?;
        Some(if i < j { *found } else { found.flipped() })
    }

    pub fn fit(&self) -> Fit {
        let comparisons: Vec<_> = self.known.iter().map(|((i, j), o)| (*i, *j, o.p)).collect();
        bradley_terry::fit(self.n, &comparisons)
    }

    pub fn scores(&self) -> Vec<f64> {
        win_rates(self.n, self.known.iter().map(|(pair, o)| (*pair, o.p)))
    }

    /// Strongest first; of equal ones the larger mean margin, then the earlier.
    pub fn by_strength(&self, fit: &Fit) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.n).collect();
        order.sort_by(|a, b| fit.strengths[*b].total_cmp(&fit.strengths[*a]));
        // Equal strengths share a class.
        let mut class = vec![0; self.n];
        for w in order.windows(2) {
            let apart = fit.strengths[w[0]] - fit.strengths[w[1]] > SAME;
            class[w[1]] = class[w[0]] + usize::from(apart);
        }
        let margins = self.mean_margins();
        order.sort_by(|a, b| class[*a].cmp(&class[*b]).then(margins[*b].total_cmp(&margins[*a])).then(a.cmp(b)));
        order
    }

    fn mean_margins(&self) -> Vec<f64> {
        let (mut sum, mut met) = (vec![0.0; self.n], vec![0usize; self.n]);
        for ((i, j), o) in &self.known {
            sum[*i] += o.margin;
            sum[*j] -= o.margin;
            met[*i] += 1;
            met[*j] += 1;
        }
        sum.iter().zip(met).map(|(s, m)| s / m.max(1) as f64).collect()
    }

    /// Probability that `a` is better than `b`: the judge's own or that of the strengths, the larger one.
    pub fn confidence(&self, fit: &Fit, a: usize, b: usize) -> f64 {
        let told = self.get(a, b).map_or(0.0, |o| o.p);
        told.max(fit.above(a, b))
    }

    pub fn ties(&self) -> Vec<(usize, usize)> {
        self.known.iter().filter(|(_, o)| o.margin == 0.0).map(|(pair, _)| *pair).collect()
    }

    /// Cycles, each and all in the order of the ranking.
    pub fn cycles(&self, order: &[usize]) -> Vec<Vec<usize>> {
        let mut place = vec![0; self.n];
        for (p, i) in order.iter().enumerate() {
            place[*i] = p;
        }
        let beats = self.known.iter().filter_map(|((i, j), o)| match o.margin {
            m if m > 0.0 => Some((*i, *j)),
            m if m < 0.0 => Some((*j, *i)),
            _ => None,
        });
        let mut found = cycles(self.n, beats);
        found.iter_mut().for_each(|cycle| cycle.sort_by_key(|i| place[*i]));
        found.sort_by_key(|cycle| place[cycle[0]]);
        found
    }
}

/// For each of `n` responses, the mean probability of beating those it was compared with, 0.5 if none; from pairs `(i, j)`
/// with `P(i beats j)`.
pub fn win_rates(n: usize, comparisons: impl Iterator<Item = ((usize, usize), f64)>) -> Vec<f64> {
    let (mut sum, mut met) = (vec![0.0; n], vec![0usize; n]);
    for ((i, j), p) in comparisons {
        sum[i] += p;
        sum[j] += 1.0 - p;
        met[i] += 1;
        met[j] += 1;
    }
    sum.iter().zip(met).map(|(s, m)| if m == 0 { 0.5 } else { s / m as f64 }).collect()
}
