//! The passes and their times.

use super::workload::{self, CLOSE};
use super::{Passes, Plan, Timed};
use crate::app::bench::Seconds;
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::Result;
use crate::infer::generator::{self, Generator, Request};
use crate::infer::scorer::{self, Scorer, Sharing};
use crate::infer::trie::{Run, Trie};
use crate::model::Model;
use crate::model::acts::Keep;
use crate::model::config::Config;
use crate::model::cost::forward_flops;
use crate::ops::cost::Cost;
use crate::text::encode::Item;
use crate::train::objective::{self, Over, Reduction};
use crate::train::optim::{self, Method, Optimizer};
use crate::train::trainer::{self, Trainer};
use std::cell::RefCell;
use std::time::Instant;

pub(super) struct Bench<'a> {
    pub dev: &'a Device,
    pub model: &'a Model,
    pub plan: &'a Plan,
}

impl Bench<'_> {
    fn ids(&self, row: usize, n: usize) -> Vec<i32> {
        workload::ids(self.plan.config.vocab, row, n)
    }

    /// Bytes of the weights that every pass reads: the look-up table only where it is the head too.
    fn weights(&self) -> f64 {
        let table = if self.plan.config.tied { 0 } else { self.plan.config.vocab * self.plan.config.width };
        ((self.model.parameters() - table) * self.plan.dtype.size()) as f64
    }

    /// Times of a pass, after one that loads kernels and touches pages.
    fn samples(&self, mut pass: impl FnMut() -> Result<()>) -> Result<Seconds> {
        pass()?;
        let mut timed = || {
            let start = Instant::now();
            pass()?;
            Ok(start.elapsed().as_secs_f64())
        };
        Ok(Seconds::of((0..self.plan.effort.samples).map(|_| timed()).collect::<Result<Vec<_>>>()?))
    }

    fn requests(&self, written: usize, sequences: usize, prompt: usize) -> Vec<Request> {
        let settings = generator::Settings { max_tokens: written, ..generator::Settings::default() };
        (0..sequences).map(|row| Request { prompt: self.ids(row, prompt), settings }).collect()
    }

    pub fn prefill(&self) -> Result<Timed> {
        let tokens = self.plan.passes.tokens - 1;
        let shape = generator::Shape { sequences: 1, context: tokens + 1 };
        let mut generator = Generator::new(self.dev, self.model, shape, &[])?;
        let requests = self.requests(1, 1, tokens);
        let seconds = self.samples(|| generator.generate(&requests, |_, _| {}).map(drop))?;
        let flops = forward_flops(&self.plan.config, [tokens].into_iter(), 1);
        Ok(Timed { seconds, cost: Cost { bytes: self.weights(), flops }, tokens, effective: None, way: None })
    }

    /// The times of single steps, once every sequence has begun.
    pub fn decode(&self, sequences: usize) -> Result<Timed> {
        let Plan { dtype, ref config, passes: Passes { tokens, written, .. }, .. } = *self.plan;
        let prompt = tokens.saturating_sub(written).max(1);
        let shape = generator::Shape { sequences, context: prompt + written };
        let mut generator = Generator::new(self.dev, self.model, shape, &[])?;
        // The generator asks before every step whether to stop.
        let asked = RefCell::new(Vec::new());
        let requests = self.requests(written, sequences, prompt);
        generator.generate_until(&requests, |_, _| {}, &|| {
            asked.borrow_mut().push(Instant::now());
            false
        })?;
        let mut times = asked.into_inner();
        times.push(Instant::now());
        // Prefill gave the first token. The first steps load kernels and record graphs.
        let (steps, begin) = (written - 1, 3.min((written - 1) / 2));
        let last = &times[times.len() - 1 - (steps - begin)..];
        let seconds = Seconds::of(last.windows(2).map(|w| (w[1] - w[0]).as_secs_f64().max(1e-9)).collect());
        // On average half of what is written is there already.
        let keys = sequences * (prompt + written / 2);
        let cached = (config.layers * 2 * config.heads.kv * config.heads.size * dtype.size() * keys) as f64;
        let rows = forward_flops(config, std::iter::repeat_n(1, sequences), sequences);
        let attention = (4 * config.layers * config.heads.query * config.heads.size * keys) as f64;
        let cost = Cost { bytes: self.weights() + cached, flops: rows + attention };
        Ok(Timed { seconds, cost, tokens: sequences, effective: None, way: None })
    }

    pub fn judge(&self) -> Result<Timed> {
        let Passes { judged, tokens, .. } = self.plan.passes;
        let lengths = workload::lengths(judged, tokens);
        self.score(lengths.iter().enumerate().map(|(row, n)| self.ids(row, *n)).collect(), Sharing::Never)
    }

    /// All ordered pairs, every token of their trie once.
    pub fn rank(&self, question: usize) -> Result<Timed> {
        self.score(self.pairs(question), Sharing::Always)
    }

    /// Some of the pairs, each by itself.
    pub fn flat(&self, question: usize) -> Result<Timed> {
        let pairs = self.pairs(question);
        let stride = workload::stride(pairs.len());
        self.score(pairs.into_iter().step_by(stride).collect(), Sharing::Never)
    }

    fn pairs(&self, question: usize) -> Vec<Vec<i32>> {
        workload::pairs(self.plan.config.vocab, question, self.plan.passes.answers)
    }

    fn score(&self, prompts: Vec<Vec<i32>>, sharing: Sharing) -> Result<Timed> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(CLOSE);
        let shape = scorer::Shape { context: longest, pass: self.plan.passes.pass };
        let mut scorer = Scorer::new(self.dev, self.model, shape)?;
        scorer.share(sharing);
        let seconds = self.samples(|| scorer.verdicts(&prompts, [1, 2]).map(drop))?;
        let (c, flat) = (&self.plan.config, prompts.iter().map(Vec::len).sum::<usize>());
        let (flops, tokens) = match sharing {
            Sharing::Never => (forward_flops(c, prompts.iter().map(Vec::len), 0), flat),
            _ => {
                let trie = Trie::new(&prompts);
                (shared_flops(c, trie.runs()), trie.tokens().computed)
            }
        };
        let cost = Cost { bytes: tokens.div_ceil(scorer.pass_tokens()) as f64 * self.weights(), flops };
        let effective = (sharing != Sharing::Never).then_some(flat);
        Ok(Timed { seconds, cost, tokens, effective, way: None })
    }
}

/// A forward over the runs of a trie: each costs what its sequence does, less what the beginning that it goes on from does.
fn shared_flops(config: &Config, runs: &[Run]) -> f64 {
    let up_to = |n: usize| forward_flops(config, [n].into_iter(), 0);
    runs.iter().map(|run| up_to(run.tokens.end) - up_to(run.tokens.start)).sum()
}

/// AdamW; with bf16 weights the leanest form, so that a model of 8 billion parameters fits one GPU.
fn optimizer(weights: Dtype) -> (optim::Settings, &'static str) {
    let settings = optim::Settings { beta2: 0.95, weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    match weights {
        Dtype::Bf16 => {
            let lean = optim::Settings { method: Method::AdamW8bit, gradients: Dtype::Bf16, ..settings };
            (lean, "adamw-8bit, bf16 gradients")
        }
        _ => (settings, "adamw"),
    }
}

/// One sequence, loss on every token but the first.
pub(super) fn train(dev: &Device, model: Model, plan: &Plan) -> Result<Timed> {
    let (parameters, tokens) = (model.parameters(), plan.passes.tokens);
    let items = [Item::Tokens { ids: workload::ids(plan.config.vocab, 0, tokens), start: 1 }];
    let (settings, way) = optimizer(plan.dtype);
    let objective = objective::Settings {
        labels: [0, 1],
        smoothing: 0.0,
        over: Over::Candidates,
        reduction: Reduction::Mean,
        pad: None,
    };
    let shape = trainer::Shape { micro_tokens: tokens, keep: Keep::Costly, objective };
    let state: usize = Optimizer::allocations(&model.layout, plan.dtype, settings.method).iter().sum();
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
    let cost = Cost { bytes, flops };
    Ok(Timed { seconds: Seconds::of(samples), cost, tokens, effective: None, way: Some(way.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Family;

    #[test]
    fn a_shared_pass_costs_less_by_what_is_shared() {
        let config = Config::tiny(Family::Qwen3);
        let prompts = [vec![1, 2, 3, 4], vec![1, 2, 3, 5, 6], vec![1, 2, 7]];
        let whole = |lengths: &[usize]| forward_flops(&config, lengths.iter().copied(), 0);
        let trie = Trie::new(&prompts);
        assert_eq!(trie.tokens().computed, 7);
        assert_eq!(shared_flops(&config, trie.runs()), whole(&[4, 5, 3]) - whole(&[3, 2]));
    }
}
