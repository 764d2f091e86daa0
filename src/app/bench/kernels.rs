//! Every op by itself, on the shapes of a model.

pub(super) mod cases;
pub mod names;

use super::{Case, Ceilings, Effort, Flush, Measured, Results};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::device::cuda::{Products, library_present};
use crate::error::{Error, Kind, Result};
use crate::ops::Heads;

/// The sizes that the cases have.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Packed tokens of row-wise ops and products.
    pub tokens: usize,
    pub width: usize,
    pub ffn: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Batches of sequences for attention. The last one is ragged where lengths matter.
    pub sequences: Vec<Vec<usize>>,
    /// Sequences that decode together, and their length.
    pub decode: [usize; 2],
    /// Samples that decode together, the length of the prompt that they share, and of what each has written.
    pub samples: [usize; 3],
    /// Parameters of an optimizer's step.
    pub parameters: usize,
    /// Edges of Muon's matrix.
    pub matrix: [usize; 2],
    /// Bytes that the ceilings of memory copy.
    pub copied: usize,
    /// Edge of the ceiling's square matrices.
    pub square: usize,
}

impl Sizes {
    /// Llama-3.1-8B, with traffic that outgrows every cache: for GPUs.
    pub fn large() -> Sizes {
        Sizes {
            tokens: 16384,
            width: 4096,
            ffn: 14336,
            heads: Heads { query: 32, kv: 8, size: 128 },
            vocab: 128_256,
            sequences: vec![vec![8192; 2], vec![2048; 8], vec![8192, 2048, 2048, 2048, 2048]],
            decode: [32, 4096],
            samples: [64, 4096, 512],
            parameters: 1 << 27,
            matrix: [4096, 4096],
            copied: 1 << 30,
            square: 8192,
        }
    }
    /// A model of some twenty million parameters: for CPUs.
    pub fn small() -> Sizes {
        Sizes {
            tokens: 1024,
            width: 512,
            ffn: 1536,
            heads: Heads { query: 8, kv: 4, size: 64 },
            vocab: 8192,
            sequences: vec![vec![512, 512]],
            decode: [8, 1024],
            samples: [8, 1024, 128],
            parameters: 1 << 21,
            matrix: [512, 512],
            copied: 64 << 20,
            square: 1024,
        }
    }
    /// Enough to see that everything runs.
    pub fn tiny() -> Sizes {
        Sizes {
            tokens: 24,
            width: 64,
            ffn: 128,
            heads: Heads { query: 2, kv: 1, size: 64 },
            vocab: 256,
            sequences: vec![vec![9, 7]],
            decode: [2, 70],
            samples: [3, 512, 8],
            parameters: 1000,
            matrix: [24, 40],
            copied: 1 << 16,
            square: 64,
        }
    }
}

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub sizes: Sizes,
    pub dtype: Dtype,
    /// Parts of names; cases whose name holds one of them are measured. All if empty.
    pub only: Vec<String>,
    pub effort: Effort,
}

/// The cases that the plan chooses.
fn chosen(dev: &Device, plan: &Plan) -> Result<Vec<Case>> {
    let Plan { sizes, dtype, only, .. } = plan;
    dev.supports(*dtype)?;
    let mut cases = cases::cases(dev, sizes, *dtype);
    let names = cases.iter().map(|c| c.op).collect::<Vec<_>>();
    cases.retain(|case| only.is_empty() || only.iter().any(|part| case.name().contains(part.as_str())));
    if cases.is_empty() {
        let mut known = names;
        known.dedup();
        return Err(Error::usage(format!("no case is called {}; there are {}", only.join(", "), known.join(", "))));
    }
    Ok(cases)
}

/// Measures; `told` is given what there is so far after each case, and a line about that case.
///
/// # Errors
/// A filter that fits no case; a device that fails. A case without room for its operands, or without the library that it is to be
/// measured with, is left out.
pub fn run(dev: &Device, plan: &Plan, mut told: impl FnMut(&Results, String) -> Result<()>) -> Result<Results> {
    let Plan { sizes, dtype, effort, .. } = plan;
    let cases = chosen(dev, plan)?;
    let flush = Flush::new(dev, effort.flushed)?;
    let ceilings = Ceilings::measure(dev, effort, &flush, *dtype, sizes.copied, sizes.square)?;
    let mut results = Results::new("kernels", dev, ceilings);
    for case in cases {
        let line = match case.measure(dev, effort, &flush) {
            Ok(seconds) => results.add(Measured::new(case.name(), case.cost, case.bound, seconds, &ceilings)),
            Err(e) if e.kind() == Kind::Device && absent(&case, &e) => results.leave_out(case.name(), e.to_string()),
            Err(e) => return Err(e.at(case.name())),
        };
        told(&results, line)?;
    }
    Ok(results)
}

/// Whether a case failed for want of memory, or of the library that it is about.
fn absent(case: &Case, e: &Error) -> bool {
    let library = case.products == Some(Products::CublasLt) && !library_present();
    library || e.to_string().contains("not enough memory")
}

/// Runs every case once and launches no other kernel, so that a profiler sees each of theirs once. The cases' names, and what was left out.
///
/// # Errors
/// As [`run`].
pub fn once(dev: &Device, plan: &Plan) -> Result<Vec<String>> {
    let run = |case: Case| match case.once(dev) {
        Ok(()) => Ok(case.name()),
        Err(e) if e.kind() == Kind::Device && absent(&case, &e) => Ok(format!("left out: {}: {e}", case.name())),
        Err(e) => Err(e.at(case.name())),
    };
    chosen(dev, plan)?.into_iter().map(run).collect()
}
