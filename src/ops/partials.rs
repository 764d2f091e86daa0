//! Adding up, in order, the parts of a gradient that a GPU's blocks have left behind.
//!
//! ```text
//! out[c] += sum_s sum_p partials[p, c]        sixteen pieces s of neighbouring rows p, both ascending
//! ```
//! The CPU's ops do this in their own loops; this is the second half of the GPU's.

use crate::device::View;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};

/// Columns that one block adds up (`kernels/partials.cu`).
const COLUMNS: usize = 32;

/// Adds the rows of `partials` `[P, D]` (f32) into `out` `[D]` (f32 or bf16).
pub(super) fn partials_add(gpu: &Gpu, out: View, partials: View) {
    let [parts, d] = partials.shape();
    assert!(out.len() == d, "partials_add: out {:?}, partials {:?}", out.shape(), partials.shape());
    let grid = Grid::cover(d, COLUMNS);
    launch::partials_add(gpu, out.dtype(), grid, out, partials, parts as i32, d as i32);
}
