//! `gramophone prove`: rationales for labelled pairs.

use super::console::remark;
use super::judge::into_map;
use super::rows::{Output, Request, select};
use super::runtime::{Files, ModelFlags, Opened, Runtime};
use crate::error::{Error, Result};
use crate::reward::prove::{Encoded, Prompts, Proofs, Prover, Settings, Shape};
use crate::text::dataset::{Purpose, one};
use crate::text::example::Reason;
use crate::text::format::Format;
use crate::text::proof::{Checks, Leaks, Loops, Rule};
use crate::text::proving::{Claim, ProvingTemplate};
use crate::text::source::Row;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Reads labelled pairs in any format that training reads, and writes {"id", "prompt", "response_a", "response_b", "label", "rationale",
/// "proof", "score", "logprob", "logprob_alone", "tokens", "sound", "flaws"} for those that could be proved. The rows train a judge
/// (stage sft) or another prover (stage prove). score is -logprob/logprob_alone: the log-probability of the proof's
/// tokens given the pair and its label, over that in isolation.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Where rows without a sound proof go, each with its reason
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Proving prompt: a text file with the fields {prompt}, {response_a}, {response_b} and {label}; ours if not given
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleFlags,
    /// Proofs of each pair, of which the best is kept
    #[arg(long, short = 'k', default_value_t = 4, value_name = "N")]
    proofs: usize,
    /// 0 always takes the likeliest token, which makes all proofs of a pair the same
    #[arg(long, default_value_t = 0.75)]
    temperature: f32,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Longest proof; longer ones are rejected
    #[arg(long, default_value_t = 2048)]
    max_tokens: usize,
    /// The same seed gives the same proofs, whatever else is in the batch
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Proofs that are written together
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

/// The forms of rationales and proofs, and the rules a proof must keep.
#[derive(clap::Args, Clone, Debug)]
struct RuleFlags {
    /// Layout of rationales: a text file with {label} and fields for sections; ours if not given
    #[arg(long, value_name = "FILE")]
    rationale_form: Option<PathBuf>,
    /// Layout of proofs, with the same fields; ours if not given
    #[arg(long, value_name = "FILE")]
    proof_form: Option<PathBuf>,
    /// Longest rationale, in the prover's tokens
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    max_rationale: usize,
    /// A run of so many words that stands in a proof more than --loop-times times is a loop; 0 for no such rule
    #[arg(long, default_value_t = 8, value_name = "WORDS")]
    loop_words: usize,
    #[arg(long, default_value_t = 3, value_name = "N")]
    loop_times: usize,
    /// A further phrase that betrays the label; may be given several times
    #[arg(long, value_name = "PHRASE")]
    leak: Vec<String>,
    /// What of the question matches this pattern must stand in the proof, all of it and in order; may be given several times
    #[arg(long, value_name = "REGEX")]
    quote: Vec<String>,
    /// What the rationale must match if A is better; {prompt}, {response_a} and {response_b} stand for the pair's own texts
    #[arg(long, value_name = "REGEX")]
    demand_a: Option<String>,
    /// The same if B is better
    #[arg(long, value_name = "REGEX")]
    demand_b: Option<String>,
}

impl RuleFlags {
    fn rule(&self) -> Result<Rule> {
        Rule::open(self.rationale_form.as_deref(), self.proof_form.as_deref())
    }

    fn checks(&self) -> Result<Checks> {
        let mut leaks = Leaks::standard();
        leaks.0.extend(self.leak.clone());
        let loops = Loops { words: self.loop_words, times: self.loop_times };
        let checks = Checks { max_tokens: self.max_rationale, loops, leaks, ..Checks::default() };
        checks.with_patterns(&self.quote, [self.demand_a.clone(), self.demand_b.clone()])
    }
}

/// A row that was understood.
enum Item {
    Claim(Encoded),
    /// It has no label to prove.
    Left(Reason),
}

pub fn run(args: Args) -> Result<()> {
    let settings = Settings {
        proofs: args.proofs,
        temperature: args.temperature,
        top_p: args.top_p,
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    settings.check()?;
    let template = ProvingTemplate::open(args.template.as_deref())?;
    let (rule, checks) = (args.rules.rule()?, args.rules.checks()?);
    let dev = args.runtime.place.open()?;
    let opened: Opened = args.model.open(&dev, &args.runtime)?;
    let prompts = Prompts::new(opened.chat()?, template, rule, checks).map_err(|e| opened.place(e))?;
    let shape = Shape { sequences: args.batch, context: opened.context, pass: opened.scorer().pass };
    let mut prover = Prover::new(&dev, &opened.model, prompts.clone(), settings, shape)?;
    let mut rejects = args.rejects.as_ref().map(|path| Output::create(path, &args.files.input)).transpose()?;
    let (context, mut format, mut counts) = (prover.context(), None, Counts::default());
    let parse = |row: &Row| {
        let format = match format {
            Some(format) => format,
            None => *format.insert(Format::detect(&row.value)?),
        };
        let claim = one(format, &row.value, Purpose::Claims)?.and_then(|example| Claim::of(example, args.seed));
        let encoded = match claim {
            Ok((claim, _)) => prompts.encode(claim)?,
            Err(Reason::WrongKind) => return Err(no_label(row)),
            Err(reason) => return Ok((Item::Left(reason), 0)),
        };
        if encoded.ids.len() >= context {
            return Err(Error::data(format!(
                "the proving prompt has {} tokens and leaves no room for a proof in a context of {context}; \
                 shorten it or raise --context",
                encoded.ids.len()
            )));
        }
        let tokens = encoded.ids.len() * args.proofs;
        Ok((Item::Claim(encoded), tokens))
    };
    select(&args.files, "pairs", parse, |batch: &[Request<Item>]| {
        let claims: Vec<Encoded> = batch.iter().filter_map(|r| r.item.claim().cloned()).collect();
        let mut proved = prover.prove(&claims).map_err(|e| opened.place(e))?.into_iter();
        let mut rows = Vec::with_capacity(batch.len());
        for request in batch {
            let (accepted, rejected) = match &request.item {
                Item::Left(reason) => {
                    counts.left(reason.text());
                    (None, Some(into_map(json!({"reason": reason.text()}))))
                }
                Item::Claim(encoded) => {
                    let proofs = proved.next().expect("every claim is answered");
                    counts.add(&proofs);
                    (proofs.accepted(&encoded.claim), proofs.rejected(&encoded.claim))
                }
            };
            if let (Some(mut row), Some(rejects)) = (rejected, &mut rejects) {
                row.shift_insert(0, "id".into(), request.id.clone());
                rejects.line(&row)?;
            }
            rows.push(accepted);
        }
        Ok(rows)
    })?;
    rejects.map_or(Ok(()), Output::finish)?;
    remark(counts.summary());
    Ok(())
}

impl Item {
    fn claim(&self) -> Option<&Encoded> {
        match self {
            Item::Claim(encoded) => Some(encoded),
            Item::Left(_) => None,
        }
    }
}

fn no_label(row: &Row) -> Error {
    let have: Vec<&str> = row.value.keys().map(String::as_str).collect();
    Error::data(format!(
        "this is no labelled pair: the row has {}; a prover needs two responses and a \"label\", or \"chosen\" and \"rejected\"",
        have.join(", ")
    ))
}

/// What became of the rows.
#[derive(Default)]
struct Counts {
    rows: usize,
    proved: usize,
    proofs: usize,
    sound: usize,
    /// Rows without a proof, by reason, and proofs, by flaw.
    reasons: BTreeMap<&'static str, usize>,
    flaws: BTreeMap<&'static str, usize>,
}

impl Counts {
    fn left(&mut self, reason: &'static str) {
        self.rows += 1;
        *self.reasons.entry(reason).or_default() += 1;
    }

    fn add(&mut self, proofs: &Proofs) {
        self.rows += 1;
        self.proved += usize::from(proofs.best.is_some());
        self.sound += proofs.sound;
        self.proofs += proofs.sound + proofs.flaws.values().sum::<usize>();
        for (flaw, n) in &proofs.flaws {
            *self.flaws.entry(flaw.name()).or_default() += n;
        }
        if let Some(reason) = proofs.reason() {
            *self.reasons.entry(reason.name()).or_default() += 1;
        }
    }

    fn summary(&self) -> String {
        let list = |counts: &BTreeMap<&str, usize>| {
            let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
            if parts.is_empty() { String::new() } else { format!(" (not: {})", parts.join(", ")) }
        };
        format!(
            "proved {} of {} pairs{}; {} of {} proofs are sound{}",
            self.proved,
            self.rows,
            list(&self.reasons),
            self.sound,
            self.proofs,
            list(&self.flaws)
        )
    }
}
