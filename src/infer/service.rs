//! An [`Engine`] on a thread of its own, which any number of threads may ask.
//!
//! ```no_run
//! # use gramophone::{device::Device, infer::{engine::{Shape, Task}, service::{Service, Wish}}, model::Model};
//! # fn demo(model: Model) -> Result<(), Box<dyn std::error::Error>> {
//! let shape = Shape { context: 4096, pass: 2048, kept: 65536, waiting: 1000, patience: 1_000_000 };
//! let service = Service::start(Device::cpu(0), model.into(), shape)?;
//! let handle = service.handle();                       // cheap to clone, may go to other threads
//! let pending = handle.ask(Task::Verdict { ids: vec![1, 2, 3], labels: [4, 5] }, Wish::default());
//! let answer = pending.wait();                         // dropping `pending` instead cancels
//! # Ok(()) }
//! ```

use super::engine::{Answer, Engine, Failure, Outcome, Shape, Task};
use super::scheduler::{Counts, Micros, Terms, Waiter};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Model;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Those without an answer.
    pub waiting: usize,
    /// Tokens for which memory is not in use by work.
    pub unused: usize,
    pub paused: bool,
}

type Reply = Box<dyn FnOnce(Outcome) + Send>;

enum Message {
    Submit {
        number: u64,
        task: Task,
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
    /// When the memory is not there.
    pub fn start(dev: Device, model: Arc<Model>, shape: Shape) -> Result<Service> {
        let (to, from) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let shown = status.clone();
        let run = move || match Engine::new(&dev, &model, shape) {
            Err(error) => drop(ready.send(Err(error))),
            Ok(engine) => {
                let _ = ready.send(Ok(()));
                Desk {
                    engine,
                    start: Instant::now(),
                    replies: BTreeMap::new(),
                    names: BTreeMap::new(),
                    paused: false,
                    draining: false,
                    shown,
                }
                .run(&from);
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
    pub fn submit(&self, task: Task, wish: Wish, reply: impl FnOnce(Outcome) + Send + 'static) -> Ticket {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let message = Message::Submit { number, task, wish, since: Instant::now(), reply: Box::new(reply) };
        if let Err(mpsc::SendError(Message::Submit { reply, .. })) = self.to.send(message) {
            reply(Err(Failure::Stopped));
        }
        Ticket { number, to: self.to.clone() }
    }

    /// Hands work in, to wait for.
    pub fn ask(&self, task: Task, wish: Wish) -> Pending {
        let (to, from) = mpsc::channel();
        let ticket = self.submit(task, wish, move |outcome| drop(to.send(outcome)));
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

/// The thread's state.
struct Desk<'m> {
    engine: Engine<'m>,
    start: Instant,
    /// By the caller's number and by the engine's name.
    names: BTreeMap<u64, Waiter>,
    replies: BTreeMap<Waiter, (u64, Reply)>,
    paused: bool,
    draining: bool,
    shown: Arc<Mutex<Status>>,
}

impl Desk<'_> {
    fn run(mut self, from: &Receiver<Message>) {
        loop {
            if self.draining && self.engine.waiting() == 0 {
                return;
            }
            match self.next(from) {
                Ok(Some(Message::Stop)) | Err(()) => break,
                Ok(Some(message)) => self.obey(message),
                Ok(None) if self.paused && !self.draining => {
                    for waiter in self.engine.expire(self.now(Instant::now())) {
                        self.answer(waiter, Err(Failure::Expired));
                    }
                }
                Ok(None) => self.step(),
            }
            self.show();
        }
        for waiter in self.engine.clear() {
            self.answer(waiter, Err(Failure::Stopped));
        }
    }

    /// The next message; `None` when it is time to compute; an error when nobody can ask any more.
    fn next(&self, from: &Receiver<Message>) -> std::result::Result<Option<Message>, ()> {
        if self.engine.waiting() == 0 {
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
            Message::Submit { number, task, wish, since, reply } => {
                let deadline = wish.within.map(|w| self.now(since).saturating_add(micros(w)));
                let terms = Terms { client: wish.client, priority: wish.priority, deadline };
                match self.engine.submit(self.now(Instant::now()), terms, task) {
                    Err(failure) => reply(Err(failure)),
                    Ok(waiter) => {
                        self.names.insert(number, waiter);
                        self.replies.insert(waiter, (number, reply));
                    }
                }
            }
            Message::Cancel(number) => {
                if let Some(waiter) = self.names.remove(&number) {
                    self.replies.remove(&waiter);
                    self.engine.cancel(waiter);
                }
            }
            Message::Pause(paused) => self.paused = paused,
            Message::Drain => self.draining = true,
            Message::Stop => unreachable!("the loop ends before"),
        }
    }

    fn step(&mut self) {
        match self.engine.step(self.now(Instant::now())) {
            Ok(outcomes) => outcomes.into_iter().for_each(|(waiter, outcome)| self.answer(waiter, outcome)),
            Err(error) => {
                self.engine.clear();
                self.names.clear();
                for (_, reply) in std::mem::take(&mut self.replies).into_values() {
                    reply(Err(Failure::Broken(error.clone())));
                }
            }
        }
    }

    fn answer(&mut self, waiter: Waiter, outcome: Outcome) {
        if let Some((number, reply)) = self.replies.remove(&waiter) {
            self.names.remove(&number);
            reply(outcome);
        }
    }

    fn show(&self) {
        let (counts, waiting, unused) = (self.engine.counts(), self.engine.waiting(), self.engine.unused());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) =
            Status { counts, waiting, unused, paused: self.paused };
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
