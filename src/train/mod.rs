//! Floor 4: training. [`objective`] turns examples into targets, [`trainer`] makes steps, `run` drives a whole run.

pub mod objective;
pub mod optim;
pub mod order;
pub mod pass;
pub mod trainer;
