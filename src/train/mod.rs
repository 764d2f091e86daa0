//! Floor 4: training, and all that a run needs around its step: the run file, the learning rate, logs, checkpoints.

pub mod checkpoint;
pub mod config;
pub mod log;
pub mod schedule;
pub mod tensorboard;
