//! How full a service is, in tokens: what waits and what runs, known to every thread at once. A queue that is full refuses.

use super::Failure;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The tokens of a service's work.
pub struct Gauge {
    /// Most that may wait.
    most: usize,
    queued: AtomicUsize,
    running: AtomicUsize,
    /// Tokens a second, the bits of an f64.
    pace: AtomicU64,
}

impl Gauge {
    pub fn new(most: usize) -> Gauge {
        Gauge { most, queued: AtomicUsize::new(0), running: AtomicUsize::new(0), pace: AtomicU64::new(0) }
    }

    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
    /// Tokens a second of recent passes, those that were in memory already among them.
    pub fn pace(&self) -> f64 {
        f64::from_bits(self.pace.load(Ordering::Relaxed))
    }

    /// Notes how fast tokens are dealt with, for guesses of how long a queue lasts.
    pub fn passed(&self, tokens: usize, took: Duration) {
        let (rate, before) = (tokens as f64 / took.as_secs_f64().max(1e-6), self.pace());
        let pace = if before == 0.0 { rate } else { 0.8 * before + 0.2 * rate };
        self.pace.store(pace.to_bits(), Ordering::Relaxed);
    }

    /// Takes room in the queue, if there is.
    ///
    /// # Errors
    /// More tokens than the queue ever holds, or than it holds now.
    pub fn admit(&self, tokens: usize) -> Result<(), Failure> {
        let most = self.most;
        if tokens > most {
            return Err(Failure::Large { tokens, most });
        }
        let room = |queued: usize| queued.checked_add(tokens).filter(|all| *all <= most);
        let admitted = self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        admitted.map(drop).map_err(|queued| {
            let seconds = (queued as f64 / self.pace().max(1.0) / 2.0).ceil().clamp(1.0, 60.0);
            Failure::Full { retry_after: Duration::from_secs(seconds as u64) }
        })
    }

    /// Takes room in the queue, whether there is or not: for work that goes on.
    pub fn add(&self, tokens: usize) {
        self.queued.fetch_add(tokens, Ordering::Relaxed);
    }
}

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const GONE: u8 = 2;

/// A piece of work's part of the gauge, from its admission to its end.
pub struct Claim {
    gauge: Arc<Gauge>,
    tokens: usize,
    state: AtomicU8,
}

impl Claim {
    /// For tokens that were admitted.
    pub fn new(gauge: Arc<Gauge>, tokens: usize) -> Claim {
        Claim { gauge, tokens, state: AtomicU8::new(QUEUED) }
    }

    /// The work is being computed.
    pub fn start(&self) {
        if self.state.compare_exchange(QUEUED, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.gauge.running.fetch_add(self.tokens, Ordering::Relaxed);
            self.gauge.queued.fetch_sub(self.tokens, Ordering::Relaxed);
        }
    }

    /// It waits again.
    pub fn restart(&self) {
        if self.state.compare_exchange(RUNNING, QUEUED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.gauge.queued.fetch_add(self.tokens, Ordering::Relaxed);
            self.gauge.running.fetch_sub(self.tokens, Ordering::Relaxed);
        }
    }

    /// It is done, or nobody wants it. Whether that is news.
    pub fn end(&self) -> bool {
        match self.state.swap(GONE, Ordering::AcqRel) {
            QUEUED => self.gauge.queued.fetch_sub(self.tokens, Ordering::Relaxed),
            RUNNING => self.gauge.running.fetch_sub(self.tokens, Ordering::Relaxed),
            _ => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_where_their_work_is_and_are_counted_once() {
        let gauge = Arc::new(Gauge::new(10));
        gauge.admit(6).unwrap();
        let claim = Claim::new(gauge.clone(), 6);
        gauge.passed(100, Duration::from_secs(100));
        assert!(matches!(gauge.admit(5), Err(Failure::Full { retry_after }) if retry_after == Duration::from_secs(3)));
        assert!(matches!(gauge.admit(11), Err(Failure::Large { tokens: 11, most: 10 })));
        claim.start();
        assert_eq!((gauge.queued(), gauge.running()), (0, 6));
        claim.restart();
        assert_eq!((gauge.queued(), gauge.running()), (6, 0));
        claim.start();
        assert!(claim.end() && !claim.end());
        claim.start();
        assert_eq!((gauge.queued(), gauge.running()), (0, 0));
    }
}
