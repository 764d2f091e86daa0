//! Which tokens the next pass computes, for whom, and where their keys and values go. Pure: the clock is an argument, and no memory
//! is touched.
//!
//! Work waits in one queue. A step takes as many tokens as a pass may hold, a long prompt in several steps. What work shares with
//! earlier work, of this step too, is found in a [radix tree](super::radix) and not computed again; equal work is done once for all
//! who wait for it.
//!
//! The order. A level is a priority plus one for each `patience` of waiting, so that nothing waits for ever; within a level the client
//! whose work took the fewest tokens comes first, in whole quarters of a step, since what one client asks for often has beginnings in
//! common and should not be apart for long; within a client the nearest deadline, then the longest wait. Work that does not fit
//! keeps what comes after it from starting, so that small work does not starve large; what has started goes on.
//!
//! Rows. Started work can always be finished: it starts only when the rows that it and all other started work still need are free or
//! idle. Cancelled or expired work gives its rows back at once.
//!
//! Adapters. A step holds work of one adapter, that of the work which is first; each adapter's beginnings are its own, over one pool.

mod work;

pub use work::{Counts, JobId, Limits, Micros, Piece, Refusal, Step, Terms, Waiter, Work};

use super::radix::{Node, Radix};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

/// What a client that has work was given.
#[derive(Clone, Copy, Debug)]
struct Share {
    tokens: u64,
    waiters: usize,
}

/// The state between steps.
pub struct Scheduler<W> {
    limits: Limits,
    jobs: BTreeMap<JobId, Job<W>>,
    same: BTreeMap<Arc<W>, JobId>,
    waiting: BTreeMap<Waiter, JobId>,
    deadlines: BTreeSet<(Micros, Waiter)>,
    /// Tokens computed for each client that has work.
    served: BTreeMap<u64, Share>,
    /// What a client that comes starts with: as much as the least served had.
    least: u64,
    tree: Radix,
    free: Vec<u32>,
    /// Tokens that started work still has to compute.
    promised: usize,
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
                && limits.adapters > 0
                && limits.pieces > 0,
            "{limits:?} cannot finish one sequence"
        );
        Scheduler {
            limits,
            jobs: BTreeMap::new(),
            same: BTreeMap::new(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            served: BTreeMap::new(),
            least: 0,
            tree: Radix::new(limits.adapters),
            free: (0..limits.rows as u32).rev().collect(),
            promised: 0,
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
    /// Whether a waiter's work has started.
    pub fn started(&self, waiter: Waiter) -> bool {
        self.waiting.get(&waiter).is_some_and(|job| self.jobs[job].started)
    }
    /// The nearest deadline.
    pub fn deadline(&self) -> Option<Micros> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
    /// Tokens that are still to be computed, those whose keys and values are there perhaps among them; enough for `most`, no more counted.
    pub fn backlog(&self, most: usize) -> usize {
        let mut tokens = 0;
        for job in self.jobs.values() {
            tokens += job.left();
            if tokens >= most {
                break;
            }
        }
        tokens
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
            _ => {}
        }
        assert!(work.adapter() < self.limits.adapters, "adapter {} of {}", work.adapter(), self.limits.adapters);
        let (number, tokens) = (self.next, work.ids().len() as u64);
        self.next += 1;
        let (waiter, new) = (Waiter(number), JobId(number));
        let id = *self.same.entry(work.clone()).or_insert(new);
        let job = self.jobs.entry(id).or_insert_with(|| Job {
            node: Node::root(work.adapter()),
            work,
            waiters: BTreeMap::new(),
            arrived: now,
            started: false,
            shared: 0,
            own: Vec::new(),
        });
        job.waiters.insert(waiter, terms);
        self.waiting.insert(waiter, id);
        self.counts.submitted += 1;
        if id != new {
            self.counts.joined += 1;
            self.counts.joined_tokens += tokens;
        }
        self.deadlines.extend(terms.deadline.map(|deadline| (deadline, waiter)));
        self.enter(terms.client);
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

    /// Begins all work again, and forgets every row: what was computed is of no use any more.
    pub fn restart(&mut self) {
        for job in self.jobs.values_mut() {
            self.tree.release(job.node);
            self.free.append(&mut job.own);
            (job.node, job.shared, job.started) = (Node::root(job.work.adapter()), 0, false);
        }
        self.promised = 0;
        self.free.extend(self.tree.evict(usize::MAX));
    }

    /// Whether somebody still waits for this work.
    pub fn lives(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Forgets those whose deadline has passed, and says who they are.
    pub fn expire(&mut self, now: Micros) -> Vec<Waiter> {
        let mut expired = Vec::new();
        while let Some((_, waiter)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now).copied() {
            self.counts.expired += u64::from(self.leave(waiter));
            expired.push(waiter);
        }
        expired
    }

    /// Chooses the next pass. Its rows stay as they are until [`Scheduler::complete`].
    pub fn step(&mut self, now: Micros) -> Step<W> {
        let mut step = Step { expired: self.expire(now), pieces: Vec::new(), begun: Vec::new(), adapter: 0 };
        let mut lines = self.lines(now);
        let (mut tokens, mut keys) = (self.limits.tokens, self.limits.keys);
        let turn = (self.limits.tokens as u64 / 4).max(1);
        while tokens > 0 && step.pieces.len() < self.limits.pieces {
            let first = |(client, line): (&u64, &Vec<(u64, JobId)>)| {
                line.last().map(|(level, job)| (u64::MAX - level, self.served[client].tokens / turn, *client, *job))
            };
            let Some((.., client, job)) = lines.iter().filter_map(first).min() else { break };
            let Some(piece) = self.take(job, tokens, keys, &mut step.begun) else {
                if self.jobs[&job].started {
                    break;
                }
                // Nothing starts before it does; what has started goes on, and makes room.
                lines.values_mut().for_each(|line| line.retain(|(_, job)| self.jobs[job].started));
                continue;
            };
            lines.get_mut(&client).and_then(Vec::pop);
            if step.pieces.is_empty() {
                step.adapter = piece.work.adapter();
                // The others' turn comes.
                lines.values_mut().for_each(|line| line.retain(|(_, job)| self.is_for(*job, step.adapter)));
            }
            self.served.get_mut(&client).expect("a client with work").tokens += piece.tokens.len() as u64;
            (tokens, keys) = (tokens - piece.tokens.len(), keys - piece.rows.len());
            step.pieces.push(piece);
        }
        step
    }

    fn is_for(&self, job: JobId, adapter: usize) -> bool {
        self.jobs[&job].work.adapter() == adapter
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
    fn take(&mut self, id: JobId, tokens: usize, keys: usize, begun: &mut Vec<Waiter>) -> Option<Piece<W>> {
        let job = self.jobs.get_mut(&id).expect("a job of the queue");
        let work = job.work.clone();
        let ids = work.ids();
        let before = if job.started { job.left() } else { 0 };
        // What other started work may still need.
        let promised = self.promised - before;
        if job.own.is_empty() {
            let root = Node::root(work.adapter());
            let (node, len) = self.tree.find(root, &ids[..work.skippable().min(ids.len() - 1)]);
            if len > job.shared {
                self.tree.hold(node);
                self.tree.release(job.node);
                self.counts.cached += if job.started { (len - job.shared) as u64 } else { 0 };
                (job.node, job.shared) = (node, len);
            }
        }
        self.promised = promised + if job.started { job.left() } else { 0 };
        let piece = job.done()..ids.len().min(job.done() + tokens);
        let room = job.started || self.free.len() + self.tree.idle() >= promised + job.left();
        if !room || piece.end > keys {
            if !job.started {
                self.tree.release(job.node);
                (job.node, job.shared) = (Node::root(work.adapter()), 0);
            }
            return None;
        }
        if !job.started {
            job.started = true;
            self.promised += job.left();
            begun.extend(job.waiters.keys());
            self.counts.tokens += ids.len() as u64;
            self.counts.cached += job.shared as u64;
        }
        self.promised -= piece.len();
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
        let tokens = self.least_served().max(self.least);
        self.served.entry(client).or_insert(Share { tokens, waiters: 0 }).waiters += 1;
    }

    fn least_served(&self) -> u64 {
        self.served.values().map(|share| share.tokens).min().unwrap_or(0)
    }

    /// Takes a waiter away, and its job with the last one; whether it was there.
    fn leave(&mut self, waiter: Waiter) -> bool {
        let Some(id) = self.waiting.remove(&waiter) else { return false };
        let job = self.jobs.get_mut(&id).expect("the job of a waiter");
        let terms = job.waiters.remove(&waiter).expect("a waiter of its job");
        if let Some(deadline) = terms.deadline {
            self.deadlines.remove(&(deadline, waiter));
        }
        if job.waiters.is_empty()
            && let Some(job) = self.jobs.remove(&id)
        {
            self.promised -= if job.started { job.left() } else { 0 };
            self.same.remove(&job.work);
            self.tree.release(job.node);
            self.free.extend(job.own);
        }
        let share = self.served.get_mut(&terms.client).expect("the client of a waiter");
        share.waiters -= 1;
        if share.waiters == 0 {
            self.least = self.least.max(self.least_served());
            self.served.remove(&terms.client);
        }
        true
    }
}

#[cfg(test)]
mod tests;
