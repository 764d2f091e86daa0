//! An [`Engine`], and a [`Writer`] where text is wanted, on a thread of their own, which any number of threads may ask. A pass of the one
//! follows a step of the other while both have work.
//!
//! ```no_run
//! # use gramophone::{device::Device, infer::{engine::{Shape, Task}, service::{Service, Wish}}, model::Model};
//! # fn demo(model: Model) -> Result<(), Box<dyn std::error::Error>> {
//! let shape = Shape { context: 4096, pass: 2048, kept: 65536, waiting: 1000, patience: 1_000_000 };
//! let service = Service::start(Device::cpu(0), model.into(), shape, None)?;
//! let handle = service.handle();                       // cheap to clone, may go to other threads
//! let pending = handle.ask(Task::Verdict { ids: vec![1, 2, 3], labels: [4, 5] }, Wish::default());
//! let answer = pending.wait();                         // dropping `pending` instead cancels
//! # Ok(()) }
//! ```

use super::engine::{Answer, Engine, Failure, Outcome, Shape, Task};
use super::generator::{self, Generator, Request};
use super::scheduler::{Counts, Micros, Terms, Waiter};
use super::writer::{Pen, Writer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Model;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a service may be asked.
#[derive(Clone, Debug)]
pub enum Work {
    Read(Task),
    /// To continue a prompt: [`Answer::Generation`].
    Write(Request),
}

impl From<Task> for Work {
    fn from(task: Task) -> Work {
        Work::Read(task)
    }
}

impl From<Request> for Work {
    fn from(request: Request) -> Work {
        Work::Write(request)
    }
}

/// How a service writes text.
#[derive(Clone, Debug)]
pub struct Writing {
    /// Sequences that write together.
    pub sequences: usize,
    /// Pages of their cache, as [`Generator::with_pages`] takes them.
    pub pages: usize,
    /// Ids that end a sequence.
    pub stop: Vec<i32>,
    /// Labels whose logits are wanted at every token.
    pub watch: Option<[i32; 2]>,
}

/// How somebody wants work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Clients take turns.
    pub client: u64,
    /// Larger is sooner.
    pub priority: u32,
    /// The answer is of no use later than this from now.
    pub within: Option<Duration>,
}

/// What a service has done and has to do, as of its latest pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub counts: Counts,
    /// Those without an answer; of them, those who wait for text.
    pub waiting: usize,
    pub writing: usize,
    /// Tokens for which memory is not in use by work.
    pub unused: usize,
    pub paused: bool,
}

type Reply = Box<dyn FnOnce(Outcome) + Send>;

enum Message {
    Submit {
        number: u64,
        work: Work,
        wish: Wish,
        since: Instant,
        reply: Reply,
    },
    Cancel(u64),
    /// Computes nothing until told to go on; deadlines still pass.
    Pause(bool),
    /// Ends when all that waits is done, or at once.
    Drain,
    Stop,
}

/// How often a paused service looks for deadlines that have passed.
const PAUSED: Duration = Duration::from_millis(20);

/// A running engine. Dropping it stops it: those who wait get [`Failure::Stopped`].
pub struct Service {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the thread and allocates.
    ///
    /// # Errors
    /// When the memory is not there; writing with a scalar model.
    pub fn start(dev: Device, model: Arc<Model>, shape: Shape, writing: Option<Writing>) -> Result<Service> {
        let (to, from) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let shown = status.clone();
        let run = move || match Desk::new(&dev, &model, shape, writing, shown) {
            Err(error) => drop(ready.send(Err(error))),
            Ok(desk) => {
                let _ = ready.send(Ok(()));
                desk.run(&from);
            }
        };
        let thread = std::thread::Builder::new()
            .name("gramophone-engine".into())
            .spawn(run)
            .map_err(|e| Error::device(format!("cannot start the engine's thread: {e}")))?;
        started.recv().map_err(|_| Error::device("the engine's thread ended as it started"))??;
        Ok(Service { handle: Handle { to, numbers: Arc::default(), status }, thread: Some(thread) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes no more work, finishes what waits, and ends.
    pub fn drain(mut self) {
        self.end(Message::Drain);
    }

    fn end(&mut self, message: Message) {
        let _ = self.handle.to.send(message);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end(Message::Stop);
    }
}

/// Where work is handed in. Cloning shares it.
#[derive(Clone)]
pub struct Handle {
    to: Sender<Message>,
    numbers: Arc<AtomicU64>,
    status: Arc<Mutex<Status>>,
}

impl Handle {
    /// Hands work in. `reply` is called once, on the engine's thread, and must not block; it is dropped uncalled when the ticket is
    /// dropped first, or the engine's thread is gone.
    pub fn submit(&self, work: impl Into<Work>, wish: Wish, reply: impl FnOnce(Outcome) + Send + 'static) -> Ticket {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let message =
            Message::Submit { number, work: work.into(), wish, since: Instant::now(), reply: Box::new(reply) };
        if let Err(mpsc::SendError(Message::Submit { reply, .. })) = self.to.send(message) {
            reply(Err(Failure::Stopped));
        }
        Ticket { number, to: self.to.clone() }
    }

    /// Hands work in, to wait for.
    pub fn ask(&self, work: impl Into<Work>, wish: Wish) -> Pending {
        let (to, from) = mpsc::channel();
        let ticket = self.submit(work, wish, move |outcome| drop(to.send(outcome)));
        Pending { from, _ticket: ticket }
    }

    /// Stops computing, or goes on. Work is still taken, and deadlines pass.
    pub fn pause(&self, paused: bool) {
        let _ = self.to.send(Message::Pause(paused));
    }

    pub fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that was handed in. Dropping it cancels the work, if it is not done.
pub struct Ticket {
    number: u64,
    to: Sender<Message>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = self.to.send(Message::Cancel(self.number));
    }
}

/// An answer to come. Dropping it cancels the work.
pub struct Pending {
    from: Receiver<Outcome>,
    _ticket: Ticket,
}

impl Pending {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn wait(self) -> std::result::Result<Answer, Failure> {
        self.from.recv().unwrap_or(Err(Failure::Stopped))
    }

    /// The outcome, if it comes within this time; `None` if not yet.
    pub fn wait_for(&self, time: Duration) -> Option<Outcome> {
        match self.from.recv_timeout(time) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(Failure::Stopped)),
        }
    }
}

/// What the engine or the writer calls one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Reader(Waiter),
    Writer(Pen),
}

/// The thread's state.
struct Desk<'m> {
    engine: Engine<'m>,
    writer: Option<Writer<'m>>,
    start: Instant,
    /// By the caller's number.
    names: BTreeMap<u64, Name>,
    replies: BTreeMap<Name, (u64, Reply)>,
    paused: bool,
    draining: bool,
    shown: Arc<Mutex<Status>>,
}

impl<'m> Desk<'m> {
    fn new(
        dev: &'m Device,
        model: &'m Model,
        shape: Shape,
        writing: Option<Writing>,
        shown: Arc<Mutex<Status>>,
    ) -> Result<Desk<'m>> {
        let engine = Engine::new(dev, model, shape)?;
        let writer = match writing {
            None => None,
            Some(Writing { sequences, pages, stop, watch }) => {
                let together = generator::Shape { sequences, context: shape.context };
                let mut generator = Generator::with_pages(dev, &[model], together, &stop, pages)?;
                generator.watch(watch);
                Some(Writer::new(generator, sequences, shape.waiting, shape.patience))
            }
        };
        let (names, replies) = (BTreeMap::new(), BTreeMap::new());
        Ok(Desk { engine, writer, start: Instant::now(), names, replies, paused: false, draining: false, shown })
    }

    fn run(mut self, from: &Receiver<Message>) {
        loop {
            if self.draining && self.waiting() == 0 {
                return;
            }
            match self.next(from) {
                Ok(Some(Message::Stop)) | Err(()) => break,
                Ok(Some(message)) => self.obey(message),
                Ok(None) if self.paused && !self.draining => self.expire(),
                Ok(None) => self.step(),
            }
            self.show();
        }
        self.end(&Failure::Stopped);
    }

    fn waiting(&self) -> usize {
        self.engine.waiting() + self.writing()
    }
    fn writing(&self) -> usize {
        self.writer.as_ref().map_or(0, Writer::waiting)
    }

    /// The next message; `None` when it is time to compute; an error when nobody can ask any more.
    fn next(&self, from: &Receiver<Message>) -> std::result::Result<Option<Message>, ()> {
        if self.waiting() == 0 {
            return from.recv().map(Some).map_err(|_| ());
        }
        if self.paused && !self.draining {
            return match from.recv_timeout(PAUSED) {
                Ok(message) => Ok(Some(message)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(()),
            };
        }
        match from.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Submit { reply, .. } if self.draining => reply(Err(Failure::Stopped)),
            Message::Submit { number, work, wish, since, reply } => {
                let deadline = wish.within.map(|w| self.now(since).saturating_add(micros(w)));
                let terms = Terms { client: wish.client, priority: wish.priority, deadline };
                match self.submit(terms, work) {
                    Err(failure) => reply(Err(failure)),
                    Ok(name) => {
                        self.names.insert(number, name);
                        self.replies.insert(name, (number, reply));
                    }
                }
            }
            Message::Cancel(number) => {
                if let Some(name) = self.names.remove(&number) {
                    self.replies.remove(&name);
                    match (name, &mut self.writer) {
                        (Name::Writer(pen), Some(writer)) => writer.cancel(pen),
                        (Name::Writer(_), None) => {}
                        (Name::Reader(waiter), _) => self.engine.cancel(waiter),
                    }
                }
            }
            Message::Pause(paused) => self.paused = paused,
            Message::Drain => self.draining = true,
            Message::Stop => unreachable!("the loop ends before"),
        }
    }

    fn submit(&mut self, terms: Terms, work: Work) -> std::result::Result<Name, Failure> {
        let now = self.now(Instant::now());
        match (work, &mut self.writer) {
            (Work::Read(task), _) => self.engine.submit(now, terms, task).map(Name::Reader),
            (Work::Write(request), Some(writer)) => writer.submit(now, terms, request).map(Name::Writer),
            (Work::Write(_), None) => Err(Failure::Refused(Error::usage("this service was not started to write text"))),
        }
    }

    fn expire(&mut self) {
        let now = self.now(Instant::now());
        for waiter in self.engine.expire(now) {
            self.answer(Name::Reader(waiter), Err(Failure::Expired));
        }
        for pen in self.writer.as_mut().map_or(Vec::new(), |writer| writer.expire(now)) {
            self.answer(Name::Writer(pen), Err(Failure::Expired));
        }
    }

    /// A pass for those who read, and a token for each that writes.
    fn step(&mut self) {
        self.expire();
        if let Err(error) = self.compute() {
            self.end(&Failure::Broken(error));
        }
    }

    fn compute(&mut self) -> Result<()> {
        let now = self.now(Instant::now());
        if self.engine.waiting() > 0 {
            for (waiter, outcome) in self.engine.step(now)? {
                self.answer(Name::Reader(waiter), outcome);
            }
        }
        if self.writing() > 0
            && let Some(writer) = &mut self.writer
        {
            for (pen, made) in writer.step(now)? {
                self.answer(Name::Writer(pen), Ok(Answer::Generation(made)));
            }
        }
        Ok(())
    }

    fn answer(&mut self, name: Name, outcome: Outcome) {
        if let Some((number, reply)) = self.replies.remove(&name) {
            self.names.remove(&number);
            reply(outcome);
        }
    }

    /// Drops all work and tells everybody why.
    fn end(&mut self, failure: &Failure) {
        self.engine.clear();
        if let Some(writer) = &mut self.writer {
            writer.clear();
        }
        self.names.clear();
        for (_, reply) in std::mem::take(&mut self.replies).into_values() {
            reply(Err(failure.clone()));
        }
    }

    fn show(&self) {
        let (counts, unused) = (self.engine.counts(), self.engine.unused());
        let (waiting, writing) = (self.waiting(), self.writing());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) =
            Status { counts, waiting, writing, unused, paused: self.paused };
    }

    fn now(&self, at: Instant) -> Micros {
        micros(at.saturating_duration_since(self.start))
    }
}

fn micros(time: Duration) -> Micros {
    time.as_micros().try_into().unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests;
