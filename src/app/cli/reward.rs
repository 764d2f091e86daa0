//! `gramophone reward`: rewards for reinforcement learning.

use super::judge::into_map;
use super::rank::fitting_group;
use super::rows::{self, answer_by_adapter};
use super::runtime::{Files, JudgeFlags, Runtime};
use crate::error::{Error, Result};
use crate::model::config::HeadKind;
use crate::reward::forms::{Advantage, AgainstReference, Rivals, WithinGroup, advantages};
use crate::reward::judge::{EncodedPair, Judge, Pair};
use crate::text::source::Row;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// --form reference reads rows {"id", "prompt", "response", "reference"} and writes {"id", "reward", "margin",
/// "consistent"}: the probability that the response beats the reference, both orders averaged.
/// --form group reads rows {"id", "prompt", "responses": [..]} and writes {"id", "rewards": [..], "comparisons"}: for each
/// response its mean probability of beating rivals from its group; --advantage adds "advantages".
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeFlags,
    /// What a response is compared with
    #[arg(long, value_enum)]
    form: Form,
    /// With --form group: rivals that each response meets, drawn at random, or all; 3 if not given
    #[arg(long, value_name = "K|all", value_parser = rivals)]
    rivals: Option<Rivals>,
    /// With --form group: seed of the draw; 0 if not given
    #[arg(long)]
    seed: Option<u64>,
    /// With --form group: add advantages
    #[arg(long, value_enum)]
    advantage: Option<AdvantageArg>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A reference response in the row, as for PPO
    Reference,
    /// The other responses in the row, as for GRPO
    Group,
}

#[derive(Clone, Copy, ValueEnum)]
enum AdvantageArg {
    /// Reward minus the group's mean
    Centered,
    /// The same, divided by the group's standard deviation
    Normalized,
}

fn rivals(text: &str) -> std::result::Result<Rivals, String> {
    match text.parse() {
        Ok(k) if k > 0 => Ok(Rivals::Random(k)),
        _ if text == "all" => Ok(Rivals::All),
        _ => Err("it must be a whole number of at least 1, or all".into()),
    }
}

pub fn run(args: Args) -> Result<()> {
    if args.form == Form::Reference {
        let group_only = [
            ("--rivals", args.rivals.is_some()),
            ("--seed", args.seed.is_some()),
            ("--advantage", args.advantage.is_some()),
        ];
        if let Some((flag, _)) = group_only.iter().find(|(_, given)| *given) {
            return Err(Error::usage(format!("{flag} goes with --form group")));
        }
    }
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    if opened.model.config.head == HeadKind::Scalar {
        return Err(opened.place(Error::model(
            "this model has a scalar head and compares nothing; `gramophone rank` gives its rewards as scores",
        )));
    }
    let prompts = args.judge.prompts(&opened)?;
    let mut judge = Judge::over(&dev, &opened.models(), prompts.clone(), opened.scorer())?;
    let context = judge.context();
    match args.form {
        Form::Reference => {
            let parse = |row: &Row| {
                let encoded = prompts.pair(&against(row)?)?;
                args.judge.fits(encoded.longest(), context)?;
                let tokens = encoded.ab.len() + encoded.ba.len();
                Ok((encoded, tokens))
            };
            answer_by_adapter(&args.files, "responses", &opened, parse, |model, batch| {
                judge.switch(model);
                let pairs: Vec<EncodedPair> = batch.iter().map(|pair| (*pair).clone()).collect();
                let rewards = judge.against_reference(&pairs).map_err(|e| opened.place(e))?;
                Ok(rewards.iter().map(one).collect())
            })
        }
        Form::Group => {
            let (rivals, seed) = (args.rivals.unwrap_or_default(), args.seed.unwrap_or(0));
            let parse = |row: &Row| fitting_group(row, &prompts, &args.judge, context);
            answer_by_adapter(&args.files, "groups", &opened, parse, |model, groups| {
                judge.switch(model);
                let rewards = judge.within_groups(groups, rivals, seed).map_err(|e| opened.place(e))?;
                Ok(rewards.iter().map(|r| many(r, args.advantage)).collect())
            })
        }
    }
}

/// The response as a, its reference as b.
fn against(row: &Row) -> Result<Pair> {
    Ok(Pair {
        prompt: rows::prompt(row, &["prompt"])?,
        a: rows::text(row, "response")?.to_string(),
        b: rows::text(row, "reference")?.to_string(),
    })
}

fn one(reward: &AgainstReference) -> Map<String, Value> {
    into_map(json!({"reward": reward.reward, "margin": reward.margin, "consistent": reward.consistent}))
}

fn many(group: &WithinGroup, advantage: Option<AdvantageArg>) -> Map<String, Value> {
    let mut object = into_map(json!({"rewards": group.rewards, "comparisons": group.comparisons}));
    if let Some(form) = advantage {
        let form = match form {
            AdvantageArg::Centered => Advantage::Centered,
            AdvantageArg::Normalized => Advantage::Normalized,
        };
        object.insert("advantages".into(), json!(advantages(&group.rewards, form)));
    }
    object
}
