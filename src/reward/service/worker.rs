//! The thread that owns the device and the model. It takes what waits, batch by batch, and between batches does what it is told: sleep,
//! wake, go on with other weights, stop.

use super::counters::add;
use super::state::{Command, Ready, Shared, Turn, lock};
use super::task::{Ask, Read};
use super::{Event, Failure, Sizes};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::generator::{self, Feed, Flow, Generator, Request, Written};
use crate::infer::scorer::{self, Scorer};
use crate::model::Model;
use crate::model::config::HeadKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Runs until it is told to stop. A panic (a bug of ours) fails what waits, and what comes.
pub(super) fn run(shared: Arc<Shared>, dev: Device, model: Model, sizes: Sizes) {
    let outcome = catch_unwind(AssertUnwindSafe(|| serve(&shared, &dev, model, &sizes)));
    let why = match outcome {
        Ok(Ok(())) => "the service has stopped".to_string(),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            format!("the worker failed: {text}")
        }
    };
    let mut state = lock(&shared.state);
    state.dead = Some(why);
    // Their senders go, which whoever waits for them notices.
    state.commands.clear();
    drop(state);
    shared.abort(&Failure::Stopped);
}

fn serve(shared: &Shared, dev: &Device, model: Model, sizes: &Sizes) -> Result<()> {
    let mut model = Some(model);
    loop {
        let command = match &model {
            Some(model) => Engine::new(shared, dev, model, sizes)?.serve()?,
            None => sleep(shared),
        };
        let mut state = lock(&shared.state);
        let done = match command {
            Command::Stop => return Ok(()),
            Command::Sleep(done) => {
                state.load.asleep = true;
                model = None;
                done
            }
            Command::Wake(awake, done) => {
                state.load.asleep = false;
                model = Some(*awake);
                done
            }
            Command::Swap(next, version, done) => {
                state.version = version;
                if !state.load.asleep {
                    model = Some(*next);
                }
                let jobs = state.restart();
                drop(state);
                advance(shared, sizes, jobs, true);
                done
            }
        };
        // Whoever asked may have gone.
        let _ = done.send(());
    }
}

/// Waits for a command without a model.
fn sleep(shared: &Shared) -> Command {
    let mut state = lock(&shared.state);
    loop {
        if let Some(command) = state.commands.pop_front() {
            return command;
        }
        state = shared.came.wait(state).unwrap_or_else(|e| e.into_inner());
    }
}

/// Lets jobs take what was read, or start again, and queues what they ask next.
fn advance(shared: &Shared, sizes: &Sizes, ready: Vec<Ready>, again: bool) {
    for Ready { job, mut task, reads, meta } in ready {
        let counters = &shared.counters;
        let next = if again { task.start(meta, counters) } else { task.learn(reads, meta, counters) };
        // What a method asks later was not seen when the work came in.
        let next = next.and_then(|asks| match asks.iter().map(|ask| ask.ids.len()).max() {
            Some(tokens) if tokens > sizes.context => Err(Failure::TooLong { tokens, most: sizes.context }),
            _ => Ok(asks),
        });
        lock(&shared.state).advanced(job, task, next, counters);
    }
}

/// A model that is awake.
struct Engine<'m> {
    shared: &'m Shared,
    dev: &'m Device,
    model: &'m Model,
    sizes: &'m Sizes,
    scorer: Scorer<'m>,
    /// When the present step of writing began.
    step: Option<Instant>,
}

impl<'m> Engine<'m> {
    fn new(shared: &'m Shared, dev: &'m Device, model: &'m Model, sizes: &'m Sizes) -> Result<Engine<'m>> {
        let scorer = Scorer::new(dev, model, scorer::Shape { context: sizes.context, pass: sizes.pass })?;
        Ok(Engine { shared, dev, model, sizes, scorer, step: None })
    }

    /// Serves until a command comes.
    fn serve(mut self) -> Result<Command> {
        // Made at the first request to write, and kept.
        let mut generator: Option<Generator<'m>> = None;
        loop {
            match self.wait() {
                Turn::Command(command) => return Ok(command),
                Turn::Score(batch) => self.score(&batch),
                Turn::Write => {
                    let made = match generator.take() {
                        Some(generator) => Ok(generator),
                        None => {
                            let shape =
                                generator::Shape { sequences: self.sizes.sequences, context: self.sizes.context };
                            Generator::new(self.dev, self.model, shape, &self.sizes.stop)
                        }
                    };
                    let ran = made.and_then(|mut made| {
                        self.step = None;
                        made.run(&mut self)?;
                        generator = Some(made);
                        Ok(())
                    });
                    if let Err(e) = ran {
                        self.lose_writing(e);
                    }
                }
            }
        }
    }

    fn wait(&self) -> Turn {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(turn) = state.turn(self.sizes.pass, &self.shared.counters) {
                return turn;
            }
            state = self.shared.came.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn score(&mut self, batch: &[Arc<Ask>]) {
        let start = Instant::now();
        let reads = self.read(batch).map_err(Failure::Broken);
        let took = start.elapsed();
        self.shared.counters.passed(batch, took);
        let mut state = lock(&self.shared.state);
        if let Err(Failure::Broken(_)) = &reads {
            add(&self.shared.counters.failed, batch.len());
        }
        state.pace(batch.iter().map(|a| a.ids.len()).sum(), took);
        let ready = state.found(batch, reads, &self.shared.counters);
        drop(state);
        advance(self.shared, self.sizes, ready, false);
    }

    fn read(&mut self, batch: &[Arc<Ask>]) -> Result<Vec<Read>> {
        let prompts: Vec<Vec<i32>> = batch.iter().map(|a| a.ids.clone()).collect();
        Ok(match self.model.config.head {
            HeadKind::Scalar => self.scorer.rewards(&prompts)?.into_iter().map(Read::Reward).collect(),
            HeadKind::LanguageModel => {
                let labels: Vec<Vec<i32>> = batch.iter().map(|a| a.labels.clone()).collect();
                self.scorer.labels(&prompts, &labels)?.into_iter().map(Read::Labels).collect()
            }
        })
    }

    fn lose_writing(&self, e: Error) {
        let failure = if e.kind() == Kind::Interrupted { Failure::Stopped } else { Failure::Broken(e) };
        let mut state = lock(&self.shared.state);
        // Those that wait for a place would meet the same fate, again and again.
        state.start_writing(usize::MAX, &self.shared.counters);
        state.fail_writing(&failure);
    }
}

impl Feed for Engine<'_> {
    /// Between two steps of writing, one pass of scoring: a long text holds nobody up.
    fn more(&mut self, room: usize) -> Result<Vec<(u64, Request)>> {
        if let Some(step) = self.step.replace(Instant::now()) {
            self.shared.counters.step_seconds.note(step.elapsed().as_secs_f64());
        }
        let mut state = lock(&self.shared.state);
        let batch = if state.load.paused { Vec::new() } else { state.batch(self.sizes.pass, &self.shared.counters) };
        let started = state.start_writing(room, &self.shared.counters);
        drop(state);
        if !batch.is_empty() {
            self.score(&batch);
        }
        Ok(started)
    }

    fn wrote(&mut self, number: u64, written: &Written) -> Result<Flow> {
        let Some(top) = lock(&self.shared.state).wanted(number) else { return Ok(Flow::Drop) };
        let made = written.made;
        let stopped = written.ended && made.finish == generator::Finish::Stop;
        let mut events = Vec::new();
        if !stopped {
            let (id, logprob) = (made.tokens.last(), made.logprobs.last());
            let (id, logprob) = (*id.expect("a token came"), *logprob.expect("a token came"));
            let top = if top == 0 { Vec::new() } else { likeliest(&written.logits()?, top) };
            events.push(Event::Token { id, logprob, top });
            add(&self.shared.counters.written_tokens, 1);
        }
        if written.ended {
            add(&self.shared.counters.generations, 1);
        }
        lock(&self.shared.state).wrote(number, events, written.ended.then_some(made.finish));
        Ok(Flow::GoOn)
    }
}

/// The `n` likeliest tokens with their log-probabilities, likeliest first, lower ids first where they tie.
fn likeliest(logits: &[f32], n: usize) -> Vec<(i32, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| ((z - largest) as f64).exp()).sum();
    let lse = largest as f64 + sum.ln();
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_by(order);
    ids.into_iter().map(|i| (i as i32, (logits[i] as f64 - lse) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::likeliest;

    #[test]
    fn the_likeliest_tokens_come_in_order_and_ties_by_id() {
        let top = likeliest(&[1.0, 3.0, 2.0, 3.0], 3);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        let all: f64 = likeliest(&[1.0, 3.0, 2.0, 3.0], 9).iter().map(|t| (t.1 as f64).exp()).sum();
        assert!((all - 1.0).abs() < 1e-6, "{all}");
    }
}
