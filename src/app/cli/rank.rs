//! `gramophone rank`: an order of several responses.

use super::judge::into_map;
use super::rows::{self, answer_by_adapter, number};
use super::runtime::{Files, JudgeFlags, Opened, Runtime};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::scorer::Scorer;
use crate::model::config::HeadKind;
use crate::reward::group::Group;
use crate::reward::judge::{Judge, Pair, Prompts, conversation};
use crate::reward::rank::{MOST, Method, Ranking, Rules, by_reward};
use crate::text::source::Row;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// Reads rows {"id", "prompt", "responses": [..]} and writes for each {"id", "order", "scores", "comparisons"}: indices of
/// the responses, best first, and for each response its mean probability of beating those it was compared with; then
/// "saved", "stopped", "confidence", "ties", "cycles" and, under "bt", Bradley-Terry strengths with 95% intervals, as
/// docs/formats.md describes them. One comparison is two prompts: both orders.
/// Models with a scalar head order by their rewards, which are then the scores; nothing is compared.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeFlags,
    /// How responses are compared
    #[arg(long, value_enum, default_value_t = MethodArg::RoundRobin)]
    method: MethodArg,
    /// Compare at most so many pairs of each group
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    budget: Option<u32>,
    /// Responses that all others meet, with --method anchor; 3 if not given
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    anchors: Option<u32>,
    /// Probability at which two neighbours in the order are decided, with --method adaptive; 0.95 if not given
    #[arg(long, value_name = "P")]
    confidence: Option<f64>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// The incumbent meets each response in turn; repeated for the full order
    Linear,
    /// Single elimination: the best in log2 n batches
    Knockout,
    /// Every pair once
    RoundRobin,
    /// Rounds of neighbours in the standing: log2 n, or as many as the budget pays for
    Swiss,
    /// Every response against a few
    Anchor,
    /// The most telling pairs, until the order is decided
    Adaptive,
}

impl Args {
    fn rules(&self) -> Result<Rules> {
        if self.anchors.is_some() && self.method != MethodArg::Anchor {
            return Err(Error::usage("--anchors goes with --method anchor"));
        }
        if self.confidence.is_some() && self.method != MethodArg::Adaptive {
            return Err(Error::usage("--confidence goes with --method adaptive"));
        }
        let method = match self.method {
            MethodArg::Linear => Method::Linear,
            MethodArg::Knockout => Method::Knockout,
            MethodArg::RoundRobin => Method::RoundRobin,
            MethodArg::Swiss => Method::Swiss,
            MethodArg::Anchor => Method::Anchor { anchors: self.anchors.unwrap_or(3) as usize },
            MethodArg::Adaptive => Method::Adaptive { confidence: self.confidence.unwrap_or(0.95) },
        };
        Rules::new(method, self.budget.map(|n| n as usize)).map_err(|e| match self.confidence {
            Some(_) => e.at("--confidence"),
            None => e,
        })
    }
}

pub fn run(args: Args) -> Result<()> {
    let rules = args.rules()?;
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    if opened.model.config.head == HeadKind::Scalar {
        return by_rewards(&args, &dev, &opened);
    }
    let prompts = args.judge.prompts(&opened)?;
    let mut judge = Judge::over(&dev, &opened.models(), prompts.clone(), opened.scorer())?;
    let context = judge.context();
    let parse = |row: &Row| fitting_group(row, &prompts, &args.judge, context);
    answer_by_adapter(&args.files, "groups", &opened, parse, |model, groups| {
        judge.switch(model);
        let rankings = judge.rank_groups(groups, rules).map_err(|e| opened.place(e))?;
        Ok(rankings.iter().map(object).collect())
    })
}

/// With a scalar head.
fn by_rewards(args: &Args, dev: &Device, opened: &Opened) -> Result<()> {
    let mut scorer = Scorer::over(dev, &opened.models(), opened.scorer())?;
    let (chat, context) = (opened.chat()?, scorer.context());
    let parse = |row: &Row| {
        let group = group(row)?;
        let each = group.responses.iter().map(|r| conversation(&chat, &group.prompt, r));
        let ids = each.collect::<Result<Vec<Vec<i32>>>>()?;
        for ids in &ids {
            args.judge.fits(ids.len(), context)?;
        }
        let tokens = ids.iter().map(Vec::len).sum();
        Ok((ids, tokens))
    };
    answer_by_adapter(&args.files, "groups", opened, parse, |model, batch: &[&Vec<Vec<i32>>]| {
        scorer.switch(model);
        let all: Vec<Vec<i32>> = batch.iter().flat_map(|group| (*group).clone()).collect();
        let mut rewards = scorer.rewards(&all)?.into_iter();
        let mut of = |n: usize| rewards.by_ref().take(n).collect::<Vec<f32>>();
        let object = |r: Vec<f32>| {
            let scores: Vec<Value> = r.iter().map(|s| number(*s)).collect();
            into_map(json!({"order": by_reward(&r), "scores": scores, "comparisons": 0}))
        };
        Ok(batch.iter().map(|group| object(of(group.len()))).collect())
    })
}

/// A group of responses, not more than can be compared, and about how many tokens it has.
pub(super) fn fitting_group(
    row: &Row,
    prompts: &Prompts,
    flags: &JudgeFlags,
    context: usize,
) -> Result<(Group, usize)> {
    let group = group(row)?;
    if group.responses.len() > MOST {
        let n = group.responses.len();
        return Err(Error::data(format!("the field \"responses\" holds {n} texts; at most {MOST} can be compared")));
    }
    let tokenizer = prompts.chat.tokenizer();
    let count = |response: &String| Ok(tokenizer.encode(response)?.len());
    let counts = group.responses.iter().map(count).collect::<Result<Vec<usize>>>()?;
    let tokens = counts.iter().sum();
    // The longest prompt shows the two longest responses.
    let mut longest: Vec<(usize, &String)> = counts.into_iter().zip(&group.responses).collect();
    longest.sort_by_key(|(tokens, _)| std::cmp::Reverse(*tokens));
    if let [(_, a), (_, b), ..] = longest[..] {
        let pair = Pair { prompt: group.prompt.clone(), a: a.clone(), b: b.clone() };
        flags.fits(prompts.pair(&pair)?.longest(), context)?;
    }
    Ok((group, tokens))
}

fn group(row: &Row) -> Result<Group> {
    let prompt = rows::prompt(row, &["prompt"])?;
    let Some(Value::Array(list)) = row.value.get("responses") else {
        return Err(Error::data("the field \"responses\" must be a list of texts"));
    };
    let responses: Option<Vec<String>> = list.iter().map(|r| r.as_str().map(String::from)).collect();
    match responses {
        Some(responses) if !responses.is_empty() => Ok(Group { prompt, responses }),
        Some(_) => Err(Error::data("the field \"responses\" is empty; there is nothing to compare")),
        None => Err(Error::data("the field \"responses\" holds something that is not a text")),
    }
}

/// What is said of a ranking.
pub(in crate::app) fn object(ranking: &Ranking) -> Map<String, Value> {
    let numbers = |list: &[f64]| list.iter().map(|x| number(*x as f32)).collect::<Vec<Value>>();
    let fit = &ranking.strengths;
    let [lower, upper] = [0, 1].map(|end| {
        let ends: Vec<f64> = (0..ranking.order.len()).map(|i| fit.interval(i)[end]).collect();
        numbers(&ends)
    });
    into_map(json!({
        "order": ranking.order,
        "scores": numbers(&ranking.scores),
        "comparisons": ranking.comparisons,
        "saved": ranking.saved(),
        "stopped": ranking.stopped.name(),
        "confidence": numbers(&ranking.confidence),
        "bt": {
            "strength": numbers(&fit.strengths),
            "lower": lower,
            "upper": upper,
            "residual": number(fit.residual as f32),
        },
        "ties": ranking.ties,
        "cycles": ranking.cycles,
    }))
}
