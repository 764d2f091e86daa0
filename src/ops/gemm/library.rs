//! The products through cuBLASLt, where the user asked for it.

use super::Into;
use crate::device::cuda::Factor;
use crate::device::{Gpu, View};

/// Its columns are the summed index.
fn along_columns(view: View) -> Factor {
    Factor { view, summed_along_columns: true }
}
/// Its rows are the summed index.
fn along_rows(view: View) -> Factor {
    Factor { view, summed_along_columns: false }
}

/// `y = x w^T (+ bias) (+ residual)`.
pub(super) fn nt(gpu: &Gpu, y: View, x: View, w: View, bias: Option<View>, residual: Option<View>) {
    gpu.cublaslt_product(y, along_columns(x), along_columns(w), x.cols(), bias, residual);
}

/// `dx (=|+=) dy w`.
pub(super) fn nn(gpu: &Gpu, dx: View, dy: View, w: View, into: Into) {
    let start = (into == Into::Add).then_some(dx);
    gpu.cublaslt_product(dx, along_columns(dy), along_rows(w), dy.cols(), None, start);
}

/// `dw (=|+=) dy^T x`.
pub(super) fn tn(gpu: &Gpu, dw: View, dy: View, x: View, into: Into) {
    let start = (into == Into::Add).then_some(dw);
    gpu.cublaslt_product(dw, along_rows(dy), along_rows(x), dy.rows(), None, start);
}
