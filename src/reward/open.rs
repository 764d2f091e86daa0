//! Opening a model directory as everybody opens it, the command line, other programs and other languages: weights, adapters,
//! tokenizer, chat template, judge prompt, and a [`Service`] over them.

use super::judge::Prompts;
use super::rationale;
use super::service::{Extras, KEPT, Service, Setup, Sizes, Texts};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::scorer;
use crate::model::Model;
use crate::model::adapter::peft::Peft;
use crate::model::adapter::{self, Start};
use crate::model::config::HeadKind;
use crate::text::chat::Chat;
use crate::text::jinja::Date;
use crate::text::source::Row;
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest context unless another is asked for.
const CONTEXT: usize = 8192;
/// Tokens of one scoring pass: enough to keep the matrix products busy.
const PASS: usize = 4096;

pub use super::service::Adapter as AdapterPlace;

impl std::str::FromStr for AdapterPlace {
    type Err = String;
    /// `DIR` or `NAME=DIR`.
    fn from_str(text: &str) -> std::result::Result<AdapterPlace, String> {
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let (name, dir) = match text.split_once('=') {
            // `./a=b` is a directory.
            Some((name, dir)) if !name.is_empty() && plain(name) => (Some(name.to_string()), dir),
            _ => (None, text),
        };
        match dir.is_empty() {
            true => Err("it must name a directory".into()),
            false => Ok(AdapterPlace { name, dir: dir.into() }),
        }
    }
}

/// What to open.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    pub model: PathBuf,
    pub adapters: Vec<AdapterPlace>,
    /// Longest text in tokens; by default what the model was made for, up to 8192.
    pub context: Option<usize>,
    /// The date that a chat template may print.
    pub date: Option<Date>,
    /// Type of the weights in memory; as the checkpoint stores them if not given.
    pub dtype: Option<Dtype>,
}

/// The type to use in memory for a checkpoint stored as `stored`.
pub fn in_memory(asked: Option<Dtype>, stored: Dtype) -> Dtype {
    match (asked, stored) {
        (Some(dtype), _) => dtype,
        (None, Dtype::Bf16) => Dtype::Bf16,
        (None, _) => Dtype::F32,
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
    /// The bare base, where an adapter answers by default.
    base: Option<Model>,
    /// Without a name a row is answered too: there is a default, or the base has a reward row of its own.
    bare: bool,
    adapters: Vec<AdapterPlace>,
    pub tokenizer: Arc<Tokenizer>,
    pub context: usize,
    dir: PathBuf,
    date: Option<Date>,
    dtype: Option<Dtype>,
}

/// How a service over an opened model works.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The judge prompt; ours if not given. Scalar models have none.
    pub template: Option<JudgeTemplate>,
    /// The judge prompt that asks for a rationale first; ours if not given.
    pub reasoning: Option<JudgeTemplate>,
    /// Sequences that are written together.
    pub sequences: usize,
    /// Tokens that may wait.
    pub queue: usize,
    /// Tokens whose keys and values stay in memory for prompts to come.
    pub kept: usize,
    /// What the weights are called.
    pub version: String,
}

impl Default for Serving {
    fn default() -> Serving {
        Serving { template: None, reasoning: None, sequences: 16, queue: 1 << 20, kept: KEPT, version: "1".into() }
    }
}

impl Opening {
    /// Opens the model and its tokenizer.
    ///
    /// # Errors
    /// What is wrong with the directory, by name.
    pub fn open(self, dev: &Device) -> Result<Opened> {
        let (model, named, base, bare) = self.models(dev)?;
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
        let Opening { model: dir, adapters, date, dtype, .. } = self;
        Ok(Opened { model, named, base, bare, adapters, tokenizer, context, dir, date, dtype })
    }

    /// The model that answers by default, those that rows may name, the base if it is neither, and whether there is a default.
    fn models(&self, dev: &Device) -> Result<(Model, Named, Option<Model>, bool)> {
        let dtype = |stored| in_memory(self.dtype, stored);
        if self.adapters.is_empty() {
            return Ok((Model::open(&self.model, dtype)?.on(dev)?, Vec::new(), None, true));
        }
        let names: Vec<_> = self.adapters.iter().map(|place| &place.name).collect();
        if let Some(twice) = (1..names.len()).find(|i| names[..*i].contains(&names[*i])) {
            let what =
                names[twice].as_ref().map_or("two adapters without a name".into(), |name| format!("{name} twice"));
            return Err(Error::usage(format!("--adapter: {what}; give each a NAME=DIR of its own")));
        }
        let adapters = self.adapters.iter().map(|place| Peft::open(&place.dir)).collect::<Result<Vec<_>>>()?;
        let (base, alone) = adapter::open_base(&self.model, dtype, &adapters)?;
        let base = base.on(dev)?;
        let (mut default, mut named) = (None, Vec::new());
        for (place, peft) in self.adapters.iter().zip(adapters) {
            let model = base.adapted(dev, peft, Start::From(&place.dir))?;
            match &place.name {
                None => default = Some(model),
                Some(name) => named.push((name.clone(), model)),
            }
        }
        Ok(match default {
            Some(model) => (model, named, Some(base), true),
            None => (base, named, None, alone),
        })
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

    /// The judge prompt, checked against the model's tokenizer.
    ///
    /// # Errors
    /// A template that asks for a rationale; labels that are not one token each.
    pub fn prompts(&self, template: JudgeTemplate) -> Result<Prompts> {
        if template.asks_for_rationale() {
            return Err(Error::usage(format!(
                "the template {:?} asks for a rationale before the verdict; this judge reads the verdict at once. \
                 Use a template that asks for the letter alone, or --rationale where there is such a flag",
                template.name()
            )));
        }
        Prompts::new(self.chat()?, template)
    }

    /// One queue in front of the model and its adapters; `dev` is where they lie.
    ///
    /// # Errors
    /// As [`Opened::prompts`], or [`Opened::chat`] for a scalar model; as [`rationale::prompts`]; the system starts no thread.
    pub fn service(self, dev: Device, serving: Serving) -> Result<Service> {
        let texts = match self.model.config.head {
            HeadKind::Scalar => Texts::Scalar(self.chat()?),
            HeadKind::LanguageModel => {
                Texts::Pairwise(self.prompts(serving.template.unwrap_or_else(JudgeTemplate::verdict))?)
            }
        };
        let (stop, shape) = (self.stop(), self.scorer());
        let reasoning = serving.reasoning.map(|template| rationale::prompts(self.chat()?, template)).transpose();
        let reasoning = reasoning.map_err(|e| self.place(e))?;
        let Serving { sequences, queue, kept, version, .. } = serving;
        let sizes = Sizes { context: shape.context, pass: shape.pass, sequences, queue, stop };
        let Opened { model, base, bare, adapters, tokenizer, dir, dtype, .. } = self;
        let extras = Extras { adapters: adapters.clone(), named_only: !bare, reasoning, kept: Some(kept) };
        let loader = {
            let dev = dev.clone();
            Box::new(move |dir: &Path| other_weights(dir, &dev, dtype, &tokenizer, &adapters))
        };
        // The service puts the adapters beside the base itself, again whenever the weights change.
        let model = base.unwrap_or(model);
        Service::with(Setup { dev, model, texts, sizes, loader, dir, version }, extras)
    }
}

/// Other weights for the same tokenizer.
fn other_weights(
    dir: &Path,
    dev: &Device,
    dtype: Option<Dtype>,
    tokenizer: &Tokenizer,
    adapters: &[AdapterPlace],
) -> Result<Model> {
    let theirs = Tokenizer::open(dir)?;
    if theirs.files().bytes("tokenizer.json")? != tokenizer.files().bytes("tokenizer.json")? {
        return Err(Error::model(format!(
            "{}: its tokenizer is another one than this service's; start another for that model",
            dir.display()
        )));
    }
    let stored = |stored| in_memory(dtype, stored);
    if adapters.is_empty() {
        return Model::open(dir, stored)?.on(dev);
    }
    let adapters = adapters.iter().map(|place| Peft::open(&place.dir)).collect::<Result<Vec<_>>>()?;
    adapter::open_base(dir, stored, &adapters)?.0.on(dev)
}
