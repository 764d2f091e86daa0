//! Threads of the CPU device. Work is split into items that do not depend on the number of threads, and each item is
//! computed by one thread in a fixed order, so results are the same bits with any number of them.

use crate::error::{Error, Kind, Result};
use memmap2::MmapMut;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

/// A pool of worker threads. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    pool: Arc<rayon::ThreadPool>,
    threads: usize,
}

impl Pool {
    /// Starts the threads; `threads = 0` means one for each core this process may use.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub fn start(threads: usize) -> Result<Pool> {
        let threads = if threads == 0 { available() } else { threads };
        // A thread that finds no memory for its signal stack once it has started aborts the process: so first whether there is room.
        MmapMut::map_anon(threads.saturating_mul(STACK + BESIDE)).map_err(|e| refused(threads, e))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("gramophone-{i}"))
            .stack_size(STACK)
            .build()
            .map_err(|e| refused(threads, e))?;
        Ok(Pool { pool: Arc::new(pool), threads })
    }

    /// [`Pool::start`] where threads can be counted on.
    ///
    /// # Panics
    /// The operating system starts no more threads.
    pub fn new(threads: usize) -> Pool {
        Pool::start(threads).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `f` on a worker, so that the parallel loops inside it start without a hand-over between threads.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    /// Calls `f` for every item of `0..n`, in parallel, `grain` neighbouring items at a time.
    pub fn each(&self, n: usize, grain: usize, f: impl Fn(usize) + Sync) {
        self.ranges(n, grain, |range| range.for_each(&f));
    }

    /// Calls `f` for consecutive ranges of at most `grain` items that cover `0..n`, in parallel.
    pub fn ranges(&self, n: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.items(n.div_ceil(grain), &|i| f(i * grain..((i + 1) * grain).min(n)));
    }

    /// Behind a pointer, so that the machinery of a parallel loop is compiled once and not for every loop of the engine.
    fn items(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        if n <= 1 || self.threads == 1 {
            (0..n).for_each(f);
        } else {
            use rayon::prelude::*;
            self.pool.install(|| (0..n).into_par_iter().for_each(f));
        }
    }
}

/// Bytes of a thread's stack, and what the system takes beside it: guard pages, the signal stack.
const STACK: usize = 2 << 20;
const BESIDE: usize = 128 << 10;

fn refused(threads: usize, error: impl Display) -> Error {
    let plural = if threads == 1 { "" } else { "s" };
    Error::new(
        Kind::Io,
        format!(
            "the operating system did not start {threads} thread{plural} ({error}); use fewer with --threads, or raise the limits \
             on processes and memory (ulimit -u, ulimit -v)"
        ),
    )
}

/// Cores that this process may use.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_item_is_visited_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for (n, grain) in [(0, 1), (1, 1), (7, 3), (64, 64), (65, 64), (1000, 7)] {
                let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.each(n, grain, |i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
            }
        }
    }
}
