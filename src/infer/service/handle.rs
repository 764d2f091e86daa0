//! Where work is handed in, and how an answer comes back.

use super::claims::Claim;
use super::{Answer, Command, End, Event, Failure, Load, Outcome, Reply, Shared, Status, Wish, Work, lock};
use crate::error::{Error, Result};
use crate::model::Model;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::time::{Duration, Instant};

/// A piece of work on its way.
pub(super) struct Entry {
    pub number: u64,
    pub work: Work,
    pub reply: Reply,
    pub claim: Arc<Claim>,
}

pub(super) enum Message {
    /// Handed in together.
    Submit {
        entries: Vec<Entry>,
        wish: Wish,
        since: Instant,
    },
    Cancel(u64),
    /// Starts nothing until told to go on; deadlines still pass, and what is being written is finished.
    Pause(bool),
    /// Ends when all that waits is done.
    Drain,
    Command(Command),
}

/// Where work is handed in. Cloning shares it.
#[derive(Clone)]
pub struct Handle {
    to: Sender<Message>,
    numbers: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(to: Sender<Message>, shared: Arc<Shared>) -> Handle {
        Handle { to, numbers: Arc::default(), shared }
    }

    pub(super) fn tell(&self, message: Message) {
        // A thread that is gone needs no telling.
        let _ = self.to.send(message);
    }

    /// Hands work in, all of it or none, if the queue has room. Each reply is called until its end, on the engine's thread; it is dropped
    /// before that when its ticket is.
    ///
    /// # Errors
    /// [`Failure::Full`], [`Failure::Large`], or [`Failure::Stopped`]; nothing is called then.
    pub fn offer(&self, works: Vec<(Work, Reply)>, wish: Wish) -> std::result::Result<Vec<Ticket>, Failure> {
        if lock(&self.shared.dead).is_some() {
            return Err(Failure::Stopped);
        }
        self.shared.gauge.admit(works.iter().map(|(work, _)| work.tokens()).sum())?;
        Ok(self.send(works, wish))
    }

    /// Hands in work that follows from work which was admitted: the queue takes it in any case. Otherwise as [`Handle::offer`].
    pub fn submit(&self, works: Vec<(Work, Reply)>, wish: Wish) -> Vec<Ticket> {
        self.shared.gauge.add(works.iter().map(|(work, _)| work.tokens()).sum());
        self.send(works, wish)
    }

    fn send(&self, works: Vec<(Work, Reply)>, wish: Wish) -> Vec<Ticket> {
        let first = self.numbers.fetch_add(works.len() as u64, Ordering::Relaxed);
        let (mut entries, mut tickets) = (Vec::with_capacity(works.len()), Vec::with_capacity(works.len()));
        for (number, (work, reply)) in (first..).zip(works) {
            let claim = Arc::new(Claim::new(self.shared.gauge.clone(), work.tokens()));
            tickets.push(Ticket { number, to: self.to.clone(), claim: claim.clone() });
            entries.push(Entry { number, work, reply, claim });
        }
        let message = Message::Submit { entries, wish, since: Instant::now() };
        if let Err(SendError(Message::Submit { entries, .. })) = self.to.send(message) {
            for mut entry in entries {
                entry.claim.end();
                (entry.reply)(Event::End(self.stopped()));
            }
        }
        tickets
    }

    fn stopped(&self) -> End {
        End { outcome: Err(Failure::Stopped), version: self.version(), queued: Duration::ZERO }
    }

    /// Hands work in, to wait for.
    pub fn ask(&self, work: impl Into<Work>, wish: Wish) -> Pending {
        let (to, from) = channel();
        let refused = to.clone();
        let reply = move |event| {
            if let Event::End(end) = event {
                // Whoever asked may have gone.
                let _ = to.send(end.outcome);
            }
        };
        let tickets = self.offer(vec![(work.into(), Box::new(reply))], wish).unwrap_or_else(|failure| {
            let _ = refused.send(Err(failure));
            Vec::new()
        });
        Pending { from, _tickets: tickets }
    }

    /// Starts nothing more, or goes on. Work is still taken, deadlines pass, and what is being written is finished.
    pub fn pause(&self, paused: bool) {
        self.tell(Message::Pause(paused));
    }

    /// Frees the models once what is being computed is finished. What waits goes on waiting.
    ///
    /// # Errors
    /// The engine's thread is gone.
    pub fn sleep(&self) -> Result<()> {
        self.command(Command::Sleep)
    }

    /// Goes on with the models of before.
    ///
    /// # Errors
    /// The engine's thread is gone.
    pub fn wake(&self, models: Vec<Arc<Model>>) -> Result<()> {
        self.command(|done| Command::Wake(models, done))
    }

    /// Goes on with other weights for models of the same kind, once what is being computed is finished. What waits is answered by them.
    /// A service that sleeps sleeps on.
    ///
    /// # Errors
    /// The engine's thread is gone.
    pub fn swap(&self, models: Vec<Arc<Model>>, version: Arc<str>) -> Result<()> {
        self.command(|done| Command::Swap(models, version, done))
    }

    fn command(&self, command: impl FnOnce(Sender<()>) -> Command) -> Result<()> {
        let (sent, done) = channel();
        self.tell(Message::Command(command(sent)));
        done.recv().map_err(|_| Error::device("the engine's thread is gone; start the service again"))
    }

    pub fn status(&self) -> Status {
        *lock(&self.shared.status)
    }

    pub fn load(&self) -> Load {
        let gauge = &self.shared.gauge;
        Load { queued: gauge.queued(), running: gauge.running(), tokens_per_second: gauge.pace() }
    }

    /// What the present weights are called.
    pub fn version(&self) -> Arc<str> {
        lock(&self.shared.version).clone()
    }

    /// Why nothing is answered any more, if so.
    pub fn dead(&self) -> Option<String> {
        lock(&self.shared.dead).clone()
    }
}

/// Work that was handed in. Dropping it cancels the work, if it is not done.
pub struct Ticket {
    number: u64,
    to: Sender<Message>,
    claim: Arc<Claim>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.claim.end() {
            // The thread may be gone.
            let _ = self.to.send(Message::Cancel(self.number));
        }
    }
}

/// An answer to come. Dropping it cancels the work.
pub struct Pending {
    from: Receiver<Outcome>,
    _tickets: Vec<Ticket>,
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
