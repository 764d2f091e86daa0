//! The command line, one file per verb.
//!
//! Exit codes: 0 success, 2 usage and configuration, 1 what fails while running. Errors are one line on standard error;
//! results go to standard output or to the file that was asked for, which appears whole or not at all.

mod bench;
mod console;
mod data;
mod demo;
mod doctor;
mod eval;
mod generate;
mod init;
mod judge;
mod learning_curve;
#[cfg(feature = "server")]
mod load;
mod merge;
mod plan;
mod progress;
mod prove;
mod rank;
mod rationale;
mod reward;
mod rows;
mod runtime;
mod self_train;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod soak;
mod train;
#[cfg(feature = "server")]
mod wait;

#[cfg(feature = "server")]
pub(super) use {rank::object as ranking, rationale::object as reasoned, rows::number};

use crate::app::signals::report_file_size_limit;
use crate::error::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Trains and serves generative reward models.
#[derive(Parser)]
#[command(name = "gramophone", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Train a small judge on a made-up world, end to end, and show what pre-training on unlabelled pairs brings
    Demo(demo::Args),
    /// Make a model directory with random weights
    Init(init::Args),
    /// Train a model as a run file says
    Train(train::Args),
    /// Train a judge that reasons, from human rationales, labelled and unlabelled pairs
    SelfTrain(self_train::Args),
    /// Print the memory plan of a training run without starting it
    Plan(plan::Args),
    /// Fine-tune on ever more examples, several times each, and show what they bring
    LearningCurve(learning_curve::Args),
    /// Add an adapter to its base: one model out of two directories
    Merge(merge::Args),
    /// Say which of two responses is better, with a probability
    Judge(judge::Args),
    /// Order several responses to one prompt
    Rank(rank::Args),
    /// Give rewards for reinforcement learning: against a reference response, or within a group
    Reward(reward::Args),
    /// Measure a judge on a public suite, score recorded verdicts, or look for benchmark rows in training text
    Eval(eval::Args),
    /// Prove which of two responses is better, given the label: rationales for a judge to learn from
    Prove(prove::Args),
    /// Continue prompts
    Generate(generate::Args),
    /// Serve a judge over HTTP, on the wires that trainers speak
    #[cfg(feature = "server")]
    Serve(Box<serve::Args>),
    /// Wait until a server is ready
    #[cfg(feature = "server")]
    Wait(wait::Args),
    /// Look at data as a model will see it
    Data(data::Args),
    /// Measure this machine: ops and whole passes, beside what it could do at most
    Bench(bench::Args),
    /// Say what this machine can run and what is in the way
    Doctor(doctor::Args),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap's own exit codes: 0 for help and version, 2 for usage.
        Err(e) => e.exit(),
    };
    match report_file_size_limit().and_then(|()| run(cli.verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            console::remark(&e);
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Demo(args) => demo::run(args),
        Verb::Init(args) => init::run(args),
        Verb::Train(args) => train::run(args),
        Verb::SelfTrain(args) => self_train::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::LearningCurve(args) => learning_curve::run(args),
        Verb::Merge(args) => merge::run(args),
        Verb::Judge(args) => judge::run(args),
        Verb::Rank(args) => rank::run(args),
        Verb::Reward(args) => reward::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Prove(args) => prove::run(args),
        Verb::Generate(args) => generate::run(args),
        #[cfg(feature = "server")]
        Verb::Serve(args) => serve::run(*args),
        #[cfg(feature = "server")]
        Verb::Wait(args) => wait::run(args),
        Verb::Data(args) => data::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Doctor(args) => doctor::run(args),
    }
}
