//! Floor 4: training, and all that a run needs around its step.
//!
//! [`objective`] turns examples into targets, [`pass`] takes a micro-batch through the model, [`trainer`] makes steps, [`run`]
//! drives a whole run;
//! [`config`] is the run file, [`schedule`] and [`order`] are pure, [`checkpoint`] survives crashes.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod log;
pub mod objective;
pub mod optim;
pub mod order;
pub mod pass;
pub mod plan;
pub mod run;
pub mod schedule;
pub mod tensorboard;
pub mod trainer;
