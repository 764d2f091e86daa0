//! Gramophone trains and serves generative reward models.
pub mod app;
pub mod base;
pub mod device;
pub mod error;
pub mod ops;
pub mod train;

pub use error::{Error, Kind, Result};
