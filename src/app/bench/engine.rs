//! Whole passes on random weights: prefill, decode, judging, ranking, a training step. Wall time, the host's work included.

mod passes;
mod workload;

use super::{Bound, Ceilings, Effort, Flush, Measured, Results, Seconds};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::model::config::Config;
use crate::ops::cost::Cost;
use passes::Bench;
use workload::CLOSE;

/// One kind of pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reading one prompt into the cache.
    Prefill,
    /// One more token for every sequence.
    Decode,
    /// Verdicts on ragged prompts, packed.
    Judge,
    /// Verdicts on all ordered pairs of answers to a prompt, shared beginnings computed once; and on some of them by themselves.
    Rank,
    /// Forward, backward and AdamW.
    Train,
}

impl Work {
    pub const ALL: [Work; 5] = [Work::Prefill, Work::Decode, Work::Judge, Work::Rank, Work::Train];
}

/// The sizes of the passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Passes {
    /// Tokens of a prompt and of a training step; judged prompts have an eighth of it to all of it.
    pub tokens: usize,
    /// Tokens of a scoring pass.
    pub pass: usize,
    /// Prompts that are judged: pairs in both orders.
    pub judged: usize,
    /// Sequences that decode together, one case each.
    pub sequences: Vec<usize>,
    /// Tokens that each of them writes.
    pub written: usize,
    /// Answers that are ranked, and their tokens.
    pub answers: [usize; 2],
    /// Tokens of the prompts that they answer, one case each.
    pub asked: Vec<usize>,
}

impl Passes {
    /// The goals' sizes: for GPUs.
    pub fn large() -> Passes {
        Passes {
            tokens: 4096,
            pass: 16384,
            judged: 32,
            sequences: vec![1, 32],
            written: 64,
            answers: [16, 400],
            asked: vec![500, 2000],
        }
    }
    /// For CPUs and some twenty million parameters.
    pub fn small() -> Passes {
        Passes {
            tokens: 512,
            pass: 2048,
            judged: 16,
            sequences: vec![1, 8],
            written: 32,
            answers: [4, 100],
            asked: vec![128],
        }
    }
    /// Enough to see that everything runs.
    pub fn tiny() -> Passes {
        Passes { tokens: 64, pass: 96, judged: 4, sequences: vec![1, 2], written: 6, answers: [3, 8], asked: vec![12] }
    }

    fn check(&self, config: &Config) -> Result<()> {
        let most = config.max_positions;
        if self.tokens < 16 || self.written < 2 || self.sequences.contains(&0) || self.tokens > most {
            return Err(Error::usage(format!(
                "a benchmark needs 16 to {most} tokens, 1 sequence or more and 2 written tokens or more"
            )));
        }
        let ranked = self.asked.iter().max().unwrap_or(&0) + 2 * self.answers[1] + CLOSE;
        match ranked > most {
            true => Err(Error::usage(format!("ranking reads {ranked} tokens, the model {most}"))),
            false => Ok(()),
        }
    }
}

/// What the cases are called. `model` is the shape's name.
pub mod names {
    use crate::base::dtype::Dtype;

    pub fn prefill(model: &str, e: Dtype, tokens: usize) -> String {
        format!("prefill {model} {e}, {tokens} tokens")
    }
    pub fn decode(model: &str, e: Dtype, sequences: usize, tokens: usize) -> String {
        format!("decode {model} {e}, {sequences} x {tokens} tokens")
    }
    pub fn judge(model: &str, e: Dtype, prompts: usize, tokens: usize) -> String {
        format!("judge {model} {e}, {prompts} prompts of {} to {tokens} tokens", tokens / 8)
    }
    pub fn rank(model: &str, e: Dtype, [answers, answer]: [usize; 2], prompt: usize) -> String {
        format!("rank {model} {e}, {answers} answers of {answer} to {prompt} tokens")
    }
    /// Without sharing, some of the pairs.
    pub fn flat(model: &str, e: Dtype, [answers, answer]: [usize; 2], prompt: usize) -> String {
        format!("pairs {model} {e}, {answers} answers of {answer} to {prompt} tokens")
    }
    pub fn train(model: &str, e: Dtype, tokens: usize) -> String {
        format!("train {model} {e}, {tokens} tokens")
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the model's shape is called.
    pub model: String,
    pub config: Config,
    pub dtype: Dtype,
    pub work: Vec<Work>,
    pub passes: Passes,
    pub effort: Effort,
    /// As in [`super::kernels::Sizes`].
    pub copied: usize,
    pub square: usize,
}

/// Measures; `told` is given what there is so far after each pass, and a line about that pass.
///
/// # Errors
/// Sizes that do not fit together; a device that fails. A pass without room is left out.
pub fn run(dev: &Device, plan: &Plan, told: impl FnMut(&Results, String) -> Result<()>) -> Result<Results> {
    plan.passes.check(&plan.config)?;
    let flush = Flush::new(dev, plan.effort.flushed)?;
    let ceilings = Ceilings::measure(dev, &plan.effort, &flush, plan.dtype, plan.copied, plan.square)?;
    drop(flush);
    let mut found = Found { results: Results::new("engine", dev, ceilings), told };
    let model = Model::random(plan.config.clone(), plan.dtype, 1)?.on(dev)?;
    let bench = Bench { dev, model: &model, plan };
    let (name, e, p) = (plan.model.as_str(), plan.dtype, &plan.passes);
    for work in Work::ALL.into_iter().filter(|w| plan.work.contains(w)) {
        match work {
            Work::Prefill => found.add(names::prefill(name, e, p.tokens), || bench.prefill())?,
            Work::Judge => found.add(names::judge(name, e, p.judged, p.tokens), || bench.judge())?,
            Work::Decode => {
                for n in &p.sequences {
                    found.add(names::decode(name, e, *n, p.tokens), || bench.decode(*n))?;
                }
            }
            Work::Rank => {
                for prompt in &p.asked {
                    found.add(names::rank(name, e, p.answers, *prompt), || bench.rank(*prompt))?;
                    found.add(names::flat(name, e, p.answers, *prompt), || bench.flat(*prompt))?;
                }
            }
            // The trainer takes the model, so it comes last.
            Work::Train => {}
        }
    }
    if plan.work.contains(&Work::Train) {
        found.add(names::train(name, e, p.tokens), || passes::train(dev, model, plan))?;
    }
    Ok(found.results)
}

/// A pass that was timed: how long, what it costs, how many tokens it computes.
struct Timed {
    seconds: Seconds,
    cost: Cost,
    tokens: usize,
    /// As in [`Measured`].
    effective: Option<usize>,
    way: Option<String>,
}

struct Found<T> {
    results: Results,
    told: T,
}

impl<T: FnMut(&Results, String) -> Result<()>> Found<T> {
    fn add(&mut self, name: String, measure: impl FnOnce() -> Result<Timed>) -> Result<()> {
        let line = match measure() {
            Ok(Timed { seconds, cost, tokens, effective, way }) => {
                let bare = Measured::new(name, cost, Bound::Either, seconds, &self.results.ceilings);
                let (tokens, effective) = (Some(tokens as f64), effective.map(|n| n as f64));
                self.results.add(Measured { tokens, effective, way, ..bare })
            }
            Err(e) if e.kind() == Kind::Device && e.to_string().contains("memory") => {
                self.results.leave_out(name, e.to_string())
            }
            Err(e) => return Err(e.at(name)),
        };
        (self.told)(&self.results, line)
    }
}
