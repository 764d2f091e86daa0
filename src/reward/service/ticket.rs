//! The way back of an answer: a [`Ticket`] is waited for by a thread or awaited by any executor, and dropping it cancels
//! the work. No runtime is needed.

use super::job::Job;
use super::{Failure, lock};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// An answer and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered<T> {
    pub answer: T,
    /// The weights that gave it.
    pub version: Arc<str>,
    /// Tokens that it took to read.
    pub tokens: usize,
    /// From its arrival to its first pass.
    pub queued: Duration,
}

/// Where answers are put. Clones lead to the same place.
pub(super) struct Mail<T>(Arc<Letterbox<T>>);

struct Letterbox<T> {
    inside: Mutex<Inside<T>>,
    arrived: Condvar,
}

struct Inside<T> {
    items: VecDeque<Result<T, Failure>>,
    closed: bool,
    waker: Option<Waker>,
}

impl<T> Clone for Mail<T> {
    fn clone(&self) -> Mail<T> {
        Mail(self.0.clone())
    }
}

impl<T> Mail<T> {
    pub fn new() -> Mail<T> {
        let inside = Inside { items: VecDeque::new(), closed: false, waker: None };
        Mail(Arc::new(Letterbox { inside: Mutex::new(inside), arrived: Condvar::new() }))
    }

    fn put(&self, item: Option<Result<T, Failure>>, last: bool) {
        let mut inside = lock(&self.0.inside);
        inside.items.extend(item);
        inside.closed |= last;
        let waker = inside.waker.take();
        drop(inside);
        self.0.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// One of several answers.
    pub fn send(&self, item: T) {
        self.put(Some(Ok(item)), false);
    }

    /// The last answer.
    pub fn finish(&self, item: T) {
        self.put(Some(Ok(item)), true);
    }

    pub fn fail(&self, failure: Failure) {
        self.put(Some(Err(failure)), true);
    }
}

/// A claim to an answer.
pub struct Ticket<T> {
    pub(super) mail: Mail<T>,
    pub(super) job: Arc<Job>,
    pub(super) deadline: Option<Instant>,
}

impl<T> Ticket<T> {
    /// Blocks until the answer is there, or the deadline has passed.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(self) -> Result<T, Failure> {
        self.next().unwrap_or(Err(Failure::Stopped))
    }

    /// Blocks until the next answer of a ticket that gives several; `None` after the last.
    pub fn next(&self) -> Option<Result<T, Failure>> {
        let mut inside = lock(&self.mail.0.inside);
        loop {
            if let Some(item) = inside.items.pop_front() {
                return Some(item);
            }
            if inside.closed {
                return None;
            }
            inside = match self.deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => self.mail.0.arrived.wait(inside).unwrap_or_else(|e| e.into_inner()),
                Some(Duration::ZERO) => return Some(Err(Failure::Late)),
                Some(left) => self.mail.0.arrived.wait_timeout(inside, left).unwrap_or_else(|e| e.into_inner()).0,
            };
        }
    }

    /// As [`Ticket::next`], for executors. The deadline is theirs to keep.
    pub fn poll_next(&self, cx: &mut Context) -> Poll<Option<Result<T, Failure>>> {
        let mut inside = lock(&self.mail.0.inside);
        match inside.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if inside.closed => Poll::Ready(None),
            None => {
                inside.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Result<T, Failure>> {
        self.poll_next(cx).map(|item| item.unwrap_or(Err(Failure::Stopped)))
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.job.cancel();
    }
}
