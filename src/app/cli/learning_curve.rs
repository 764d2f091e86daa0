//! `gramophone learning-curve`: what ever more examples of a task bring.

use super::console::{print, tell};
use super::runtime::Place;
use crate::app::learning_curve::{self, Settings, summary};
use crate::app::signals::Signals;
use crate::error::{Error, Result};
use crate::train::config::Run;
use crate::train::log::{Record, Sink};
use std::path::PathBuf;

/// Fine-tunes the judge `model.path` (whole, or an adapter if the file has `lora.rank`) on each number of examples of
/// `data.train`, drawn anew for each seed, and measures it on `data.eval` in both orders. Writes learning_curve.json,
/// learning_curve.csv and report.html with 95% confidence bands over the seeds. Runs that are done are kept in --out; SIGTERM
/// writes a checkpoint and exits 0, and the same command then goes on from there.
#[derive(clap::Args)]
pub struct Args {
    /// The run file
    #[arg(value_name = "RUN.TOML")]
    file: PathBuf,
    /// Settings that override the file, such as train.lr=1e-5
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Numbers of training examples; 0 is the judge as it is
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', required = true)]
    counts: Vec<u64>,
    /// Runs for each number, with seeds from train.seed on
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Where results go, and what is done so far lies
    #[arg(long, short, default_value = "learning-curve", value_name = "DIR")]
    out: PathBuf,
    /// Keep every trained model in DIR/cells
    #[arg(long)]
    keep_models: bool,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: Args) -> Result<()> {
    let mut counts = args.counts.clone();
    counts.sort_unstable();
    if let Some(twice) = counts.windows(2).find(|w| w[0] == w[1]) {
        return Err(Error::usage(format!("--counts: {} is there twice", twice[0])));
    }
    let settings = Settings {
        file: args.file,
        overrides: args.overrides,
        counts,
        seeds: args.seeds,
        out: args.out,
        keep_models: args.keep_models,
    };
    let run = Run::load(&settings.file, &settings.overrides)?;
    let dev = args.place.open()?;
    let signals = Signals::install()?;
    let Some(cells) = learning_curve::run(&dev, &settings, &mut Lines, &|| signals.stop_requested())? else {
        tell("stopped; the same command goes on from there");
        return Ok(());
    };
    print(summary::write(&run, &settings, &cells, &dev.name())?)?;
    tell(format_args!("report: {}", settings.out.join("report.html").display()));
    Ok(())
}

/// Tells a person how the runs go.
struct Lines;

impl Sink for Lines {
    fn record(&mut self, _: &Record, line: &str) {
        tell(line);
    }
    fn note(&mut self, line: &str) {
        tell(line);
    }
}
