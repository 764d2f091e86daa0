//! One queue in front of one base model, for any number of threads: an [`Engine`] for what is read and a [`Writer`] for what is written, on
//! a thread of their own that owns the device. A pass of the one follows a step of the other while both have work.
//!
//! ```no_run
//! # use gramophone::{device::Device, infer::{engine::{Shape, Task}, service::{Service, Setup, Wish}}, model::Model};
//! # fn demo(model: Model) -> Result<(), Box<dyn std::error::Error>> {
//! let shape = Shape { context: 4096, pass: 2048, kept: 65536, patience: 1_000_000 };
//! let service = Service::start(Setup::new(Device::cpu(0), model.into(), shape))?;
//! let handle = service.handle();                       // cheap to clone, may go to other threads
//! let pending = handle.ask(Task::Labels { ids: vec![1, 2, 3], labels: vec![4, 5] }, Wish::default());
//! let answer = pending.wait();                         // dropping `pending` instead cancels
//! # Ok(()) }
//! ```
//!
//! Weights may change between passes, or leave the memory for a while; what waits goes on waiting. An answer says by which version of
//! the weights it came about: what is half done when they change begins again, and what is being written is finished first.
//!
//! [`Engine`]: super::engine::Engine
//! [`Writer`]: super::writer::Writer

mod bench;
mod claims;
mod desk;
mod handle;

pub use handle::{Handle, Pending, Ticket};

use super::engine::{self, Asked, Shape, Task};
use super::generator::{Generation, Request};
use super::scheduler::Counts;
use super::writer::{Draft, Token};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Model;
use claims::Gauge;
use desk::Desk;
use handle::Message;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a service may be asked.
#[derive(Clone, Debug)]
pub enum Work {
    Read(Asked),
    Write(Draft),
}

impl Work {
    /// Tokens that it may take: those it reads, and as many as it may write.
    pub fn tokens(&self) -> usize {
        match self {
            Work::Read(asked) => asked.task.ids().len(),
            Work::Write(Draft { request, .. }) => request.prompt.len().saturating_add(request.settings.max_tokens),
        }
    }
}

impl From<Asked> for Work {
    fn from(asked: Asked) -> Work {
        Work::Read(asked)
    }
}

impl From<Task> for Work {
    fn from(task: Task) -> Work {
        Work::Read(task.into())
    }
}

impl From<Draft> for Work {
    fn from(draft: Draft) -> Work {
        Work::Write(draft)
    }
}

impl From<Request> for Work {
    fn from(request: Request) -> Work {
        Work::Write(request.into())
    }
}

/// What [`Work`] came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Read(engine::Answer),
    Written(Generation),
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The queue has no room; when it may have some.
    Full { retry_after: Duration },
    /// More tokens than the whole queue holds.
    Large { tokens: usize, most: usize },
    /// The deadline passed first.
    Expired,
    /// The service was stopped.
    Stopped,
    /// The work cannot be done.
    Refused(Error),
    /// The device failed.
    Broken(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Full { .. } => f.write_str("the queue is full; try again later"),
            Failure::Large { tokens, most } => write!(f, "{tokens} tokens, but the whole queue holds {most}"),
            Failure::Expired => f.write_str("the deadline passed before there was an answer"),
            Failure::Stopped => f.write_str("the engine was stopped"),
            Failure::Refused(e) | Failure::Broken(e) => e.fmt(f),
        }
    }
}

/// An answer, or why there is none.
pub type Outcome = std::result::Result<Answer, Failure>;

/// What whoever asked is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// The next token of what is being written.
    Token(Token),
    /// Nothing follows.
    End(End),
}

/// How work ended.
#[derive(Clone, Debug)]
pub struct End {
    pub outcome: Outcome,
    /// The weights that gave the answer; the same pointer as long as they are the same.
    pub version: Arc<str>,
    /// From its arrival to its first pass.
    pub queued: Duration,
}

/// Is told on the engine's thread, and must not block.
pub type Reply = Box<dyn FnMut(Event) + Send>;

/// How a service writes text.
#[derive(Clone, Debug)]
pub struct Writing {
    /// Sequences that write together.
    pub sequences: usize,
    /// Pages of their cache, as [`Generator::with_pages`](super::generator::Generator::with_pages) takes them.
    pub pages: usize,
    /// Ids that end a sequence.
    pub stop: Vec<i32>,
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
    pub asleep: bool,
}

/// How busy a service is at this moment, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    pub queued: usize,
    pub running: usize,
    /// Of recent passes.
    pub tokens_per_second: f64,
}

/// A pass of what is read.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// Sequences, or parts of them, that shared it.
    pub pieces: usize,
    /// Tokens that it computed, and those that its sequences found in memory.
    pub computed: usize,
    pub cached: usize,
    /// Sequences that it finished, and their tokens.
    pub finished: usize,
    pub finished_tokens: usize,
    pub took: Duration,
}

/// Hears what a service does, on its thread.
pub trait Observer: Send + Sync {
    fn passed(&self, _: &Passed) {}
    /// Work of so many tokens joined equal work.
    fn joined(&self, _tokens: usize) {}
    /// So many tokens were written, in a step that took this time; in a pass, if none is given.
    fn wrote(&self, _tokens: usize, _took: Option<Duration>) {}
}

impl Observer for () {}

/// What a service is made of.
pub struct Setup {
    pub dev: Device,
    /// A model, or several adapters of one base: work names its model by its place.
    pub models: Vec<Arc<Model>>,
    pub shape: Shape,
    /// None: nothing is written.
    pub writing: Option<Writing>,
    /// Tokens that may wait.
    pub queue: usize,
    /// What the weights are called.
    pub version: Arc<str>,
    pub observer: Arc<dyn Observer>,
}

impl Setup {
    /// One model that reads, with an endless queue.
    pub fn new(dev: Device, model: Arc<Model>, shape: Shape) -> Setup {
        let (models, version, observer) = (vec![model], "".into(), Arc::new(()));
        Setup { dev, models, shape, writing: None, queue: usize::MAX, version, observer }
    }
}

/// What every thread may look at.
struct Shared {
    gauge: Arc<Gauge>,
    status: Mutex<Status>,
    version: Mutex<Arc<str>>,
    /// Why nothing is answered any more.
    dead: Mutex<Option<String>>,
}

/// Locks, whatever became of the thread that held the lock before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread is told to do between passes. Told when it is done.
enum Command {
    /// Frees the models.
    Sleep(Sender<()>),
    /// The same weights again.
    Wake(Vec<Arc<Model>>, Sender<()>),
    /// Other weights.
    Swap(Vec<Arc<Model>>, Arc<str>, Sender<()>),
    Stop,
}

/// A running engine. Dropping it stops it: those who wait get [`Failure::Stopped`].
pub struct Service {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the thread and allocates what reading needs; writing's memory comes with the first text.
    ///
    /// # Errors
    /// When the memory is not there; writing with a scalar model.
    pub fn start(setup: Setup) -> Result<Service> {
        let head = setup.models[0].config.head;
        if setup.writing.is_some() && head == crate::model::config::HeadKind::Scalar {
            return Err(Error::model("this model has a scalar head and cannot write text"));
        }
        let (to, from) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let shared = Arc::new(Shared {
            gauge: Arc::new(Gauge::new(setup.queue)),
            status: Mutex::default(),
            version: Mutex::new(setup.version.clone()),
            dead: Mutex::default(),
        });
        let handle = Handle::new(to, shared.clone());
        let run = move || {
            let (dev, models) = (setup.dev.clone(), setup.models.clone());
            let mut desk = Desk::new(setup, shared.clone(), from);
            let ran = catch_unwind(AssertUnwindSafe(|| desk.run(&dev, models, &ready)));
            let why = match ran {
                Ok(Ok(())) => "the service has stopped".to_string(),
                Ok(Err(e)) => {
                    let why = e.to_string();
                    // Nobody listens if it has started.
                    let _ = ready.send(Err(e));
                    why
                }
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                    format!("the engine failed: {text}")
                }
            };
            *lock(&shared.dead) = Some(why);
            desk.close(&Failure::Stopped);
        };
        let thread = std::thread::Builder::new()
            .name("gramophone-engine".into())
            .spawn(run)
            .map_err(|e| Error::device(format!("cannot start the engine's thread: {e}")))?;
        started.recv().map_err(|_| Error::device("the engine's thread ended as it started"))??;
        Ok(Service { handle, thread: Some(thread) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes no more work, finishes what waits, and ends.
    pub fn drain(mut self) {
        self.end(Message::Drain);
    }

    fn end(&mut self, message: Message) {
        self.handle.tell(message);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end(Message::Command(Command::Stop));
    }
}

#[cfg(test)]
mod tests;
