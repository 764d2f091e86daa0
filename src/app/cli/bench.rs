//! `gramophone bench`: how fast this machine runs the engine, beside what it could do at most.

use super::console::{print, remark};
use super::runtime::{DtypeArg, Place};
use crate::app::bench::compare::compare;
use crate::app::bench::engine::{self, Passes, Work};
use crate::app::bench::goals::{Sitting, goals};
use crate::app::bench::kernels::{self, Sizes};
use crate::app::bench::{Effort, Results, page};
use crate::base::atomic::write_file;
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::config::preset::Shape;
use crate::model::config::{Config, Family};
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Every op by itself, against copying, reading and products measured in the same run
    Kernels(Kernels),
    /// Prefill, decoding, judging, ranking and a training step, on random weights
    Engine(Engine),
    /// Load for a server: latencies, goodput, judgments a second
    #[cfg(feature = "server")]
    Serve(super::load::Args),
    /// Endurance of a server on a model: many clients on every wire, well-behaved or not, and a stop in the end
    #[cfg(feature = "server")]
    Soak(super::soak::Args),
    /// Set two result files side by side; exit code 1 when something became slower
    Compare(Compare),
    /// Hold the results of one sitting, ours and PyTorch's, against what the engine means to reach; prints Markdown
    Goals(Goals),
}

/// Where results go, besides the table on standard output.
#[derive(clap::Args)]
struct Output {
    /// Timed samples of each case
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Write the results as JSON, for `gramophone bench compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Kernels {
    #[command(flatten)]
    place: Place,
    /// Type of activations and weights; bf16 on a GPU, f32 on a CPU if not given
    #[arg(long, value_enum, default_value_t = DtypeArg::Auto)]
    dtype: DtypeArg,
    /// Sizes of the cases; large on a GPU, small on a CPU if not given
    #[arg(long, value_enum)]
    sizes: Option<SizesArg>,
    /// Only cases whose name holds one of these, such as adamw,gemm_nt
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    /// Run each case once, measure nothing and launch nothing else: for a profiler
    #[arg(long, conflicts_with_all = ["samples", "json", "html"])]
    once: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum SizesArg {
    /// Enough to see that everything runs
    Tiny,
    /// A model of some twenty million parameters
    Small,
    /// Llama-3.1-8B
    Large,
}

#[derive(clap::Args)]
struct Engine {
    #[command(flatten)]
    place: Place,
    /// Type of the weights; bf16 on a GPU, f32 on a CPU if not given
    #[arg(long, value_enum, default_value_t = DtypeArg::Auto)]
    dtype: DtypeArg,
    /// A published shape such as llama-3.1-8b or qwen3-0.6b; that of the sizes if not given
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Sizes of the passes and of what is measured beside them; large on a GPU, small on a CPU if not given
    #[arg(long, value_enum)]
    sizes: Option<SizesArg>,
    /// Layers, if not all of them
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Passes to measure; all if not given
    #[arg(long, value_enum, value_delimiter = ',')]
    work: Vec<WorkArg>,
    /// Tokens of a prompt and of a training step, and of the longest judged prompt: 4096, 512 or 64 if not given
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Tokens of a scoring pass: 16384, 2048 or 96 if not given
    #[arg(long, value_name = "N")]
    pass: Option<usize>,
    /// Sequences that decode together, one case each: 1,32 or 1,8 or 1,2 if not given
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    sequences: Vec<usize>,
    /// Tokens that each of them writes: 64, 32 or 6 if not given
    #[arg(long, value_name = "N")]
    written: Option<usize>,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum WorkArg {
    Prefill,
    Decode,
    Judge,
    Rank,
    Train,
}

#[derive(clap::Args)]
struct Compare {
    /// Results as they were
    #[arg(value_name = "BEFORE.JSON")]
    before: PathBuf,
    /// Results as they are
    #[arg(value_name = "AFTER.JSON")]
    after: PathBuf,
}

#[derive(clap::Args)]
struct Goals {
    /// Holds the JSON files of `bench kernels`, `bench engine` and their peers; other files there do not matter
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// Sizes that were measured
    #[arg(long, value_enum, default_value_t = SizesArg::Large)]
    sizes: SizesArg,
}

pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Kernels(args) => kernels(args),
        What::Engine(args) => engine(args),
        #[cfg(feature = "server")]
        What::Serve(args) => super::load::run(args),
        #[cfg(feature = "server")]
        What::Soak(args) => super::soak::run(args),
        What::Compare(args) => {
            let comparison = compare(&Results::open(&args.before)?, &Results::open(&args.after)?)?;
            print(comparison.to_markdown())?;
            comparison.check()
        }
        What::Goals(args) => print(goals(&Sitting::open(&args.results)?, &args.sizes.kernels(), &args.sizes.passes())),
    }
}

impl SizesArg {
    /// Large on a GPU, small on a CPU.
    fn of(dev: &Device) -> SizesArg {
        if matches!(dev, Device::Cuda(_)) { SizesArg::Large } else { SizesArg::Small }
    }
    fn kernels(self) -> Sizes {
        match self {
            SizesArg::Tiny => Sizes::tiny(),
            SizesArg::Small => Sizes::small(),
            SizesArg::Large => Sizes::large(),
        }
    }
    fn passes(self) -> Passes {
        match self {
            SizesArg::Tiny => Passes::tiny(),
            SizesArg::Small => Passes::small(),
            SizesArg::Large => Passes::large(),
        }
    }
}

fn resolve(dtype: DtypeArg, dev: &Device) -> Dtype {
    match (dtype, dev) {
        (DtypeArg::Auto, Device::Cuda(_)) => Dtype::Bf16,
        (dtype, _) => dtype.resolve(Dtype::F32),
    }
}

fn kernels(args: Kernels) -> Result<()> {
    let dev = args.place.open()?;
    let sizes = args.sizes.unwrap_or(SizesArg::of(&dev)).kernels();
    let effort = Effort::new(&dev, args.output.samples.unwrap_or(30) as usize);
    let plan = kernels::Plan { sizes, dtype: resolve(args.dtype, &dev), only: args.only, effort };
    if args.once {
        return print(kernels::once(&dev, &plan)?.join("\n") + "\n");
    }
    finish(kernels::run(&dev, &plan, |so_far, line| args.output.tell(so_far, line))?, &args.output)
}

fn engine(args: Engine) -> Result<()> {
    let dev = args.place.open()?;
    let size = args.sizes.unwrap_or(SizesArg::of(&dev));
    let layers = Shape { layers: args.layers, ..Shape::default() };
    let (name, config) = match (args.family.as_deref(), size) {
        (Some(name), _) => (name, Config::preset(name, &layers)?),
        (None, SizesArg::Large) => ("llama-3.1-8b", Config::preset("llama-3.1-8b", &layers)?),
        (None, SizesArg::Small) => ("qwen3-small", Config::family_shape(Family::Qwen3, &modest(args.layers))?),
        (None, SizesArg::Tiny) => ("qwen3-tiny", Config::family_shape(Family::Qwen3, &tiny(args.layers))?),
    };
    let (sizes, usual) = (size.kernels(), size.passes());
    let chosen = |w: &WorkArg| match w {
        WorkArg::Prefill => Work::Prefill,
        WorkArg::Decode => Work::Decode,
        WorkArg::Judge => Work::Judge,
        WorkArg::Rank => Work::Rank,
        WorkArg::Train => Work::Train,
    };
    let plan = engine::Plan {
        model: args.layers.map_or(name.to_string(), |n| format!("{name} of {n} layers")),
        config,
        dtype: resolve(args.dtype, &dev),
        work: if args.work.is_empty() { Work::ALL.to_vec() } else { args.work.iter().map(chosen).collect() },
        passes: Passes {
            tokens: args.tokens.unwrap_or(usual.tokens),
            pass: args.pass.unwrap_or(usual.pass),
            sequences: if args.sequences.is_empty() { usual.sequences } else { args.sequences },
            written: args.written.unwrap_or(usual.written),
            ..usual
        },
        effort: Effort::new(&dev, args.output.samples.unwrap_or(5) as usize),
        copied: sizes.copied,
        square: sizes.square,
    };
    finish(engine::run(&dev, &plan, |so_far, line| args.output.tell(so_far, line))?, &args.output)
}

/// Qwen3's shape with 23 million parameters.
fn modest(layers: Option<usize>) -> Shape {
    Shape {
        vocab: Some(8192),
        width: Some(512),
        layers: Some(layers.unwrap_or(6)),
        heads: Some(8),
        kv_heads: Some(4),
        head_size: Some(64),
        ffn: Some(1536),
        tied: Some(true),
        ..Shape::default()
    }
}

/// Enough to see that everything runs.
fn tiny(layers: Option<usize>) -> Shape {
    Shape {
        vocab: Some(256),
        width: Some(64),
        layers: Some(layers.unwrap_or(1)),
        heads: Some(2),
        kv_heads: Some(1),
        head_size: Some(64),
        ffn: Some(128),
        tied: Some(true),
        ..Shape::default()
    }
}

impl Output {
    /// Says what was measured last and writes what there is, so that a run that is stopped leaves it.
    fn tell(&self, so_far: &Results, line: String) -> Result<()> {
        remark(line);
        self.write(so_far)
    }

    fn write(&self, results: &Results) -> Result<()> {
        match &self.json {
            Some(path) => write_file(path, results.to_json().as_bytes()),
            None => Ok(()),
        }
    }
}

fn finish(results: Results, output: &Output) -> Result<()> {
    output.write(&results)?;
    if let Some(path) = &output.html {
        page::report(&results).write(path)?;
    }
    print(page::markdown(&results))?;
    match results.cases.is_empty() {
        true => Err(Error::device("no case could run; the table says why")),
        false => Ok(()),
    }
}
