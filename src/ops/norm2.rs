//! The squared Euclidean norm, for clipping gradients.
//!
//! ```text
//! out[0] += sum_i x[i]^2
//! ```
//! `x` is any contiguous floating-point tensor; `out` `[1]` and the scratch `partials` `[>= blocks(x.len())]` are f64. Squares and sums are f64:
//! each block of 4096 elements in the fixed lanes of `sum_by`, then the blocks in ascending order. So the result does not depend on
//! threads, and no gradient overflows it. A GPU takes pieces of its own size in an order of its own, which depends on the length alone.

use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::{sum_by, vectorize};
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;

/// Elements in one partial sum.
const BLOCK: usize = 4096;
/// Partial sums that one thread computes at a time.
const GRAIN: usize = 16;

/// Elements of a GPU's partial sum (`kernels/norm2.cu`).
const PIECE: usize = 8192;

/// How many partial sums a tensor of `n` elements needs.
pub fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// `out[0] += |x|^2`.
pub fn norm2(dev: &Device, out: View, partials: View, x: View) {
    let n = blocks(x.len());
    assert!(
        out.len() == 1 && partials.len() >= n && x.is_contiguous(),
        "norm2: out {:?}, partials {:?}, x {:?}; {n} partials are needed",
        out.shape(),
        partials.shape(),
        x.shape()
    );
    disjoint("norm2", partials, &[out, x]);
    let (x, partials) = (x.reshape(1, x.len()), partials.reshape(partials.len(), 1).top(n));
    match dev {
        Device::Cuda(gpu) => {
            let parts = x.len().div_ceil(PIECE);
            launch::norm2_parts(gpu, x.dtype(), Grid::rows(parts), partials, x, x.len() as u64);
            launch::norm2_add(gpu, Grid::rows(1), out, partials, parts as i32);
        }
        Device::Cpu(pool) => by_dtype!(x.dtype(), E => {
            pool.each(n, GRAIN, |b| {
                let x = x.cols_in(b * BLOCK..((b + 1) * BLOCK).min(x.len())).row::<E>(0);
                partials.row_mut::<f64>(b)[0] = vectorize(#[inline(always)] || sum_by(x.len(), |i| square(x[i])));
            });
            out.slice_mut::<f64>()[0] += partials.slice::<f64>().iter().sum::<f64>();
        }),
    }
}

#[inline(always)]
fn square<E: Elem>(x: E) -> f64 {
    let x = x.get().f64();
    x * x
}

/// What [`norm2`] of `n` elements costs.
pub fn norm2_cost(dtype: Dtype, n: usize) -> Cost {
    Cost::of(n, dtype, 2 * n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::{Dtype, bf16};
    use crate::ops::check::{F64_SUM, agree, normals, stored};

    fn norm<E: Elem>(threads: usize, x: &[E]) -> f64 {
        let (mut x, mut out, mut partials) = (x.to_vec(), [1.0], vec![0f64; blocks(x.len()) + 1]);
        norm2(&Device::cpu(threads), View::of(&mut out), View::of(&mut partials), View::of(&mut x));
        out[0] - 1.0
    }

    #[test]
    fn it_adds_the_sum_of_squares_with_the_same_bits_on_any_threads() {
        for n in [0, 1, 4095, 4096, 4097, 200_000] {
            let x = normals(1, n);
            let want: f64 = x.iter().map(|x| x * x).sum();
            assert!((norm(1, &x) - want).abs() <= 1e-12 * want.max(1.0));
            let narrow: Vec<f32> = stored(&x);
            assert!((norm(1, &narrow) - want).abs() <= 1e-6 * want.max(1.0));
            assert_eq!(norm(1, &narrow).to_bits(), norm(3, &narrow).to_bits());
            assert!((norm::<bf16>(2, &stored(&x)) - want).abs() <= 1e-2 * want.max(1.0));
        }
        assert_eq!(norm(1, &[1e30f32]), 1e30f32 as f64 * 1e30f32 as f64);
    }

    #[test]
    fn gpus_agree() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            // The last one starts off every boundary of 16 bytes.
            for (n, first) in [(0, 0), (1, 0), (8192, 0), (8195, 0), (30_000, 0), (9000, 3)] {
                for (scale, odd) in [(1.0, 0.0), (1e30, 0.0), (1.0, f64::INFINITY), (1.0, f64::NAN)] {
                    agree(&format!("norm2 {dtype} of {n} from {first}, times {scale}, and {odd}"), |bed| {
                        let mut data: Vec<f64> = normals(1, first + n).iter().map(|x| x * scale).collect();
                        if let (Some(last), false) = (data.last_mut(), odd == 0.0) {
                            *last = odd;
                        }
                        let x = bed.put(dtype, 1, first + n, &data).cols_in(first..first + n);
                        let (out, partials) = (bed.put(Dtype::F64, 1, 1, &[1.0]), bed.zeros(Dtype::F64, 1, blocks(n)));
                        norm2(&bed.dev, out, partials, x);
                        vec![("out", F64_SUM, bed.get(out))]
                    });
                }
            }
        }
    }
}
