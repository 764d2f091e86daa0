//! Floor 6: what people touch: the command line, reports, signals.

mod axis;
mod chart;
#[cfg(feature = "cli")]
pub mod cli;
pub mod report;
#[cfg(feature = "cli")]
pub mod signals;
