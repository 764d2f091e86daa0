//! The learning rate at each step.
//!
//! ```text
//! lr(k) = peak * k / warmup                                    k < warmup
//! lr(k) = peak * (r + (1 - r) * f(x))                          after, with r = final_ratio, x = progress in 0..1
//!
//! constant   f = 1
//! linear     f = 1 - x                x = (k - warmup) / (total - warmup)
//! cosine     f = (1 + cos(pi x)) / 2  x = (k - warmup) / (total - warmup)
//! wsd        f = 1, then as cosine    x = (k - (total - decay)) / decay
//! ```
//! Steps `k` count from 0. This is Hugging Face's convention (`get_constant_`, `get_linear_`,
//! `get_cosine_schedule_with_warmup` and its `min_lr_rate`; `get_wsd_schedule` with its cosine decay, but the warm-up
//! always starts at 0). Two consequences are theirs too: with a warm-up the very first step has rate 0, and the
//! last step, `total - 1`, is one short of the final rate, which `lr(total)` is.

use crate::error::{Error, Result};
use std::f64::consts::PI;

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Constant,
    Linear,
    Cosine,
    /// Warm-up, stable, decay: constant until the last `decay` steps, then a cosine.
    Wsd {
        /// Length of the decay in steps.
        decay: u64,
    },
}

/// A learning rate for every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    shape: Shape,
    peak: f64,
    final_ratio: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// `peak` is the highest rate, `final_ratio` the last one as a fraction of it, `warmup` and `total` are in steps.
    ///
    /// # Errors
    /// Warm-up and decay are together longer than the run.
    pub fn new(shape: Shape, peak: f64, final_ratio: f64, warmup: u64, total: u64) -> Result<Schedule> {
        assert!(peak >= 0.0 && (0.0..=1.0).contains(&final_ratio), "peak {peak}, final ratio {final_ratio}");
        let (decay, names) = match shape {
            Shape::Wsd { decay } => (decay, "warm-up and decay"),
            _ => (0, "warm-up"),
        };
        if warmup.saturating_add(decay) > total {
            let sum = warmup.saturating_add(decay);
            return Err(Error::usage(format!("{names} of {sum} steps do not fit into a run of {total} steps")));
        }
        Ok(Schedule { shape, peak, final_ratio, warmup, total })
    }

    /// The rate of step `k`, counted from 0. Past the end it stays at the last rate.
    pub fn lr(&self, k: u64) -> f64 {
        if k < self.warmup {
            return self.peak * (k as f64 / self.warmup as f64);
        }
        let cosine = |x: f64| 0.5 * (1.0 + (PI * x).cos());
        let f = match self.shape {
            Shape::Constant => return self.peak,
            Shape::Linear => 1.0 - self.progress(k, self.warmup),
            Shape::Cosine => cosine(self.progress(k, self.warmup)),
            Shape::Wsd { decay } => cosine(self.progress(k, self.total - decay)),
        };
        self.peak * (f * (1.0 - self.final_ratio) + self.final_ratio)
    }

    /// How far step `k` is on the way from `start` to the end: 0 before, 1 after.
    fn progress(&self, k: u64, start: u64) -> f64 {
        match self.total - start {
            0 => (k >= self.total) as u8 as f64,
            length => (k.saturating_sub(start) as f64 / length as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(shape: Shape, final_ratio: f64, warmup: u64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(shape, 1.0, final_ratio, warmup, total).unwrap();
        (0..=total).map(|k| schedule.lr(k)).collect()
    }

    /// Factors printed by transformers 5 for 3 warm-up steps of 10 (decay 4 for wsd), steps 0 to 10.
    #[test]
    fn rates_are_those_of_transformers() {
        let warm = [0.0, 0.3333333333333333, 0.6666666666666666, 1.0];
        let (constant, linear) = ([1.0; 7], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0].map(|n| n / 7.0));
        let cosine = [
            0.9504844339512095,
            0.8117449009293668,
            0.6112604669781572,
            0.38873953302184283,
            0.18825509907063326,
            0.04951556604879048,
            0.0,
        ];
        let cosine_to_a_tenth = [
            0.9554359905560885,
            0.8305704108364301,
            0.6501344202803414,
            0.44986557971965857,
            0.26942958916356996,
            0.14456400944391146,
            0.1,
        ];
        let wsd = [1.0, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0];
        let cases = [
            (Shape::Constant, 0.0, constant),
            (Shape::Linear, 0.0, linear),
            (Shape::Cosine, 0.0, cosine),
            (Shape::Cosine, 0.1, cosine_to_a_tenth),
            (Shape::Wsd { decay: 4 }, 0.0, wsd),
        ];
        for (shape, ratio, after) in cases {
            let theirs = warm.iter().chain(&after);
            for (k, (ours, theirs)) in rates(shape, ratio, 3, 10).iter().zip(theirs).enumerate() {
                assert!((ours - theirs).abs() < 2e-16, "{shape:?} step {k}: {ours} is not {theirs}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = Schedule::new(Shape::Cosine, 1e-5, 0.0, 11, 10).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (crate::Kind::Usage, 2));
        assert!(Schedule::new(Shape::Wsd { decay: 6 }, 1e-5, 0.0, 5, 10).unwrap_err().to_string().contains("11 steps"));
        assert!(Schedule::new(Shape::Wsd { decay: u64::MAX }, 1e-5, 0.0, 5, 10).is_err());
        assert_eq!(rates(Shape::Linear, 0.1, 4, 4), [0.0, 0.25, 0.5, 0.75, 0.1]);
    }

    proptest! {
        #[test]
        fn rates_rise_then_fall_within_bounds_to_the_final_one(
            (total, warmup, decay) in (1u64..400)
                .prop_flat_map(|total| (Just(total), 0..=total))
                .prop_flat_map(|(total, warmup)| (Just(total), Just(warmup), 0..=total - warmup)),
            ratio in 0.0f64..=1.0,
            peak in 1e-7f64..1.0,
            shape in 0usize..4,
        ) {
            let shape = [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd { decay }][shape];
            let schedule = Schedule::new(shape, peak, ratio, warmup, total).unwrap();
            let last = if shape == Shape::Constant { peak } else { peak * ratio };
            prop_assert!((schedule.lr(total) - last).abs() <= peak * 1e-15);
            prop_assert_eq!(schedule.lr(total), schedule.lr(total + 7));
            let first = if warmup == 0 { peak } else { 0.0 };
            prop_assert!((schedule.lr(0) - first).abs() <= peak * 1e-15);
            for k in 0..total {
                let (now, next) = (schedule.lr(k), schedule.lr(k + 1));
                prop_assert!((0.0..=peak * (1.0 + 1e-15)).contains(&now));
                if k + 1 < warmup {
                    prop_assert!(now < next);
                } else if k >= warmup {
                    prop_assert!(next <= now * (1.0 + 1e-15));
                }
            }
        }
    }
}
