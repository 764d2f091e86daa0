//! Floor 3: the transformer. One forward, one hand-derived backward, three heads, weights on disk.
//!
//! A [`Model`] is a config, a table of parameters and their memory. [`acts::Acts`] holds the activations of a pass,
//! [`cache::Cache`] the keys and values of sequences being generated. Nothing allocates after construction.

pub mod acts;
pub mod backward;
pub mod cache;
pub mod config;
pub mod cost;
pub mod forward;
pub mod head;
pub mod params;
pub mod paths;
pub mod weights;

#[cfg(test)]
mod tests;

use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::{Error, Result};
use config::{Config, HeadKind};
use params::Params;
use std::borrow::Cow;
use std::path::Path;
use weights::Missing;

/// A model in memory.
pub struct Model {
    pub config: Config,
    pub dtype: Dtype,
    pub layout: Layout,
    pub params: Params,
    pub weights: Arena,
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
        Ok(Model { config, dtype, layout, params, weights })
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
        let mut config = Config::open(dir)?;
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
        Ok((Model { config, dtype, layout, params, weights }, drawn))
    }

    /// A model with random weights.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn random(config: Config, dtype: Dtype, seed: u64) -> Result<Model> {
        let (layout, params) = Params::layout(&config, dtype);
        let weights = weights::init(&layout, seed)?;
        Ok(Model { config, dtype, layout, params, weights })
    }

    /// This model with its weights on a device.
    ///
    /// # Errors
    /// A device without room for the weights, or that does not compute in their type.
    pub fn on(self, dev: &Device) -> Result<Model> {
        dev.supports(self.dtype)?;
        let weights = self.weights.on(dev, "the weights", &self.layout)?;
        Ok(Model { weights, ..self })
    }

    /// The bytes of a weight tensor, on the host.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn fetch(&self, slot: &Slot) -> Result<Cow<'_, [u8]>> {
        self.weights.fetch(slot)
    }

    /// The weight tensor of a slot.
    pub fn at(&self, slot: &Slot) -> View<'_> {
        self.weights.at(slot)
    }

    /// Writes config.json and the weights, as they are stored in memory, into a directory that exists.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        weights::save(dir, &self.config, &self.layout, &self.weights, self.dtype)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.layout.elements()
    }
}
