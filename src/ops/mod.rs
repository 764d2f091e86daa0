//! Floor 2: one file per op family. Each opens with the formula and the contract, then the public functions with their
//! checks, the CPU oracle, and the tests.
//!
//! Conventions. Outputs come first. Letters: `B` sequences, `T` packed tokens, `D` width, `H` query heads, `G` key-value
//! heads, `K` head size, `F` feed-forward width, `V` vocabulary, `R` labelled rows. The gradient of `x` is `dx`.
//! Oracles are generic over the element type: f64 for finite differences, f32 for running, bf16 to round where the
//! kernels round. Statistics (`rstd`, `lse`) have the type [`Dtype::stat`](crate::base::dtype::Dtype::stat) gives.
//! A closure given to [`vectorize`](crate::base::simd::vectorize) is marked `#[inline(always)]`: without it a large body
//! is compiled once, for the baseline, and runs tens of times slower.

// An op's operands are its arguments: outputs, inputs, shape.
#![allow(clippy::too_many_arguments)]

/// Runs the expression with the type alias bound to the statistics' type that a `Dtype` names: f64 or f32.
macro_rules! by_stat {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::base::dtype::Dtype::F64 => {
                type $t = f64;
                $body
            }
            $crate::base::dtype::Dtype::F32 => {
                type $t = f32;
                $body
            }
            other => panic!("{other} is not a type of statistics"),
        }
    };
}

/// Runs the expression with the first alias bound to the type of some tensor and the second to that of its gradient: the same,
/// or the statistics' type (f32 gradients of bf16 weights).
macro_rules! by_gradient {
    ($stored:expr, $gradient:expr, $t:ident, $g:ident => $body:expr) => {{
        use $crate::base::dtype::{Dtype, bf16};
        match ($stored, $gradient) {
            (Dtype::F64, Dtype::F64) => {
                type $t = f64;
                type $g = f64;
                $body
            }
            (Dtype::F32, Dtype::F32) => {
                type $t = f32;
                type $g = f32;
                $body
            }
            (Dtype::Bf16, Dtype::F32) => {
                type $t = bf16;
                type $g = f32;
                $body
            }
            (Dtype::Bf16, Dtype::Bf16) => {
                type $t = bf16;
                type $g = bf16;
                $body
            }
            (stored, gradient) => panic!("a gradient of type {gradient} beside {stored}"),
        }
    }};
}

pub mod adamw;
pub mod advance;
mod angles;
pub mod attention;
pub mod ceiling;
mod codes;
pub mod cost;
pub mod decode;
pub mod embed;
pub mod gemm;
pub mod muon;
pub mod norm2;
pub mod pages;
mod partials;
pub mod rmsnorm;
pub mod rope;
mod rounding;
pub mod sample;
pub mod scalar;
mod softmax;
pub mod swiglu;
pub mod verdict;
pub mod xent;

#[cfg(test)]
pub(crate) mod check;
#[cfg(test)]
mod conformance;

use crate::device::View;
use crate::device::cuda::launch::Grid;

/// How attention divides a row: `query` heads of `size` columns each, sharing `kv` key-value heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    pub size: usize,
}

impl Heads {
    /// Query heads that share one key-value head.
    pub fn group(&self) -> usize {
        self.query / self.kv
    }
    /// What attention multiplies its logits by.
    pub fn scale(&self) -> f64 {
        1.0 / (self.size as f64).sqrt()
    }
    /// The columns of query head `h`.
    pub fn columns(&self, h: usize) -> std::ops::Range<usize> {
        h * self.size..(h + 1) * self.size
    }
}

/// Blocks of so many threads, each taking `each` vectors of 16 bytes, that cover a tensor row by row.
fn vector_grid(view: View, threads: u32, each: usize) -> Grid {
    let per_row = view.cols().div_ceil(16 / view.dtype().size());
    let vectors = view.rows() * per_row;
    assert!(u32::try_from(vectors).is_ok(), "{vectors} vectors of {:?} are more than kernels count", view.shape());
    Grid::cover(vectors, threads as usize * each)
}

/// How a GPU divides `rows` whose parts of a small gradient it sums apart: rows in a stretch, and stretches. Fixed, so that bits do
/// not depend on the GPU.
fn stretches(rows: usize) -> (usize, usize) {
    let stretch = rows.div_ceil(128).max(4);
    (stretch, rows.div_ceil(stretch))
}

/// The elements of an index tensor, each asserted to lie in `0..bound`; `op` and `what` say in the message whose it is.
fn indices<'a>(op: &str, what: &str, view: View<'a>, bound: usize) -> &'a [i32] {
    let all = view.slice::<i32>();
    for (i, &index) in all.iter().enumerate() {
        assert!(index >= 0 && (index as usize) < bound, "{op}: {what} {index} (number {i}) is not in 0..{bound}");
    }
    all
}
