//! Matrix products in the three orientations that a linear layer needs.
//!
//! ```text
//! NT  y[m,n]  = sum_k x[m,k] w[n,k]  (+ bias[n]) (+ residual[m,n])      forward
//! NN  dx[m,k] = sum_n dy[m,n] w[n,k]                                    gradient of the input
//! TN  dw[n,k] = sum_m dy[m,n] x[m,k]                                    gradient of the weight
//!     db[n]  += sum_m dy[m,n]                                           gradient of the bias
//! ```
//! Each output element is one chain of fused multiply-adds over the summed index in ascending order, starting from zero
//! (or from what is there, for [`Into::Add`]), in the accumulator type, whatever the shape, the batch, the number of
//! threads or the instruction set; then `+ bias`, then `+ residual`; then one rounding. So a row's bits never depend on
//! the rows beside it.
//!
//! Inputs have one type; the output has it too, or its statistics' type (f32 gradients of bf16 weights). Views may have
//! row strides. The output overlaps no input, but `residual` may be `y` itself.
//!
//! On a GPU (`gemm/gpu.rs`) f32 products have the same bits as here. bf16 products add up 16 summed indices at a time in the
//! order and precision of the tensor cores: rows still do not know of each other, the last bits differ from the CPU's.
//!
//! On the CPU, f64 runs the oracle, plain loops; f32 and bf16 run register tiles (`gemm/kernel.rs`) over packed operands
//! (`gemm/pack.rs`) in cache blocks (`gemm/blocked.rs`), which give the oracle's bits.

pub(super) mod kernel;
pub(super) mod pack;
pub(super) mod scratch;
pub(super) mod vector;

mod blocked;
mod gpu;
mod hopper;
mod library;

use crate::base::dtype::{Dtype, Elem, Real, bf16};
use crate::base::par::Pool;
use crate::base::simd::{level, vectorize};
use crate::by_dtype;
use crate::device::cuda::Products;
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use crate::ops::swiglu::swiglu_fwd;
use blocked::{Output, product};
use kernel::Kernel;
use pack::{Along, Operand};

/// Columns of `db` that one thread sums at a time.
const COLS: usize = 64;

/// What happens to the output's old contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    Store,
    /// The old value starts the sum.
    Add,
}

/// `y = x w^T (+ bias) (+ residual)`: `x [M,K]`, `w [N,K]`, `y [M,N]`, `bias [N]`, `residual [M,N]`.
pub fn gemm_nt(dev: &Device, y: View, x: View, w: View, bias: Option<View>, residual: Option<View>) {
    let ([m, k], n) = (x.shape(), w.rows());
    assert!(y.shape() == [m, n] && w.cols() == k, "gemm_nt: y {:?} = x {:?} w {:?}^T", y.shape(), x.shape(), w.shape());
    assert!(
        bias.is_none_or(|b| b.len() == n) && residual.is_none_or(|r| r.shape() == [m, n]),
        "gemm_nt: bias or residual"
    );
    disjoint("gemm_nt", y, &[x, w]);
    match dev {
        Device::Cuda(gpu) if gpu.products() == Products::CublasLt => library::nt(gpu, y, x, w, bias, residual),
        Device::Cuda(gpu) => gpu::nt(gpu, y, x, w, bias, residual),
        Device::Cpu(pool) => {
            let out = Output { y, into: Into::Store, bias, residual };
            multiply(pool, (x, Along::Summed), (w, Along::Summed), k, out)
        }
    }
}

/// `y = silu(x wg^T) * (x wu^T)` with gate and up in one weight, `w [2F,K]`: `x [M,K]`, `y [M,F]`. The bits of [`gemm_nt`] and
/// [`swiglu_fwd`]; `scratch [M,2F]` is for what lies between, which some GPUs never write: its contents mean nothing afterwards.
pub fn gemm_gated(dev: &Device, y: View, scratch: View, x: View, w: View) {
    let ([m, k], f) = (x.shape(), w.rows() / 2);
    assert!(
        w.shape() == [2 * f, k] && y.shape() == [m, f] && scratch.shape() == [m, 2 * f],
        "gemm_gated: y {:?} through {:?}, x {:?}, w {:?}",
        y.shape(),
        scratch.shape(),
        x.shape(),
        w.shape()
    );
    disjoint("gemm_gated", y, &[x, w, scratch]);
    if let Device::Cuda(gpu) = dev
        && gpu.products() != Products::CublasLt
        && gpu::gated(gpu, y, x, w)
    {
        return;
    }
    gemm_nt(dev, scratch, x, w, None, None);
    swiglu_fwd(dev, y, scratch.cols_in(0..f), scratch.cols_in(f..2 * f));
}

/// `dx (=|+=) dy w`: `dy [M,N]`, `w [N,K]`, `dx [M,K]`.
pub fn gemm_nn(dev: &Device, dx: View, dy: View, w: View, into: Into) {
    let ([m, n], k) = (dy.shape(), w.cols());
    assert!(
        dx.shape() == [m, k] && w.rows() == n,
        "gemm_nn: dx {:?} = dy {:?} w {:?}",
        dx.shape(),
        dy.shape(),
        w.shape()
    );
    disjoint("gemm_nn", dx, &[dy, w]);
    match dev {
        Device::Cuda(gpu) if gpu.products() == Products::CublasLt => library::nn(gpu, dx, dy, w, into),
        Device::Cuda(gpu) => gpu::nn(gpu, dx, dy, w, into),
        Device::Cpu(pool) => {
            let out = Output { y: dx, into, bias: None, residual: None };
            multiply(pool, (dy, Along::Summed), (w, Along::Free), n, out)
        }
    }
}

/// `dw (=|+=) dy^T x`: `dy [M,N]`, `x [M,K]`, `dw [N,K]`.
pub fn gemm_tn(dev: &Device, dw: View, dy: View, x: View, into: Into) {
    let ([m, n], k) = (dy.shape(), x.cols());
    assert!(
        dw.shape() == [n, k] && x.rows() == m,
        "gemm_tn: dw {:?} = dy {:?}^T x {:?}",
        dw.shape(),
        dy.shape(),
        x.shape()
    );
    disjoint("gemm_tn", dw, &[dy, x]);
    match dev {
        Device::Cuda(gpu) if gpu.products() == Products::CublasLt => library::tn(gpu, dw, dy, x, into),
        Device::Cuda(gpu) => gpu::tn(gpu, dw, dy, x, into),
        Device::Cpu(pool) => {
            let out = Output { y: dw, into, bias: None, residual: None };
            multiply(pool, (dy, Along::Free), (x, Along::Free), m, out)
        }
    }
}

/// `db += sum_m dy[m,:]`, in ascending order of m.
pub fn bias_bwd(dev: &Device, db: View, dy: View) {
    let [m, n] = dy.shape();
    assert!(db.len() == n, "bias_bwd: db {:?}, dy {:?}", db.shape(), dy.shape());
    disjoint("bias_bwd", db, &[dy]);
    match dev {
        Device::Cuda(gpu) => gpu::bias_bwd(gpu, db, dy),
        Device::Cpu(pool) => {
            by_dtype!(dy.dtype(), E => by_dtype!(db.dtype(), O => pool.ranges(n, COLS, |cols| vectorize(#[inline(always)] || {
                let (db, dy) = (db.reshape(1, n).cols_in(cols.clone()), dy.cols_in(cols));
                let mut sums = [<E as Elem>::Acc::ZERO; COLS];
                for (sum, db) in sums.iter_mut().zip(db.row::<O>(0)) {
                    *sum = <E as Elem>::Acc::of(db.get().f64());
                }
                for i in 0..m {
                    for (sum, dy) in sums.iter_mut().zip(dy.row::<E>(i)) {
                        *sum += dy.get();
                    }
                }
                for (db, sum) in db.row_mut::<O>(0).iter_mut().zip(sums) {
                    *db = O::put(<O as Elem>::Acc::of(sum.f64()));
                }
            }))))
        }
    }
}

/// An operand, and which of its indices is contiguous: its columns are the summed index or the free one.
type Side<'a> = (View<'a>, Along);

/// `out = left right` over `depth` summed indices; left's free index is the output's row, right's its column.
fn multiply(pool: &Pool, left: Side, right: Side, depth: usize, out: Output) {
    assert!(left.0.dtype() == right.0.dtype(), "a product of {} and {}", left.0.dtype(), right.0.dtype());
    match (left.0.dtype(), out.y.dtype()) {
        (Dtype::F32, Dtype::F32) => fast::<f32, f32>(pool, left, right, depth, out),
        (Dtype::F32, Dtype::Bf16) => fast::<f32, bf16>(pool, left, right, depth, out),
        (Dtype::Bf16, Dtype::F32) => fast::<bf16, f32>(pool, left, right, depth, out),
        (Dtype::Bf16, Dtype::Bf16) => fast::<bf16, bf16>(pool, left, right, depth, out),
        (of, to) => by_dtype!(of, E => by_dtype!(to, O => oracle::<E, O>(pool, left, right, depth, out))),
    }
}

fn fast<E: Elem<Acc = f32>, O: Elem<Acc = f32>>(pool: &Pool, left: Side, right: Side, depth: usize, out: Output) {
    let operand = |(view, along): Side| Operand::<E>::of(view, along);
    product::<E, O>(pool, Kernel::at(level()), operand(left), operand(right), depth, out)
}

/// Every product by its definition.
fn oracle<E: Elem, O: Elem>(pool: &Pool, left: Side, right: Side, depth: usize, out: Output) {
    let at = |(view, along): Side, free: usize, summed: usize| match along {
        Along::Summed => view.row::<E>(free)[summed].get(),
        Along::Free => view.row::<E>(summed)[free].get(),
    };
    pool.each(out.y.rows(), 1, |i| {
        for j in 0..out.y.cols() {
            let y = out.y.cols_in(j..j + 1).row_mut::<O>(i);
            let mut sum = match out.into {
                Into::Store => E::Acc::ZERO,
                Into::Add => E::Acc::of(y[0].get().f64()),
            };
            for l in 0..depth {
                sum = at(left, i, l).fma(at(right, j, l), sum);
            }
            if let Some(bias) = out.bias {
                sum += bias.slice::<E>()[j].get();
            }
            if let Some(residual) = out.residual {
                sum += residual.row::<E>(i)[j].get();
            }
            y[0] = O::put(O::Acc::of(sum.f64()));
        }
    });
}

/// What a product of `[M, K]` and `[K, N]` costs, in any orientation.
pub fn gemm_cost(dtype: Dtype, m: usize, n: usize, k: usize) -> Cost {
    Cost::of(m * n + m * k + n * k, dtype, 2 * m * n * k)
}

#[cfg(test)]
mod gpu_tests;
#[cfg(test)]
mod tests;
