//! What the thread knows, asleep or awake: who waits for what, and what it is told to do.

use super::bench::Bench;
use super::claims::Claim;
use super::handle::{Entry, Message};
use super::{
    Answer, Command, End, Event, Failure, Observer, Outcome, Passed, Reply, Setup, Shape, Shared, Status, Wish, Work,
    Writing, lock,
};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::engine::{self, Asked, Task};
use crate::infer::scheduler::{Limits, Micros, Scheduler, Terms, Waiter};
use crate::infer::writer::{Draft, News, Pen, Writer};
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
    /// When the memory for the models' work is not there.
    pub fn run(&mut self, dev: &Device, models: Vec<Arc<Model>>, ready: &Sender<Result<()>>) -> Result<()> {
        let (mut models, mut ready) = (Some(models), Some(ready));
        loop {
            let command = match &models {
                None => self.serve(None),
                Some(awake) => {
                    let writing = self.writing.clone();
                    let awake = awake.iter().map(Arc::as_ref).collect();
                    let mut bench = Bench::new(dev, awake, self.limits, self.shape, writing.as_ref())?;
                    if let Some(ready) = ready.take() {
                        // Whoever started us waits.
                        let _ = ready.send(Ok(()));
                    }
                    self.serve(Some(&mut bench))
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
    fn serve(&mut self, mut bench: Option<&mut Bench>) -> Command {
        loop {
            if let Some(command) = self.due() {
                return command;
            }
            match self.next() {
                Next::Message(message) => self.obey(message),
                Next::Closed => return Command::Stop,
                Next::Time => {
                    self.expire();
                    if let Some(bench) = bench.as_deref_mut()
                        && self.able()
                        && let Err(error) = self.compute(bench)
                    {
                        bench.clear();
                        self.end(&Failure::Broken(error));
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

    fn enter(&mut self, entry: Entry, wish: Wish, since: Instant) {
        let Entry { number, work, mut reply, claim } = entry;
        let deadline = wish.within.map(|within| self.at(since).saturating_add(micros(within)));
        let terms = Terms { client: wish.client, priority: wish.priority, deadline };
        let taken =
            if self.draining { Err(Failure::Stopped) } else { self.take(terms, work).map_err(Failure::Refused) };
        match taken {
            Err(failure) => {
                claim.end();
                reply(Event::End(self.last(Err(failure), Duration::ZERO)));
            }
            Ok((name, started)) => {
                for token in started.into_iter().flatten() {
                    reply(Event::Token(token));
                }
                self.people.insert(number, Person { name, reply, claim, since, queued: None });
                self.names.insert(name, number);
                let begun = match name {
                    Name::Reader(waiter) => self.queue.started(waiter),
                    Name::Writer(pen) => self.writer.started(pen),
                };
                if begun {
                    self.begin(name);
                }
            }
        }
    }

    /// Puts work into its queue; with the tokens that an equal draft has already.
    fn take(&mut self, terms: Terms, work: Work) -> Result<(Name, Option<Vec<super::Token>>)> {
        let now = self.now();
        let adapter = match &work {
            Work::Read(asked) => asked.adapter,
            Work::Write(draft) => draft.adapter,
        };
        if adapter >= self.limits.adapters {
            return Err(Error::usage(format!("adapter {adapter} of {}", self.limits.adapters)));
        }
        match work {
            Work::Read(Asked { adapter, task }) => {
                let tokens = task.ids().len();
                let task = task.checked(&self.config, self.limits.longest)?;
                let joined = self.queue.counts().joined;
                let waiter = self
                    .queue
                    .submit(now, terms, Arc::new(Asked { adapter, task }))
                    .map_err(|_| Error::data("a sequence that does not fit"))?;
                if self.queue.counts().joined > joined {
                    self.observer.joined(tokens);
                }
                Ok((Name::Reader(waiter), None))
            }
            Work::Write(draft) => {
                self.check(&draft)?;
                let tokens = draft.request.prompt.len();
                let (pen, started) = self.writer.submit(now, terms, draft);
                if started.is_some() {
                    self.observer.joined(tokens);
                }
                Ok((Name::Writer(pen), started))
            }
        }
    }

    fn check(&self, draft: &Draft) -> Result<()> {
        if self.writing.is_none() {
            return Err(Error::usage("this service was not started to write text"));
        }
        draft.request.settings.check()?;
        let (prompt, vocab) = (&draft.request.prompt, self.config.vocab);
        Task::Prompt { ids: prompt.clone() }.checked(&self.config, self.limits.longest)?;
        if prompt.len() >= self.limits.longest {
            let (len, most) = (prompt.len(), self.limits.longest);
            return Err(Error::data(format!("{len} tokens leave no room for an answer in a context of {most}")));
        }
        match draft.watch.iter().flatten().find(|id| **id < 0 || **id as usize >= vocab) {
            None => Ok(()),
            Some(id) => Err(Error::data(format!("label {id} is outside the model's vocabulary of {vocab}"))),
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

    /// A pass for those who read, and a token for each that writes.
    fn compute(&mut self, bench: &mut Bench) -> Result<()> {
        if self.seats() {
            self.seat(bench)?;
        }
        if self.queue.waiting() > 0 && !self.paused() {
            self.pass(bench)?;
        }
        if let (.., Some(generator)) = bench.parts() {
            let begun = Instant::now();
            let writing = self.writer.writing() > 0;
            let news = self.writer.step(generator)?;
            if writing {
                self.observer.wrote(tokens(&news), Some(begun.elapsed()));
            }
            self.tell(news);
        }
        Ok(())
    }

    /// Gives places to those who want to write.
    fn seat(&mut self, bench: &mut Bench) -> Result<()> {
        let now = self.now();
        if let Err(error) = bench.generator() {
            let writers: Vec<Name> = self.names.keys().filter(|n| matches!(n, Name::Writer(_))).copied().collect();
            self.writer.clear();
            writers.into_iter().for_each(|name| self.answer(name, Err(Failure::Broken(error.clone()))));
            return Ok(());
        }
        let ((models, _, generator), queue) = (bench.parts(), &mut self.queue);
        let generator = generator.expect("it was made");
        let read = |draft: &Draft, terms: Terms| {
            let task = Task::Prompt { ids: draft.request.prompt.clone() };
            let asked = Asked { adapter: draft.adapter, task };
            queue.submit(now, terms, Arc::new(asked)).expect("prompts are checked before they line up")
        };
        for pen in self.writer.seat(now, generator, models, read)? {
            self.begin(Name::Writer(pen));
        }
        Ok(())
    }

    fn pass(&mut self, bench: &mut Bench) -> Result<()> {
        let (begun, before) = (Instant::now(), self.queue.counts());
        let step = self.queue.step(self.now());
        step.expired.iter().for_each(|waiter| self.answer(Name::Reader(*waiter), Err(Failure::Expired)));
        step.begun.iter().for_each(|waiter| self.begin(Name::Reader(*waiter)));
        if step.pieces.is_empty() {
            return Ok(());
        }
        let answers = bench.engine.run(&step, &self.queue)?;
        let took = begun.elapsed();
        // Who joined work that was being computed may be late now.
        self.expire();
        let (mut finished, mut finished_tokens, mut answered) = (0, 0, 0);
        let done = self.queue.complete(&step);
        for (i, (waiters, answer)) in done.into_iter().zip(answers).enumerate() {
            let Some(answer) = answer else { continue };
            finished += 1;
            finished_tokens += step.pieces[i].work.task.ids().len();
            if answer == engine::Answer::Prompt {
                let (_, engine, generator) = bench.parts();
                if let (Some(prompt), Some(generator)) = (engine.prompt(&step, i), generator) {
                    let news = self.writer.begin(&waiters, &prompt, generator)?;
                    self.observer.wrote(tokens(&news), None);
                    self.tell(news);
                }
            }
            answered += waiters.len();
            for waiter in waiters {
                self.answer(Name::Reader(waiter), Ok(Answer::Read(answer.clone())));
            }
        }
        self.lull = Some((answered, 0, Instant::now() + (took / LULL).min(LONGEST)));
        let after = self.queue.counts();
        let [computed, cached] =
            [after.computed - before.computed, after.cached - before.cached].map(|tokens| tokens as usize);
        self.shared.gauge.passed(computed + cached, took);
        let pieces = step.pieces.len();
        self.observer.passed(&Passed { pieces, computed, cached, finished, finished_tokens, took });
        Ok(())
    }

    /// Work has its first pass, or its place.
    fn begin(&mut self, name: Name) {
        if let Some(person) = self.names.get(&name).and_then(|number| self.people.get_mut(number)) {
            person.claim.start();
            person.queued.get_or_insert_with(|| person.since.elapsed());
        }
    }

    fn tell(&mut self, news: Vec<News>) {
        for item in news {
            match item {
                News::Token(pen, token) => {
                    let number = self.names.get(&Name::Writer(pen));
                    if let Some(person) = number.and_then(|number| self.people.get_mut(number)) {
                        (person.reply)(Event::Token(token));
                    }
                }
                News::Done(pen, made) => self.answer(Name::Writer(pen), Ok(Answer::Written(made))),
            }
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

fn tokens(news: &[News]) -> usize {
    news.iter().filter(|item| matches!(item, News::Token(..))).count()
}

fn micros(time: Duration) -> Micros {
    time.as_micros().try_into().unwrap_or(Micros::MAX)
}
