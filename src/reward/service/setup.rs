//! What a service is made of.

use super::work::Texts;
use crate::device::Device;
use crate::error::Error;
use crate::model::Model;
use crate::model::adapter::Start;
use crate::model::adapter::peft::Peft;
use crate::reward::judge::Prompts;
use crate::text::answer::Grammar;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Sizes of a service.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Longest prompt, and longest sequence with what is written.
    pub context: usize,
    /// Tokens of a scoring pass.
    pub pass: usize,
    /// Sequences that are written together.
    pub sequences: usize,
    /// Tokens that may wait.
    pub queue: usize,
    /// Ids that end a sequence.
    pub stop: Vec<i32>,
}

/// Opens a model directory for this service's device.
pub type Loader = Box<dyn Fn(&Path) -> Result<Model, Error> + Send + Sync>;

/// What a service is made of.
pub struct Setup {
    pub dev: Device,
    pub model: Model,
    pub texts: Texts,
    pub sizes: Sizes,
    pub loader: Loader,
    /// Where the model came from, and what its weights are called.
    pub dir: PathBuf,
    pub version: String,
}

/// What a service may have besides.
#[derive(Clone, Default)]
pub struct Extras {
    /// Adapters beside the model, which is then the bare base.
    pub adapters: Vec<Adapter>,
    /// Work must name an adapter: the base has no reward row of its own.
    pub named_only: bool,
    /// Judge prompts that ask for a rationale, and the grammar of the replies; ours if not given.
    pub reasoning: Option<(Prompts, Grammar)>,
    /// Tokens whose keys and values stay in memory for prompts to come; [`KEPT`] if not given.
    pub kept: Option<usize>,
}

/// An adapter directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// None: it answers work that names no adapter.
    pub name: Option<String>,
    pub dir: PathBuf,
}

/// Tokens whose keys and values stay in memory, if nothing else is asked for.
pub const KEPT: usize = 1 << 15;

/// Waiting that lifts work by one priority, in microseconds.
pub(super) const PATIENCE: u64 = 60_000_000;

/// The models of an engine: what answers work that names no adapter, then the others in their order.
pub(super) fn models(dev: &Device, base: Model, adapters: &[Adapter]) -> Result<Vec<Arc<Model>>, Error> {
    let (mut first, mut named) = (None, Vec::new());
    for Adapter { name, dir } in adapters {
        let model = Arc::new(base.adapted(dev, Peft::open(dir)?, Start::From(dir))?);
        match name {
            None if first.is_some() => {
                return Err(Error::usage("two adapters without a name; give each one of its own"));
            }
            None => first = Some(model),
            Some(_) => named.push(model),
        }
    }
    Ok([first.unwrap_or_else(|| Arc::new(base))].into_iter().chain(named).collect())
}
