//! Floor 6: what people touch: reports, signals, the command line.

mod axis;
mod chart;
pub mod report;
#[cfg(feature = "cli")]
pub mod signals;
