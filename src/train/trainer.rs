//! The training step: micro-batches forward and backward, gradient norm, clipping, optimizer.
//!
//! A [`Trainer`] owns a model in training: its weights, gradients, moments and activations, all allocated once. It knows
//! nothing of files, logs or schedules; `run.rs` drives it for the command line, and the demo drives it directly.

use super::objective::{self, Reduction, micro_batches};
use super::optim::{self, Optimizer};
use super::pass::{self, Tally};
use crate::device::{Arena, Device};
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Capacity, Keep};
use crate::model::lora::Ranks;
use crate::text::encode::Item;

/// What shapes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Most tokens of a micro-batch; an item longer than this is refused.
    pub micro_tokens: usize,
    pub keep: Keep,
    pub objective: objective::Settings,
}

impl Shape {
    /// The activations that micro-batches of this shape need, with adapters of these ranks.
    pub fn capacity(&self, ranks: Ranks) -> Capacity {
        Capacity {
            tokens: self.micro_tokens,
            // A sequence has at least two tokens: one to read and one to predict.
            sequences: self.micro_tokens.div_ceil(2),
            // The full-vocabulary verdict has two targets on one row.
            rows: self.micro_tokens,
            positions: self.micro_tokens,
            keep: self.keep,
            ranks,
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    pub tally: Tally,
    /// Gradient norm before clipping.
    pub norm: f64,
}

/// The loss of a model on items and, for preferences, the lead of the right side in each.
///
/// # Errors
/// An item that does not fit into a micro-batch.
pub fn evaluate(dev: &Device, model: &Model, acts: &Acts, shape: &Shape, items: &[Item]) -> Result<(Tally, Vec<f64>)> {
    let (mut tally, mut leads) = (Tally::default(), Vec::new());
    let settings = objective::Settings { reduction: Reduction::Mean, ..shape.objective };
    for batch in micro_batches(items, &settings, shape.micro_tokens)? {
        let (part, more) = pass::evaluate(dev, model, acts, &batch)?;
        tally.add(part);
        leads.extend(more);
    }
    Ok((tally, leads))
}

/// A model in training.
pub struct Trainer<'d> {
    dev: &'d Device,
    pub model: Model,
    pub optimizer: Optimizer,
    grads: Arena,
    acts: Acts,
    shape: Shape,
    /// Steps done.
    pub step: u64,
}

impl<'d> Trainer<'d> {
    /// Allocates everything a step needs.
    ///
    /// # Errors
    /// As [`optim::Settings::check`]; when the memory is not there.
    pub fn new(dev: &'d Device, model: Model, settings: optim::Settings, shape: Shape) -> Result<Trainer<'d>> {
        // Before anything of their type is allocated.
        settings.check(model.dtype)?;
        let gradients = model.trained().0.with_dtype(settings.gradients_of(model.dtype));
        let grads = Arena::new(dev, "gradients", &gradients)?;
        let acts = Acts::new(dev, &model.config, model.dtype, shape.capacity(model.ranks()))?;
        let optimizer = Optimizer::new(dev, &model, settings)?;
        Ok(Trainer { dev, model, optimizer, grads, acts, shape, step: 0 })
    }

    /// One optimizer step on these items at this learning rate.
    ///
    /// # Errors
    /// An item that does not fit into a micro-batch; [`Kind::Diverged`] when the loss or the gradient norm is not finite; the weights are then those of before.
    pub fn step(&mut self, items: &[Item], lr: f64) -> Result<Report> {
        self.zero_gradients();
        let mut tally = Tally::default();
        for batch in micro_batches(items, &self.shape.objective, self.shape.micro_tokens)? {
            tally.add(pass::train(self.dev, &self.model, &self.grads, &self.acts, &batch)?);
        }
        let dev = self.dev;
        let norm = dev.install(|| self.optimizer.gradient_norm(dev, &self.model, &self.grads))?;
        if !tally.loss.is_finite() || !norm.is_finite() {
            return Err(Error::new(
                Kind::Diverged,
                format!(
                    "step {}: loss {}, gradient norm {norm}; training stopped before the weights were touched. \
                     Lower the learning rate or look at the data of this step",
                    self.step + 1,
                    tally.loss
                ),
            ));
        }
        self.step += 1;
        dev.install(|| self.optimizer.step(dev, &self.model, &self.grads, norm, lr, self.step));
        Ok(Report { tally, norm })
    }

    /// The loss on items and, for preferences, the lead of the right side in each; the weights stay as they are.
    ///
    /// # Errors
    /// As [`Trainer::step`], but for divergence.
    pub fn evaluate(&self, items: &[Item]) -> Result<(Tally, Vec<f64>)> {
        evaluate(self.dev, &self.model, &self.acts, &self.shape, items)
    }

    /// The model, when training is over.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// The gradient tensor of each parameter after the last step, by name; for tests and inspection.
    pub fn gradients(&self) -> &Arena {
        &self.grads
    }

    fn zero_gradients(&self) {
        self.dev.zero(self.grads.flat());
    }
}
