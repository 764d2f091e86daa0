//! `gramophone plan`: what a run needs of memory.

use super::console::print;
use super::runtime::Place;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::config::preset::Shape;
use crate::train::config::Run;
use crate::train::run;

/// Nothing is allocated and no data is read. `gramophone plan --family llama-3.1-8b --memory 141 model.dtype=bf16
/// train.optimizer=adamw-8bit train.gradients=bf16` asks about a model and a machine that need not be here.
#[derive(clap::Args)]
pub struct Args {
    /// The run file, then settings that override it, such as train.micro_tokens=4096; with --family settings alone
    #[arg(value_name = "RUN.TOML KEY=VALUE", required_unless_present = "family")]
    words: Vec<String>,
    /// A published shape instead of a run file's model, such as llama-3.1-8b or qwen3-0.6b
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Free memory to plan for in GB (10^9 bytes); what the device has free now if not given
    #[arg(long, value_name = "GB", value_parser = gigabytes)]
    memory: Option<f64>,
    #[command(flatten)]
    place: Place,
}

/// The places that a complete run file names; a plan for a shape reads none of them.
const NOWHERE: &str = "model.path = \"a shape\"\ndata.train = \"none\"";

pub fn run(args: Args) -> Result<()> {
    let memory = args.memory.map(|gigabytes| (gigabytes * 1e9) as usize);
    let free = || -> Result<Option<usize>> {
        match memory {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(args.place.open()?.free_memory()),
        }
    };
    let plan = match (&args.family, args.words.split_first()) {
        (Some(name), _) => {
            if let Some(file) = args.words.iter().find(|word| !word.contains('=')) {
                return Err(Error::usage(format!("{file}: a plan of --family takes settings, no run file")));
            }
            let run = Run::parse(NOWHERE, "--family", &args.words)?;
            run::plan_shape(&run, &Config::preset(name, &Shape::default())?, free()?)?
        }
        (None, Some((file, overrides))) => {
            let run = Run::load(file.as_ref(), overrides)?;
            run::plan(&run, free()?)?
        }
        (None, None) => unreachable!("one of the two is required"),
    };
    print(plan.table())?;
    plan.check()
}

fn gigabytes(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.0..1e9).contains(&n) => Ok(n),
        _ => Err("must be a number of gigabytes of at least 0".into()),
    }
}
