//! Floor 3: what a model is (config, parameters), what it computes, and its directory on disk.

pub mod config;
pub mod weights;
