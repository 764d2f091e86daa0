//! One queue in front of one model, for many clients: the server, a program's threads, other languages. No network and no
//! async runtime.
//!
//! Clients hand in token ids and get a [`Ticket`]. One thread owns the device and the model; it takes whatever waits, up to a pass of
//! tokens, whoever sent it, and so batches across clients. Equal prompts in flight are computed once, and a dropped ticket
//! takes its work with it. Prompts are scored independently of each other, so an answer has the same bits alone and under any load;
//! what was read with old weights is never combined with what new ones say.
//!
//! The worker can be replaced by another engine: it takes [prompts](task::Ask) and sequences, and gives reads and tokens.

mod counters;
mod queue;
mod state;
mod task;
mod ticket;
mod worker;

pub use counters::{Counters, Histogram, SECONDS};
pub use task::{Ask, Group, Judged, PairWork, Ranked, Read, Texts};
pub use ticket::{Answered, Ticket};

use crate::device::Device;
use crate::error::{Error, Kind};
use crate::infer::generator::{Finish, Request};
use crate::infer::scorer::LabelLogits;
use crate::model::Model;
use crate::model::config::HeadKind;
use counters::add;
use state::{Command, Shared, State, lock};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use task::{GroupTask, Meta, Task};
use ticket::Mail;

/// Sizes of a service.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Longest prompt, and longest sequence with what is written.
    pub context: usize,
    /// Tokens of a scoring pass.
    pub pass: usize,
    /// Sequences that are written together.
    pub sequences: usize,
    /// Tokens that may wait.
    pub queue: usize,
    /// Ids that end a sequence.
    pub stop: Vec<i32>,
}

/// What a piece of work may ask for besides itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When nobody wants the answer any more.
    pub deadline: Option<Instant>,
    /// Higher goes first.
    pub priority: i32,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The work makes no sense.
    Invalid(Error),
    /// A prompt does not fit into the context. Nothing is cut.
    TooLong { tokens: usize, most: usize },
    /// More tokens than the whole queue may hold.
    TooLarge { tokens: usize, most: usize },
    /// The queue is full; when it may have room.
    Full { retry_after: Duration },
    /// The deadline passed before it was computed.
    Late,
    /// The service stops, or everything was aborted.
    Stopped,
    /// The model or the device failed.
    Broken(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Invalid(e) | Failure::Broken(e) => e.fmt(f),
            Failure::TooLong { tokens, most } => {
                write!(f, "{tokens} tokens, but at most {most} fit; nothing is cut, shorten it")
            }
            Failure::TooLarge { tokens, most } => {
                write!(f, "{tokens} tokens in one request, but the whole queue holds {most}; send it in parts")
            }
            Failure::Full { retry_after } => {
                write!(f, "the queue is full; try again in {} s", retry_after.as_secs())
            }
            Failure::Late => f.write_str("the deadline passed before it was computed"),
            Failure::Stopped => f.write_str("the service stops"),
        }
    }
}

/// What comes of writing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Token {
        id: i32,
        logprob: f32,
        /// The likeliest tokens at its place with their log-probabilities.
        top: Vec<(i32, f32)>,
    },
    End {
        finish: Finish,
        version: Arc<str>,
        queued: Duration,
    },
}

/// How busy a service is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub queued_tokens: usize,
    pub running_tokens: usize,
    /// Requests that wait or run.
    pub in_flight: usize,
    /// Of recent passes.
    pub tokens_per_second: f64,
    pub paused: bool,
    pub asleep: bool,
}

/// Opens a model directory for this service's device.
pub type Loader = Box<dyn Fn(&Path) -> Result<Model, Error> + Send + Sync>;

/// What a service is made of.
pub struct Setup {
    pub dev: Device,
    pub model: Model,
    pub texts: Texts,
    pub sizes: Sizes,
    pub loader: Loader,
    /// Where the model came from, and what its weights are called.
    pub dir: PathBuf,
    pub version: String,
}

/// A handle to a queue and its worker. Clones share both; the worker stops with the last.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    texts: Texts,
    sizes: Sizes,
    head: HeadKind,
    vocab: usize,
    loader: Loader,
    /// Where the present weights came from. Held while weights change.
    dir: Mutex<PathBuf>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        lock(&self.shared.state).commands.push_back(Command::Stop);
        self.shared.came.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic was noted by the worker itself.
            let _ = thread.join();
        }
    }
}

impl Service {
    /// Starts the worker.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(setup: Setup) -> Result<Service, Error> {
        let Setup { dev, model, texts, mut sizes, loader, dir, version } = setup;
        sizes.context = sizes.context.min(model.config.max_positions);
        let mut state = State::default();
        state.version = version.into();
        let counters = Counters::default();
        let shared = Arc::new(Shared { state: Mutex::new(state), came: Condvar::new(), counters });
        let (head, vocab) = (model.config.head, model.config.vocab);
        let thread = {
            let (shared, sizes) = (shared.clone(), sizes.clone());
            let spawned = std::thread::Builder::new()
                .name("gramophone-worker".into())
                .spawn(move || worker::run(shared, dev, model, sizes));
            spawned.map_err(|e| Error::new(Kind::Io, format!("cannot start the worker thread: {e}")))?
        };
        let core = Core {
            shared: shared.clone(),
            texts,
            sizes,
            head,
            vocab,
            loader,
            dir: Mutex::new(dir),
            thread: Some(thread),
        };
        Ok(Service { shared, core: Arc::new(core) })
    }

    pub fn texts(&self) -> &Texts {
        &self.core.texts
    }
    pub fn sizes(&self) -> &Sizes {
        &self.core.sizes
    }
    pub fn head(&self) -> HeadKind {
        self.core.head
    }
    /// Token ids of the model.
    pub fn vocab(&self) -> usize {
        self.core.vocab
    }
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub fn load(&self) -> Load {
        let state = lock(&self.shared.state);
        Load { in_flight: state.in_flight(), ..state.load }
    }

    /// What the present weights are called.
    pub fn version(&self) -> Arc<str> {
        lock(&self.shared.state).version.clone()
    }

    /// Why nothing is answered any more, if so.
    pub fn dead(&self) -> Option<String> {
        lock(&self.shared.state).dead.clone()
    }

    /// Judges a pair.
    ///
    /// # Errors
    /// Work that cannot be computed, or a full queue.
    pub fn judge(&self, pair: PairWork, options: Options) -> Result<Ticket<Answered<Judged>>, Failure> {
        let mail = Mail::new();
        self.submit(Task::pair(pair, &self.core.texts, mail.clone()), mail, options)
    }

    /// Orders responses. Its comparisons share passes with everybody else's.
    ///
    /// # Errors
    /// As [`Service::judge`].
    pub fn rank(&self, group: Group, options: Options) -> Result<Ticket<Answered<Ranked>>, Failure> {
        if group.responses.is_empty() {
            return Err(Failure::Invalid(Error::data("there is nothing to rank")));
        }
        let (mail, texts) = (Mail::new(), self.core.texts.clone());
        let task = GroupTask {
            group,
            texts,
            tournament: None,
            wins: Default::default(),
            asked: Vec::new(),
            mail: mail.clone(),
        };
        self.submit(Task::Group(Box::new(task)), mail, options)
    }

    /// Reads the logits of labels at the end of a prompt.
    ///
    /// # Errors
    /// As [`Service::judge`].
    pub fn labels(
        &self,
        ids: Vec<i32>,
        labels: Vec<i32>,
        options: Options,
    ) -> Result<Ticket<Answered<LabelLogits>>, Failure> {
        if labels.is_empty() {
            return Err(Failure::Invalid(Error::data("there are no labels to read")));
        }
        let mail = Mail::new();
        self.submit(Task::Labels { ask: Arc::new(Ask { ids, labels }), mail: mail.clone() }, mail, options)
    }

    /// The reward of a conversation.
    ///
    /// # Errors
    /// As [`Service::judge`].
    pub fn reward(&self, ids: Vec<i32>, options: Options) -> Result<Ticket<Answered<f32>>, Failure> {
        let (mail, labels) = (Mail::new(), Vec::new());
        self.submit(Task::Reward { ask: Arc::new(Ask { ids, labels }), mail: mail.clone() }, mail, options)
    }

    fn submit<T>(
        &self,
        mut task: Task,
        mail: Mail<Answered<T>>,
        options: Options,
    ) -> Result<Ticket<Answered<T>>, Failure> {
        let counters = &self.shared.counters;
        let meta = Meta { version: self.version(), tokens: 0, queued: Duration::ZERO };
        let asks = task.start(meta, counters)?;
        for ask in &asks {
            self.check(ask).inspect_err(|e| {
                if let Failure::TooLong { .. } = e {
                    add(&counters.refused_long, 1);
                }
            })?;
        }
        let tokens = asks.iter().map(|a| a.ids.len()).sum();
        let mut state = lock(&self.shared.state);
        self.admit(&state, tokens)?;
        let job = state.number();
        // An order of one response needs nothing computed.
        if !asks.is_empty() {
            state.add_job(job, task, options);
            state.ask(job, asks, counters);
        }
        drop(state);
        self.shared.came.notify_one();
        Ok(Ticket { mail, job, shared: self.shared.clone(), deadline: options.deadline })
    }

    fn admit(&self, state: &State, tokens: usize) -> Result<(), Failure> {
        let most = self.core.sizes.queue;
        if state.dead.is_some() {
            return Err(Failure::Stopped);
        }
        if tokens > most {
            return Err(Failure::TooLarge { tokens, most });
        }
        if state.load.queued_tokens + tokens > most {
            add(&self.shared.counters.refused_full, 1);
            let pace = state.load.tokens_per_second.max(1.0);
            let seconds = (state.load.queued_tokens as f64 / pace / 2.0).ceil().clamp(1.0, 60.0);
            return Err(Failure::Full { retry_after: Duration::from_secs(seconds as u64) });
        }
        Ok(())
    }

    fn check(&self, ask: &Ask) -> Result<(), Failure> {
        let (tokens, most) = (ask.ids.len(), self.core.sizes.context);
        if tokens == 0 {
            return Err(Failure::Invalid(Error::data("there is no token to read")));
        }
        if tokens > most {
            return Err(Failure::TooLong { tokens, most });
        }
        let unknown = |id: &&i32| **id < 0 || **id as usize >= self.core.vocab;
        match ask.ids.iter().chain(&ask.labels).find(unknown) {
            None if ask.labels.is_empty() == (self.core.head == HeadKind::Scalar) => Ok(()),
            None if ask.labels.is_empty() => {
                Err(Failure::Invalid(Error::model("this model is a language model without a reward head")))
            }
            None => {
                Err(Failure::Invalid(Error::model("this model has a scalar head: it gives rewards, not label logits")))
            }
            Some(id) => Err(Failure::Invalid(Error::data(format!(
                "token {id} is outside the model's vocabulary of {}",
                self.core.vocab
            )))),
        }
    }

    /// Writes on after a prompt: tokens as they come, then an end.
    ///
    /// # Errors
    /// As [`Service::judge`]; a prompt that leaves no room for an answer.
    pub fn write(&self, mut request: Request, top: usize, options: Options) -> Result<Ticket<Event>, Failure> {
        if self.core.head == HeadKind::Scalar {
            return Err(Failure::Invalid(Error::model("this model has a scalar head and cannot write text")));
        }
        request.settings.check().map_err(Failure::Invalid)?;
        self.check(&Ask { ids: request.prompt.clone(), labels: vec![0] })?;
        let (tokens, most) = (request.prompt.len(), self.core.sizes.context);
        if tokens >= most {
            return Err(Failure::TooLong { tokens: tokens + 1, most });
        }
        request.settings.max_tokens = request.settings.max_tokens.min(most - tokens);
        let mut state = lock(&self.shared.state);
        self.admit(&state, tokens + request.settings.max_tokens)?;
        let (job, mail) = (state.number(), Mail::new());
        if state.write(job, request, top, options, mail.clone()) {
            add(&self.shared.counters.shared, 1);
            add(&self.shared.counters.shared_tokens, tokens);
        }
        drop(state);
        self.shared.came.notify_one();
        Ok(Ticket { mail, job, shared: self.shared.clone(), deadline: options.deadline })
    }

    /// Stops taking batches; what waits goes on waiting. What is being written is finished first.
    pub fn pause(&self, paused: bool) {
        lock(&self.shared.state).load.paused = paused;
        self.shared.came.notify_all();
    }

    /// Fails everything that waits or runs; how much that was.
    pub fn abort(&self) -> usize {
        self.shared.abort(&Failure::Stopped)
    }

    /// Frees the model's memory. What waits goes on waiting.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn sleep(&self) -> Result<(), Error> {
        let _changing = lock(&self.core.dir);
        if self.load().asleep {
            return Ok(());
        }
        self.tell(Command::Sleep)
    }

    /// Opens the weights again.
    ///
    /// # Errors
    /// They cannot be opened; the service stays asleep.
    pub fn wake(&self) -> Result<(), Error> {
        let dir = lock(&self.core.dir);
        if !self.load().asleep {
            return Ok(());
        }
        let model = Box::new((self.core.loader)(&dir)?);
        self.tell(|done| Command::Wake(model, done))
    }

    /// Goes on with the weights of another directory, once what is being computed is finished. Work that waits is answered by them.
    ///
    /// # Errors
    /// They cannot be opened or do not fit this service; the old ones go on serving.
    pub fn reload(&self, dir: &Path, version: &str) -> Result<(), Error> {
        let mut present = lock(&self.core.dir);
        let model = (self.core.loader)(dir)?;
        let config = &model.config;
        if config.head != self.core.head || config.vocab != self.core.vocab {
            return Err(Error::model("these weights are of another kind of model: the head or the vocabulary differs"));
        }
        if config.max_positions < self.core.sizes.context {
            let (has, needs) = (config.max_positions, self.core.sizes.context);
            return Err(Error::model(format!(
                "these weights read at most {has} tokens, but this service promises {needs}"
            )));
        }
        let model = Box::new(model);
        self.tell(|done| Command::Swap(model, version.into(), done))?;
        *present = dir.to_path_buf();
        Ok(())
    }

    fn tell(&self, command: impl FnOnce(Sender<()>) -> Command) -> Result<(), Error> {
        let (sent, done) = channel();
        let mut state = lock(&self.shared.state);
        if state.dead.is_none() {
            state.commands.push_back(command(sent));
        }
        drop(state);
        self.shared.came.notify_all();
        done.recv().map_err(|_| Error::device("the worker is gone; start the service again"))
    }
}

#[cfg(test)]
mod tests;
