//! Which tokens the next pass computes, for whom, and where their keys and values go. Pure: the clock is an argument, and no memory
//! is touched.
//!
//! Work waits in one queue. A step takes as many tokens as a pass may hold, a long prompt in several steps. What work shares with
//! earlier work, of this step too, is found in a [radix tree](super::radix) and not computed again; equal work is done once for all
//! who wait for it.
//!
//! The order. A level is a priority plus one for each `patience` of waiting, so that nothing waits for ever; within a level the client
//! whose work took the fewest tokens comes first; within a client the nearest deadline, then the longest wait. Work that does not fit
//! keeps what comes after it from starting, so that small work does not starve large; what has started goes on.
//!
//! Rows. Started work can always be finished: it starts only when the rows that it and all other started work still need are free or
//! idle. Cancelled or expired work gives its rows back at once.

use super::radix::{Node, Radix};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Something to compute about a sequence. Equal work has equal answers.
pub trait Work: Ord {
    fn ids(&self) -> &[i32];
    /// How many leading tokens need not be computed when their keys and values are there; less than all.
    fn skippable(&self) -> usize;
}

/// Microseconds on the caller's clock.
pub type Micros = u64;

/// Sizes of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most that may wait or run, each waiter counted.
    pub waiting: usize,
    /// Longest sequence.
    pub longest: usize,
    /// A step's tokens, pieces of sequences, and keys that the pieces attend to (at least `longest`).
    pub tokens: usize,
    pub pieces: usize,
    pub keys: usize,
    /// Rows for keys and values: at least `longest + tokens`.
    pub rows: usize,
    /// Waiting that lifts work by one priority.
    pub patience: Micros,
}

/// How somebody wants work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub client: u64,
    /// Larger is sooner.
    pub priority: u32,
    /// After this moment the answer is of no use.
    pub deadline: Option<Micros>,
}

impl Terms {
    /// The level of work that came at a moment.
    pub(super) fn level(&self, arrived: Micros, now: Micros, patience: Micros) -> u64 {
        u64::from(self.priority) + now.saturating_sub(arrived) / patience.max(1)
    }
}

/// Why work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Empty,
    /// Longer than [`Limits::longest`].
    Long,
    /// As much waits as may wait.
    Full,
}

/// One who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter(u64);

/// Some work and all who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(u64);

struct Job<W> {
    work: Arc<W>,
    waiters: BTreeMap<Waiter, Terms>,
    arrived: Micros,
    started: bool,
    /// The beginning that the tree has for it, held, and its length.
    node: Node,
    shared: usize,
    /// Rows of the tokens after that, which are its own.
    own: Vec<u32>,
}

impl<W: Work> Job<W> {
    fn done(&self) -> usize {
        self.shared + self.own.len()
    }
    fn left(&self) -> usize {
        self.work.ids().len() - self.done()
    }
    fn client(&self) -> u64 {
        self.waiters.values().next().map_or(0, |t| t.client)
    }
    fn level(&self, now: Micros, patience: Micros) -> u64 {
        self.waiters.values().map(|t| t.level(self.arrived, now, patience)).max().unwrap_or(0)
    }
    fn deadline(&self) -> Micros {
        self.waiters.values().filter_map(|t| t.deadline).min().unwrap_or(Micros::MAX)
    }
}

/// Consecutive tokens of some work, to be computed in one pass.
pub struct Piece<W> {
    pub work: Arc<W>,
    pub tokens: Range<usize>,
    /// Rows of the keys from position 0, the piece's own included.
    pub rows: Vec<u32>,
    pub job: JobId,
}

/// What a pass computes.
pub struct Step<W> {
    pub pieces: Vec<Piece<W>>,
    /// Whose deadline passed before their work was done; they are answered by this.
    pub expired: Vec<Waiter>,
}

/// What there is to do, and has been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiters that were taken, and how they ended.
    pub submitted: u64,
    pub answered: u64,
    pub expired: u64,
    pub cancelled: u64,
    /// Waiters that joined equal work.
    pub joined: u64,
    /// Tokens of all work that was started, and those of them that were computed.
    pub tokens: u64,
    pub computed: u64,
}

/// The state between steps.
pub struct Scheduler<W> {
    limits: Limits,
    jobs: BTreeMap<JobId, Job<W>>,
    same: BTreeMap<Arc<W>, JobId>,
    waiting: BTreeMap<Waiter, JobId>,
    /// Tokens computed for each client that has work.
    served: BTreeMap<u64, u64>,
    /// What a client that comes starts with: as much as the least served had.
    least: u64,
    tree: Radix,
    free: Vec<u32>,
    next: u64,
    counts: Counts,
}

impl<W: Work> Scheduler<W> {
    /// # Panics
    /// When the limits do not hold one longest sequence.
    pub fn new(limits: Limits) -> Scheduler<W> {
        assert!(
            limits.rows >= limits.longest + limits.tokens
                && limits.keys >= limits.longest
                && limits.tokens > 0
                && limits.pieces > 0,
            "{limits:?} cannot finish one sequence"
        );
        Scheduler {
            limits,
            jobs: BTreeMap::new(),
            same: BTreeMap::new(),
            waiting: BTreeMap::new(),
            served: BTreeMap::new(),
            least: 0,
            tree: Radix::default(),
            free: (0..limits.rows as u32).rev().collect(),
            next: 0,
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
    /// Waiters without an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    /// Rows that no work uses: free, or holding beginnings for those to come.
    pub fn unused_rows(&self) -> usize {
        self.free.len() + self.tree.idle()
    }

    /// Puts work into the queue.
    ///
    /// # Errors
    /// Why it cannot be done, or not now.
    pub fn submit(&mut self, now: Micros, terms: Terms, work: Arc<W>) -> Result<Waiter, Refusal> {
        match work.ids().len() {
            0 => return Err(Refusal::Empty),
            n if n > self.limits.longest => return Err(Refusal::Long),
            _ if self.waiting.len() >= self.limits.waiting => return Err(Refusal::Full),
            _ => {}
        }
        let number = self.next;
        self.next += 1;
        let (waiter, new) = (Waiter(number), JobId(number));
        let id = *self.same.entry(work.clone()).or_insert(new);
        let job = self.jobs.entry(id).or_insert_with(|| Job {
            work,
            waiters: BTreeMap::new(),
            arrived: now,
            started: false,
            node: Node::ROOT,
            shared: 0,
            own: Vec::new(),
        });
        job.waiters.insert(waiter, terms);
        self.waiting.insert(waiter, id);
        self.counts.submitted += 1;
        self.counts.joined += u64::from(id != new);
        self.enter(self.jobs[&id].client());
        Ok(waiter)
    }

    /// Forgets a waiter; work that nobody waits for any more is dropped.
    pub fn cancel(&mut self, waiter: Waiter) {
        self.counts.cancelled += u64::from(self.leave(waiter));
    }

    /// Forgets everything that waits, and every row.
    pub fn clear(&mut self) -> Vec<Waiter> {
        let all: Vec<Waiter> = self.waiting.keys().copied().collect();
        all.iter().for_each(|w| self.cancel(*w));
        self.free.extend(self.tree.evict(usize::MAX));
        all
    }

    /// Whether somebody still waits for this work.
    pub fn lives(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Forgets those whose deadline has passed, and says who they are.
    pub fn expire(&mut self, now: Micros) -> Vec<Waiter> {
        let late = |w: &&Waiter| self.jobs[&self.waiting[*w]].waiters[*w].deadline.is_some_and(|d| d <= now);
        let expired: Vec<Waiter> = self.waiting.keys().filter(late).copied().collect();
        for waiter in &expired {
            self.counts.expired += u64::from(self.leave(*waiter));
        }
        expired
    }

    /// Chooses the next pass. Its rows stay as they are until [`Scheduler::complete`].
    pub fn step(&mut self, now: Micros) -> Step<W> {
        let expired = self.expire(now);
        let mut lines = self.lines(now);
        let mut pieces: Vec<Piece<W>> = Vec::new();
        let (mut tokens, mut keys) = (self.limits.tokens, self.limits.keys);
        while tokens > 0 && pieces.len() < self.limits.pieces {
            let first = |(client, line): (&u64, &Vec<(u64, JobId)>)| {
                line.last().map(|(level, job)| (u64::MAX - level, self.served[client], *client, *job))
            };
            let Some((.., client, job)) = lines.iter().filter_map(first).min() else { break };
            let Some(piece) = self.take(job, tokens, keys) else {
                if self.jobs[&job].started {
                    break;
                }
                // Nothing starts before it does; what has started goes on, and makes room.
                lines.values_mut().for_each(|line| line.retain(|(_, job)| self.jobs[job].started));
                continue;
            };
            lines.get_mut(&client).and_then(Vec::pop);
            *self.served.entry(client).or_default() += piece.tokens.len() as u64;
            (tokens, keys) = (tokens - piece.tokens.len(), keys - piece.rows.len());
            pieces.push(piece);
        }
        Step { pieces, expired }
    }

    /// Says that a pass has been computed. For each piece: those whose work is done with it.
    pub fn complete(&mut self, step: &Step<W>) -> Vec<Vec<Waiter>> {
        let finished = |piece: &Piece<W>| {
            let over =
                self.jobs.get(&piece.job).is_some_and(|j| j.left() == 0) && piece.tokens.end == piece.work.ids().len();
            if !over {
                return Vec::new();
            }
            let waiters: Vec<Waiter> = self.jobs[&piece.job].waiters.keys().copied().collect();
            for waiter in &waiters {
                self.counts.answered += u64::from(self.leave(*waiter));
            }
            waiters
        };
        step.pieces.iter().map(finished).collect()
    }

    /// Every client's work, the first to do last, each with its level.
    fn lines(&self, now: Micros) -> BTreeMap<u64, Vec<(u64, JobId)>> {
        let mut lines: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (id, job) in &self.jobs {
            let level = job.level(now, self.limits.patience);
            lines.entry(job.client()).or_default().push((level, u64::MAX - job.deadline(), u64::MAX - id.0, *id));
        }
        let sorted = |mut line: Vec<(u64, u64, u64, JobId)>| {
            line.sort_unstable();
            line.into_iter().map(|(level, _, _, id)| (level, id)).collect()
        };
        lines.into_iter().map(|(client, line)| (client, sorted(line))).collect()
    }

    /// The next tokens of a job, at most so many, with their rows; `None` when it must wait for room.
    fn take(&mut self, id: JobId, tokens: usize, keys: usize) -> Option<Piece<W>> {
        // What other started work may still need.
        let others = self.jobs.iter().filter(|(other, j)| **other != id && j.started);
        let promised: usize = others.map(|(_, j)| j.left()).sum();
        let job = self.jobs.get_mut(&id).expect("a job of the queue");
        let work = job.work.clone();
        let ids = work.ids();
        if job.own.is_empty() {
            let (node, len) = self.tree.find(&ids[..work.skippable().min(ids.len() - 1)]);
            if len > job.shared {
                self.tree.hold(node);
                self.tree.release(job.node);
                (job.node, job.shared) = (node, len);
            }
        }
        let piece = job.done()..ids.len().min(job.done() + tokens);
        let room = job.started || self.free.len() + self.tree.idle() >= promised + job.left();
        if !room || piece.end > keys {
            if !job.started {
                self.tree.release(job.node);
                (job.node, job.shared) = (Node::ROOT, 0);
            }
            return None;
        }
        if !job.started {
            job.started = true;
            self.counts.tokens += ids.len() as u64;
        }
        self.counts.computed += piece.len() as u64;
        let short = piece.len().saturating_sub(self.free.len());
        self.free.extend(self.tree.evict(short));
        let mut rows = self.free.split_off(self.free.len() - piece.len());
        rows.reverse();
        let longer = if job.own.is_empty() { self.tree.extend(job.node, &ids[piece.clone()], &rows) } else { None };
        match longer {
            Some(node) => {
                self.tree.hold(node);
                self.tree.release(job.node);
                (job.node, job.shared) = (node, piece.end);
            }
            // Equal tokens are there, but this work needs more of them than their keys and values.
            None => job.own.extend(rows),
        }
        let mut rows = self.tree.path(job.node);
        rows.extend(&job.own);
        Some(Piece { work, tokens: piece, rows, job: id })
    }

    /// A client without work so far has been served as much as the least served.
    fn enter(&mut self, client: u64) {
        let least = self.served.values().copied().min().unwrap_or(0).max(self.least);
        self.served.entry(client).or_insert(least);
    }

    /// Takes a waiter away, and its job with the last one; whether it was there.
    fn leave(&mut self, waiter: Waiter) -> bool {
        let Some(id) = self.waiting.remove(&waiter) else { return false };
        let job = self.jobs.get_mut(&id).expect("the job of a waiter");
        let client = job.client();
        job.waiters.remove(&waiter);
        if job.waiters.is_empty()
            && let Some(job) = self.jobs.remove(&id)
        {
            self.same.remove(&job.work);
            self.tree.release(job.node);
            self.free.extend(job.own);
        } else {
            self.enter(self.jobs[&id].client());
        }
        if self.jobs.values().all(|j| j.client() != client) {
            self.least = self.least.max(self.served.values().copied().min().unwrap_or(0));
            self.served.remove(&client);
        }
        true
    }
}

#[cfg(test)]
mod tests;
