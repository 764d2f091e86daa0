//! `gramophone bench soak`: endurance of the server.

use super::console::{print, remark};
use super::serve::seconds;
use crate::app::load::soak::{self, Plan};
use crate::app::open_files::raise;
use crate::base::atomic::write_file;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Starts a server on a model, keeps many clients on every wire busy (some vanish, hurry, dawdle or send nonsense), and stops it
/// while all of them wait. Exit code 1 if an answer was wrong, late or lost, if memory grew, or if anything was left behind.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face model directory; a tiny one will do
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    seconds: f64,
    /// No answer may be later than this
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    deadline: f64,
    /// The same seed asks the same
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More flags for the server, after --
    #[arg(last = true, value_name = "FLAGS")]
    serve: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let plan = Plan {
        model: args.model,
        clients: args.clients as usize,
        length: Duration::from_secs_f64(args.seconds),
        deadline: Duration::from_secs_f64(args.deadline),
        seed: args.seed,
        serve: args.serve,
    };
    if let Some(warning) = raise(args.clients as u64)? {
        return Err(Error::usage(format!("--clients {}: {warning}", args.clients)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(Kind::Io, format!("cannot start the network's threads: {e}")))?;
    let begins = || remark(format_args!("{} clients for {} s", args.clients, args.seconds));
    let report = runtime.block_on(soak::run(&plan, begins))?;
    if let Some(path) = &args.json {
        write_file(path, format!("{:#}\n", report.to_json()).as_bytes())?;
    }
    print(report.to_markdown())?;
    report.check()
}
