//! `gramophone plan`: what a run needs of memory.

use super::console::print;
use super::runtime::Place;
use crate::error::Result;
use crate::train::config::Run;
use crate::train::run;
use std::path::PathBuf;

/// Nothing is allocated and no data is read.
#[derive(clap::Args)]
pub struct Args {
    /// The run file
    #[arg(value_name = "RUN.TOML")]
    file: PathBuf,
    /// Settings that override the file, such as train.micro_tokens=4096
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: Args) -> Result<()> {
    let plan = run::plan(&args.place.open()?, &Run::load(&args.file, &args.overrides)?)?;
    print(plan.table())?;
    plan.check()
}
