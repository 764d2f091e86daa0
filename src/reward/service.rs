//! Judging, ranking, rewarding and writing for many clients at once: the server, a program's threads, other languages. No network and no
//! async runtime.
//!
//! Clients hand in pairs, groups or prompts and get a [`Ticket`]. Each is a small state machine: what it asks goes to the one queue of
//! the [engine's service](crate::infer::service), where the work of all clients is packed into passes, equal work in flight is done
//! once, and beginnings that are in memory are not computed again; what comes back advances it. A dropped ticket takes its work with it.
//! An answer has the same bits alone and under any load; what was read with old weights is never combined with what new ones say.

mod counters;
mod failure;
mod job;
mod setup;
mod task;
mod ticket;
mod work;

pub use counters::{Counters, Histogram, SECONDS};
pub use failure::Failure;
pub use setup::{Adapter, Extras, KEPT, Loader, Setup, Sizes};
pub use ticket::{Answered, Ticket};
pub use work::{Group, Judged, PairWork, Ranked, Texts};

use crate::device::Device;
use crate::error::Error;
use crate::infer::engine::Shape;
use crate::infer::generator::{Finish, Request};
use crate::infer::scorer::LabelLogits;
use crate::infer::service::{self, Writing};
use crate::model::Model;
use crate::model::config::HeadKind;
use crate::reward::judge::{EncodedPair, Prompts};
use crate::reward::rationale::{self, Reasoned};
use crate::text::answer::Grammar;
use crate::text::template::JudgeTemplate;
use job::{Job, Office};
use setup::{PATIENCE, models};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use task::{GroupTask, Kind, RationaleTask, Task};
use ticket::Mail;

/// Locks, whatever became of the thread that held the lock before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a piece of work may ask for besides itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When nobody wants the answer any more.
    pub deadline: Option<Instant>,
    /// Higher goes first.
    pub priority: i32,
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
    /// Tokens for which memory is not in use by work, as of the latest pass.
    pub unused_tokens: usize,
    pub paused: bool,
    pub asleep: bool,
}

/// A handle to a queue and its engine. Clones share both; the engine stops with the last.
#[derive(Clone)]
pub struct Service {
    core: Arc<Core>,
    /// Which of the engine's models this handle asks.
    adapter: usize,
}

struct Core {
    office: Arc<Office>,
    /// Stops when it is dropped.
    _engine: service::Service,
    dev: Device,
    texts: Texts,
    extras: Extras,
    reasoning: OnceLock<Result<(Prompts, Grammar), Error>>,
    loader: Loader,
    /// Where the present weights came from. Held while weights change.
    dir: Mutex<PathBuf>,
    paused: AtomicBool,
}

impl Service {
    /// Starts the engine.
    ///
    /// # Errors
    /// The memory is not there; the system starts no thread.
    pub fn start(setup: Setup) -> Result<Service, Error> {
        Service::with(setup, Extras::default())
    }

    /// As [`Service::start`], with more than that.
    ///
    /// # Errors
    /// As [`Service::start`]; adapters that do not belong to the model, or with one name.
    pub fn with(setup: Setup, extras: Extras) -> Result<Service, Error> {
        let Setup { dev, model, texts, mut sizes, loader, dir, version } = setup;
        sizes.context = sizes.context.min(model.config.max_positions);
        let config = model.config.clone();
        let names: Vec<_> = extras.adapters.iter().map(|adapter| &adapter.name).collect();
        if let Some(twice) = (1..names.len()).find(|i| names[*i].is_some() && names[..*i].contains(&names[*i])) {
            let name = names[twice].clone().unwrap_or_default();
            return Err(Error::usage(format!("two adapters are called {name:?}; give each a name of its own")));
        }
        let counters = Arc::new(Counters::default());
        let Sizes { context, pass, sequences, queue, ref stop } = sizes;
        let writing = Writing { sequences, pages: usize::MAX, stop: stop.clone() };
        let engine = service::Service::start(service::Setup {
            dev: dev.clone(),
            models: models(&dev, model, &extras.adapters)?,
            shape: Shape { context, pass, kept: extras.kept.unwrap_or(KEPT), patience: PATIENCE },
            writing: (config.head == HeadKind::LanguageModel).then_some(writing),
            queue,
            version: version.into(),
            observer: counters.clone(),
        })?;
        let office = Arc::new(Office::new(engine.handle(), counters, sizes, config));
        let core = Core {
            office,
            _engine: engine,
            dev,
            texts,
            extras,
            reasoning: OnceLock::new(),
            loader,
            dir: Mutex::new(dir),
            paused: AtomicBool::new(false),
        };
        Ok(Service { core: Arc::new(core), adapter: 0 })
    }

    /// A handle that asks the adapter of this name.
    pub fn adapter(&self, name: &str) -> Option<Service> {
        let adapter = self.adapters().position(|known| known == name)? + 1;
        Some(Service { core: self.core.clone(), adapter })
    }

    /// Names of the adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.core.extras.adapters.iter().filter_map(|adapter| adapter.name.as_deref())
    }

    pub fn texts(&self) -> &Texts {
        &self.core.texts
    }
    pub fn sizes(&self) -> &Sizes {
        &self.core.office.sizes
    }
    pub fn head(&self) -> HeadKind {
        self.core.office.config.head
    }
    /// Token ids of the model.
    pub fn vocab(&self) -> usize {
        self.core.office.config.vocab
    }
    pub fn counters(&self) -> &Counters {
        &self.core.office.counters
    }

    pub fn load(&self) -> Load {
        let (office, paused) = (&self.core.office, self.core.paused.load(Ordering::Relaxed));
        let (load, status) = (office.handle.load(), office.handle.status());
        Load {
            queued_tokens: load.queued,
            running_tokens: load.running,
            in_flight: office.in_flight(),
            tokens_per_second: load.tokens_per_second,
            unused_tokens: status.unused,
            paused,
            asleep: status.asleep,
        }
    }

    /// What the present weights are called.
    pub fn version(&self) -> Arc<str> {
        self.core.office.handle.version()
    }

    /// Why nothing is answered any more, if so.
    pub fn dead(&self) -> Option<String> {
        self.core.office.handle.dead()
    }

    /// Judges a pair.
    ///
    /// # Errors
    /// Work that cannot be computed, or a full queue.
    pub fn judge(&self, pair: PairWork, options: Options) -> Result<Ticket<Answered<Judged>>, Failure> {
        self.submit(|mail| Kind::pair(pair, &self.core.texts, mail), options)
    }

    /// Judges a pair by replies that reason before they decide, in both orders: exactly what a
    /// [`RationaleJudge`](rationale::RationaleJudge) with these settings says of it. The pair is encoded by the prompts of
    /// [`Service::reasoning`].
    ///
    /// # Errors
    /// As [`Service::judge`]; as [`Service::reasoning`]; settings that mean nothing.
    pub fn judge_by_rationale(
        &self,
        pair: EncodedPair,
        settings: rationale::Settings,
        options: Options,
    ) -> Result<Ticket<Answered<Reasoned>>, Failure> {
        settings.check().map_err(Failure::Invalid)?;
        let grammar = self.reasoning()?.1.clone();
        let task = |mail| Kind::Rationale(Box::new(RationaleTask { pair, settings, grammar, ballot: None, mail }));
        self.submit(task, options)
    }

    /// The prompts that ask for a rationale, and the grammar of what is written.
    ///
    /// # Errors
    /// A model that writes none: a scalar head, or a tokenizer that has no place for the label.
    pub fn reasoning(&self) -> Result<&(Prompts, Grammar), Failure> {
        if self.head() == HeadKind::Scalar {
            return Err(Failure::Invalid(Error::model("this model has a scalar head and cannot write a rationale")));
        }
        let ours = || rationale::prompts(self.core.texts.chat().clone(), JudgeTemplate::rationale());
        let reasoning = self.core.reasoning.get_or_init(|| self.core.extras.reasoning.clone().map_or_else(ours, Ok));
        reasoning.as_ref().map_err(|e| Failure::Invalid(e.clone()))
    }

    /// Orders responses. Its comparisons share passes with everybody else's.
    ///
    /// # Errors
    /// As [`Service::judge`].
    pub fn rank(&self, group: Group, options: Options) -> Result<Ticket<Answered<Ranked>>, Failure> {
        if group.responses.is_empty() {
            return Err(Failure::Invalid(Error::data("there is nothing to rank")));
        }
        let texts = self.core.texts.clone();
        let (tournament, wins, asked) = (None, Default::default(), Vec::new());
        self.submit(|mail| Kind::Group(Box::new(GroupTask { group, texts, tournament, wins, asked, mail })), options)
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
        self.submit(|mail| Kind::Labels { ids, labels, mail }, options)
    }

    /// The reward of a conversation.
    ///
    /// # Errors
    /// As [`Service::judge`].
    pub fn reward(&self, ids: Vec<i32>, options: Options) -> Result<Ticket<Answered<f32>>, Failure> {
        self.submit(|mail| Kind::Reward { ids, mail }, options)
    }

    /// Writes on after a prompt: tokens as they come, then an end.
    ///
    /// # Errors
    /// As [`Service::judge`]; a prompt that leaves no room for an answer.
    pub fn write(&self, mut request: Request, top: usize, options: Options) -> Result<Ticket<Event>, Failure> {
        request.settings.check().map_err(Failure::Invalid)?;
        let room = self.sizes().context.saturating_sub(request.prompt.len()).max(1);
        request.settings.max_tokens = request.settings.max_tokens.min(room);
        self.submit(|mail| Kind::Text { request, top, mail }, options)
    }

    fn submit<T>(&self, kind: impl FnOnce(Mail<T>) -> Kind, options: Options) -> Result<Ticket<T>, Failure> {
        if self.adapter == 0 && self.core.extras.named_only {
            let names: Vec<&str> = self.adapters().collect();
            return Err(Failure::Invalid(Error::model(format!(
                "the model has no reward row of its own; name one of its adapters, {}",
                names.join(", ")
            ))));
        }
        let mail = Mail::new();
        let task = Task { adapter: self.adapter, kind: kind(mail.clone()) };
        let job = Job::start(&self.core.office, task, options)?;
        Ok(Ticket { mail, job, deadline: options.deadline })
    }

    /// Stops taking work up; what waits goes on waiting. What is being written is finished first.
    pub fn pause(&self, paused: bool) {
        self.core.paused.store(paused, Ordering::Relaxed);
        self.core.office.handle.pause(paused);
    }

    /// Fails everything that waits or runs; how much that was.
    pub fn abort(&self) -> usize {
        self.core.office.abort()
    }

    /// Frees the model's memory. What waits goes on waiting.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn sleep(&self) -> Result<(), Error> {
        let _changing = lock(&self.core.dir);
        if self.load().asleep {
            return Ok(());
        }
        self.core.office.handle.sleep()
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
        self.core.office.handle.wake(self.open(&dir)?)
    }

    /// Goes on with the weights of another directory, once what is being computed is finished. Work that waits is answered by them.
    ///
    /// # Errors
    /// They cannot be opened or do not fit this service or its adapters; the old ones go on serving.
    pub fn reload(&self, dir: &Path, version: &str) -> Result<(), Error> {
        let mut present = lock(&self.core.dir);
        let models = self.open(dir)?;
        let config = &models[0].config;
        if config.head != self.head() || config.vocab != self.vocab() {
            return Err(Error::model("these weights are of another kind of model: the head or the vocabulary differs"));
        }
        if config.max_positions < self.sizes().context {
            let (has, needs) = (config.max_positions, self.sizes().context);
            return Err(Error::model(format!(
                "these weights read at most {has} tokens, but this service promises {needs}"
            )));
        }
        self.core.office.handle.swap(models, version.into())?;
        *present = dir.to_path_buf();
        Ok(())
    }

    fn open(&self, dir: &Path) -> Result<Vec<Arc<Model>>, Error> {
        models(&self.core.dev, (self.core.loader)(dir)?, &self.core.extras.adapters)
    }
}

#[cfg(test)]
mod tests;
