//! `gramophone data inspect`: data as a model will see it.

use super::console::print;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::text::inspect::inspect;
use crate::text::tokenizer::Tokenizer;
use crate::train::config::Run;
use crate::train::data::Data;
use clap::Subcommand;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the rendered prompt, the token ids and what is learned of the first examples
    Inspect(Inspect),
}

/// Either --config with a run file, or --tokenizer, --stage and files.
#[derive(clap::Args)]
struct Inspect {
    /// A run file, whose data, template and tokenizer are used
    #[arg(long, value_name = "RUN.TOML")]
    config: Option<PathBuf>,
    /// Tokenizer or model directory
    #[arg(long, alias = "model", value_name = "DIR", required_unless_present = "config")]
    tokenizer: Option<PathBuf>,
    /// pretrain, finetune, sft, scalar or prove
    #[arg(long, default_value = "finetune", conflicts_with = "config")]
    stage: String,
    /// Judge prompt template, or with --stage prove the proving template
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    template: Option<PathBuf>,
    /// Examples to show
    #[arg(short, long, default_value_t = 1)]
    n: usize,
    /// Data files; with --config: settings that override the run file, such as data.limit=10
    #[arg(value_name = "FILE")]
    rest: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let Verb::Inspect(args) = args.verb;
    let run = match &args.config {
        Some(path) => Run::load(path, &args.rest)?,
        None => from_flags(&args)?,
    };
    let dir = run.model.tokenizer.as_ref().or(run.model.path.as_ref());
    let dir = dir.ok_or_else(|| Error::usage("the run file names no model.path and no model.tokenizer"))?;
    let tokenizer = Arc::new(Tokenizer::open(dir)?);
    let data = Device::open("cpu", 0)?.install(|| Data::open(&run, tokenizer))?;
    let notes: String = data.notes.iter().map(|note| format!("{note}\n")).collect();
    print(format_args!("{notes}\n{}", inspect(&data.train, args.n)?))
}

/// The flags as a run file, so that both ways are one.
fn from_flags(args: &Inspect) -> Result<Run> {
    if args.rest.is_empty() {
        return Err(Error::usage("name data files to look at"));
    }
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let path = |p: &PathBuf| quoted(&p.display().to_string());
    let tokenizer = args.tokenizer.as_ref().expect("clap demands it");
    let files: Vec<String> = args.rest.iter().map(|f| quoted(f)).collect();
    let mut text = format!(
        "[model]\npath = {0}\ntokenizer = {0}\n[train]\nstage = {1}\n[data]\ntrain = [{2}]\n",
        path(tokenizer),
        quoted(&args.stage),
        files.join(", ")
    );
    if let Some(template) = &args.template {
        text.push_str(&format!("template = {}\n", path(template)));
    }
    Run::parse(&text, "the command line", &[])
}
