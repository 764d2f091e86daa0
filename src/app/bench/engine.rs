//! Whole passes on random weights: prefill, decode, judging, a training step. Wall time, the host's work included.

use super::results::{FORMAT, LeftOut};
use super::{Bound, Ceilings, Effort, Environment, Flush, Measured, Results, Seconds};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::generator::{self, Generator, Request};
use crate::infer::scorer::{self, Scorer};
use crate::model::Model;
use crate::model::acts::Keep;
use crate::model::config::Config;
use crate::model::cost::forward_flops;
use crate::ops::cost::Cost;
use crate::text::encode::Item;
use crate::train::objective::{self, Over, Reduction};
use crate::train::optim::{self, Method, Optimizer};
use crate::train::trainer::{self, Trainer};
use std::time::Instant;

/// One kind of pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reading one prompt into the cache.
    Prefill,
    /// One more token for every sequence.
    Decode,
    /// Verdicts on ragged prompts, packed.
    Judge,
    /// Forward, backward and AdamW.
    Train,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    pub config: Config,
    pub dtype: Dtype,
    pub work: Vec<Work>,
    /// Tokens of a prompt, of a scoring pass and of a micro-batch.
    pub tokens: usize,
    /// Sequences that decode together.
    pub sequences: usize,
    /// Tokens that each of them writes.
    pub written: usize,
    pub effort: Effort,
    /// As in [`super::kernels::Sizes`].
    pub copied: usize,
    pub square: usize,
}

/// Measures; `told` hears of each pass as it is done.
///
/// # Errors
/// Sizes that do not fit together; a device that fails. A pass without room is left out.
pub fn run(dev: &Device, plan: &Plan, mut told: impl FnMut(&Measured)) -> Result<Results> {
    if plan.tokens < 16 || plan.written < 2 || plan.sequences == 0 || plan.tokens > plan.config.max_positions {
        let most = plan.config.max_positions;
        return Err(Error::usage(format!(
            "a benchmark needs 16 to {most} tokens, 1 sequence or more and 2 written tokens or more"
        )));
    }
    let flush = Flush::new(dev, plan.effort.flushed)?;
    let ceilings = Ceilings::measure(dev, &plan.effort, &flush, plan.dtype, plan.copied, plan.square)?;
    drop(flush);
    let mut found = Found { ceilings, cases: Vec::new(), left_out: Vec::new(), told: &mut told };
    let model = Model::random(plan.config.clone(), plan.dtype, 1)?.on(dev)?;
    for work in [Work::Prefill, Work::Decode, Work::Judge] {
        if plan.work.contains(&work) {
            let bench = Bench { dev, model: &model, plan };
            found.add(bench.name(work), || match work {
                Work::Prefill => bench.prefill(),
                Work::Decode => bench.decode(),
                _ => bench.judge(),
            })?;
        }
    }
    if plan.work.contains(&Work::Train) {
        let name = Bench { dev, model: &model, plan }.name(Work::Train);
        found.add(name, || train(dev, model, plan))?;
    }
    let Found { cases, left_out, .. } = found;
    let benchmark = "engine".to_string();
    Ok(Results { format: FORMAT, benchmark, environment: Environment::of(dev), ceilings, cases, left_out })
}

/// A pass that was timed: how long, what it costs, how many tokens.
struct Timed {
    seconds: Seconds,
    cost: Cost,
    tokens: f64,
}

struct Found<'a> {
    ceilings: Ceilings,
    cases: Vec<Measured>,
    left_out: Vec<LeftOut>,
    told: &'a mut dyn FnMut(&Measured),
}

impl Found<'_> {
    fn add(&mut self, name: String, measure: impl FnOnce() -> Result<Timed>) -> Result<()> {
        match measure() {
            Ok(Timed { seconds, cost, tokens }) => {
                let of_ceiling = self.ceilings.seconds(&cost, Bound::Either) / seconds.median;
                let Cost { bytes, flops } = cost;
                let bound = Bound::Either;
                let case = Measured { name, bytes, flops, bound, seconds, of_ceiling, tokens: Some(tokens) };
                (self.told)(&case);
                self.cases.push(case);
            }
            Err(e) if e.kind() == Kind::Device && e.to_string().contains("memory") => {
                self.left_out.push(LeftOut { name, reason: e.to_string() });
            }
            Err(e) => return Err(e.at(name)),
        }
        Ok(())
    }
}

struct Bench<'a> {
    dev: &'a Device,
    model: &'a Model,
    plan: &'a Plan,
}

impl Bench<'_> {
    fn name(&self, work: Work) -> String {
        let Plan { dtype, tokens, sequences, config, .. } = self.plan;
        let model = format!("{} {:.1}M {dtype}", config.family.name(), self.model.parameters() as f64 / 1e6);
        match work {
            Work::Prefill => format!("prefill {model}, {tokens} tokens"),
            Work::Decode => format!("decode {model}, {sequences} sequences of {tokens} tokens"),
            Work::Judge => format!("judge {model}, prompts of {} to {} tokens", tokens / 8, tokens / 2),
            Work::Train if *dtype == Dtype::Bf16 => {
                format!("train {model}, {tokens} tokens, adamw-8bit, bf16 gradients")
            }
            Work::Train => format!("train {model}, {tokens} tokens"),
        }
    }

    /// Token ids that differ from each other and from row to row.
    fn ids(&self, row: usize, n: usize) -> Vec<i32> {
        (0..n).map(|i| ((i * 7919 + row * 104_729 + 3) % self.plan.config.vocab) as i32).collect()
    }

    /// Bytes of the weights that every pass reads: the look-up table only where it is the head too.
    fn weights(&self) -> f64 {
        let table = if self.plan.config.tied { 0 } else { self.plan.config.vocab * self.plan.config.width };
        ((self.model.parameters() - table) * self.plan.dtype.size()) as f64
    }

    fn samples(&self, mut pass: impl FnMut() -> Result<f64>) -> Result<Seconds> {
        pass()?;
        let samples = (0..self.plan.effort.samples).map(|_| pass()).collect::<Result<Vec<_>>>()?;
        Ok(Seconds::of(samples))
    }

    fn requests(&self, written: usize, sequences: usize, prompt: usize) -> Vec<Request> {
        let settings = generator::Settings { max_tokens: written, ..generator::Settings::default() };
        (0..sequences).map(|row| Request { prompt: self.ids(row, prompt), settings }).collect()
    }

    fn prefill(&self) -> Result<Timed> {
        let tokens = self.plan.tokens - 1;
        let shape = generator::Shape { sequences: 1, context: self.plan.tokens };
        let mut generator = Generator::new(self.dev, self.model, shape, &[])?;
        let requests = self.requests(1, 1, tokens);
        let seconds = self.samples(|| {
            let start = Instant::now();
            generator.generate(&requests, |_, _| {})?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let flops = forward_flops(&self.plan.config, [tokens].into_iter(), 1);
        Ok(Timed { seconds, cost: Cost { bytes: self.weights(), flops }, tokens: tokens as f64 })
    }

    /// The time of a whole batch less that of its prefill, divided by the steps.
    fn decode(&self) -> Result<Timed> {
        let Plan { tokens, sequences, written, dtype, ref config, .. } = *self.plan;
        let prompt = tokens.saturating_sub(written).max(1);
        let shape = generator::Shape { sequences, context: prompt + written };
        let mut generator = Generator::new(self.dev, self.model, shape, &[])?;
        let (short, long) = (self.requests(1, sequences, prompt), self.requests(written, sequences, prompt));
        let seconds = self.samples(|| {
            let mut elapsed = |requests: &[Request]| -> Result<f64> {
                let start = Instant::now();
                generator.generate(requests, |_, _| {})?;
                Ok(start.elapsed().as_secs_f64())
            };
            let prefill = elapsed(&short)?;
            Ok((elapsed(&long)? - prefill).max(1e-9) / (written - 1) as f64)
        })?;
        // On average half of what is written is there already.
        let keys = sequences * (prompt + written / 2);
        let cached = (config.layers * 2 * config.heads.kv * config.heads.size * dtype.size() * keys) as f64;
        let rows = forward_flops(config, std::iter::repeat_n(1, sequences), sequences);
        let attention = (4 * config.layers * config.heads.query * config.heads.size * keys) as f64;
        let cost = Cost { bytes: self.weights() + cached, flops: rows + attention };
        Ok(Timed { seconds, cost, tokens: sequences as f64 })
    }

    fn judge(&self) -> Result<Timed> {
        let most = self.plan.tokens / 2;
        // Spread evenly from a quarter of the longest to the longest.
        let lengths: Vec<usize> = (0..16).map(|i| most / 4 + (most - most / 4) * (i * 7 % 16) / 15).collect();
        let prompts: Vec<Vec<i32>> = lengths.iter().enumerate().map(|(row, n)| self.ids(row, *n)).collect();
        let shape = scorer::Shape { context: most, pass: self.plan.tokens };
        let mut scorer = Scorer::new(self.dev, self.model, shape)?;
        let seconds = self.samples(|| {
            let start = Instant::now();
            scorer.verdicts(&prompts, [1, 2])?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let flops = forward_flops(&self.plan.config, lengths.iter().copied(), 0);
        let passes = lengths.iter().sum::<usize>().div_ceil(self.plan.tokens) as f64;
        let cost = Cost { bytes: passes * self.weights(), flops };
        Ok(Timed { seconds, cost, tokens: lengths.iter().sum::<usize>() as f64 })
    }
}

/// AdamW; with bf16 weights the leanest form, so that a model of 8 billion parameters fits one GPU.
fn optimizer(weights: Dtype) -> optim::Settings {
    let settings = optim::Settings { beta2: 0.95, weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    match weights {
        Dtype::Bf16 => optim::Settings { method: Method::AdamW8bit, gradients: Dtype::Bf16, ..settings },
        _ => settings,
    }
}

fn train(dev: &Device, model: Model, plan: &Plan) -> Result<Timed> {
    let parameters = model.parameters();
    let bench = Bench { dev, model: &model, plan };
    let tokens = plan.tokens;
    let items = [Item::Tokens { ids: bench.ids(0, tokens), start: 1 }];
    let settings = optimizer(plan.dtype);
    let objective = objective::Settings {
        labels: [0, 1],
        smoothing: 0.0,
        over: Over::Candidates,
        reduction: Reduction::Mean,
        pad: None,
    };
    let shape = trainer::Shape { micro_tokens: tokens, keep: Keep::Costly, objective };
    let state = Optimizer::bytes(&model.layout, plan.dtype, settings.method);
    let mut trainer = Trainer::new(dev, model, settings, shape)?;
    let mut samples = Vec::new();
    for sample in 0..=plan.effort.samples {
        let start = Instant::now();
        trainer.step(&items, 1e-5)?;
        dev.sync()?;
        if sample > 0 {
            samples.push(start.elapsed().as_secs_f64());
        }
    }
    let flops = 3.0 * forward_flops(&plan.config, [tokens].into_iter(), tokens - 1);
    // Weights read twice and written once; gradients and the optimizer's state read and written once.
    let gradient = settings.gradients_of(plan.dtype).size();
    let bytes = (parameters * (3 * plan.dtype.size() + 2 * gradient) + 2 * state) as f64;
    Ok(Timed { seconds: Seconds::of(samples), cost: Cost { bytes, flops }, tokens: tokens as f64 })
}
