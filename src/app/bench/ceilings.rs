//! What the device can do at most, measured beside the cases: copying, reading, matrix products.

use super::results::scaled;
use super::{Bound, Case, Effort, Flush, Operand};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::device::cuda::{Products, library_present};
use crate::error::Result;
use crate::ops::ceiling::{ceiling_copy, ceiling_read, pieces};
use crate::ops::cost::Cost;
use crate::ops::gemm::{gemm_cost, gemm_nt};
use serde::{Deserialize, Serialize};

/// Ceilings per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy.
    pub copy: f64,
    /// Bytes read.
    pub read: f64,
    /// Operations of a large square product in the run's type: by the engine or, where it is faster and there, by cuBLASLt.
    pub matrix: f64,
}

impl Ceilings {
    /// Measures them. `bytes` is the size of the copied buffer, `edge` that of the square matrices.
    pub(super) fn measure(
        dev: &Device,
        effort: &Effort,
        flush: &Flush,
        dtype: Dtype,
        bytes: usize,
        edge: usize,
    ) -> Result<Ceilings> {
        let n = bytes / 4;
        let copy = Case {
            products: None,
            op: "copy",
            shape: format!("{} MiB", bytes >> 20),
            cost: Cost { bytes: 2.0 * bytes as f64, flops: 0.0 },
            bound: Bound::Copy,
            operands: vec![Operand::zeros(Dtype::F32, 1, n), Operand::normal(Dtype::F32, 1, n)],
            work: Box::new(|dev, v| ceiling_copy(dev, v[0], v[1])),
        };
        let read = Case {
            products: None,
            op: "read",
            shape: format!("{} MiB", bytes >> 20),
            cost: Cost { bytes: bytes as f64, flops: 0.0 },
            bound: Bound::Read,
            operands: vec![Operand::zeros(Dtype::I32, 1, pieces(n)), Operand::normal(Dtype::F32, 1, n)],
            work: Box::new(|dev, v| ceiling_read(dev, v[0], v[1])),
        };
        let square = Operand::normal(dtype, edge, edge);
        let mut matrix = Case {
            products: None,
            op: "product",
            shape: format!("{dtype} {edge} x {edge} x {edge}"),
            cost: gemm_cost(dtype, edge, edge, edge),
            bound: Bound::Matrix,
            operands: vec![Operand::zeros(dtype, edge, edge), square.clone(), square],
            work: Box::new(|dev, v| gemm_nt(dev, v[0], v[1], v[2], None, None)),
        };
        // The lower quartile of the times: a ceiling is what can be reached.
        let rate =
            |case: &Case, amount: f64| Ok::<_, crate::error::Error>(amount / case.measure(dev, effort, flush)?.low);
        let own = rate(&matrix, matrix.cost.flops)?;
        matrix.products = Some(Products::CublasLt);
        let library = match dev {
            Device::Cuda(_) if library_present() => rate(&matrix, matrix.cost.flops)?,
            _ => 0.0,
        };
        Ok(Ceilings {
            copy: rate(&copy, copy.cost.bytes)?,
            read: rate(&read, read.cost.bytes)?,
            matrix: own.max(library),
        })
    }

    /// The least time in which this can be done.
    pub fn seconds(&self, cost: &Cost, bound: Bound) -> f64 {
        match bound {
            Bound::Copy => cost.bytes / self.copy,
            Bound::Read => cost.bytes / self.read,
            Bound::Matrix => cost.flops / self.matrix,
            Bound::Either => (cost.bytes / self.read).max(cost.flops / self.matrix),
        }
    }

    /// In words, one a row.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("copy", scaled(self.copy, "B/s")),
            ("read", scaled(self.read, "B/s")),
            ("matrix product", scaled(self.matrix, "FLOP/s")),
        ]
    }
}
