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

use crate::base::dtype::{Elem, Real};
use crate::by_dtype;
use crate::device::{Device, View, disjoint};

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
        Device::Cpu(pool) => by_dtype!(x.dtype(), E => by_dtype!(y.dtype(), O => pool.each(m, 1, |i| {
            let (y, x) = (y.row_mut::<O>(i), x.row::<E>(i));
            for j in 0..n {
                let mut sum = chain::<E>(k, |l| (x[l], w.row::<E>(j)[l]), <E as Elem>::Acc::ZERO);
                if let Some(bias) = bias {
                    sum += bias.slice::<E>()[j].get();
                }
                if let Some(residual) = residual {
                    sum += residual.row::<E>(i)[j].get();
                }
                y[j] = O::put(<O as Elem>::Acc::of(sum.f64()));
            }
        }))),
    }
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
        Device::Cpu(pool) => by_dtype!(dy.dtype(), E => by_dtype!(dx.dtype(), O => pool.each(m, 1, |i| {
            let (dx, dy) = (dx.row_mut::<O>(i), dy.row::<E>(i));
            for (j, out) in dx.iter_mut().enumerate() {
                let sum = chain::<E>(n, |l| (dy[l], w.row::<E>(l)[j]), start::<E, O>(*out, into));
                *out = O::put(<O as Elem>::Acc::of(sum.f64()));
            }
        }))),
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
        Device::Cpu(pool) => by_dtype!(dy.dtype(), E => by_dtype!(dw.dtype(), O => pool.each(n, 1, |i| {
            for (j, out) in dw.row_mut::<O>(i).iter_mut().enumerate() {
                let sum = chain::<E>(m, |l| (dy.row::<E>(l)[i], x.row::<E>(l)[j]), start::<E, O>(*out, into));
                *out = O::put(<O as Elem>::Acc::of(sum.f64()));
            }
        }))),
    }
}

/// `db += sum_m dy[m,:]`, in ascending order of m.
pub fn bias_bwd(dev: &Device, db: View, dy: View) {
    let [m, n] = dy.shape();
    assert!(db.len() == n, "bias_bwd: db {:?}, dy {:?}", db.shape(), dy.shape());
    match dev {
        Device::Cpu(_) => by_dtype!(dy.dtype(), E => by_dtype!(db.dtype(), O => {
            for (j, out) in db.row_mut::<O>(0).iter_mut().enumerate() {
                let mut sum = <E as Elem>::Acc::of(out.get().f64());
                for i in 0..m {
                    sum += dy.row::<E>(i)[j].get();
                }
                *out = O::put(<O as Elem>::Acc::of(sum.f64()));
            }
        })),
    }
}

/// The oracle of every product: fused multiply-adds in ascending order.
#[inline(always)]
fn chain<E: Elem>(n: usize, at: impl Fn(usize) -> (E, E), start: E::Acc) -> E::Acc {
    let mut sum = start;
    for l in 0..n {
        let (a, b) = at(l);
        sum = a.get().fma(b.get(), sum);
    }
    sum
}

#[inline(always)]
fn start<E: Elem, O: Elem>(old: O, into: Into) -> E::Acc {
    match into {
        Into::Store => E::Acc::ZERO,
        Into::Add => E::Acc::of(old.get().f64()),
    }
}
