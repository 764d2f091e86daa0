//! Floor 3: the transformer. One forward, one hand-derived backward, three heads, weights on disk.
//!
//! A [`Model`] is a config, a table of parameters and their memory. [`acts::Acts`] holds the activations of a pass,
//! [`cache::Cache`] the keys and values of sequences being generated. Nothing allocates after construction.

pub mod acts;
pub mod backward;
pub mod cache;
pub mod config;
pub mod forward;
pub mod head;
pub mod params;
pub mod weights;

#[cfg(test)]
mod tests;

use crate::base::dtype::Dtype;
use crate::device::{Arena, Layout, Slot, View};
use crate::error::Result;
use config::Config;
use params::Params;

/// A model in memory.
pub struct Model {
    pub config: Config,
    pub dtype: Dtype,
    pub layout: Layout,
    pub params: Params,
    pub weights: Arena,
}

impl Model {
    /// A model with random weights.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn random(config: Config, dtype: Dtype, seed: u64) -> Result<Model> {
        let (layout, params) = Params::layout(&config, dtype);
        let weights = weights::init(&layout, seed)?;
        Ok(Model { config, dtype, layout, params, weights })
    }

    /// The weight tensor of a slot.
    pub fn at(&self, slot: &Slot) -> View<'_> {
        self.weights.at(slot)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.layout.elements()
    }
}
