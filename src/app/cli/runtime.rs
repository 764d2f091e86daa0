//! The flags that every verb which runs a model shares, and what they open.

use super::console::remark;
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::device::cuda::Products;
use crate::error::{Error, Result};
use crate::reward::judge::Prompts;
pub use crate::reward::open::Opened;
use crate::reward::open::{AdapterPlace, Opening, in_memory};
use crate::reward::rationale;
use crate::text::answer::Grammar;
use crate::text::jinja::Date;
use crate::text::template::JudgeTemplate;
use clap::ValueEnum;
use std::path::PathBuf;

/// Where to compute.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub device: String,
    /// CPU threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = threads)]
    pub threads: usize,
    /// Whose matrix products run on a GPU: the engine's own, its own without those for one kind of GPU, or cuBLASLt's, whose
    /// bits may depend on the batch
    #[arg(long, value_enum, default_value_t = Gemm::Own)]
    pub gemm: Gemm,
}

/// Whose matrix products to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gemm {
    Own,
    Portable,
    Cublaslt,
}

/// More threads than any machine has cores would only exhaust it.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MOST_THREADS => Ok(n),
        _ => Err(format!("it must be a whole number from 0 to {MOST_THREADS}")),
    }
}

impl Place {
    /// # Errors
    /// An unknown or absent device; cuBLASLt where there is none.
    pub fn open(&self) -> Result<Device> {
        let dev = Device::open(&self.device, self.threads)?;
        match (&dev, self.gemm) {
            (_, Gemm::Own) => {}
            (Device::Cuda(gpu), Gemm::Portable) => gpu.use_products(Products::Portable)?,
            (Device::Cuda(gpu), Gemm::Cublaslt) => gpu.use_products(Products::CublasLt)?,
            (Device::Cpu(_), _) => {
                return Err(Error::usage("--gemm chooses between a GPU's products: give --device cuda"));
            }
        }
        Ok(dev)
    }
}

/// A run file and where it runs.
#[derive(clap::Args, Clone, Debug)]
pub struct RunFlags {
    /// The run file
    #[arg(value_name = "RUN.TOML")]
    pub file: PathBuf,
    /// Settings that override the file, such as train.lr=1e-5
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Show every setting and where it came from, and stop
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub place: Place,
}

/// Where and how to run a model.
#[derive(clap::Args, Clone, Debug)]
pub struct Runtime {
    #[command(flatten)]
    pub place: Place,
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
    /// The type that is asked for, if one is.
    pub fn asked(self) -> Option<Dtype> {
        match self {
            DtypeArg::Auto => None,
            DtypeArg::F32 => Some(Dtype::F32),
            DtypeArg::Bf16 => Some(Dtype::Bf16),
        }
    }

    /// The type to use for a checkpoint stored as `stored`.
    pub fn resolve(self, stored: Dtype) -> Dtype {
        in_memory(self.asked(), stored)
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

/// A model directory and how much text it may read at once.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelFlags {
    /// Hugging Face model directory: config.json, model.safetensors, tokenizer.json
    #[arg(long, short, value_name = "DIR")]
    pub model: PathBuf,
    /// Adapter beside the model, a PEFT directory. As NAME=DIR any number of times: each row's field "adapter" then names its own,
    /// and rows without it get the one that has no name, or the bare model
    #[arg(long = "adapter", value_name = "[NAME=]DIR")]
    pub adapters: Vec<AdapterPlace>,
    /// Longest text in tokens; by default what the model was made for, up to 8192
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// The date that a chat template may print, such as 2024-07-26
    #[arg(long, value_name = "DATE")]
    pub template_date: Option<String>,
}

impl ModelFlags {
    /// Opens the model and its tokenizer.
    ///
    /// # Errors
    /// What is wrong with the directory, by name.
    pub fn open(&self, dev: &Device, runtime: &Runtime) -> Result<Opened> {
        let date = self.template_date.as_deref().map(Date::parse).transpose()?;
        let ModelFlags { model, adapters, context, .. } = self.clone();
        Opening { model, adapters, context, date, dtype: runtime.dtype.asked() }.open(dev)
    }
}

/// What judging needs besides the model.
#[derive(clap::Args, Clone, Debug)]
pub struct JudgeFlags {
    #[command(flatten)]
    pub model: ModelFlags,
    /// Judge prompt: a text file with the fields {prompt}, {response_a} and {response_b}; ours if not given
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
}

impl JudgeFlags {
    /// The judge prompt, checked against the model's tokenizer.
    ///
    /// # Errors
    /// A template without a field; labels that are not one token each.
    pub fn prompts(&self, opened: &Opened) -> Result<Prompts> {
        opened.prompts(self.template()?)
    }

    /// The judge prompt that asks for the letter alone.
    ///
    /// # Errors
    /// A file that cannot be read, or without a field.
    pub fn template(&self) -> Result<JudgeTemplate> {
        self.template_or(JudgeTemplate::verdict)
    }

    /// The judge prompt that asks for a rationale, and the grammar of what is written.
    ///
    /// # Errors
    /// As [`JudgeFlags::prompts`]; a template that asks for the letter alone.
    pub fn reasoning(&self, opened: &Opened) -> Result<(Prompts, Grammar)> {
        let template = self.template_or(JudgeTemplate::rationale)?;
        rationale::prompts(opened.chat()?, template).map_err(|e| opened.place(e))
    }

    fn template_or(&self, ours: fn() -> JudgeTemplate) -> Result<JudgeTemplate> {
        let Some(path) = &self.template else { return Ok(ours()) };
        let template = JudgeTemplate::open(path)?;
        remark(format_args!("judge template {}, sha256 {}", template.name(), template.sha256()));
        Ok(template)
    }

    /// # Errors
    /// A text of `len` tokens does not fit into `context`.
    pub fn fits(&self, len: usize, context: usize) -> Result<()> {
        if len == 0 {
            return Err(Error::data("the chat template makes nothing of it: there is no token to read"));
        }
        if len <= context {
            return Ok(());
        }
        Err(Error::data(format!(
            "{len} tokens with the judge prompt, but {context} fit; nothing is cut: shorten it, or raise --context"
        )))
    }
}
