//! `gramophone bench serve`: load for a server.

use super::console::{print, remark};
use super::serve::seconds;
use crate::app::load::client::Address;
use crate::app::load::{self, Loop, Plan, Preset, Wire, Work};
use crate::base::atomic::write_file;
use crate::error::{Error, Kind, Result};
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Such as http://127.0.0.1:8000; any server that speaks one of the wires
    #[arg(value_name = "URL")]
    url: String,
    /// Shape of the work
    #[arg(long, value_enum, default_value_t = PresetArg::Grpo16)]
    preset: PresetArg,
    /// How it is sent: own suits this server, the others its peers too
    #[arg(long, value_enum, default_value_t = WireArg::Own)]
    wire: WireArg,
    /// Closed loop: clients that each wait for an answer before the next request
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Open loop: requests a second, whether the server keeps up or not
    #[arg(long, value_name = "PER SECOND", value_parser = seconds)]
    rate: Option<f64>,
    /// Time that is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    seconds: f64,
    /// Time before, which is not
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    warmup: f64,
    /// An answer later than this is no good
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    deadline: f64,
    /// Name of the model in requests
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Token ids of A and B, for wires that name labels so
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    label_ids: Vec<i32>,
    /// Sent as a bearer
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The same seed sends the same texts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PresetArg {
    /// 16 responses of some 400 tokens to one prompt, every pair
    Grpo16,
    /// The best of 64 short responses
    Bon64,
    /// One response against a reference
    RlhfRef,
    /// A rationale before the verdict
    Rationale,
}

#[derive(Clone, Copy, ValueEnum)]
enum WireArg {
    /// This server's own route for the preset
    Own,
    /// vLLM's /generative_scoring
    GenerativeScoring,
    /// SGLang's /v1/score
    Score,
    /// /v1/chat/completions with log-probabilities
    Chat,
}

pub fn run(args: Args) -> Result<()> {
    let work = Work {
        preset: match args.preset {
            PresetArg::Grpo16 => Preset::Grpo16,
            PresetArg::Bon64 => Preset::Bon64,
            PresetArg::RlhfRef => Preset::RlhfRef,
            PresetArg::Rationale => Preset::Rationale,
        },
        wire: match args.wire {
            WireArg::Own => Wire::Own,
            WireArg::GenerativeScoring => Wire::GenerativeScoring,
            WireArg::Score => Wire::Score,
            WireArg::Chat => Wire::Chat,
        },
        model: args.model,
        labels: args.label_ids,
        seed: args.seed,
    };
    let plan = Plan {
        address: Address::parse(&args.url)?,
        key: args.api_key,
        work,
        pace: args.rate.map_or(Loop::Closed(args.clients as usize), Loop::Open),
        warmup: Duration::from_secs_f64(args.warmup),
        measured: Duration::from_secs_f64(args.seconds),
        deadline: Duration::from_secs_f64(args.deadline),
    };
    remark(format_args!("{} s of warm-up, which is not measured, then {} s", args.warmup, args.seconds));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(Kind::Io, format!("cannot start the network's threads: {e}")))?;
    let report = runtime.block_on(load::run(plan))?;
    if let Some(path) = &args.json {
        write_file(path, format!("{:#}\n", report.to_json()).as_bytes())?;
    }
    print(report.to_markdown())
}
