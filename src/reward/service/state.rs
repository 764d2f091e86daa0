//! What waits, what runs and for whom. One lock; nothing is computed while it is held.

use super::counters::add;
use super::queue::{Flow, Queue};
use super::task::{Ask, Meta, Read, Task};
use super::ticket::Mail;
use super::{Counters, Event, Failure, Load, Options};
use crate::infer::generator::Request;
use crate::model::Model;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Locks, whatever became of the thread that held the lock before.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) struct Shared {
    pub state: Mutex<State>,
    /// Something came that a worker may take.
    pub came: Condvar,
    pub counters: Counters,
}

/// What the worker is told to do between passes.
pub(super) enum Command {
    /// Goes on with other weights.
    Swap(Box<Model>, Arc<str>, Sender<()>),
    /// Frees the model.
    Sleep(Sender<()>),
    /// The same weights again.
    Wake(Box<Model>, Sender<()>),
    Stop,
}

/// What the worker does next.
pub(super) enum Turn {
    Command(Command),
    Score(Vec<Arc<Ask>>),
    Write,
}

#[derive(Default)]
pub(super) struct State {
    jobs: BTreeMap<u64, Job>,
    asks: HashMap<Arc<Ask>, Entry>,
    queue: Queue<Arc<Ask>>,
    sequences: BTreeMap<u64, Sequence>,
    writes: Queue<u64>,
    /// The sequence that a ticket reads.
    readers: BTreeMap<u64, u64>,
    last: u64,
    pub load: Load,
    pub commands: VecDeque<Command>,
    pub version: Arc<str>,
    /// Why the worker is gone.
    pub dead: Option<String>,
}

struct Job {
    /// Absent while the worker advances it.
    task: Option<Task>,
    asks: Vec<Arc<Ask>>,
    reads: Vec<Option<Read>>,
    missing: usize,
    options: Options,
    flow: Flow,
    arrived: Instant,
    queued: Option<Duration>,
    tokens: usize,
}

/// A prompt in flight.
#[derive(Default)]
struct Entry {
    /// Jobs that wait for it, and where in them the answer goes.
    waiters: Vec<(u64, usize)>,
    running: bool,
}

/// Text being written, or waiting to be.
struct Sequence {
    request: Request,
    top: usize,
    readers: Vec<(u64, Mail<Event>)>,
    history: Vec<Event>,
    running: bool,
    options: Options,
    arrived: Instant,
    queued: Duration,
}

impl Sequence {
    fn cost(&self) -> usize {
        self.request.prompt.len().saturating_add(self.request.settings.max_tokens)
    }
}

/// A job whose reads are complete.
pub(super) struct Ready {
    pub job: u64,
    pub task: Task,
    pub reads: Vec<Read>,
    pub meta: Meta,
}

impl Shared {
    pub fn cancel(&self, id: u64) {
        let mut state = lock(&self.state);
        // A job without its task is being answered at this moment.
        let known = state.remove(id).is_some_and(|job| job.task.is_some()) | state.leave(id);
        drop(state);
        if known {
            add(&self.counters.cancelled, 1);
        }
    }

    /// Fails everything that waits or runs.
    pub fn abort(&self, failure: &Failure) -> usize {
        let mut state = lock(&self.state);
        let jobs: Vec<u64> = state.jobs.keys().copied().collect();
        let tickets: Vec<u64> = state.readers.keys().copied().collect();
        let tasks: Vec<Task> = jobs.iter().filter_map(|id| state.remove(*id)?.task).collect();
        for id in &tickets {
            state.fail_reader(*id, failure);
        }
        drop(state);
        tasks.iter().for_each(|t| t.fail(failure.clone()));
        jobs.len() + tickets.len()
    }
}

impl State {
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn add_job(&mut self, id: u64, task: Task, options: Options) {
        let (asks, reads, flow) = (Vec::new(), Vec::new(), Flow::default());
        let arrived = Instant::now();
        let job = Job { task: Some(task), asks, reads, missing: 0, options, flow, arrived, queued: None, tokens: 0 };
        self.jobs.insert(id, job);
    }

    /// Queues the prompts of a job.
    pub fn ask(&mut self, id: u64, asks: Vec<Arc<Ask>>, counters: &Counters) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.reads = vec![None; asks.len()];
        job.missing = asks.len();
        job.asks = asks.clone();
        for (slot, ask) in asks.into_iter().enumerate() {
            job.tokens += ask.ids.len();
            let cost = ask.ids.len();
            match self.asks.get_mut(&ask) {
                Some(entry) => {
                    add(&counters.shared, 1);
                    add(&counters.shared_tokens, cost);
                    entry.waiters.push((id, slot));
                    if entry.running {
                        continue;
                    }
                }
                None => {
                    self.load.queued_tokens += cost;
                    self.asks.insert(ask.clone(), Entry { waiters: vec![(id, slot)], running: false });
                }
            }
            // Where it is queued already, the better of the two places counts.
            self.queue.push(job.options.priority, &mut job.flow, cost, ask);
        }
    }

    fn meta(&self, job: &Job) -> Meta {
        Meta { version: self.version.clone(), tokens: job.tokens, queued: job.queued.unwrap_or_default() }
    }

    /// Takes a job out, and the prompts that nobody else waits for.
    fn remove(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        for ask in &job.asks {
            let Some(entry) = self.asks.get_mut(ask) else { continue };
            entry.waiters.retain(|(waiter, _)| *waiter != id);
            if entry.waiters.is_empty() && !entry.running {
                self.load.queued_tokens -= ask.ids.len();
                self.asks.remove(ask);
            }
        }
        if self.asks.is_empty() {
            // What is left in the queue are places of prompts that are gone.
            self.queue.clear();
        }
        Some(job)
    }

    /// What the worker does next, if anything. Jobs whose deadline has passed are `late`.
    pub fn turn(&mut self, budget: usize, counters: &Counters) -> Option<Turn> {
        if let Some(command) = self.commands.pop_front() {
            return Some(Turn::Command(command));
        }
        if self.load.paused || self.load.asleep {
            return None;
        }
        let batch = self.batch(budget, counters);
        if !batch.is_empty() {
            return Some(Turn::Score(batch));
        }
        self.skip_dead_writes(counters);
        if self.writes.is_empty() { None } else { Some(Turn::Write) }
    }

    /// Prompts for one pass: in the queue's order, of at most `budget` tokens, or a single longer one.
    pub fn batch(&mut self, budget: usize, counters: &Counters) -> Vec<Arc<Ask>> {
        let (now, mut batch, mut tokens) = (Instant::now(), Vec::new(), 0);
        while let Some(ask) = self.queue.peek().cloned() {
            let cost = ask.ids.len();
            let waiting = self.asks.get(&ask).is_some_and(|e| !e.running);
            if waiting && !batch.is_empty() && tokens + cost > budget {
                break;
            }
            self.queue.pop();
            if !waiting || !self.in_time(&ask, now, counters) {
                continue;
            }
            let entry = self.asks.get_mut(&ask).expect("it waits");
            entry.running = true;
            for (id, _) in &entry.waiters {
                let job = self.jobs.get_mut(id).expect("waiters are jobs");
                job.queued.get_or_insert_with(|| {
                    let queued = now - job.arrived;
                    counters.queue_seconds.note(queued.as_secs_f64());
                    queued
                });
            }
            tokens += cost;
            self.load.queued_tokens -= cost;
            self.load.running_tokens += cost;
            batch.push(ask);
        }
        if tokens > 0 {
            self.queue.served(tokens, self.jobs.len());
        }
        batch
    }

    /// Fails the jobs behind a prompt that are too late; whether any is left.
    fn in_time(&mut self, ask: &Ask, now: Instant, counters: &Counters) -> bool {
        let waiters = self.asks[ask].waiters.clone();
        for (id, _) in waiters {
            if self.jobs.get(&id).is_some_and(|j| j.options.deadline.is_some_and(|d| d <= now)) {
                self.fail_late(id, counters);
            }
        }
        self.asks.contains_key(ask)
    }

    fn fail_late(&mut self, id: u64, counters: &Counters) {
        add(&counters.late, 1);
        if let Some(task) = self.remove(id).and_then(|j| j.task) {
            task.fail(Failure::Late);
        }
    }

    /// Hands out what a pass found; gives the jobs that are complete now, and in time: one that came for a prompt that was being
    /// computed was in no batch that would have told.
    pub fn found(&mut self, batch: &[Arc<Ask>], reads: Result<Vec<Read>, Failure>, counters: &Counters) -> Vec<Ready> {
        let (now, mut ready) = (Instant::now(), Vec::new());
        for (i, ask) in batch.iter().enumerate() {
            self.load.running_tokens -= ask.ids.len();
            let Some(entry) = self.asks.remove(ask) else { continue };
            for (id, slot) in entry.waiters {
                let Some(job) = self.jobs.get_mut(&id) else { continue };
                if job.options.deadline.is_some_and(|d| d <= now) {
                    self.fail_late(id, counters);
                    continue;
                }
                match &reads {
                    Ok(reads) => {
                        job.missing -= job.reads[slot].is_none() as usize;
                        job.reads[slot] = Some(reads[i].clone());
                    }
                    Err(failure) => {
                        if let Some(task) = self.remove(id).and_then(|j| j.task) {
                            task.fail(failure.clone());
                        }
                        continue;
                    }
                }
                if job.missing == 0
                    && let Some(task) = job.task.take()
                {
                    let reads = std::mem::take(&mut job.reads).into_iter().flatten().collect();
                    job.asks.clear();
                    let meta = self.meta(&self.jobs[&id]);
                    ready.push(Ready { job: id, task, reads, meta });
                }
            }
        }
        ready
    }

    /// Puts a job back that was advanced: it asks on, or is done.
    pub fn advanced(&mut self, id: u64, task: Task, next: Result<Vec<Arc<Ask>>, Failure>, counters: &Counters) {
        match next {
            Ok(asks) if asks.is_empty() => drop(self.jobs.remove(&id)),
            Ok(asks) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.task = Some(task);
                    self.ask(id, asks, counters);
                }
            }
            Err(failure) => {
                add(&counters.failed, 1);
                self.jobs.remove(&id);
                task.fail(failure);
            }
        }
    }

    /// Other weights: what was read with the old ones counts no more. Gives every job to be started again.
    pub fn restart(&mut self) -> Vec<Ready> {
        self.asks.clear();
        self.queue.clear();
        let waiting = self.sequences.values().filter(|s| !s.running).map(Sequence::cost).sum();
        self.load.queued_tokens = waiting;
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        let mut ready = Vec::new();
        for job in ids {
            let held = self.jobs.get_mut(&job).expect("it is listed");
            held.asks.clear();
            let task = held.task.take().expect("between passes no job is being advanced");
            let meta = self.meta(&self.jobs[&job]);
            ready.push(Ready { job, task, reads: Vec::new(), meta });
        }
        ready
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.jobs.len() + self.readers.len()
    }

    // Writing.

    /// Adds a reader to an equal sequence in flight, or a sequence.
    pub fn write(&mut self, id: u64, request: Request, top: usize, options: Options, mail: Mail<Event>) -> bool {
        let same = |s: &&mut Sequence| {
            let (a, b) = (&s.request.settings, &request.settings);
            s.request.prompt == request.prompt && a == b && s.top == top && !s.readers.is_empty()
        };
        let found = self.sequences.iter_mut().find_map(|(number, s)| Some(*number).filter(|_| same(&s)));
        if let Some(number) = found {
            let sequence = self.sequences.get_mut(&number).expect("it was found");
            sequence.history.iter().for_each(|event| mail.send(event.clone()));
            sequence.readers.push((id, mail));
            self.readers.insert(id, number);
            return true;
        }
        let sequence = Sequence {
            request,
            top,
            readers: vec![(id, mail)],
            history: Vec::new(),
            running: false,
            options,
            arrived: Instant::now(),
            queued: Duration::ZERO,
        };
        let cost = sequence.cost();
        self.load.queued_tokens += cost;
        self.writes.push(options.priority, &mut Flow::default(), cost, id);
        self.sequences.insert(id, sequence);
        self.readers.insert(id, id);
        false
    }

    fn skip_dead_writes(&mut self, counters: &Counters) {
        let now = Instant::now();
        while let Some(&number) = self.writes.peek() {
            match self.sequences.get(&number) {
                Some(s) if s.options.deadline.is_none_or(|d| d > now) => return,
                Some(s) => {
                    add(&counters.late, 1);
                    let readers: Vec<u64> = s.readers.iter().map(|(id, _)| *id).collect();
                    readers.into_iter().for_each(|id| self.fail_reader(id, &Failure::Late));
                }
                None => {}
            }
            self.writes.pop();
        }
    }

    /// Sequences to start, at most `room`.
    pub fn start_writing(&mut self, room: usize, counters: &Counters) -> Vec<(u64, Request)> {
        let mut started = Vec::new();
        if self.load.paused || !self.commands.is_empty() {
            return started;
        }
        while started.len() < room {
            self.skip_dead_writes(counters);
            let Some(number) = self.writes.pop() else { break };
            let sequence = self.sequences.get_mut(&number).expect("dead ones were skipped");
            sequence.running = true;
            sequence.queued = sequence.arrived.elapsed();
            counters.queue_seconds.note(sequence.queued.as_secs_f64());
            let cost = sequence.cost();
            self.load.queued_tokens -= cost;
            self.load.running_tokens += cost;
            started.push((number, sequence.request.clone()));
            self.writes.served(cost, self.sequences.len());
        }
        started
    }

    /// How many alternatives the readers of a sequence want with each token; none if nobody reads it any more.
    pub fn wanted(&self, number: u64) -> Option<usize> {
        self.sequences.get(&number).map(|s| s.top)
    }

    /// Tells a sequence's readers what was written; after the end it is gone.
    pub fn wrote(&mut self, number: u64, events: Vec<Event>, ended: Option<crate::infer::generator::Finish>) {
        let version = self.version.clone();
        let Some(sequence) = self.sequences.get_mut(&number) else { return };
        for event in &events {
            sequence.readers.iter().for_each(|(_, mail)| mail.send(event.clone()));
        }
        sequence.history.extend(events);
        if let Some(finish) = ended {
            let end = Event::End { finish, version, queued: sequence.queued };
            let sequence = self.sequences.remove(&number).expect("it was there");
            self.load.running_tokens -= sequence.cost();
            for (id, mail) in sequence.readers {
                self.readers.remove(&id);
                mail.finish(end.clone());
            }
        }
    }

    /// A reader goes; a sequence without readers is dropped at once, or at its next token.
    fn leave(&mut self, id: u64) -> bool {
        let Some(number) = self.readers.remove(&id) else { return false };
        if let Some(sequence) = self.sequences.get_mut(&number) {
            sequence.readers.retain(|(reader, _)| *reader != id);
            if sequence.readers.is_empty() {
                let sequence = self.sequences.remove(&number).expect("it was there");
                let tokens =
                    if sequence.running { &mut self.load.running_tokens } else { &mut self.load.queued_tokens };
                *tokens -= sequence.cost();
            }
        }
        true
    }

    pub fn fail_reader(&mut self, id: u64, failure: &Failure) {
        let number = self.readers.get(&id);
        let readers = number.and_then(|n| self.sequences.get(n)).map(|s| &s.readers);
        if let Some((_, mail)) = readers.and_then(|r| r.iter().find(|(reader, _)| *reader == id)) {
            mail.fail(failure.clone());
        }
        self.leave(id);
    }

    /// Fails the sequences that were being written.
    pub fn fail_writing(&mut self, failure: &Failure) {
        let running = self.sequences.values().filter(|s| s.running);
        let readers: Vec<u64> = running.flat_map(|s| s.readers.iter().map(|(id, _)| *id)).collect();
        readers.into_iter().for_each(|id| self.fail_reader(id, failure));
    }

    /// Notes how fast tokens are computed, for guesses of how long a queue lasts.
    pub fn pace(&mut self, tokens: usize, took: Duration) {
        let rate = tokens as f64 / took.as_secs_f64().max(1e-6);
        let before = self.load.tokens_per_second;
        self.load.tokens_per_second = if before == 0.0 { rate } else { 0.8 * before + 0.2 * rate };
    }
}

impl Counters {
    pub(super) fn passed(&self, batch: &[Arc<Ask>], took: Duration) {
        self.passes.fetch_add(1, Relaxed);
        add(&self.prompts, batch.len());
        add(&self.prompt_tokens, batch.iter().map(|a| a.ids.len()).sum());
        self.batch.note(batch.len() as f64);
        self.pass_seconds.note(took.as_secs_f64());
    }
}
