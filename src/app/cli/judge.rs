//! `gramophone judge`: which of two responses is better.

use super::rationale::{self, RationaleFlags, Totals};
use super::rows::{self, answer_by_adapter, number};
use super::runtime::{Files, JudgeFlags, Opened, Runtime};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::scorer::Scorer;
use crate::model::config::HeadKind;
use crate::reward::judge::{EncodedPair, Judge, Pair, conversation};
use crate::text::source::Row;
use serde_json::{Map, Value, json};

/// Reads rows {"id", "prompt", "response_a", "response_b"} (prompt: a text or a list of messages) and writes
/// {"id", "p_a", "margin_ab", "margin_ba", "label_mass", "verdict", "consistent"} for each. margin_* is logit A minus
/// logit B with response a shown as A, and with response b shown as A; p_a averages both orders.
/// Models with a scalar head give {"id", "reward_a", "reward_b", "verdict"}.
/// With --rationale the model thinks first; the answers add {"rationale", "votes", "invalid", "tokens"} and more, and the verdict
/// may be "invalid".
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeFlags,
    #[command(flatten)]
    rationale: RationaleFlags,
    /// Seed of the votes: the same seed gives the same votes on a pair, whatever else is judged
    #[arg(long, default_value_t = 0, requires = "rationale")]
    seed: u64,
    /// Demand a scalar reward model; without it the model's own architecture decides
    #[arg(long, conflicts_with = "rationale")]
    scalar: bool,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

pub fn run(args: Args) -> Result<()> {
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    if args.rationale.rationale {
        return reason(&args, &dev, &opened);
    }
    match opened.model.config.head {
        HeadKind::Scalar => {
            let mut scorer = Scorer::over(&dev, &opened.models(), opened.scorer())?;
            let (chat, context) = (opened.chat()?, scorer.context());
            let parse = |row: &Row| {
                let pair = pair(row)?;
                let [a, b] = [&pair.a, &pair.b].map(|r| conversation(&chat, &pair.prompt, r));
                let both = [a?, b?];
                for ids in &both {
                    args.judge.fits(ids.len(), context)?;
                }
                let tokens = both[0].len() + both[1].len();
                Ok((both, tokens))
            };
            answer_by_adapter(&args.files, "pairs", &opened, parse, |model, batch| {
                scorer.switch(model);
                let all: Vec<Vec<i32>> = batch.iter().flat_map(|both| (*both).clone()).collect();
                Ok(scorer.rewards(&all)?.chunks(2).map(|r| rewards(r[0], r[1])).collect())
            })
        }
        HeadKind::LanguageModel if args.scalar => Err(Error::model(
            "--scalar: this model is a language model without a reward head; leave the flag out to judge with it",
        )),
        HeadKind::LanguageModel => {
            let prompts = args.judge.prompts(&opened)?;
            let mut judge = Judge::over(&dev, &opened.models(), prompts.clone(), opened.scorer())?;
            let context = judge.context();
            let parse = |row: &Row| {
                let encoded = prompts.pair(&pair(row)?)?;
                args.judge.fits(encoded.longest(), context)?;
                let tokens = encoded.ab.len() + encoded.ba.len();
                Ok((encoded, tokens))
            };
            answer_by_adapter(&args.files, "pairs", &opened, parse, |model, batch| {
                judge.switch(model);
                let pairs: Vec<EncodedPair> = batch.iter().map(|pair| (*pair).clone()).collect();
                Ok(judge.judge(&pairs).map_err(|e| opened.place(e))?.iter().map(verdict).collect())
            })
        }
    }
}

/// Judges with rationales.
fn reason(args: &Args, dev: &Device, opened: &Opened) -> Result<()> {
    let settings = args.rationale.settings(args.seed)?;
    let mut judge = args.rationale.judge(dev, &args.judge, opened, settings)?;
    let (prompts, context, mut totals) = (judge.prompts.clone(), judge.context(), Totals::default());
    let parse = |row: &Row| {
        let encoded = prompts.pair(&pair(row)?)?;
        // One token at least is to be written.
        args.judge.fits(encoded.longest(), context - 1)?;
        let tokens = encoded.ab.len() + encoded.ba.len();
        Ok((encoded, tokens))
    };
    answer_by_adapter(&args.files, "pairs", opened, parse, |model, batch| {
        judge.switch(model);
        let pairs: Vec<EncodedPair> = batch.iter().map(|pair| (*pair).clone()).collect();
        let found = judge.judge(&pairs).map_err(|e| opened.place(e))?;
        found.iter().for_each(|r| totals.add(r));
        Ok(found.iter().map(rationale::object).collect())
    })?;
    totals.report(&judge);
    Ok(())
}

fn pair(row: &Row) -> Result<Pair> {
    Ok(Pair {
        prompt: rows::prompt(row, &["prompt"])?,
        a: rows::text(row, "response_a")?.to_string(),
        b: rows::text(row, "response_b")?.to_string(),
    })
}

fn verdict(j: &crate::reward::judge::Judgment) -> Map<String, Value> {
    let object = json!({
        "p_a": j.p_a,
        "margin_ab": number(j.margin_ab),
        "margin_ba": number(j.margin_ba),
        "label_mass": j.label_mass,
        "verdict": j.verdict.name(),
        "consistent": j.consistent,
    });
    into_map(object)
}

fn rewards(a: f32, b: f32) -> Map<String, Value> {
    let verdict = if a > b {
        "A"
    } else if b > a {
        "B"
    } else {
        "tie"
    };
    into_map(json!({"reward_a": number(a), "reward_b": number(b), "verdict": verdict}))
}

/// The fields of an object literal.
pub(super) fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}
