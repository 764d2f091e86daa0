//! Floor 6: what people touch: the command line, the server, the demo, reports, signals.

mod axis;
pub mod bench;
mod chart;
#[cfg(feature = "cli")]
pub mod cli;
pub mod demo;
pub mod doctor;
pub mod evaluation;
pub mod learning_curve;
#[cfg(feature = "server")]
pub mod load;
mod markdown;
#[cfg(feature = "server")]
pub mod open_files;
pub mod report;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "cli")]
pub mod signals;
