//! Every op by itself, on the shapes of a model.

mod cases;

use super::results::{FORMAT, LeftOut};
use super::{Ceilings, Effort, Environment, Flush, Measured, Results};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::ops::Heads;
use crate::ops::cost::Cost;

/// The sizes that the cases have.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Packed tokens of row-wise ops and products.
    pub tokens: usize,
    pub width: usize,
    pub ffn: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Sequences of attention.
    pub sequences: Vec<usize>,
    /// Sequences that decode together, and their length.
    pub decode: [usize; 2],
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
            sequences: vec![8192, 2048, 2048, 2048, 2048],
            decode: [32, 4096],
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
            sequences: vec![512, 512],
            decode: [8, 1024],
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
            sequences: vec![9, 7],
            decode: [2, 70],
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

/// Measures; `told` hears of each case as it is done.
///
/// # Errors
/// A filter that fits no case; a device that fails. A case without room for its operands is left out.
pub fn run(dev: &Device, plan: &Plan, mut told: impl FnMut(&Measured)) -> Result<Results> {
    let Plan { sizes, dtype, only, effort } = plan;
    dev.supports(*dtype)?;
    let mut cases = cases::cases(sizes, *dtype);
    let names = cases.iter().map(|c| c.op).collect::<Vec<_>>();
    cases.retain(|case| only.is_empty() || only.iter().any(|part| case.name().contains(part.as_str())));
    if cases.is_empty() {
        let mut known = names;
        known.dedup();
        return Err(Error::usage(format!("no case is called {}; there are {}", only.join(", "), known.join(", "))));
    }
    let flush = Flush::new(dev, effort.flushed)?;
    let ceilings = Ceilings::measure(dev, effort, &flush, *dtype, sizes.copied, sizes.square)?;
    let (mut measured, mut left_out) = (Vec::new(), Vec::new());
    for case in cases {
        match case.measure(dev, effort, &flush) {
            Ok(seconds) => {
                let Cost { bytes, flops } = case.cost;
                let of_ceiling = ceilings.seconds(&case.cost, case.bound) / seconds.median;
                let (name, bound) = (case.name(), case.bound);
                measured.push(Measured { name, bytes, flops, bound, seconds, of_ceiling, tokens: None });
                told(&measured[measured.len() - 1]);
            }
            Err(e) if e.kind() == Kind::Device && e.to_string().contains("not enough memory") => {
                left_out.push(LeftOut { name: case.name(), reason: e.to_string() });
            }
            Err(e) => return Err(e.at(case.name())),
        }
    }
    let benchmark = "kernels".to_string();
    Ok(Results { format: FORMAT, benchmark, environment: Environment::of(dev), ceilings, cases: measured, left_out })
}
