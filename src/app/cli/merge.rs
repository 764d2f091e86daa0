//! `gramophone merge`: an adapter and its base become one model.

use super::console::print;
use super::runtime::DtypeArg;
use crate::base::atomic::atomic_dir;
use crate::error::{Error, Result};
use crate::model::adapter::merge::merge;
use crate::model::weights::copy_sidecars;
use std::path::PathBuf;

/// Writes the base with the adapter's pairs added to its weights, computed in f32 and rounded once, and the base's
/// tokenizer.
#[derive(clap::Args)]
pub struct Args {
    /// The model that the adapter was trained beside
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Adapter directory (PEFT)
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the model goes; must not exist yet
    #[arg(long, short, alias = "output", value_name = "DIR")]
    out: PathBuf,
    /// Type of the weights on disk
    #[arg(long, value_enum, default_value_t = DtypeArg::Auto)]
    dtype: DtypeArg,
}

pub fn run(args: Args) -> Result<()> {
    if args.out.exists() {
        return Err(Error::usage(format!("--out {}: it exists already; name a new directory", args.out.display())));
    }
    let model = merge(&args.model, &args.adapter, |stored| args.dtype.resolve(stored))?;
    atomic_dir(&args.out, |dir| {
        model.save(dir)?;
        copy_sidecars(&args.model, dir).map(|_| ())
    })?;
    print(format_args!("{}: {} parameters, {}\n", args.out.display(), model.parameters(), model.dtype))
}
