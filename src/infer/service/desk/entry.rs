//! Work that comes in: what is wrong with it, and its place in the queue or the line.

use super::{Desk, Name, Person, micros};
use crate::error::{Error, Result};
use crate::infer::engine::{Asked, Task};
use crate::infer::scheduler::Terms;
use crate::infer::service::handle::Entry;
use crate::infer::service::{Event, Failure, Wish, Work};
use crate::infer::writer::{Draft, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Desk {
    pub(super) fn enter(&mut self, entry: Entry, wish: Wish, since: Instant) {
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
    fn take(&mut self, terms: Terms, work: Work) -> Result<(Name, Option<Vec<Token>>)> {
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
}
