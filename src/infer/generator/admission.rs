//! Who starts next, with which pages.

use super::queue::Waiting;
use super::{Active, Finish, Generation, Generator, Request, Watch};
#[cfg(doc)]
use crate::model::cache::Cache;
use crate::model::cache::{PAGE, place};
use std::sync::Arc;

/// A prompt that requests wait for which could not start with the first ones: its number and its pages, the last one of them
/// perhaps in part. The residual stream at its end lies in [`Cache::held`].
pub(super) struct Held {
    pub prompt: usize,
    pub pages: Vec<u32>,
}

/// Requests that start together.
#[derive(Default)]
pub(super) struct Wave {
    pub joined: Vec<Active>,
    /// For each of them, which of `read` its prompt is; without any, all have the held one.
    pub prompts: Vec<usize>,
    /// Prompts to read, each by the first of `joined` that has it.
    pub read: Vec<usize>,
    /// Pool rows to copy, from and to.
    pub from: Vec<i32>,
    pub to: Vec<i32>,
}

impl Generator<'_> {
    /// Requests that can start now: a place in the batch, pages for their longest answer, room in one pass for the prompts that are
    /// not held.
    pub(super) fn admit(&mut self) -> Wave {
        let running = self.active.len();
        let mut wave = Wave::default();
        if let Some(held) = self.held.take() {
            self.admit_sharers(&held, running, &mut wave);
            let waits = self.queue.next_of(held.prompt).is_some();
            if waits && running + wave.joined.len() > 0 {
                self.held = Some(held);
                return wave;
            }
            // Nobody waits for it any more; or nothing runs and the next one does not fit beside it.
            self.pages.give_back(held.pages);
            if !wave.joined.is_empty() {
                return wave;
            }
        }
        let mut tokens = 0;
        while let Some(Waiting { number, prompt, asked }) = self.queue.next().cloned() {
            let len = asked.prompt.len();
            tokens += len;
            if running + wave.joined.len() == self.shape.sequences || tokens > self.acts.capacity.tokens {
                break;
            }
            let Some(first) = self.start(number, asked, self.watched, &[]) else { break };
            self.queue.pop();
            let held = Held { prompt, pages: first.pages[..len.div_ceil(PAGE)].to_vec() };
            wave.read.push(wave.joined.len());
            wave.prompts.push(wave.read.len() - 1);
            wave.joined.push(first);
            if self.queue.next_of(prompt).is_none() {
                continue;
            }
            self.pages.share(&held.pages);
            self.admit_sharers(&held, running, &mut wave);
            if self.queue.next_of(prompt).is_some() {
                self.held = Some(held);
                break;
            }
            self.pages.give_back(held.pages);
        }
        wave
    }

    /// More requests with the prompt whose pages these are.
    fn admit_sharers(&mut self, held: &Held, running: usize, wave: &mut Wave) {
        while let Some(Waiting { number, asked, .. }) = self.queue.next_of(held.prompt).cloned() {
            if running + wave.joined.len() == self.shape.sequences {
                break;
            }
            let len = asked.prompt.len();
            let whole = len / PAGE;
            let Some(active) = self.start(number, asked, self.watched, &held.pages[..whole]) else { break };
            self.queue.pop();
            wave.from.extend((whole * PAGE..len).map(|p| place(&held.pages, p)));
            wave.to.extend((whole * PAGE..len).map(|p| place(&active.pages, p)));
            wave.prompts.push(wave.read.len().saturating_sub(1));
            wave.joined.push(active);
        }
    }

    /// A sequence over these pages and as many of its own as its longest answer takes; `None` where there are too few.
    pub(super) fn start(&mut self, number: usize, asked: Arc<Request>, watch: Watch, shared: &[u32]) -> Option<Active> {
        let Request { prompt, settings } = &*asked;
        let budget = settings.max_tokens.min(self.shape.context - prompt.len());
        let own = self.pages.take(prompt.len() + budget - shared.len() * PAGE)?;
        self.pages.share(shared);
        let made =
            Generation { tokens: Vec::new(), logprobs: Vec::new(), verdicts: Vec::new(), finish: Finish::Length };
        let (pages, cached) = ([shared, &own].concat(), prompt.len());
        Some(Active { number, asked, watch, pages, cached, budget, made })
    }
}
