//! Gramophone trains and serves generative reward models.
pub mod app;
pub mod base;
pub mod device;
pub mod error;
pub mod infer;
pub mod model;
pub mod ops;
pub mod reward;
pub mod text;
pub mod train;

pub use error::{Error, Kind, Result};
