//! How far scores would move with other rows: percentile intervals of the bootstrap.
//!
//! Each sample draws rows with replacement within their subset, since suites fix how many rows a subset has. What
//! belongs together (the two variants of a Ties prompt) is drawn together. Bits are keyed by sample and draw, so that
//! intervals depend on nothing but the seed.

use super::item::{Item, Kind};
use crate::base::rng::{Rng, Stream};
use std::collections::BTreeMap;

/// What is drawn: for each subset its units, each a list of items.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    strata: Vec<Vec<Vec<usize>>>,
    items: usize,
}

/// Settings of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    pub seed: u64,
    /// 0 for no intervals.
    pub samples: usize,
    /// Share of the samples inside an interval: 0.95.
    pub level: f64,
}

impl Plan {
    pub fn of(items: &[Item]) -> Plan {
        let mut strata: BTreeMap<&str, BTreeMap<(i64, usize), Vec<usize>>> = BTreeMap::new();
        for (i, item) in items.iter().enumerate() {
            let unit = match item.kind {
                Kind::Ties { prompt, .. } => (prompt, usize::MAX),
                _ => (0, i),
            };
            strata.entry(&item.subset).or_default().entry(unit).or_default().push(i);
        }
        Plan { strata: strata.into_values().map(|units| units.into_values().collect()).collect(), items: items.len() }
    }

    /// How often each item is in a sample.
    pub fn sample(&self, seed: u64, number: u64) -> Vec<u32> {
        let rng = Rng::new(seed, Stream::Bootstrap, number);
        let (mut weights, mut draw) = (vec![0; self.items], 0);
        for units in &self.strata {
            for _ in 0..units.len() {
                for item in &units[rng.below(draw, units.len() as u64) as usize] {
                    weights[*item] += 1;
                }
                draw += 1;
            }
        }
        weights
    }
}

/// An interval for each of the numbers that `statistic` gives for weights of the items; `None` where there is none.
pub fn intervals(plan: &Plan, how: Bootstrap, statistic: impl Fn(&[u32]) -> Vec<f64>) -> Vec<Option<(f64, f64)>> {
    let samples: Vec<Vec<f64>> = (0..how.samples).map(|b| statistic(&plan.sample(how.seed, b as u64))).collect();
    let numbers = samples.first().map_or(0, Vec::len);
    let interval = |k: usize| {
        let mut values: Vec<f64> = samples.iter().map(|s| s[k]).filter(|x| !x.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - how.level) / 2.0;
        (!values.is_empty()).then(|| (quantile(&values, tail), quantile(&values, 1.0 - tail)))
    };
    (0..numbers).map(interval).collect()
}

/// Of sorted values, with linear interpolation between neighbours.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use proptest::prelude::*;

    fn items() -> Vec<Item> {
        let ties = |prompt: i64, reference: bool| {
            let kind = Kind::Ties { prompt, reference };
            fixture::item("Ties", &["a", "b"], &[1.0, 0.0], &[(0, 1)], kind)
        };
        let mut items: Vec<Item> = (0..40).map(|i| fixture::pair(if i < 10 { "s" } else { "t" }, true)).collect();
        items.extend([ties(1, true), ties(2, true), ties(2, false), ties(1, false)]);
        items
    }

    proptest! {
        #[test]
        fn samples_keep_the_size_of_subsets_and_what_belongs_together(seed in 0u64..1000, number in 0u64..1000) {
            let plan = Plan::of(&items());
            let w = plan.sample(seed, number);
            prop_assert_eq!(w[..10].iter().sum::<u32>(), 10);
            prop_assert_eq!(w[10..40].iter().sum::<u32>(), 30);
            prop_assert_eq!((w[40], w[41]), (w[43], w[42]));
            prop_assert_eq!(w[40] + w[41], 2);
            prop_assert_eq!(&w, &plan.sample(seed, number));
        }
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let n = 400;
        let items: Vec<Item> = (0..n).map(|_| fixture::pair("s", true)).collect();
        let right: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i % 4 != 0))).collect();
        let mean = |w: &[u32]| vec![w.iter().zip(&right).map(|(w, r)| f64::from(*w) * r).sum::<f64>() / n as f64];
        let how = Bootstrap { seed: 1, samples: 2000, level: 0.95 };
        let (low, high) = intervals(&Plan::of(&items), how, mean)[0].unwrap();
        let error = (0.75 * 0.25 / n as f64).sqrt();
        assert!(
            (low - (0.75 - 1.96 * error)).abs() < 0.005 && (high - (0.75 + 1.96 * error)).abs() < 0.005,
            "{low} {high}"
        );
        assert_ne!(intervals(&Plan::of(&items), Bootstrap { seed: 2, ..how }, mean)[0], Some((low, high)));
        assert!(intervals(&Plan::of(&items), Bootstrap { samples: 0, ..how }, mean).is_empty());
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[5.0], 0.3), 5.0);
    }
}
