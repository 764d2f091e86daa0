//! Models at work within a unit: the judge that votes, the prover that proves. Each is opened when the first unit needs it.

use super::config::SelfTrain;
use super::rows::{PROMPT_TOO_LONG, Pooled, Voted, push, voted};
use super::store::Store;
use super::votes::Ballot;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::generator::Shape;
use crate::model::Model;
use crate::reward::judge::Pair;
use crate::reward::prove::{self, Prover, fields, pair};
use crate::reward::rationale::{self, RationaleJudge};
use crate::text::labels::NAMES;
use crate::text::proving::Lesson;
use crate::text::tokenizer::Tokenizer;
use crate::train::config::Run;
use crate::train::{data, run};
use serde_json::{Map, Value, json};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of one scoring pass.
const PASS: usize = 4096;

/// A set of pairs and who is to work on it.
pub struct Work<'a> {
    pub dev: &'a Device,
    pub file: &'a SelfTrain,
    /// The model's directory.
    pub model: &'a Path,
    /// What its units are called: `round-1/votes` gives `round-1/votes-00000.jsonl` and so on.
    pub name: &'a str,
    /// Asked before each token; a unit that is given up leaves nothing.
    pub stop: &'a dyn Fn() -> bool,
}

impl Work<'_> {
    /// The judge's votes on each pair, one file for each unit of pairs.
    ///
    /// # Errors
    /// As [`Store::file`] and [`RationaleJudge::judge`].
    pub fn vote(&self, store: &mut Store, pairs: &[Pooled], settings: rationale::Settings) -> Result<Vec<PathBuf>> {
        let (model, mut judge) = (OnceCell::new(), None);
        self.units(store, pairs, |pairs| {
            let judge = match &mut judge {
                Some(judge) => judge,
                none => none.insert(self.judge(self.open(&model)?, settings)?),
            };
            vote(judge, pairs, self.stop)
        })
    }

    /// Proofs of each pair's label, one file for each unit of pairs.
    ///
    /// # Errors
    /// As [`Store::file`] and [`Prover::prove`].
    pub fn prove(&self, store: &mut Store, pairs: &[Pooled]) -> Result<Vec<PathBuf>> {
        let (model, mut prover) = (OnceCell::new(), None);
        self.units(store, pairs, |pairs| {
            let prover = match &mut prover {
                Some(prover) => prover,
                none => none.insert(self.prover(self.open(&model)?)?),
            };
            prove(prover, pairs, self.stop)
        })
    }

    fn units(
        &self,
        store: &mut Store,
        pairs: &[Pooled],
        mut make: impl FnMut(&[Pooled]) -> Result<Vec<u8>>,
    ) -> Result<Vec<PathBuf>> {
        let unit = self.file.table.pipeline.unit as usize;
        let numbered = pairs.chunks(unit).enumerate();
        numbered.map(|(i, pairs)| store.file(&format!("{}-{i:05}.jsonl", self.name), || make(pairs))).collect()
    }

    fn open<'m>(&self, model: &'m OnceCell<Model>) -> Result<&'m Model> {
        if model.get().is_none() {
            let opened = Model::open(self.model, |stored| stored)?.on(self.dev)?;
            assert!(model.set(opened).is_ok(), "it was empty");
        }
        Ok(model.get().expect("it is open"))
    }

    fn judge<'m>(&self, model: &'m Model, settings: rationale::Settings) -> Result<RationaleJudge<'m>>
    where
        Self: 'm,
    {
        let tokenizer = Arc::new(Tokenizer::open(self.model)?);
        let stop = stop(model, &tokenizer);
        let prompts = judge_prompts(&self.file.reward, tokenizer)?;
        let reward = &self.file.table.reward;
        let shape = Shape { sequences: reward.batch as usize, context: reward.context as usize };
        RationaleJudge::new(self.dev, model, prompts, settings, shape, &stop)
    }

    fn prover<'m>(&self, model: &'m Model) -> Result<Prover<'m>>
    where
        Self: 'm,
    {
        let prompts = prover_prompts(self.file, Arc::new(Tokenizer::open(self.model)?))?;
        let table = &self.file.table;
        let settings = prove::Settings {
            proofs: table.prover.proofs as usize,
            temperature: table.prover.temperature as f32,
            top_p: table.prover.top_p as f32,
            max_tokens: table.prover.max_tokens as usize,
            seed: table.pipeline.seed,
        };
        let sequences = table.reward.batch as usize;
        let shape = prove::Shape { sequences, context: table.prover.context as usize, pass: PASS };
        Prover::new(self.dev, model, prompts, settings, shape)
    }
}

fn stop(model: &Model, tokenizer: &Tokenizer) -> Vec<i32> {
    let mut stop = model.config.eos.clone();
    stop.extend(tokenizer.stop());
    stop
}

/// The judge's prompts and the grammar of its replies.
fn judge_prompts(
    run: &Run,
    tokenizer: Arc<Tokenizer>,
) -> Result<(crate::reward::judge::Prompts, crate::text::answer::Grammar)> {
    let encoder = data::encoder(run, tokenizer)?;
    rationale::prompts(encoder.chat, encoder.template)
}

fn prover_prompts(file: &SelfTrain, tokenizer: Arc<Tokenizer>) -> Result<prove::Prompts> {
    let encoder = data::encoder(&file.prover, tokenizer)?;
    match data::lesson(&file.prover, &encoder.template)? {
        Some(Lesson::Prover(template, rule)) => prove::Prompts::new(encoder.chat, template, rule, file.checks()?),
        _ => unreachable!("the prover's stage is prove"),
    }
}

/// Checks, before hours of training, what can be checked with the tokenizers alone: the templates, the forms, the rules, and
/// that the judge's labels are one token each. Gives the rule.
///
/// # Errors
/// What is wrong with them.
pub fn check(file: &SelfTrain) -> Result<crate::text::proof::Rule> {
    let open = |run: &Run| -> Result<(PathBuf, Arc<Tokenizer>)> {
        let dir = run::tokenizer_dir(run)?;
        let tokenizer = Arc::new(Tokenizer::open(&dir)?);
        Ok((dir, tokenizer))
    };
    let (dir, tokenizer) = open(&file.prover)?;
    let rule = prover_prompts(file, tokenizer).map_err(|e| place(e, &dir))?.rule;
    let (dir, tokenizer) = open(&file.reward)?;
    let (_, grammar) = judge_prompts(&file.reward, tokenizer).map_err(|e| place(e, &dir))?;
    match rule.reply() {
        Some(opened) if opened == grammar.opened() => Ok(rule),
        _ => Err(Error::usage(format!(
            "the form {} is no reply that the judge may give: after this judge prompt it must be {}a thought, </think>, and \
             the label in <answer> tags",
            rule.rationale.name(),
            if grammar.opened() { "" } else { "<think>, " }
        ))),
    }
}

/// Names a model's directory in an error that is about the model.
fn place(e: Error, dir: &Path) -> Error {
    match e.kind() {
        crate::error::Kind::Model => e.at(dir.display()),
        _ => e,
    }
}

fn vote(judge: &mut RationaleJudge, pairs: &[Pooled], stop: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let (mut encoded, mut fits) = (Vec::new(), Vec::with_capacity(pairs.len()));
    for pooled in pairs {
        let claim = &pooled.claim;
        let pair = Pair { prompt: claim.prompt.clone(), a: claim.a.clone(), b: claim.b.clone() };
        let pair = judge.prompts.pair(&pair)?;
        fits.push(pair.longest() < judge.context());
        encoded.extend(Some(pair).filter(|_| fits[fits.len() - 1]));
    }
    let mut judged = judge.judge_until(&encoded, stop)?.into_iter();
    let mut bytes = Vec::new();
    for (pooled, fits) in pairs.iter().zip(fits) {
        let said = match fits {
            false => Voted::TooLong,
            true => {
                let votes = judged.next().expect("every pair is judged").votes;
                let [a, b] = votes.counts();
                Voted::Ballot(Ballot { a, b, invalid: votes.invalid.len(), p_a: votes.p_a().unwrap_or(0.5) })
            }
        };
        push(&mut bytes, &voted(&pooled.id, &said));
    }
    Ok(bytes)
}

fn prove(prover: &mut Prover, pairs: &[Pooled], stop: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let (mut encoded, mut fits) = (Vec::new(), Vec::with_capacity(pairs.len()));
    for pooled in pairs {
        let claim = prover.prompts.encode(pooled.claim.clone())?;
        fits.push(claim.ids.len() < prover.context());
        encoded.extend(Some(claim).filter(|_| fits[fits.len() - 1]));
    }
    let mut proved = prover.prove_until(&encoded, stop)?.into_iter();
    let mut bytes = Vec::new();
    for (pooled, fits) in pairs.iter().zip(fits) {
        let mut row: Map<String, Value> = match fits {
            false => {
                let mut row = fields(json!({"reason": PROMPT_TOO_LONG}));
                row.extend(pair(&pooled.claim));
                row
            }
            true => {
                let proofs = proved.next().expect("every claim is answered");
                proofs.accepted(&pooled.claim).or_else(|| proofs.rejected(&pooled.claim)).expect("one or the other")
            }
        };
        row.shift_insert(0, "id".into(), pooled.id.clone());
        if let Some(truth) = pooled.truth {
            row.insert("truth".into(), NAMES[truth as usize].into());
        }
        push(&mut bytes, &row);
    }
    Ok(bytes)
}
