//! A task on its way: what it asks goes to the queue, what comes back advances it, on the engine's thread, until its answer goes out.

use super::counters::{Counters, add};
use super::task::{Meta, Next, Task};
use super::{Failure, Options, Sizes, lock};
use crate::infer::engine;
use crate::infer::service::{Answer, End, Event, Handle, Reply, Ticket, Wish, Work};
use crate::model::config::Config;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// What all jobs of a service share.
pub(super) struct Office {
    pub handle: Handle,
    pub counters: Arc<Counters>,
    pub sizes: Sizes,
    pub config: Config,
    /// Those without an answer.
    jobs: Mutex<BTreeMap<u64, Weak<Job>>>,
    numbers: AtomicU64,
}

impl Office {
    pub fn new(handle: Handle, counters: Arc<Counters>, sizes: Sizes, config: Config) -> Office {
        Office { handle, counters, sizes, config, jobs: Mutex::default(), numbers: AtomicU64::new(1) }
    }

    pub fn in_flight(&self) -> usize {
        lock(&self.jobs).len()
    }

    /// Fails everything that waits or runs; how much that was.
    pub fn abort(&self) -> usize {
        let jobs: Vec<Arc<Job>> = lock(&self.jobs).values().filter_map(Weak::upgrade).collect();
        jobs.into_iter().filter(|job| job.fail(Failure::Stopped)).count()
    }

    /// Whether the model can do what is asked.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, work: &Work) -> Result<(), Failure> {
        let prompt;
        let (task, room) = match work {
            Work::Read(asked) => (&asked.task, 0),
            // A text needs room for a token.
            Work::Write(draft) => {
                prompt = engine::Task::Prompt { ids: draft.request.prompt.clone() };
                (&prompt, 1)
            }
        };
        let (tokens, most) = (task.ids().len() + room, self.sizes.context);
        if tokens > most {
            add(&self.counters.refused_long, 1);
            return Err(Failure::TooLong { tokens, most });
        }
        task.check(&self.config, most).map_err(Failure::Invalid)
    }
}

pub(super) struct Job {
    office: Arc<Office>,
    number: u64,
    priority: u32,
    deadline: Option<Instant>,
    /// None when the answer went out, or nobody wants it.
    open: Mutex<Option<Open>>,
}

struct Open {
    task: Task,
    /// Counts what was asked at once.
    round: u64,
    answers: Vec<Option<Answer>>,
    missing: usize,
    tickets: Vec<Ticket>,
    /// The weights that gave what was read so far, and whether others gave some of it.
    version: Option<Arc<str>>,
    mixed: bool,
    tokens: usize,
    queued: Option<Duration>,
}

impl Open {
    fn meta(&self, office: &Office) -> Meta {
        let version = self.version.clone().unwrap_or_else(|| office.handle.version());
        Meta { version, tokens: self.tokens, queued: self.queued.unwrap_or_default() }
    }

    /// Notes what is asked next.
    fn ask(&mut self, works: &[Work]) {
        self.round += 1;
        self.answers = vec![None; works.len()];
        self.missing = works.len();
        let prompt = |work: &Work| match work {
            Work::Read(asked) => asked.task.ids().len(),
            Work::Write(draft) => draft.request.prompt.len(),
        };
        self.tokens += works.iter().map(prompt).sum::<usize>();
    }
}

impl Job {
    /// Sends a task on its way.
    ///
    /// # Errors
    /// Work that cannot be computed; a queue without room.
    pub fn start(office: &Arc<Office>, mut task: Task, options: Options) -> Result<Arc<Job>, Failure> {
        let number = office.numbers.fetch_add(1, Ordering::Relaxed);
        let priority = (i64::from(options.priority) - i64::from(i32::MIN)) as u32;
        let meta = Meta { version: office.handle.version(), tokens: 0, queued: Duration::ZERO };
        let job = |open| {
            let (office, open) = (office.clone(), Mutex::new(open));
            Arc::new(Job { office, number, priority, deadline: options.deadline, open })
        };
        let works = match task.start(meta, &office.counters)? {
            Next::Ask(works) => works,
            // An order of one response needs nothing computed.
            Next::Done(deliver) => {
                deliver();
                return Ok(job(None));
            }
        };
        works.iter().try_for_each(|work| office.check(work))?;
        let (answers, tickets) = (Vec::new(), Vec::new());
        let (version, queued) = (None, None);
        let mut open = Open { task, round: 0, answers, missing: 0, tickets, version, mixed: false, tokens: 0, queued };
        open.ask(&works);
        let round = open.round;
        let job = job(Some(open));
        lock(&office.jobs).insert(number, Arc::downgrade(&job));
        match office.handle.offer(job.slots(round, works), job.wish()) {
            Ok(tickets) => {
                job.keep(round, tickets);
                Ok(job)
            }
            Err(failure) => {
                job.close();
                if let crate::infer::service::Failure::Full { .. } = failure {
                    add(&office.counters.refused_full, 1);
                }
                Err(failure.into())
            }
        }
    }

    fn wish(&self) -> Wish {
        let within = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Wish { client: self.number, priority: self.priority, within }
    }

    fn slots(self: &Arc<Job>, round: u64, works: Vec<Work>) -> Vec<(Work, Reply)> {
        let slot = |(index, work)| {
            let mut slot = Slot { job: self.clone(), round, index, ended: false };
            let reply: Reply = Box::new(move |event| slot.hear(event));
            (work, reply)
        };
        works.into_iter().enumerate().map(slot).collect()
    }

    /// Keeps the tickets of what was asked, as long as it is wanted.
    fn keep(&self, round: u64, tickets: Vec<Ticket>) {
        let mut open = lock(&self.open);
        match open.as_mut().filter(|open| open.round == round) {
            Some(open) => open.tickets = tickets,
            None => {
                // It was answered meanwhile, or is not wanted.
                drop(open);
                drop(tickets);
            }
        }
    }

    fn hear(self: &Arc<Job>, round: u64, index: usize, end: End) {
        let mut guard = lock(&self.open);
        let Some(open) = guard.as_mut().filter(|open| open.round == round) else { return };
        open.queued.get_or_insert(end.queued);
        open.mixed |= open.version.as_ref().is_some_and(|version| !Arc::ptr_eq(version, &end.version));
        open.version = Some(end.version);
        match end.outcome {
            Err(failure) => {
                drop(guard);
                self.fail(failure.into());
                return;
            }
            Ok(answer) => open.answers[index] = Some(answer),
        }
        open.missing -= 1;
        if open.missing > 0 {
            return;
        }
        let (meta, counters) = (open.meta(&self.office), &self.office.counters);
        let answers = std::mem::take(&mut open.answers).into_iter().flatten().collect();
        let next = if open.mixed {
            // What old weights said is never combined with what new ones say.
            (open.mixed, open.version) = (false, None);
            open.task.start(meta, counters)
        } else {
            open.task.learn(answers, meta, counters)
        };
        // What a method asks later was not seen when the work came in.
        let checked = next.and_then(|next| {
            if let Next::Ask(works) = &next {
                works.iter().try_for_each(|work| self.office.check(work))?;
            }
            Ok(next)
        });
        match checked {
            Ok(Next::Ask(works)) => {
                open.ask(&works);
                let round = open.round;
                drop(guard);
                let tickets = self.office.handle.submit(self.slots(round, works), self.wish());
                self.keep(round, tickets);
            }
            Ok(Next::Done(deliver)) => {
                counters.queue_seconds.note(open.queued.unwrap_or_default().as_secs_f64());
                drop(guard);
                // Whoever gets the answer finds nothing of it in flight.
                if self.close().is_some() {
                    deliver();
                }
            }
            Err(failure) => {
                drop(guard);
                self.fail(failure);
            }
        }
    }

    /// Takes the task out of everybody's reach.
    fn close(&self) -> Option<Task> {
        let open = lock(&self.open).take()?;
        lock(&self.office.jobs).remove(&self.number);
        drop(open.tickets);
        Some(open.task)
    }

    /// Whether there was anything to fail.
    fn fail(&self, failure: Failure) -> bool {
        let Some(task) = self.close() else { return false };
        match failure {
            Failure::Late => add(&self.office.counters.late, 1),
            Failure::Stopped => {}
            _ => add(&self.office.counters.failed, 1),
        }
        task.fail(failure);
        true
    }

    /// Nobody waits for the answer any more.
    pub fn cancel(&self) {
        if self.close().is_some() {
            let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            let counters = &self.office.counters;
            add(if late { &counters.late } else { &counters.cancelled }, 1);
        }
    }
}

/// Where one answer goes.
struct Slot {
    job: Arc<Job>,
    round: u64,
    index: usize,
    ended: bool,
}

impl Slot {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Token(token) => {
                if let Some(open) = &*lock(&self.job.open) {
                    open.task.token(token);
                }
            }
            Event::End(end) => {
                self.ended = true;
                self.job.hear(self.round, self.index, end);
            }
        }
    }
}

impl Drop for Slot {
    /// Work that is dropped without an end: the engine is gone, or the job.
    fn drop(&mut self) {
        if !self.ended {
            self.job.fail(Failure::Stopped);
        }
    }
}
