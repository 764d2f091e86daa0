//! `gramophone rank`: an order of several responses.

use super::judge::into_map;
use super::rows::{self, answer_by_adapter, number};
use super::runtime::{Files, JudgeFlags, Runtime};
use crate::error::{Error, Result};
use crate::infer::scorer::Scorer;
use crate::model::config::HeadKind;
use crate::reward::judge::{Judge, conversation};
use crate::reward::rank::{Method, by_reward};
use crate::text::message::Message;
use crate::text::source::Row;
use clap::ValueEnum;
use serde_json::{Value, json};

/// Reads rows {"id", "prompt", "responses": [..]} and writes {"id", "order", "scores", "comparisons"}: indices of the
/// responses, best first, and for each response its mean probability of beating those it was compared with.
/// Models with a scalar head order by their rewards, which are then the scores.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    judge: JudgeFlags,
    /// How responses are compared
    #[arg(long, value_enum, default_value_t = MethodArg::RoundRobin)]
    method: MethodArg,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, ValueEnum)]
enum MethodArg {
    /// The incumbent meets each response in turn; repeated for the full order
    Linear,
    /// Every pair once
    RoundRobin,
}

struct Group {
    prompt: Vec<Message>,
    responses: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    let method = match args.method {
        MethodArg::Linear => Method::Linear,
        MethodArg::RoundRobin => Method::RoundRobin,
    };
    if opened.model.config.head == HeadKind::Scalar {
        let mut scorer = Scorer::over(&dev, &opened.models(), opened.scorer())?;
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
        return answer_by_adapter(&args.files, "groups", &opened, parse, |model, batch| {
            scorer.switch(model);
            let all: Vec<Vec<i32>> = batch.iter().flat_map(|group| (*group).clone()).collect();
            let mut rewards = scorer.rewards(&all)?.into_iter();
            let mut of = |n: usize| rewards.by_ref().take(n).collect::<Vec<f32>>();
            Ok(batch.iter().map(|group| of(group.len())).map(|r| object(&by_reward(&r), &r, 0)).collect())
        });
    }
    let prompts = args.judge.prompts(&opened)?;
    let mut judge = Judge::over(&dev, &opened.models(), prompts.clone(), opened.scorer())?;
    let context = judge.context();
    let parse = |row: &Row| {
        let group = group(row)?;
        // The longest prompt shows the two longest responses.
        let mut longest: Vec<&String> = group.responses.iter().collect();
        longest.sort_by_key(|r| std::cmp::Reverse(r.len()));
        if let [a, b, ..] = longest[..] {
            args.judge.fits(prompts.encode(&group.prompt, a, b)?.len(), context)?;
        }
        let tokens = group.responses.iter().map(String::len).sum();
        Ok((group, tokens))
    };
    answer_by_adapter(&args.files, "groups", &opened, parse, |model, batch| {
        judge.switch(model);
        let rank = |group: &&Group| {
            let ranking = judge.rank(&group.prompt, &group.responses, method).map_err(|e| opened.place(e))?;
            let scores: Vec<f32> = ranking.scores.iter().map(|s| *s as f32).collect();
            Ok(object(&ranking.order, &scores, ranking.comparisons))
        };
        batch.iter().map(rank).collect()
    })
}

fn group(row: &Row) -> Result<Group> {
    let prompt = rows::prompt(row, &["prompt"])?;
    let Some(Value::Array(list)) = row.value.get("responses") else {
        return Err(Error::data("the field \"responses\" must be a list of texts"));
    };
    let responses: Option<Vec<String>> = list.iter().map(|r| r.as_str().map(String::from)).collect();
    match responses {
        Some(responses) if !responses.is_empty() => Ok(Group { prompt, responses }),
        Some(_) => Err(Error::data("the field \"responses\" is empty; there is nothing to rank")),
        None => Err(Error::data("the field \"responses\" holds something that is not a text")),
    }
}

fn object(order: &[usize], scores: &[f32], comparisons: usize) -> serde_json::Map<String, Value> {
    let scores: Vec<Value> = scores.iter().map(|s| number(*s)).collect();
    into_map(json!({"order": order, "scores": scores, "comparisons": comparisons}))
}
