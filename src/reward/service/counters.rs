//! What a service has done since it started, as numbers that only grow, and distributions of a few quantities.

use super::work::Judged;
use crate::infer::service::{Observer, Passed};
use crate::reward::rationale::Reasoned;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts by upper bounds, as Prometheus keeps them.
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// In units of 2^-20.
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Notes a value, which is not negative.
    pub fn note(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Relaxed);
        self.sum.fetch_add((value * (1 << 20) as f64) as u64, Relaxed);
    }

    /// Upper bounds with the number of values up to each, and the number and sum of all.
    pub fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut total = 0;
        let mut up_to = |count: &AtomicU64| {
            total += count.load(Relaxed);
            total
        };
        let buckets = self.bounds.iter().zip(&self.counts).map(|(bound, count)| (*bound, up_to(count))).collect();
        let all = up_to(&self.counts[self.bounds.len()]);
        (buckets, all, self.sum.load(Relaxed) as f64 / (1 << 20) as f64)
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Relaxed)).sum()
    }
}

/// Seconds, from a tenth of a millisecond to some minutes.
pub const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];
/// Tenths of a probability.
pub const TENTHS: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const MASS: &[f64] = &[0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0];
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The counters of a service.
pub struct Counters {
    pub judgments: AtomicU64,
    /// Judgments whose two orders agree.
    pub consistent: AtomicU64,
    /// Judgments after rationales.
    pub reasoned: AtomicU64,
    pub rankings: AtomicU64,
    pub rewards: AtomicU64,
    pub generations: AtomicU64,
    /// Prompts that were read, and their tokens.
    pub prompts: AtomicU64,
    pub prompt_tokens: AtomicU64,
    /// Tokens of prompts that were computed, and those whose keys and values were in memory.
    pub computed_tokens: AtomicU64,
    pub cached_tokens: AtomicU64,
    /// Prompts that were asked for while an equal one was in flight, and their tokens.
    pub shared: AtomicU64,
    pub shared_tokens: AtomicU64,
    pub written_tokens: AtomicU64,
    pub cancelled: AtomicU64,
    pub late: AtomicU64,
    pub refused_full: AtomicU64,
    pub refused_long: AtomicU64,
    pub failed: AtomicU64,
    pub passes: AtomicU64,
    pub score: Histogram,
    pub label_mass: Histogram,
    pub queue_seconds: Histogram,
    pub pass_seconds: Histogram,
    pub step_seconds: Histogram,
    pub batch: Histogram,
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = || AtomicU64::new(0);
        Counters {
            judgments: zero(),
            consistent: zero(),
            reasoned: zero(),
            rankings: zero(),
            rewards: zero(),
            generations: zero(),
            prompts: zero(),
            prompt_tokens: zero(),
            computed_tokens: zero(),
            cached_tokens: zero(),
            shared: zero(),
            shared_tokens: zero(),
            written_tokens: zero(),
            cancelled: zero(),
            late: zero(),
            refused_full: zero(),
            refused_long: zero(),
            failed: zero(),
            passes: zero(),
            score: Histogram::new(TENTHS),
            label_mass: Histogram::new(MASS),
            queue_seconds: Histogram::new(SECONDS),
            pass_seconds: Histogram::new(SECONDS),
            step_seconds: Histogram::new(SECONDS),
            batch: Histogram::new(BATCH),
        }
    }
}

impl Counters {
    pub(super) fn judged(&self, judged: &Judged) {
        self.judgments.fetch_add(1, Relaxed);
        self.score.note(judged.p_a());
        if let Judged::Judgment(j) = judged {
            self.consistent.fetch_add(j.consistent as u64, Relaxed);
            self.label_mass.note(j.label_mass);
        }
    }

    pub(super) fn reasoned(&self, reasoned: &Reasoned) {
        self.reasoned.fetch_add(1, Relaxed);
        if let Some(p) = reasoned.votes.p_a() {
            self.score.note(p);
        }
    }

    pub(super) fn rewarded(&self, _: f32) {
        self.rewards.fetch_add(1, Relaxed);
    }

    pub(super) fn ranked(&self) {
        self.rankings.fetch_add(1, Relaxed);
    }
}

impl Observer for Counters {
    fn passed(&self, pass: &Passed) {
        self.passes.fetch_add(1, Relaxed);
        add(&self.prompts, pass.finished);
        add(&self.prompt_tokens, pass.finished_tokens);
        add(&self.computed_tokens, pass.computed);
        add(&self.cached_tokens, pass.cached);
        self.batch.note(pass.pieces as f64);
        self.pass_seconds.note(pass.took.as_secs_f64());
    }

    fn joined(&self, tokens: usize) {
        add(&self.shared, 1);
        add(&self.shared_tokens, tokens);
    }

    fn wrote(&self, tokens: usize, took: Option<Duration>) {
        add(&self.written_tokens, tokens);
        if let Some(took) = took {
            self.step_seconds.note(took.as_secs_f64());
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_values_up_to_their_bounds() {
        let h = Histogram::new(TENTHS);
        for value in [0.0, 0.1, 0.11, 0.95, 3.0] {
            h.note(value);
        }
        let (buckets, count, sum) = h.read();
        assert_eq!(buckets[0], (0.1, 2));
        assert_eq!(buckets[1], (0.2, 3));
        assert_eq!(buckets[9], (1.0, 4));
        assert_eq!(count, 5);
        assert!((sum - 4.16).abs() < 1e-5, "{sum}");
    }
}
