//! Floor 3: the transformer. One forward, one hand-derived backward, three heads, weights on disk.
//!
//! A [`Model`] is a config, a table of parameters and their memory; perhaps with an [`Adapter`] beside a base that it shares
//! with others. [`acts::Acts`] holds the activations of a pass,
//! [`cache::Cache`] the keys and values of sequences being generated. Nothing allocates after construction.

pub mod acts;
pub mod adapter;
pub mod backward;
pub mod cache;
pub mod config;
pub mod cost;
pub mod forward;
pub mod head;
pub mod lora;
pub mod params;
pub mod paths;
pub mod room;
pub mod weights;

#[cfg(test)]
mod tests;

use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Part, Slot, View};
use crate::error::{Error, Result};
use adapter::Adapter;
use config::{Config, HeadKind};
use lora::Ranks;
use params::Params;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use weights::Missing;

/// A model in memory.
pub struct Model {
    pub config: Config,
    pub dtype: Dtype,
    pub layout: Layout,
    pub params: Params,
    /// Shared by the models that several adapters make of one base.
    pub weights: Arc<Arena>,
    pub adapter: Option<Adapter>,
}

impl Model {
    /// A model directory, to run: its weights are mapped where the files hold `dtype` already, else converted into memory.
    /// `dtype` picks the type in memory from the stored one.
    ///
    /// # Errors
    /// Everything that can be wrong with a config or with weights, by name.
    pub fn open(dir: &Path, dtype: impl Fn(Dtype) -> Dtype) -> Result<Model> {
        let config = Config::open(dir)?;
        let dtype = dtype(config.dtype);
        let (layout, params) = Params::layout(&config, dtype);
        let weights = weights::open(dir, &layout)?;
        Ok(Model::of(config, dtype, layout, params, weights))
    }

    fn of(config: Config, dtype: Dtype, layout: Layout, params: Params, weights: Arena) -> Model {
        Model { config, dtype, layout, params, weights: Arc::new(weights), adapter: None }
    }

    /// As [`Model::open_to_train`], for an adapter to be put beside: weights that nobody draws or trains are mapped where that
    /// can be. Without a head the model keeps its own.
    ///
    /// # Errors
    /// As [`Model::open_to_train`].
    pub fn open_base(
        dir: &Path,
        dtype: impl Fn(Dtype) -> Dtype,
        head: Option<HeadKind>,
        seed: u64,
    ) -> Result<(Model, Vec<String>)> {
        let own = Config::open(dir)?.head;
        match head {
            Some(head) if head != own => Model::open_owned(dir, dtype, Some(head), seed),
            _ => Ok((Model::open(dir, dtype)?, Vec::new())),
        }
    }

    /// A model directory, to train with this head: the weights are a writable copy. A language model that is given a
    /// scalar head gets a random reward row; the second value names tensors that were drawn so.
    ///
    /// # Errors
    /// As [`Model::open`]; a scalar model asked for a language-model head.
    pub fn open_to_train(
        dir: &Path,
        dtype: impl Fn(Dtype) -> Dtype,
        head: HeadKind,
        seed: u64,
    ) -> Result<(Model, Vec<String>)> {
        Model::open_owned(dir, dtype, Some(head), seed)
    }

    fn open_owned(
        dir: &Path,
        dtype: impl Fn(Dtype) -> Dtype,
        head: Option<HeadKind>,
        seed: u64,
    ) -> Result<(Model, Vec<String>)> {
        let mut config = Config::open(dir)?;
        let head = head.unwrap_or(config.head);
        if config.head == HeadKind::Scalar && head == HeadKind::LanguageModel {
            return Err(Error::model(format!(
                "{}: this model has a scalar head and no vocabulary head; it can be trained in stage `scalar` only",
                dir.display()
            )));
        }
        config.head = head;
        let dtype = dtype(config.dtype);
        let (layout, params) = Params::layout(&config, dtype);
        let (weights, drawn) = weights::open_owned(dir, &layout, Missing::Draw { names: &["score.weight"], seed })?;
        Ok((Model::of(config, dtype, layout, params, weights), drawn))
    }

    /// A model with random weights.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn random(config: Config, dtype: Dtype, seed: u64) -> Result<Model> {
        let (layout, params) = Params::layout(&config, dtype);
        let weights = weights::init(&layout, seed)?;
        Ok(Model::of(config, dtype, layout, params, weights))
    }

    /// This model with its weights, and its adapter's, on a device.
    ///
    /// # Errors
    /// A device without room for the weights, or that does not compute in their type.
    pub fn on(self, dev: &Device) -> Result<Model> {
        dev.supports(self.dtype)?;
        let weights = match dev {
            Device::Cpu(_) => self.weights,
            Device::Cuda(_) => Arc::new(self.weights.copied(dev, "the weights", &self.layout)?),
        };
        let adapter = self.adapter.map(|adapter| adapter.on(dev)).transpose()?;
        Ok(Model { weights, adapter, ..self })
    }

    /// What training this model changes: the adapter's tensors where there is one, else all.
    pub fn trained(&self) -> (&Layout, &Arena) {
        match &self.adapter {
            None => (&self.layout, &self.weights),
            Some(adapter) => (&adapter.layout, &adapter.weights),
        }
    }

    /// The room that passes of this model need for low-rank products.
    pub fn ranks(&self) -> Ranks {
        self.adapter.as_ref().map_or([0; 7], |adapter| adapter.shape.ranks())
    }

    /// Asserts that this model may take another's place over activations with room for these ranks: the same base beside it,
    /// and an adapter no larger.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn fits(&self, other: &Model, ranks: Ranks) {
        assert!(Arc::ptr_eq(&self.weights, &other.weights), "adapters of one base only");
        assert!(
            self.ranks().iter().zip(ranks).all(|(own, room)| *own <= room),
            "activations made for smaller adapters"
        );
    }

    /// The bytes of a weight tensor, on the host.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn fetch(&self, slot: &Slot) -> Result<Cow<'_, [u8]>> {
        self.arena(slot).fetch(slot)
    }

    /// The weight tensor of a slot.
    pub fn at(&self, slot: &Slot) -> View<'_> {
        self.arena(slot).at(slot)
    }

    /// Several weights of the base as one, if they lie so ([`Arena::joined`]).
    pub fn joined(&self, slots: &[&Slot]) -> Option<View<'_>> {
        self.weights.joined(slots)
    }

    fn arena(&self, slot: &Slot) -> &Arena {
        match (slot.part, &self.adapter) {
            (Part::Base, _) => &self.weights,
            (Part::Adapter, Some(adapter)) => &adapter.weights,
            (Part::Constant, Some(adapter)) => &adapter.constants,
            (part, None) => panic!("{} is {part:?}, but the model has no adapter", slot.name),
        }
    }

    /// Writes config.json and the weights, as they are stored in memory, into a directory that exists; of a model with an
    /// adapter, the adapter alone.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        match &self.adapter {
            None => weights::save(dir, &self.config, &self.layout, &self.weights, self.dtype),
            Some(adapter) => adapter.save(dir, self.config.head),
        }
    }

    /// Number of parameters, those of an adapter not counted.
    pub fn parameters(&self) -> usize {
        self.layout.elements()
    }
}
