//! A model on a suite.

use super::super::progress::Progress;
use super::super::runtime::{JudgeFlags, Opened, Runtime};
use super::{Answered, Wanted, finish};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::scorer::Scorer;
use crate::model::config::HeadKind;
use crate::reward::eval::comparison::{Answer, Choice, Comparison, Opinion};
use crate::reward::eval::item::Item;
use crate::reward::eval::judged::{Ask, Candidate, Rated, Respondent, answers};
use crate::reward::eval::output::Subject;
use crate::reward::eval::suite::Suite;
use crate::reward::judge::{EncodedPair, Judge, Pair, Prompts, conversation};
use clap::ValueEnum;
use std::time::Instant;

/// Judges the rows of a suite. Models with a scalar head are asked for rewards.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    judge: JudgeFlags,
    /// What a comparison that does not fit into the context does; nothing is ever cut
    #[arg(long, value_enum, default_value_t = TooLong::Fail)]
    too_long: TooLong,
    /// PPE: also scan all samples of the correctness sets, for the curve of best of n
    #[arg(long)]
    best_of_n: bool,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TooLong {
    /// Stop there
    Fail,
    /// Count as a comparison without a verdict, which is wrong
    Invalid,
}

pub fn run(suite: Suite, args: Args) -> Result<()> {
    args.wanted.check(suite)?;
    if args.best_of_n && suite != Suite::Ppe {
        return Err(Error::usage("--best-of-n is for ppe, whose correctness sets hold many samples of each prompt"));
    }
    let loaded = suite.load(&args.wanted.data, args.wanted.limit())?;
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    let scalar = opened.model.config.head == HeadKind::Scalar;
    let found =
        if scalar { rated(&args, &dev, &opened, &loaded.items)? } else { judged(&args, &dev, &opened, &loaded.items)? };
    let dir = args.judge.model.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let subject = Subject {
        model: args.wanted.name.clone().unwrap_or(dir),
        model_type: if scalar { "Seq. Classifier" } else { "Generative RM" }.into(),
        chat_template: "tokenizer".into(),
    };
    let (items, notes) = (&loaded.items, loaded.notes);
    finish(&args.wanted, Answered { suite, items, answers: &found, notes, subject, device: dev.name() })
}

fn judged(args: &Args, dev: &Device, opened: &Opened, items: &[Item]) -> Result<Vec<Answer>> {
    let prompts = args.judge.prompts(opened)?;
    let mut judge = Judge::new(dev, &opened.model, prompts.clone(), opened.scorer())?;
    let context = judge.context();
    let mut bar = Progress::new("comparisons");
    let mut compare = |asks: &[Ask<'_>]| {
        let start = Instant::now();
        let encoded = asks.iter().map(|ask| encode(args, &prompts, context, ask)).collect::<Result<Vec<_>>>()?;
        let fitting: Vec<EncodedPair> = encoded.iter().flatten().cloned().collect();
        let mut judgments = judge.judge(&fitting).map_err(|e| opened.place(e))?.into_iter();
        let tokens = |e: &EncodedPair| e.ab.len() + e.ba.len();
        let all: usize = fitting.iter().map(tokens).sum();
        let per_token = start.elapsed().as_secs_f64() * 1e3 / all.max(1) as f64;
        bar.add(asks.len() as u64);
        let comparison = |(ask, encoded): (&Ask<'_>, &Option<EncodedPair>)| match encoded {
            None => Comparison::of_orders(ask.pair, [Some(Opinion::of_choice(Choice::Invalid)); 2]),
            Some(encoded) => {
                let judgment = judgments.next().expect("one for each that fits");
                let tokens = tokens(encoded);
                let said = Comparison::of_judgment(ask.pair, &judgment);
                Comparison { tokens: tokens as u64, ms: per_token * tokens as f64, ..said }
            }
        };
        Ok(asks.iter().zip(&encoded).map(comparison).collect())
    };
    let found = answers(items, Respondent::Judge(&mut compare), args.best_of_n)?;
    bar.finish();
    Ok(found)
}

/// Both orders of a comparison; `None` if they do not fit and may be left out.
fn encode(args: &Args, prompts: &Prompts, context: usize, ask: &Ask<'_>) -> Result<Option<EncodedPair>> {
    let (item, (a, b)) = (ask.item, ask.pair);
    let pair = Pair { prompt: item.prompt.clone(), a: item.responses[a].clone(), b: item.responses[b].clone() };
    let encoded = prompts.pair(&pair).map_err(|e| e.at(&item.place))?;
    match args.judge.fits(encoded.longest(), context) {
        Ok(()) => Ok(Some(encoded)),
        Err(e) if e.kind() == Kind::Data && args.too_long == TooLong::Invalid => Ok(None),
        Err(e) => Err(e.at(&item.place)),
    }
}

fn rated(args: &Args, dev: &Device, opened: &Opened, items: &[Item]) -> Result<Vec<Answer>> {
    if args.too_long == TooLong::Invalid {
        return Err(Error::usage("--too-long invalid: a scalar model has no way to give no verdict; leave it out"));
    }
    let mut scorer = Scorer::new(dev, &opened.model, opened.scorer())?;
    let (chat, context) = (opened.chat()?, scorer.context());
    let mut bar = Progress::new("responses");
    let mut rate = |all: &[Candidate<'_>]| {
        let start = Instant::now();
        let encode = |c: &Candidate<'_>| {
            let ids = conversation(&chat, &c.item.prompt, &c.item.responses[c.response])?;
            args.judge.fits(ids.len(), context)?;
            Ok::<Vec<i32>, Error>(ids)
        };
        let ids = all.iter().map(|q| encode(q).map_err(|e| e.at(&q.item.place))).collect::<Result<Vec<Vec<i32>>>>()?;
        let rewards = scorer.rewards(&ids).map_err(|e| opened.place(e))?;
        let total: usize = ids.iter().map(Vec::len).sum();
        let per_token = start.elapsed().as_secs_f64() * 1e3 / total.max(1) as f64;
        bar.add(all.len() as u64);
        let rated = |(reward, ids): (f32, &Vec<i32>)| {
            let tokens = ids.len();
            Rated { reward: f64::from(reward), tokens: tokens as u64, ms: per_token * tokens as f64 }
        };
        Ok(rewards.into_iter().zip(&ids).map(rated).collect())
    };
    let found = answers(items, Respondent::Scalar(&mut rate), args.best_of_n)?;
    bar.finish();
    Ok(found)
}
