//! The optimizer: AdamW with decoupled weight decay over every trained parameter, its moments, and master copies where the
//! weights themselves are stored in bf16.
//!
//! Moments and master copies are arenas of the layout of what is trained, so one slot indexes them all and a step is one op over
//! whole arenas. Weight decay applies to matrices and tables, not to norm weights and biases.

use crate::base::dtype::{Dtype, Elem, bf16};
use crate::device::{Arena, Class, Device, Layout, Slot};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::weights::{open_tensors, save_tensors};
use crate::ops::adamw::{AdamW, adamw_f32, adamw_master};
use crate::ops::norm2::{blocks, norm2};
use std::path::Path;

/// Where a checkpoint keeps the optimizer.
const DIR: &str = "optimizer";
const FIRST: &str = "first_moments.safetensors";
const SECOND: &str = "second_moments.safetensors";
const MASTER: &str = "master_weights.safetensors";

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest gradient norm; infinity to leave gradients alone.
    pub clip: f64,
}

/// Moments, master copies, and room to measure gradients.
pub struct Optimizer {
    settings: Settings,
    /// The layout of moments and master copies.
    layout: Layout,
    m: Arena,
    v: Arena,
    master: Option<Arena>,
    /// For each stretch of the arenas whether weight decay applies, u8.
    decays: Slot,
    sum: Slot,
    partials: Slot,
    /// Flags of decay, and room to measure gradients.
    scratch: Arena,
}

impl Optimizer {
    /// Zero moments, and a master copy of the weights if they are stored in bf16.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, model: &Model, settings: Settings) -> Result<Optimizer> {
        let (trained, weights) = model.trained();
        let layout = trained.with_dtype(model.dtype.stat());
        let decays = layout.stretches(|slot| matches!(slot.class, Class::Matrix | Class::Table) as u8);
        let mut l = Layout::new();
        let decays_slot = l.buffer("decays", Dtype::U8, 1, decays.len());
        let sum = l.buffer("sum", Dtype::F64, 1, 1);
        let largest = trained.slots().iter().map(Slot::len).max().unwrap_or(0);
        let partials = l.buffer("partials", Dtype::F64, 1, blocks(largest));
        let master = match model.dtype {
            Dtype::Bf16 => {
                let master = Arena::new(dev, "master weights", &layout)?;
                for slot in trained.slots() {
                    let stored = weights.fetch(slot)?;
                    let widened: Vec<f32> =
                        stored.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).get()).collect();
                    dev.write(master.at(slot), &widened);
                }
                Some(master)
            }
            _ => None,
        };
        let scratch = Arena::new(dev, "gradient norm", &l)?;
        dev.write(scratch.at(&decays_slot), &decays);
        Ok(Optimizer {
            settings,
            m: Arena::new(dev, "first moments", &layout)?,
            v: Arena::new(dev, "second moments", &layout)?,
            master,
            layout,
            decays: decays_slot,
            sum,
            partials,
            scratch,
        })
    }

    /// The L2 norm of all gradients together.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn gradient_norm(&self, dev: &Device, grads: &Arena) -> Result<f64> {
        let sum = self.scratch.at(&self.sum);
        dev.zero(sum);
        for slot in self.layout.slots() {
            norm2(dev, sum, self.scratch.at(&self.partials), grads.at(slot));
        }
        Ok(dev.read::<f64>(sum)?[0].sqrt())
    }

    /// One step. `step` counts from 1; `norm` is what [`Optimizer::gradient_norm`] measured.
    pub fn step(&self, dev: &Device, model: &Model, grads: &Arena, norm: f64, lr: f64, step: u64) {
        // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6 and never scales up.
        let clip = (self.settings.clip / (norm + 1e-6)).min(1.0);
        let Settings { beta1, beta2, eps, weight_decay: decay, .. } = self.settings;
        let hp = AdamW { lr, beta1, beta2, eps, decay, step, clip, seed: 0 };
        let (p, m, v, g) = (model.trained().1.flat(), self.m.flat(), self.v.flat(), grads.flat());
        let decays = self.scratch.at(&self.decays);
        match &self.master {
            None => adamw_f32(dev, &hp, p, m, v, g, decays),
            Some(master) => adamw_master(dev, &hp, p, master.flat(), m, v, g, decays),
        }
    }

    /// Writes the moments and master copies into the directory `optimizer` of a checkpoint.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save(&self, checkpoint: &Path) -> Result<()> {
        let dir = checkpoint.join(DIR);
        std::fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        save_tensors(&dir.join(FIRST), &self.layout, &self.m)?;
        save_tensors(&dir.join(SECOND), &self.layout, &self.v)?;
        match &self.master {
            Some(master) => save_tensors(&dir.join(MASTER), &self.layout, master),
            None => Ok(()),
        }
    }

    /// Takes over what [`Optimizer::save`] wrote.
    ///
    /// # Errors
    /// Missing or damaged files; files of another model.
    pub fn load(&mut self, dev: &Device, checkpoint: &Path) -> Result<()> {
        let dir = checkpoint.join(DIR);
        let open = |name, what| open_tensors(&dir.join(name), &self.layout)?.on(dev, what, &self.layout);
        self.m = open(FIRST, "first moments")?;
        self.v = open(SECOND, "second moments")?;
        if self.master.is_some() {
            self.master = Some(open(MASTER, "master weights")?);
        }
        Ok(())
    }

    /// Bytes of moments and master copies.
    pub fn bytes(layout: &Layout, dtype: Dtype) -> usize {
        let one = layout.with_dtype(dtype.stat()).bytes();
        if dtype == Dtype::Bf16 { 3 * one } else { 2 * one }
    }
}
