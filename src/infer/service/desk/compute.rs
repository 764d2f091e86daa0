//! The work itself: places for those who want to write, a pass for those who read, a token for each that writes.

use super::{Desk, LONGEST, LULL, Name};
use crate::error::Result;
use crate::infer::engine::{self, Asked, Task};
use crate::infer::scheduler::Terms;
use crate::infer::service::bench::Bench;
use crate::infer::service::{Answer, Event, Failure, Passed};
use crate::infer::writer::{Draft, News};
use std::sync::Arc;
use std::time::Instant;

impl Desk {
    /// A pass for those who read, and a token for each that writes.
    pub(super) fn compute(&mut self, bench: &mut Bench) -> Result<()> {
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
    pub(super) fn begin(&mut self, name: Name) {
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
}

fn tokens(news: &[News]) -> usize {
    news.iter().filter(|item| matches!(item, News::Token(..))).count()
}
