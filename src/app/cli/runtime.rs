//! The flags that every verb which runs a model shares, and what they open.

use super::console::remark;
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::scorer;
use crate::model::Model;
use crate::model::adapter::peft::Peft;
use crate::model::adapter::{self, Start};
use crate::reward::judge::Prompts;
use crate::reward::rationale;
use crate::text::answer::Grammar;
use crate::text::chat::Chat;
use crate::text::jinja::Date;
use crate::text::source::Row;
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use clap::ValueEnum;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// Where to compute.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub device: String,
    /// CPU threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = threads)]
    pub threads: usize,
    /// Whose matrix products run on a GPU: the engine's own, or cuBLASLt's, whose bits may depend on the batch
    #[arg(long, value_enum, default_value_t = Gemm::Own)]
    pub gemm: Gemm,
}

/// Whose matrix products to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gemm {
    Own,
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
            (Device::Cuda(gpu), Gemm::Cublaslt) => gpu.use_cublaslt()?,
            (Device::Cpu(_), Gemm::Cublaslt) => {
                return Err(Error::usage("--gemm cublaslt needs --device cuda"));
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
    /// The type to use for a checkpoint stored as `stored`.
    pub fn resolve(self, stored: Dtype) -> Dtype {
        match self {
            DtypeArg::Auto if stored == Dtype::Bf16 => Dtype::Bf16,
            DtypeArg::Auto | DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::Bf16,
        }
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
    pub adapters: Vec<AdapterFlag>,
    /// Longest text in tokens; by default what the model was made for, up to 8192
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// The date that a chat template may print, such as 2024-07-26
    #[arg(long, value_name = "DATE")]
    pub template_date: Option<String>,
}

/// `--adapter`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFlag {
    pub name: Option<String>,
    pub dir: PathBuf,
}

impl std::str::FromStr for AdapterFlag {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<AdapterFlag, String> {
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let (name, dir) = match text.split_once('=') {
            // `./a=b` is a directory.
            Some((name, dir)) if !name.is_empty() && plain(name) => (Some(name.to_string()), dir),
            _ => (None, text),
        };
        match dir.is_empty() {
            true => Err("it must name a directory".into()),
            false => Ok(AdapterFlag { name, dir: dir.into() }),
        }
    }
}

/// Models by the names of their adapters.
type Named = Vec<(String, Model)>;

/// A model that was opened, and its tokenizer.
pub struct Opened {
    /// What answers rows that name no adapter.
    pub model: Model,
    /// The same base with other adapters, by name.
    named: Named,
    /// A row must name an adapter: the base has no reward row of its own.
    bare: bool,
    pub tokenizer: Arc<Tokenizer>,
    pub context: usize,
    dir: PathBuf,
    date: Option<Date>,
}

/// Longest context unless another is asked for.
const CONTEXT: usize = 8192;
/// Tokens of one scoring pass: enough to keep the matrix products busy.
const PASS: usize = 4096;

impl ModelFlags {
    /// Opens the model and its tokenizer.
    ///
    /// # Errors
    /// What is wrong with the directory, by name.
    pub fn open(&self, dev: &Device, runtime: &Runtime) -> Result<Opened> {
        let (model, named, bare) = self.models(dev, runtime)?;
        let tokenizer = Arc::new(Tokenizer::open(&self.model)?);
        if tokenizer.vocab_size() > model.config.vocab {
            return Err(Error::model(format!(
                "{}: the tokenizer has {} tokens but the model only {}; they do not belong together",
                self.model.display(),
                tokenizer.vocab_size(),
                model.config.vocab
            )));
        }
        let most = model.config.max_positions;
        let context = match self.context {
            None => most.min(CONTEXT),
            Some(n) if (1..=most).contains(&n) => n,
            Some(n) => {
                return Err(Error::usage(format!("--context {n}: this model reads from 1 to {most} tokens")));
            }
        };
        let date = self.template_date.as_deref().map(Date::parse).transpose()?;
        Ok(Opened { model, named, bare, tokenizer, context, dir: self.model.clone(), date })
    }

    /// The model that answers by default, those that rows may name, and whether there is a default.
    fn models(&self, dev: &Device, runtime: &Runtime) -> Result<(Model, Named, bool)> {
        let dtype = |stored| runtime.dtype.resolve(stored);
        if self.adapters.is_empty() {
            return Ok((Model::open(&self.model, dtype)?.on(dev)?, Vec::new(), true));
        }
        let names: Vec<_> = self.adapters.iter().map(|flag| &flag.name).collect();
        if let Some(twice) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
            let what =
                names[twice].as_ref().map_or("two adapters without a name".into(), |name| format!("{name} twice"));
            return Err(Error::usage(format!("--adapter: {what}; give each a NAME=DIR of its own")));
        }
        let adapters = self.adapters.iter().map(|flag| Peft::open(&flag.dir)).collect::<Result<Vec<_>>>()?;
        let (base, alone) = adapter::open_base(&self.model, dtype, &adapters)?;
        let base = base.on(dev)?;
        let (mut default, mut named) = (None, Vec::new());
        for (flag, peft) in self.adapters.iter().zip(adapters) {
            let model = base.adapted(dev, peft, Start::From(&flag.dir))?;
            match &flag.name {
                None => default = Some(model),
                Some(name) => named.push((name.clone(), model)),
            }
        }
        let bare = alone || default.is_some();
        Ok((default.unwrap_or(base), named, bare))
    }
}

impl Opened {
    /// Every model that a row may ask for; the first is [`Opened::model`].
    pub fn models(&self) -> Vec<&Model> {
        std::iter::once(&self.model).chain(self.named.iter().map(|(_, model)| model)).collect()
    }

    /// Which of [`Opened::models`] a row asks for.
    ///
    /// # Errors
    /// It names none of them, or none at all where it must.
    pub fn choose(&self, row: &Row) -> Result<usize> {
        let names = || self.named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        match row.value.get("adapter") {
            None | Some(Value::Null) if self.bare => Ok(0),
            None | Some(Value::Null) => Err(Error::data(format!(
                "the model has no reward row of its own; the field \"adapter\" must name one of {}",
                names()
            ))),
            Some(Value::String(name)) => match self.named.iter().position(|(known, _)| known == name) {
                Some(i) => Ok(i + 1),
                None if self.named.is_empty() => {
                    Err(Error::data(format!("the row asks for the adapter {name:?}; give it as --adapter {name}=DIR")))
                }
                None => Err(Error::data(format!("the row asks for the adapter {name:?}; there are {}", names()))),
            },
            Some(other) => Err(Error::data(format!("the field \"adapter\" is {other}; it must be a name"))),
        }
    }

    /// The chat template of the model.
    ///
    /// # Errors
    /// It has none, or one that does not parse.
    pub fn chat(&self) -> Result<Chat> {
        let chat = Chat::of(self.tokenizer.clone()).map_err(|e| self.place(e))?;
        match self.date {
            Some(date) => chat.with_date(date),
            None => Ok(chat),
        }
    }
    /// Names the model's directory in an error that is about the model.
    pub fn place(&self, e: Error) -> Error {
        match e.kind() {
            Kind::Model | Kind::Data => e.at(self.dir.display()),
            _ => e,
        }
    }
    /// The ids that end what the model writes.
    pub fn stop(&self) -> Vec<i32> {
        let mut stop = self.model.config.eos.clone();
        stop.extend(self.tokenizer.stop());
        stop
    }
    /// The scorer that reads this model's prompts.
    pub fn scorer(&self) -> scorer::Shape {
        scorer::Shape { context: self.context, pass: PASS }
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
        let template = self.template_or(JudgeTemplate::verdict)?;
        if template.asks_for_rationale() {
            return Err(Error::usage(format!(
                "the template {:?} asks for a rationale before the verdict; this judge reads the verdict at once. \
                 Use a template that asks for the letter alone, or --rationale where there is such a flag",
                template.name()
            )));
        }
        Prompts::new(opened.chat()?, template)
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
