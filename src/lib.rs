//! Gramophone trains and serves generative reward models.
pub mod base;
pub mod device;
pub mod error;
pub mod ops;
pub mod text;

pub use error::{Error, Kind, Result};
