//! `gramophone init`: a model directory with random weights.

use super::console::print;
use super::runtime::DtypeArg;
use crate::base::atomic::atomic_dir;
use crate::base::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::preset::{self, Shape};
use crate::model::config::{Config, Family, HeadKind};
use crate::model::weights::copy_sidecars;
use crate::text::tokenizer::Tokenizer;
use clap::ValueEnum;
use std::path::PathBuf;

/// Writes config.json, model.safetensors and the tokenizer's files. The same seed gives the same bytes.
#[derive(clap::Args)]
pub struct Args {
    /// llama, qwen2, qwen3, or a published shape such as qwen3-0.6b or llama-3.2-1b
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config")]
    family: Option<String>,
    /// A config.json to take the shape from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the tokenizer to copy; the vocabulary is at least its size
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Where the model goes; must not exist yet
    #[arg(long, short, alias = "output", value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    shape: ShapeFlags,
    /// What stands on top
    #[arg(long, value_enum, default_value_t = HeadArg::Lm)]
    head: HeadArg,
    /// Type of the weights on disk
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    dtype: DtypeArg,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum HeadArg {
    /// Language model: logits over the vocabulary
    Lm,
    /// One reward for the sequence
    Scalar,
}

/// Sizes; what is not given is the family's or the preset's. A config.json has its own.
#[derive(clap::Args)]
#[group(conflicts_with = "config")]
struct ShapeFlags {
    #[arg(long)]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long)]
    hidden: Option<usize>,
    /// Query heads
    #[arg(long)]
    heads: Option<usize>,
    /// Key-value heads
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Size of a head
    #[arg(long)]
    head_dim: Option<usize>,
    /// Width of the feed-forward block
    #[arg(long)]
    ffn: Option<usize>,
    /// Tokens in the vocabulary; the tokenizer's if not given
    #[arg(long)]
    vocab: Option<usize>,
    /// Longest sequence
    #[arg(long)]
    max_positions: Option<usize>,
    /// Whether the output layer is the embedding table
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    tied: Option<bool>,
    #[arg(long)]
    rope_theta: Option<f64>,
    /// Standard deviation of the weights
    #[arg(long)]
    init_std: Option<f64>,
}

pub fn run(args: Args) -> Result<()> {
    if args.out.exists() {
        return Err(Error::usage(format!("--out {}: it exists already; name a new directory", args.out.display())));
    }
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let mut config = match &args.config {
        Some(path) => {
            let json = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            Config::parse(&json, &path.display().to_string())?
        }
        None => shaped(args.family.as_deref().unwrap_or_default(), &args.shape, tokenizer.as_ref())?,
    };
    if args.head == HeadArg::Scalar {
        config.head = HeadKind::Scalar;
    }
    if let Some(tokenizer) = &tokenizer {
        adopt(&mut config, tokenizer)?;
    }
    config.check_new()?;
    let dtype = match args.dtype {
        DtypeArg::Bf16 => Dtype::Bf16,
        DtypeArg::Auto => config.dtype,
        DtypeArg::F32 => Dtype::F32,
    };
    let model = Model::random(config, dtype, args.seed)?;
    atomic_dir(&args.out, |dir| {
        model.save(dir)?;
        match &args.tokenizer {
            Some(from) => copy_sidecars(from, dir).map(|_| ()),
            None => Ok(()),
        }
    })?;
    print(format_args!("{}: {} parameters, {}\n", args.out.display(), model.parameters(), dtype))
}

/// A family or preset with the given sizes.
fn shaped(name: &str, flags: &ShapeFlags, tokenizer: Option<&Tokenizer>) -> Result<Config> {
    let shape = Shape {
        vocab: flags.vocab.or(tokenizer.map(Tokenizer::vocab_size)),
        width: flags.hidden,
        layers: flags.layers,
        heads: flags.heads,
        kv_heads: flags.kv_heads,
        head_size: flags.head_dim,
        ffn: flags.ffn,
        max_positions: flags.max_positions,
        tied: flags.tied,
        rope_theta: flags.rope_theta,
        init_std: flags.init_std,
        ..Shape::default()
    };
    match Family::named(name) {
        Some(family) => Config::family_shape(family, &shape),
        None if preset::presets().any(|p| p == name) => Config::preset(name, &shape),
        None => {
            let known: Vec<&str> = Family::ALL.iter().map(|f| f.name()).chain(preset::presets()).collect();
            Err(Error::usage(format!("--family {name}: unknown; it is one of {}", known.join(", "))))
        }
    }
}

/// Takes over what a tokenizer says of special tokens.
fn adopt(config: &mut Config, tokenizer: &Tokenizer) -> Result<()> {
    if tokenizer.vocab_size() > config.vocab {
        return Err(Error::usage(format!(
            "the tokenizer has {} tokens but the vocabulary only {}; leave --vocab out or raise it",
            tokenizer.vocab_size(),
            config.vocab
        )));
    }
    config.bos = tokenizer.bos();
    config.eos = tokenizer.stop().to_vec();
    config.pad = tokenizer.pad();
    Ok(())
}
