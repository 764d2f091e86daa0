//! Which examples a step sees: a pure function of (seed, step), so a resumed run continues the very same stream.

use crate::base::rng::{Rng, Stream};
use std::ops::Range;

/// An endless stream that shuffles the examples anew each epoch, cut into steps.
#[derive(Clone, Debug)]
pub struct Order {
    examples: usize,
    batch: usize,
    /// Examples to see in all; the last step may be smaller than the others.
    total: usize,
    seed: u64,
    epoch: u64,
    permutation: Vec<u32>,
}

impl Order {
    /// `batch` examples a step, `total` examples in all, out of `examples`.
    pub fn new(examples: usize, batch: usize, total: usize, seed: u64) -> Order {
        assert!(examples > 0 && batch > 0, "an order needs examples and a batch size");
        let permutation = Order::shuffled(seed, 0, examples);
        Order { examples, batch, total, seed, epoch: 0, permutation }
    }

    pub fn steps(&self) -> usize {
        self.total.div_ceil(self.batch)
    }

    /// Epochs seen when `steps` steps are done.
    pub fn epochs(&self, steps: usize) -> f64 {
        steps.saturating_mul(self.batch).min(self.total) as f64 / self.examples as f64
    }

    /// The examples of step `step` (from 0), epoch by epoch: a step at the end of one reaches into the next.
    pub fn step(&mut self, step: usize) -> Vec<(u64, Vec<u32>)> {
        let mut parts: Vec<(u64, Vec<u32>)> = Vec::new();
        for i in self.span(step) {
            let (epoch, example) = self.at(i);
            match parts.last_mut() {
                Some((last, examples)) if *last == epoch => examples.push(example),
                _ => parts.push((epoch, vec![example])),
            }
        }
        parts
    }

    fn span(&self, step: usize) -> Range<usize> {
        step * self.batch..(step + 1).saturating_mul(self.batch).min(self.total)
    }

    fn at(&mut self, i: usize) -> (u64, u32) {
        let epoch = (i / self.examples) as u64;
        if epoch != self.epoch {
            self.permutation = Order::shuffled(self.seed, epoch, self.examples);
            self.epoch = epoch;
        }
        (epoch, self.permutation[i % self.examples])
    }

    fn shuffled(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
        Rng::new(seed, Stream::Shuffle, epoch).permutation(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_epoch_sees_every_example_once(n in 1usize..50, batch in 1usize..20, epochs in 1usize..4) {
            let mut order = Order::new(n, batch, n * epochs, 3);
            let seen: Vec<(u64, u32)> = (0..order.steps())
                .flat_map(|s| order.step(s))
                .flat_map(|(epoch, examples)| examples.into_iter().map(move |e| (epoch, e)))
                .collect();
            prop_assert_eq!(seen.len(), n * epochs);
            for (number, epoch) in seen.chunks(n).enumerate() {
                prop_assert!(epoch.iter().all(|(e, _)| *e == number as u64));
                let mut sorted: Vec<u32> = epoch.iter().map(|(_, e)| *e).collect();
                sorted.sort();
                prop_assert_eq!(sorted, (0..n as u32).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_step_does_not_depend_on_the_steps_before(n in 1usize..50, batch in 1usize..20, step in 0usize..30) {
            let mut from_the_start = Order::new(n, batch, 1000, 9);
            let mut resumed = from_the_start.clone();
            for s in 0..step {
                from_the_start.step(s);
            }
            prop_assert_eq!(from_the_start.step(step), resumed.step(step));
        }
    }
}
