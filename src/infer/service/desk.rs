//! What the thread knows, asleep or awake: who waits for what, and what it is told to do.

mod compute;
mod entry;

use super::bench::Bench;
use super::claims::Claim;
use super::handle::Message;
use super::{Command, End, Event, Failure, Observer, Outcome, Reply, Setup, Shape, Shared, Status, Writing, lock};
use crate::device::Device;
use crate::error::Result;
use crate::infer::engine::Asked;
use crate::infer::scheduler::{Limits, Micros, Scheduler, Waiter};
use crate::infer::writer::{Pen, Writer};
use crate::model::Model;
use crate::model::config::Config;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// What the scheduler or the writer calls one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Reader(Waiter),
    Writer(Pen),
}

/// One who waits.
struct Person {
    name: Name,
    reply: Reply,
    claim: Arc<Claim>,
    since: Instant,
    queued: Option<Duration>,
}

/// What comes next.
enum Next {
    Message(Message),
    /// It is time to compute, or to see whose deadline has passed.
    Time,
    /// Nobody can ask any more.
    Closed,
}

/// A pass is not begun with less than it holds while those who were just answered come back: clients that ask one thing after the other
/// would else split into two crowds that take turns. They have this part of the time that their pass took, and no more than `LONGEST`.
const LULL: u32 = 32;
const LONGEST: Duration = Duration::from_millis(2);

/// Beyond any clock: some hundred years, in microseconds.
const FAR: Micros = 1 << 51;

/// The thread's state.
pub(super) struct Desk {
    from: Receiver<Message>,
    shared: Arc<Shared>,
    observer: Arc<dyn Observer>,
    shape: Shape,
    limits: Limits,
    config: Config,
    writing: Option<Writing>,
    queue: Scheduler<Asked>,
    writer: Writer,
    start: Instant,
    /// By the caller's number.
    people: BTreeMap<u64, Person>,
    names: BTreeMap<Name, u64>,
    commands: VecDeque<Command>,
    version: Arc<str>,
    paused: bool,
    asleep: bool,
    draining: bool,
    /// Who may come back, how many have, and until when they are waited for.
    lull: Option<(usize, usize, Instant)>,
}

impl Desk {
    pub fn new(setup: Setup, shared: Arc<Shared>, from: Receiver<Message>) -> Desk {
        let Setup { models, shape, writing, version, observer, .. } = setup;
        let config = models[0].config.clone();
        let limits = shape.limits(&config, models.len());
        Desk {
            from,
            shared,
            observer,
            shape,
            limits,
            config,
            writing,
            queue: Scheduler::new(limits),
            writer: Writer::new(shape.patience),
            start: Instant::now(),
            people: BTreeMap::new(),
            names: BTreeMap::new(),
            commands: VecDeque::new(),
            version,
            paused: false,
            asleep: false,
            draining: false,
            lull: None,
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the memory for the models' work is not there, or the device has failed for good.
    pub fn run(&mut self, dev: &Device, models: Vec<Arc<Model>>, ready: &Sender<Result<()>>) -> Result<()> {
        let (mut models, mut ready) = (Some(models), Some(ready));
        loop {
            let command = match &models {
                None => self.serve(dev, None)?,
                Some(awake) => {
                    let writing = self.writing.clone();
                    let awake = awake.iter().map(Arc::as_ref).collect();
                    let mut bench = Bench::new(dev, awake, self.limits, self.shape, writing.as_ref())?;
                    if let Some(ready) = ready.take() {
                        // Whoever started us waits.
                        let _ = ready.send(Ok(()));
                    }
                    self.serve(dev, Some(&mut bench))?
                }
            };
            self.restart();
            let done = match command {
                Command::Stop => return Ok(()),
                Command::Sleep(done) => {
                    (models, self.asleep) = (None, true);
                    done
                }
                Command::Wake(same, done) => {
                    (models, self.asleep) = (Some(same), false);
                    done
                }
                Command::Swap(others, version, done) => {
                    self.config = others[0].config.clone();
                    self.version = version;
                    *lock(&self.shared.version) = self.version.clone();
                    models = (!self.asleep).then_some(others);
                    done
                }
            };
            self.show();
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    /// Serves until there is something to do that only its caller can: with a bench, awake.
    fn serve(&mut self, dev: &Device, mut bench: Option<&mut Bench>) -> Result<Command> {
        loop {
            if let Some(command) = self.due() {
                return Ok(command);
            }
            match self.next() {
                Next::Message(message) => self.obey(message),
                Next::Closed => return Ok(Command::Stop),
                Next::Time => {
                    self.expire();
                    if let Some(bench) = bench.as_deref_mut()
                        && self.able()
                        && let Err(error) = self.compute(bench)
                    {
                        bench.clear();
                        self.end(&Failure::Broken(error.clone()));
                        // Nobody would ever be answered again.
                        if dev.failed() {
                            return Err(error);
                        }
                    }
                }
            }
            self.show();
        }
    }

    /// A command whose time has come: what is being written is finished before.
    fn due(&mut self) -> Option<Command> {
        let done = self.draining && (self.people.is_empty() || self.asleep);
        if done || self.commands.iter().any(|command| matches!(command, Command::Stop)) {
            return Some(Command::Stop);
        }
        if self.writer.writing() == 0 { self.commands.pop_front() } else { None }
    }

    fn paused(&self) -> bool {
        self.paused && !self.draining
    }

    /// Whether there is something to compute.
    fn able(&self) -> bool {
        let reads = self.queue.waiting() > 0 && !self.paused();
        !self.asleep && (reads || self.writer.writing() > 0 || self.seats())
    }

    /// Whether somebody may begin to write.
    fn seats(&self) -> bool {
        self.writer.lines_up() && !self.paused() && self.commands.is_empty()
    }

    fn next(&self) -> Next {
        let received = if self.able() {
            match self.lull() {
                Some(time) => self.from.recv_timeout(time),
                None => self.from.try_recv().map_err(|e| match e {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
            }
        } else {
            match self.queue.deadline().into_iter().chain(self.writer.deadline()).min() {
                Some(deadline) => {
                    let at = self.start + Duration::from_micros(deadline.min(FAR));
                    self.from.recv_timeout(at.saturating_duration_since(Instant::now()))
                }
                None => self.from.recv().map_err(|_| RecvTimeoutError::Disconnected),
            }
        };
        match received {
            Ok(message) => Next::Message(message),
            Err(RecvTimeoutError::Timeout) => Next::Time,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }

    /// How long to wait for others before a pass that would not be full.
    fn lull(&self) -> Option<Duration> {
        let (expected, returned, until) = self.lull?;
        let full = self.limits.tokens;
        if returned >= expected || self.writer.writing() > 0 || self.queue.backlog(full) >= full {
            return None;
        }
        until.checked_duration_since(Instant::now())
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Submit { entries, wish, since } => {
                if let Some((_, returned, _)) = &mut self.lull {
                    *returned += entries.len();
                }
                entries.into_iter().for_each(|entry| self.enter(entry, wish, since));
            }
            Message::Cancel(number) => {
                if let Some(person) = self.people.remove(&number) {
                    self.names.remove(&person.name);
                    match person.name {
                        Name::Reader(waiter) => self.queue.cancel(waiter),
                        Name::Writer(pen) => self.writer.cancel(pen),
                    }
                    self.drop_prompts();
                }
            }
            Message::Pause(paused) => self.paused = paused,
            Message::Drain => self.draining = true,
            Message::Command(command) => self.commands.push_back(command),
        }
    }

    fn expire(&mut self) {
        let now = self.now();
        for waiter in self.queue.expire(now) {
            self.answer(Name::Reader(waiter), Err(Failure::Expired));
        }
        for pen in self.writer.expire(now) {
            self.answer(Name::Writer(pen), Err(Failure::Expired));
        }
        self.drop_prompts();
    }

    /// Prompts that were read for drafts which nobody wants any more.
    fn drop_prompts(&mut self) {
        for waiter in self.writer.dropped() {
            self.queue.cancel(waiter);
        }
    }

    fn answer(&mut self, name: Name, outcome: Outcome) {
        if let Some(mut person) = self.names.remove(&name).and_then(|number| self.people.remove(&number)) {
            person.claim.end();
            (person.reply)(Event::End(self.last(outcome, person.queued.unwrap_or_default())));
        }
    }

    fn last(&self, outcome: Outcome, queued: Duration) -> End {
        End { outcome, version: self.version.clone(), queued }
    }

    /// Begins again whatever is half done.
    fn restart(&mut self) {
        self.writer.unseat();
        self.drop_prompts();
        self.queue.restart();
        self.people.values().for_each(|person| person.claim.restart());
        // The generator that had them is gone.
        self.writer.forget_places();
    }

    /// Drops all work and tells everybody why.
    pub fn end(&mut self, failure: &Failure) {
        self.queue.clear();
        self.writer.clear();
        self.names.clear();
        for (_, mut person) in std::mem::take(&mut self.people) {
            person.claim.end();
            (person.reply)(Event::End(self.last(Err(failure.clone()), person.queued.unwrap_or_default())));
        }
    }

    /// As [`Desk::end`], for good: also those whose work has not been looked at.
    pub fn close(&mut self, failure: &Failure) {
        self.end(failure);
        while let Ok(message) = self.from.try_recv() {
            if let Message::Submit { entries, .. } = message {
                for mut entry in entries {
                    entry.claim.end();
                    (entry.reply)(Event::End(self.last(Err(failure.clone()), Duration::ZERO)));
                }
            }
        }
        self.show();
    }

    fn show(&self) {
        *lock(&self.shared.status) = Status {
            counts: self.queue.counts(),
            waiting: self.people.len(),
            writing: self.writer.waiting(),
            unused: self.queue.unused_rows(),
            paused: self.paused,
            asleep: self.asleep,
        };
    }

    fn now(&self) -> Micros {
        self.at(Instant::now())
    }
    fn at(&self, moment: Instant) -> Micros {
        micros(moment.saturating_duration_since(self.start))
    }
}

fn micros(time: Duration) -> Micros {
    time.as_micros().try_into().unwrap_or(Micros::MAX)
}
