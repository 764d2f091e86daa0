//! Floor 6: programs over the engine. The command line is in `cli`.

#[cfg(feature = "cli")]
pub mod cli;
