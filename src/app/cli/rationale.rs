//! The flags of a judge that reasons, and its answers as rows.

use super::console::remark;
use super::judge::into_map;
use super::rows::number;
use super::runtime::{JudgeFlags, Opened};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::generator::Shape;
use crate::model::config::HeadKind;
use crate::reward::rationale::{RationaleJudge, Reasoned, Settings, TEMPERATURE};
use crate::reward::vote::{Order, Rule};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// How to reason and vote. Every flag but the first needs the first.
#[derive(clap::Args, Clone, Debug)]
pub struct RationaleFlags {
    /// Let the model write a rationale, and read the probability of its verdict where it writes it
    #[arg(long)]
    pub rationale: bool,
    /// Replies for each of the two orders; above 1 they are sampled
    #[arg(long, default_value_t = 1, value_name = "K", requires = "rationale", value_parser = clap::value_parser!(u16).range(1..=256))]
    votes: u16,
    /// How votes are added up: by the probabilities of their labels, or by the labels
    #[arg(long, value_enum, default_value_t = VoteArg::Soft, requires = "rationale")]
    vote: VoteArg,
    /// Stop voting on a pair when its outcome is settled with this confidence, 0.95 if no number is given; 1 for certainty
    #[arg(long, value_name = "CONFIDENCE", num_args = 0..=1, default_missing_value = "0.95", requires = "rationale")]
    adaptive: Option<f64>,
    /// Temperature of the replies; by default 0 (greedy) for one vote and 0.75 for more
    #[arg(long, requires = "rationale")]
    temperature: Option<f32>,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, requires = "rationale")]
    top_p: f32,
    /// Longest reply; a longer one is cut, and invalid
    #[arg(long, default_value_t = 2048, value_name = "TOKENS", requires = "rationale")]
    max_tokens: usize,
    /// Replies that are written together; changes no result
    #[arg(long, default_value_t = 16, requires = "rationale")]
    batch: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VoteArg {
    Soft,
    Majority,
}

impl RationaleFlags {
    /// How to reason and vote; `seed` is of the votes: the same seed gives the same votes on a pair, whatever else is judged.
    ///
    /// # Errors
    /// Flags that mean nothing.
    pub fn settings(&self, seed: u64) -> Result<Settings> {
        let votes = self.votes as usize;
        let settings = Settings {
            votes,
            rule: match self.vote {
                VoteArg::Soft => Rule::Soft,
                VoteArg::Majority => Rule::Majority,
            },
            adaptive: self.adaptive,
            temperature: self.temperature.unwrap_or(if votes > 1 { TEMPERATURE } else { 0.0 }),
            top_p: self.top_p,
            max_tokens: self.max_tokens,
            seed,
        };
        settings.check()?;
        Ok(settings)
    }

    /// The judge that these flags describe.
    ///
    /// # Errors
    /// A model that cannot write; a template that asks for no rationale; memory that is not there.
    pub fn judge<'m>(
        &self,
        dev: &'m Device,
        flags: &JudgeFlags,
        opened: &'m Opened,
        settings: Settings,
    ) -> Result<RationaleJudge<'m>> {
        if opened.model.config.head != HeadKind::LanguageModel {
            return Err(Error::model("--rationale: this model has a scalar head and cannot write one"));
        }
        let shape = Shape { sequences: self.batch, context: opened.context };
        let prompts = flags.reasoning(opened)?;
        RationaleJudge::over(dev, &opened.models(), prompts, settings, shape, &opened.stop())
    }
}

/// An answer's row.
pub(in crate::app) fn object(r: &Reasoned) -> Map<String, Value> {
    let votes = &r.votes;
    let margin = |order| votes.margin(order).map_or(Value::Null, number);
    let tally = |order| {
        let t = votes.tally(order);
        json!({"a": t.a, "b": t.b, "invalid": t.invalid})
    };
    let [a, b] = votes.counts();
    let typical = r.typical();
    let reasons: Map<String, Value> = votes.reasons().iter().map(|(r, n)| (r.name().into(), json!(n))).collect();
    into_map(json!({
        "p_a": votes.p_a(),
        "margin_ab": margin(Order::Ab),
        "margin_ba": margin(Order::Ba),
        "label_mass": votes.label_mass(),
        "verdict": r.verdict().map_or("invalid", |side| side.name()),
        "consistent": r.consistent(),
        "rationale": typical.map(|v| v.rationale.as_str()),
        "rationale_order": typical.map(|v| v.order.name()),
        "votes": {"a": a, "b": b, "ab": tally(Order::Ab), "ba": tally(Order::Ba)},
        "invalid": votes.invalid.len(),
        "invalid_reasons": reasons,
        "tokens": {"prompt": r.prompt_tokens, "generated": r.generated_tokens},
    }))
}

/// What a whole run came to.
#[derive(Default)]
pub struct Totals {
    pairs: usize,
    votes: usize,
    invalid: usize,
    without: usize,
}

impl Totals {
    pub fn add(&mut self, r: &Reasoned) {
        self.pairs += 1;
        self.votes += r.votes.valid.len() + r.votes.invalid.len();
        self.invalid += r.votes.invalid.len();
        self.without += usize::from(r.verdict().is_none());
    }

    /// Says it on standard error.
    pub fn report(&self, judge: &RationaleJudge) {
        let counts = judge.counts();
        remark(format_args!(
            "{} votes on {} pairs, {} of them invalid; {} pairs without a verdict; {} prompt tokens read of {} asked, {} written",
            self.votes, self.pairs, self.invalid, self.without, counts.computed, counts.asked, counts.generated
        ));
    }
}
