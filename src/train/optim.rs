//! The optimizer: how gradients step parameters, and what is kept for it.
//!
//! | method | weights | kept beside weights and gradients, bytes a parameter |
//! |---|---|---|
//! | [`Method::AdamW`] | f32 | f32 moments: 8 |
//! | | bf16, the nearest to f32 master copies | f32 moments, masters: 12 |
//! | [`Method::AdamWSr`] | bf16 rounded at random | f32 moments: 8 |
//! | [`Method::AdamW8bit`] | f32, or bf16 rounded at random | a byte for each moment, and their scales: 2 1/32 |
//! | [`Method::Muon`] | f32, or bf16 rounded at random | f32 momentum of matrices: 4; f32 moments of all else: 8 |
//!
//! States are arenas of the layout of what is trained, so one slot indexes them all and a step of AdamW is one op over whole arenas;
//! Muon goes from matrix to matrix. Weight decay applies to matrices and tables, not to norm weights and biases.

mod muon;

use crate::base::dtype::{Dtype, Elem, bf16};
use crate::device::{Arena, Class, Device, Layout, STRETCH, Slot, View};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::weights::{open_tensors, save_tensors};
use crate::ops::adamw::{AdamW, adamw_8bit, adamw_f32, adamw_master, adamw_sr};
use crate::ops::norm2::{blocks, norm2};
use muon::Muon;
use std::path::Path;

/// Where a checkpoint keeps the optimizer.
const DIR: &str = "optimizer";

/// How parameters are stepped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// AdamW in f32; bf16 weights follow f32 master copies.
    AdamW,
    /// AdamW with f32 moments on bf16 weights that are rounded at random and have no master copies.
    AdamWSr,
    /// AdamW with moments of one byte; bf16 weights are rounded at random.
    AdamW8bit,
    /// Muon for matrices, AdamW for tables, heads and vectors; bf16 weights are rounded at random.
    Muon {
        momentum: f64,
        /// Learning rate of matrices as a multiple of the others'.
        rate: f64,
    },
}

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub method: Method,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest gradient norm; infinity to leave gradients alone.
    pub clip: f64,
    /// Storage type of gradients: f32, or bf16 beside bf16 weights.
    pub gradients: Dtype,
    /// Of random rounding.
    pub seed: u64,
}

impl Settings {
    /// AdamW as PyTorch has it by default, without weight decay.
    pub const ADAMW: Settings = Settings {
        method: Method::AdamW,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        clip: f64::INFINITY,
        gradients: Dtype::F32,
        seed: 0,
    };

    /// # Errors
    /// A method or a type of gradients that weights of this storage type cannot have.
    pub fn check(&self, weights: Dtype) -> Result<()> {
        if weights == Dtype::Bf16 {
            return Ok(());
        }
        let refused = |what: &str, instead: &str| {
            Err(Error::usage(format!(
                "{what} goes with bf16 weights, and these are {weights}: set model.dtype = \"bf16\", or {instead}"
            )))
        };
        match (self.method, self.gradients) {
            (Method::AdamWSr, _) => refused("train.optimizer = \"adamw-sr\"", "train.optimizer = \"adamw\""),
            (_, Dtype::Bf16) => refused("train.gradients = \"bf16\"", "train.gradients = \"f32\""),
            _ => Ok(()),
        }
    }

    /// The type of gradients beside weights of this type.
    pub fn gradients_of(&self, weights: Dtype) -> Dtype {
        if self.gradients == Dtype::Bf16 { Dtype::Bf16 } else { weights.stat() }
    }
}

/// A part of the state: what to call it, its file in a checkpoint, its tensors.
struct Part {
    what: &'static str,
    file: &'static str,
    layout: Layout,
}

const FIRST: usize = 0;
const SECOND: usize = 1;
/// Master copies, scales of moments, or momentum.
const THIRD: usize = 2;

impl Method {
    /// What is kept for parameters of this layout: first moments, second moments, and what else there is.
    fn parts(self, parameters: &Layout, weights: Dtype) -> Vec<Part> {
        let part = |what, file, layout| Part { what, file, layout };
        let moments = |of: Layout| {
            [
                part("first moments", "first_moments.safetensors", of.clone()),
                part("second moments", "second_moments.safetensors", of),
            ]
        };
        let wide = parameters.with_dtype(weights.stat());
        let mut parts = Vec::from(moments(match self {
            Method::AdamW | Method::AdamWSr => wide.clone(),
            Method::AdamW8bit => wide.with_dtype(Dtype::U8),
            Method::Muon { .. } => wide.only(|slot| slot.class != Class::Matrix),
        }));
        match self {
            Method::AdamW if weights == Dtype::Bf16 => {
                parts.push(part("master weights", "master_weights.safetensors", wide));
            }
            Method::AdamW8bit => parts.push(part("scales of moments", "moment_scales.safetensors", scales(&wide))),
            Method::Muon { .. } => {
                let matrices = wide.only(|slot| slot.class == Class::Matrix);
                parts.push(part("momentum of matrices", "momentum.safetensors", matrices));
            }
            Method::AdamW | Method::AdamWSr => {}
        }
        parts
    }
}

/// One scale for each stretch of the arenas: of the first moments, of the second.
fn scales(parameters: &Layout) -> Layout {
    let stretches = parameters.stretches(|_| ()).len();
    let mut l = Layout::new();
    for name in ["first", "second"] {
        l.buffer(name, Dtype::F32, 1, stretches);
    }
    l
}

/// For each stretch whether weight decay applies; the sum of squares and its parts.
fn scratch(parameters: &Layout) -> (Layout, [Slot; 3]) {
    let mut l = Layout::new();
    let decays = l.buffer("decays", Dtype::U8, 1, parameters.stretches(|_| ()).len());
    let sum = l.buffer("sum", Dtype::F64, 1, 1);
    let largest = parameters.slots().iter().map(Slot::len).max().unwrap_or(0);
    let partials = l.buffer("partials", Dtype::F64, 1, blocks(largest));
    (l, [decays, sum, partials])
}

/// The state of an optimizer, and room to measure gradients.
pub struct Optimizer {
    settings: Settings,
    parts: Vec<Part>,
    /// The memory of `parts`.
    arenas: Vec<Arena>,
    muon: Option<Muon>,
    /// For each stretch of the arenas whether weight decay applies, u8.
    decays: Slot,
    sum: Slot,
    partials: Slot,
    /// Flags of decay, and room to measure gradients.
    scratch: Arena,
}

impl Optimizer {
    /// Zero moments, and a master copy of the weights where the method has one.
    ///
    /// # Errors
    /// As [`Settings::check`]; when the memory is not there.
    pub fn new(dev: &Device, model: &Model, settings: Settings) -> Result<Optimizer> {
        settings.check(model.dtype)?;
        let (trained, weights) = model.trained();
        let parts = settings.method.parts(trained, model.dtype);
        let arenas = parts.iter().map(|part| Arena::new(dev, part.what, &part.layout)).collect::<Result<Vec<_>>>()?;
        if (settings.method, model.dtype) == (Method::AdamW, Dtype::Bf16) {
            for slot in trained.slots() {
                let stored = weights.fetch(slot)?;
                let widened: Vec<f32> =
                    stored.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).get()).collect();
                dev.write(arenas[THIRD].at(slot), &widened);
            }
        }
        let (layout, [decays, sum, partials]) = scratch(trained);
        let scratch = Arena::new(dev, "gradient norm", &layout)?;
        let flags = trained.stretches(|slot| matches!(slot.class, Class::Matrix | Class::Table) as u8);
        dev.write(scratch.at(&decays), &flags);
        let muon = match settings.method {
            Method::Muon { .. } => Some(Muon::new(dev, trained, model.dtype)?),
            _ => None,
        };
        Ok(Optimizer { settings, parts, arenas, muon, decays, sum, partials, scratch })
    }

    /// The L2 norm of all gradients together.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn gradient_norm(&self, dev: &Device, model: &Model, grads: &Arena) -> Result<f64> {
        let sum = self.scratch.at(&self.sum);
        dev.zero(sum);
        for slot in model.trained().0.slots() {
            norm2(dev, sum, self.scratch.at(&self.partials), grads.at(slot));
        }
        Ok(dev.read::<f64>(sum)?[0].sqrt())
    }

    /// One step. `step` counts from 1; `norm` is what [`Optimizer::gradient_norm`] measured.
    pub fn step(&self, dev: &Device, model: &Model, grads: &Arena, norm: f64, lr: f64, step: u64) {
        let Settings { method, beta1, beta2, eps, weight_decay: decay, clip, seed, .. } = self.settings;
        // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6 and never scales up.
        let clip = (clip / (norm + 1e-6)).min(1.0);
        let hp = AdamW { lr, beta1, beta2, eps, decay, step, clip, seed };
        if let Method::Muon { momentum, rate } = method {
            return self.muon_step(dev, model, grads, &hp, momentum, rate);
        }
        let (p, g, decays) = (model.trained().1.flat(), grads.flat(), self.scratch.at(&self.decays));
        let (m, v) = (self.arenas[FIRST].flat(), self.arenas[SECOND].flat());
        match method {
            Method::AdamW8bit => {
                let [ms, vs] = [FIRST, SECOND].map(|moment| self.scales(moment));
                adamw_8bit(dev, &hp, p, m, v, ms, vs, g, decays);
            }
            Method::AdamW if model.dtype == Dtype::Bf16 => {
                adamw_master(dev, &hp, p, self.arenas[THIRD].flat(), m, v, g, decays);
            }
            _ => adamw(dev, &hp, [p, m, v, g], decays, 0),
        }
    }

    /// Muon's step of the matrices, AdamW's of all else.
    fn muon_step(&self, dev: &Device, model: &Model, grads: &Arena, hp: &AdamW, momentum: f64, rate: f64) {
        let muon = self.muon.as_ref().expect("Muon has its scratch");
        let decays = self.scratch.at(&self.decays);
        let [mut matrices, mut others] = [THIRD, FIRST].map(|part| self.parts[part].layout.slots().iter());
        let (trained, weights) = model.trained();
        for slot in trained.slots() {
            let (p, g) = (weights.at(slot), grads.at(slot));
            if slot.class == Class::Matrix {
                let m = self.arenas[THIRD].at(matrices.next().expect("momentum of every matrix"));
                muon.step(dev, &hp.of_muon(momentum, rate), p, m, g, slot.first() as u64);
            } else {
                let own = others.next().expect("moments of all else");
                let [m, v] = [FIRST, SECOND].map(|moment| self.arenas[moment].at(own));
                let start = slot.first() / STRETCH;
                let decays = decays.cols_in(start..start + slot.len().div_ceil(STRETCH));
                adamw(dev, hp, [p, m, v, g], decays, slot.first() as u64);
            }
        }
    }

    fn scales(&self, moment: usize) -> View<'_> {
        self.arenas[THIRD].at(&self.parts[THIRD].layout.slots()[moment])
    }

    /// Writes the state into the directory `optimizer` of a checkpoint.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save(&self, checkpoint: &Path) -> Result<()> {
        let dir = checkpoint.join(DIR);
        std::fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let mut parts = self.parts.iter().zip(&self.arenas);
        parts.try_for_each(|(part, arena)| save_tensors(&dir.join(part.file), &part.layout, arena))
    }

    /// Takes over what [`Optimizer::save`] wrote.
    ///
    /// # Errors
    /// Missing or damaged files; files of another model or of another optimizer.
    pub fn load(&mut self, dev: &Device, checkpoint: &Path) -> Result<()> {
        let dir = checkpoint.join(DIR);
        self.same_files(&dir)?;
        for (part, arena) in self.parts.iter().zip(&mut self.arenas) {
            arena.take(dev, open_tensors(&dir.join(part.file), &part.layout)?, &part.layout)?;
        }
        Ok(())
    }

    /// Every optimizer has files of its own.
    fn same_files(&self, dir: &Path) -> Result<()> {
        let entries = std::fs::read_dir(dir).and_then(|all| all.collect::<std::io::Result<Vec<_>>>());
        let entries = entries.map_err(|e| Error::io("read", dir, e))?;
        let mut there: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        let mut ours: Vec<&str> = self.parts.iter().map(|part| part.file).collect();
        there.sort();
        ours.sort();
        if there == ours {
            return Ok(());
        }
        Err(Error::model(format!(
            "{} holds the state of another optimizer ({}; this one keeps {}): resume with the train.optimizer and model.dtype that \
             wrote it, or start a new run from its weights with model.path",
            dir.display(),
            there.join(", "),
            ours.join(", ")
        )))
    }

    /// Bytes of each allocation: of the state, and of what Muon works in.
    pub fn allocations(parameters: &Layout, weights: Dtype, method: Method) -> Vec<usize> {
        let kept = method.parts(parameters, weights).into_iter().map(|part| part.layout.bytes());
        let muon = matches!(method, Method::Muon { .. }).then(|| Muon::bytes(parameters, weights));
        kept.chain(muon).collect()
    }

    /// Bytes of flags of decay and of room to measure gradients, one allocation more.
    pub fn scratch(parameters: &Layout) -> usize {
        scratch(parameters).0.bytes()
    }
}

/// AdamW without master copies: bf16 weights are rounded at random.
fn adamw(dev: &Device, hp: &AdamW, [p, m, v, g]: [View; 4], decays: View, first: u64) {
    match p.dtype() {
        Dtype::Bf16 => adamw_sr(dev, hp, p, m, v, g, decays, first),
        _ => adamw_f32(dev, hp, p, m, v, g, decays),
    }
}

#[cfg(test)]
mod tests;
