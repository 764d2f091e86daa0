//! Recorded verdicts on a suite; no model is needed.

use super::{Answered, Wanted, finish};
use crate::error::{Error, Result};
use crate::reward::eval::comparison::Answer;
use crate::reward::eval::item::Item;
use crate::reward::eval::output::Subject;
use crate::reward::eval::recorded;
use crate::reward::eval::suite::Suite;
use std::path::Path;

/// Reads rows.jsonl of an earlier evaluation, the output of `gramophone judge` on the suite's rows, JudgeBench's output files,
/// score files of RewardBench, RM-Bench, RMB and GRAM; docs/formats.md lists the shapes.
#[derive(clap::Args)]
pub struct Args {
    /// rewardbench, rewardbench2, rm-bench, judgebench, ppe, rmb or pairs
    #[arg(value_name = "SUITE", value_parser = suite)]
    suite: Suite,
    #[command(flatten)]
    wanted: Wanted,
    /// The recorded verdicts or scores; of an evaluation in shards, the rows.jsonl of all of them in order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    verdicts: Vec<String>,
    /// Score the rows that have a verdict, whatever is missing or left over
    #[arg(long)]
    partial: bool,
}

fn suite(name: &str) -> std::result::Result<Suite, String> {
    Suite::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Suite::ALL.iter().map(|s| s.name()).collect();
        format!("there is no such suite; the suites are {}", names.join(", "))
    })
}

pub fn run(args: Args) -> Result<()> {
    args.wanted.check(args.suite)?;
    if args.verdicts.iter().chain(&args.wanted.data).filter(|name| *name == "-").count() > 1 {
        return Err(Error::usage("standard input (-) is named twice; it can be read once"));
    }
    let loaded = args.suite.load(&args.wanted.data, args.wanted.limit())?;
    let recorded = recorded::read(&loaded.items, &args.verdicts, args.partial)?;
    let (kept, answers): (Vec<usize>, Vec<Answer>) = recorded.answers.into_iter().unzip();
    let items: Vec<Item> = kept.iter().map(|i| loaded.items[*i].clone()).collect();
    let stem = Path::new(&args.verdicts[0]).file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let scalar = answers.iter().all(|a| a.rewards.is_some());
    let subject = Subject {
        model: args.wanted.name.clone().or(recorded.model).unwrap_or(stem),
        model_type: if scalar { "Seq. Classifier" } else { "Generative RM" }.into(),
        chat_template: "recorded".into(),
    };
    let notes = loaded.notes.into_iter().chain(recorded.notes).collect();
    let device = "none: verdicts were recorded".into();
    finish(&args.wanted, Answered { suite: args.suite, items: &items, answers: &answers, notes, subject, device })
}
