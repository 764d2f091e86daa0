//! `gramophone eval`: a judge on the public suites, recorded verdicts on them, and benchmark rows in training text.

mod contamination;
mod run;
mod score;
mod unfinished;

use super::console::{aligned, print};
use crate::app::evaluation;
use crate::app::report::Table;
use crate::base::atomic::{atomic_dir, write_file};
use crate::error::{Error, Result};
use crate::reward::eval::bootstrap::Bootstrap;
use crate::reward::eval::comparison::Answer;
use crate::reward::eval::item::Item;
use crate::reward::eval::output::{self, Subject};
use crate::reward::eval::suite::Suite;
use crate::reward::eval::summary::summarise;
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;

/// Scores follow the suite's official rule and the papers' rule, side by side.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// RewardBench: chat, safety, reasoning
    Rewardbench(run::Args),
    /// RewardBench 2: the best of four, and ties
    Rewardbench2(run::Args),
    /// RM-Bench: subtle errors against style
    RmBench(run::Args),
    /// JudgeBench: hard pairs with a right answer
    Judgebench(run::Args),
    /// PPE: human preference, and correctness of samples
    Ppe(run::Args),
    /// RMB: pairs and lists, helpfulness and harmlessness
    Rmb(run::Args),
    /// Preference pairs of any layout that training reads
    Pairs(run::Args),
    /// Score verdicts or rewards that were recorded, of any model
    Score(score::Args),
    /// Look for rows of a benchmark in training text
    Contamination(contamination::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Rewardbench(args) => run::run(Suite::RewardBench, args),
        Verb::Rewardbench2(args) => run::run(Suite::RewardBench2, args),
        Verb::RmBench(args) => run::run(Suite::RmBench, args),
        Verb::Judgebench(args) => run::run(Suite::JudgeBench, args),
        Verb::Ppe(args) => run::run(Suite::Ppe, args),
        Verb::Rmb(args) => run::run(Suite::Rmb, args),
        Verb::Pairs(args) => run::run(Suite::Pairs, args),
        Verb::Score(args) => score::run(args),
        Verb::Contamination(args) => contamination::run(args),
    }
}

/// What is asked of the scores, and where they go.
#[derive(clap::Args, Clone, Debug)]
struct Wanted {
    /// The suite's rows: files as published, JSONL, JSON or Parquet; several, or globs
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<String>,
    /// Only so many rows of each file
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Where rows.jsonl, metrics.json, summary.json, report.md and report.html go; an earlier result of this suite is replaced.
    /// Until then a model's answers are kept in DIR.unfinished, and the same command goes on from there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What the model is called in the results; its directory's name if not given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Seed of the orders that are drawn, of the bootstrap, and of the votes on rationales
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Samples of the bootstrap; 0 for no intervals
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(..=100_000))]
    bootstrap: u64,
}

impl Wanted {
    /// # Errors
    /// `--out` names something other than an earlier result of this suite, which alone may be replaced.
    fn check(&self, suite: Suite) -> Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        let taken =
            |by: &str| Err(Error::usage(format!("--out {}: there is {by}; name another directory", out.display())));
        if out.is_file() {
            return taken("a file");
        }
        let there = out.is_dir() && std::fs::read_dir(out).map_err(|e| Error::io("read", out, e))?.next().is_some();
        if !there {
            return Ok(());
        }
        let summary = std::fs::read(out.join("summary.json")).ok();
        let summary: Option<Value> = summary.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match summary.as_ref().and_then(|s| s.get("suite")?.as_str()) {
            Some(name) if name == suite.name() => Ok(()),
            Some(name) => taken(&format!("the result of {name}")),
            None => taken("something that is not the result of an evaluation"),
        }
    }

    fn limit(&self) -> Option<usize> {
        self.limit.map(|n| n as usize)
    }
}

/// Answers that are to be scored.
struct Answered<'a> {
    suite: Suite,
    items: &'a [Item],
    answers: &'a [Answer],
    notes: Vec<String>,
    subject: Subject,
    /// What computed, in words.
    device: String,
}

/// Scores answers, writes the files, prints the tables.
fn finish(wanted: &Wanted, a: Answered<'_>) -> Result<()> {
    let bootstrap = Bootstrap { seed: wanted.seed, samples: wanted.bootstrap as usize, level: 0.95 };
    let (summary, grades) = summarise(a.suite, a.items, a.answers, bootstrap, a.notes)?;
    if let Some(out) = &wanted.out {
        let report = evaluation::report(&summary, &a.subject, &a.device);
        let pretty = |value| serde_json::to_string_pretty(&value).expect("JSON values print") + "\n";
        let rows = output::rows(a.items, a.answers, &grades);
        let line = |row| serde_json::to_string(row).expect("JSON values print") + "\n";
        atomic_dir(out, |dir| {
            write_file(dir.join("rows.jsonl"), rows.iter().map(line).collect::<String>().as_bytes())?;
            write_file(dir.join("metrics.json"), pretty(output::metrics(&summary, &a.subject)).as_bytes())?;
            write_file(dir.join("summary.json"), pretty(output::summary(&summary, &a.subject)).as_bytes())?;
            write_file(dir.join("report.md"), report.to_markdown().as_bytes())?;
            report.write(&dir.join("report.html"))
        })?;
    }
    let mut text = format!("{}: {}\n{}\n", a.suite.title(), a.subject.model, evaluation::cost(&summary));
    for table in [evaluation::scores(&summary), evaluation::judge(&summary)] {
        text += &section(&table);
    }
    for rule in summary.rules() {
        let _ = write!(text, "\n{}: {}.", rule.title(), a.suite.explain(rule));
    }
    for note in &summary.notes {
        let _ = write!(text, "\n{note}");
    }
    if let Some(out) = &wanted.out {
        let _ = write!(text, "\n\nThe report: {0}/report.html; its rows and numbers are in {0}", out.display());
    }
    print(text + "\n")
}

fn section(table: &Table) -> String {
    let note = if table.note.is_empty() { String::new() } else { format!("{}\n", table.note) };
    format!("\n{}{note}", aligned(&table.columns, table.rows.clone()))
}
