//! The flags that every verb which runs a model shares, and what they open.

use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Result};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Where and how to compute.
#[derive(clap::Args, Clone, Debug)]
pub struct Runtime {
    /// Where to compute: cpu
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub device: String,
    /// CPU threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Type of the weights in memory
    #[arg(long, value_enum, default_value_t = DtypeArg::Auto)]
    pub dtype: DtypeArg,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// As the checkpoint stores them
    Auto,
    F32,
    Bf16,
}

impl DtypeArg {
    /// The type to use for a checkpoint stored as `stored`.
    pub fn resolve(self, stored: Dtype) -> Dtype {
        match self {
            DtypeArg::Auto if stored == Dtype::Bf16 => Dtype::Bf16,
            DtypeArg::Auto | DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::Bf16,
        }
    }
}

impl Runtime {
    /// # Errors
    /// An unknown or absent device.
    pub fn open(&self) -> Result<Device> {
        Device::open(&self.device, self.threads)
    }
}

/// Input and output files; `-` is standard input or output.
#[derive(clap::Args, Clone, Debug)]
pub struct Files {
    /// Rows to read: JSONL, a JSON array or Parquet, .gz or .zst too; - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub input: String,
    /// Where the answers go, one JSON object a line; - for standard output
    #[arg(long, short, default_value = "-", value_name = "FILE")]
    pub output: PathBuf,
    /// What to do with a row that cannot be read or does not fit
    #[arg(long, value_enum, default_value_t = OnErrorArg::Fail)]
    pub on_error: OnErrorArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnErrorArg {
    /// Stop at the first one
    Fail,
    /// Leave it out, count it, and say so at the end
    Skip,
}

/// A model directory that exists.
///
/// # Errors
/// Names the path and what a model directory holds.
pub fn model_dir(path: &Path) -> Result<&Path> {
    if path.join("config.json").is_file() {
        return Ok(path);
    }
    let why = if path.is_dir() { "has no config.json" } else { "does not exist" };
    Err(Error::model(format!(
        "--model {}: {why}; give a Hugging Face model directory (config.json, model.safetensors, tokenizer.json)",
        path.display()
    )))
}
