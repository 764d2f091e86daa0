//! RMSNorm (Zhang and Sennrich, 2019).
//!
//! ```text
//! rstd[t] = 1 / sqrt(mean_d x[t,d]^2 + eps)
//! y[t,d]  = x[t,d] rstd[t] w[d]
//!
//! g[t,d]  = dy[t,d] w[d]
//! dx[t,d] += rstd[t] (g[t,d] - x[t,d] rstd[t]^2 mean_d(g[t,:] x[t,:]))
//! dw[d]   += sum_t dy[t,d] x[t,d] rstd[t]
//! ```
//! Shapes: `x`, `y`, `dx`, `dy` `[T, D]`; `w`, `dw` `[D]`; `rstd` `[T]` in the statistics' type. Everything is computed
//! in the accumulator type and rounded once, on storing. The backward adds into `dx`, which already holds the gradient
//! that came along the residual branch. `y` may be `x`.
//!
//! The backward passes over memory once: a stretch of rows gives its part of `dx` and a sum of its own for `dw`; then the sums
//! are added in the order of the stretches. There are as many for any number of threads, so the bits do not depend on it.

use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::{sum_by, vectorize};
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::cuda::{Gpu, WORKSPACE};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use crate::ops::gemm::scratch::Scratch;
use crate::ops::partials::partials_add;

/// Rows of work that one thread takes at a time.
const ROWS: usize = 16;
/// Vectors of a row that one GPU thread keeps in the forward, and elements in the backward (`kernels/rmsnorm.cu`).
const FWD_KEPT: usize = 4;
const BWD_ELEMENTS: usize = 16;
/// Blocks of a GPU's backward, at most, and rows of the stretch that a team of warps sums apart, at least. Fixed, so that
/// bits do not depend on the GPU.
const BLOCKS: usize = 384;
const LEAST_STRETCH: usize = 4;
/// The most stretches of rows whose parts of `dw` the CPU sums apart.
const STRETCHES: usize = 32;
/// Columns of `dw` to which one thread adds the stretches' sums at a time.
const COLS: usize = 512;

thread_local! {
    // The parts of `dw` on the CPU.
    static SUMS: Scratch = const { Scratch::new() };
}

/// `y = x / rms(x) * w`, keeping `rstd`.
pub fn rmsnorm_fwd(dev: &Device, y: View, rstd: View, x: View, w: View, eps: f64) {
    let [t, d] = x.shape();
    assert!(
        y.shape() == [t, d] && rstd.len() == t && w.len() == d,
        "rmsnorm_fwd: x {:?}, y {:?}, rstd {:?}, w {:?}",
        x.shape(),
        y.shape(),
        rstd.shape(),
        w.shape()
    );
    disjoint("rmsnorm_fwd", y, &[rstd, w]);
    match dev {
        Device::Cuda(gpu) => {
            let most = launch::RMSNORM_FWD_F32_THREADS as usize / 32;
            let warps = warps(d, FWD_KEPT * 16 / x.dtype().size(), most);
            let grid = Grid::cover(t, most / warps);
            let [rows, cols, ld_y, ld_x, warps] = [t, d, y.stride(), x.stride(), warps].map(|n| n as i32);
            launch::rmsnorm_fwd(gpu, x.dtype(), grid, y, rstd, x, w, rows, cols, ld_y, ld_x, warps, eps as f32);
        }
        Device::Cpu(pool) => by_dtype!(x.dtype(), E => {
            let (w, rstd) = (w.slice::<E>(), rstd.ptr_mut::<<E as Elem>::Acc>() as usize);
            pool.ranges(t, ROWS, |rows| vectorize(#[inline(always)] || for i in rows {
                let r = fwd_row::<E>(y.row_mut(i), x.row(i), w, eps);
                // SAFETY: i < t, and only this item writes element i.
                unsafe { *(rstd as *mut <E as Elem>::Acc).add(i) = r };
            }))
        }),
    }
}

/// Adds the gradients of [`rmsnorm_fwd`] into `dx` and, unless the weight is frozen, into `dw`.
pub fn rmsnorm_bwd(dev: &Device, dx: View, dw: Option<View>, dy: View, x: View, rstd: View, w: View) {
    let [t, d] = x.shape();
    assert!(
        dx.shape() == [t, d]
            && dy.shape() == [t, d]
            && rstd.len() == t
            && w.len() == d
            && dw.is_none_or(|dw| dw.len() == d),
        "rmsnorm_bwd: x {:?}, dy {:?}, dx {:?}, rstd {:?}, w {:?}, dw {:?}",
        x.shape(),
        dy.shape(),
        dx.shape(),
        rstd.shape(),
        w.shape(),
        dw.map(|dw| dw.shape())
    );
    disjoint("rmsnorm_bwd", dx, &[dy, x, rstd, w]);
    if let Some(dw) = dw {
        disjoint("rmsnorm_bwd", dw, &[dx, dy, x, rstd, w]);
    }
    match dev {
        Device::Cuda(gpu) => gpu_bwd(gpu, dx, dw, dy, x, rstd, w),
        Device::Cpu(pool) => by_dtype!(x.dtype(), E => {
            type A = <E as Elem>::Acc;
            let (w, rstd) = (w.slice::<E>(), rstd.slice::<A>());
            let length = t.div_ceil(STRETCHES).max(ROWS);
            let parts = t.div_ceil(length);
            let floats = parts * d * size_of::<A>() / size_of::<f32>();
            Scratch::lend(&SUMS, floats, |memory| {
                let sums: &mut [A] = bytemuck::cast_slice_mut(&mut memory[..floats]);
                sums.fill(A::ZERO);
                let sums = View::of(sums).reshape(parts, d);
                pool.ranges(t, length, |rows| vectorize(#[inline(always)] || {
                    let sums = sums.row_mut::<A>(rows.start / length);
                    for i in rows {
                        bwd_row::<E>(dx.row_mut(i), sums, dy.row(i), x.row(i), rstd[i], w);
                    }
                }));
                let Some(dw) = dw else { return };
                by_dtype!(dw.dtype(), G => pool.ranges(d, COLS, |cols| vectorize(#[inline(always)] || {
                    add_sums::<A, G>(dw.cols_in(cols.clone()).row_mut(0), sums.cols_in(cols));
                })));
            })
        }),
    }
}

/// Warps that share a row of `d` columns on a GPU: as few as keep it in registers, a power of two.
fn warps(d: usize, kept: usize, most: usize) -> usize {
    d.div_ceil(32 * kept).next_power_of_two().min(most)
}

fn gpu_bwd(gpu: &Gpu, dx: View, dw: Option<View>, dy: View, x: View, rstd: View, w: View) {
    let ([t, d], dtype) = (x.shape(), x.dtype());
    let narrow = launch::RMSNORM_BWD_F32_THREADS as usize / 32;
    let wide = launch::RMSNORM_BWD_WIDE_F32_THREADS as usize / 32;
    let is_wide = d > narrow * 32 * BWD_ELEMENTS;
    let most = if is_wide { wide } else { narrow };
    let warps = warps(d, BWD_ELEMENTS, most);
    let teams = (BLOCKS * most / warps).min(WORKSPACE / (4 * d)).max(1);
    let stretch = t.div_ceil(teams).max(LEAST_STRETCH);
    let parts = t.div_ceil(stretch);
    let partials = gpu.workspace(Dtype::F32, parts, d);
    let grid = Grid::cover(parts, most / warps);
    let launch = if is_wide { launch::rmsnorm_bwd_wide } else { launch::rmsnorm_bwd };
    let [a, b, c] = [dx, dy, x].map(|v| v.stride() as i32);
    let [rows, cols, warps, stretch] = [t, d, warps, stretch].map(|n| n as i32);
    launch(gpu, dtype, grid, dx, partials, dy, x, rstd, w, rows, cols, a, b, c, warps, stretch);
    if let Some(dw) = dw {
        partials_add(gpu, dw, partials);
    }
}

#[inline(always)]
fn fwd_row<E: Elem>(y: &mut [E], x: &[E], w: &[E], eps: f64) -> E::Acc {
    let d = x.len();
    let square = sum_by(d, |i| x[i].get() * x[i].get());
    let rstd = E::Acc::ONE / (square / E::Acc::of(d as f64) + E::Acc::of(eps)).sqrt();
    for i in 0..d {
        y[i] = E::put(x[i].get() * rstd * w[i].get());
    }
    rstd
}

/// One row of `dx`; its part of `dw` is added to `sums`.
#[inline(always)]
fn bwd_row<E: Elem>(dx: &mut [E], sums: &mut [E::Acc], dy: &[E], x: &[E], rstd: E::Acc, w: &[E]) {
    let d = x.len();
    let (dx, sums, dy, w) = (&mut dx[..d], &mut sums[..d], &dy[..d], &w[..d]);
    let gx = sum_by(d, |i| dy[i].get() * w[i].get() * x[i].get());
    let c = gx * rstd * rstd / E::Acc::of(d as f64);
    for i in 0..d {
        let (dy, x) = (dy[i].get(), x[i].get());
        sums[i] += dy * x * rstd;
        dx[i] = E::put(dx[i].get() + rstd * (dy * w[i].get() - x * c));
    }
}

/// `dw += sums`, stretch after stretch.
#[inline(always)]
fn add_sums<A: Real, G: Elem>(dw: &mut [G], sums: View) {
    let mut total = [A::ZERO; COLS];
    let total = &mut total[..dw.len()];
    for stretch in 0..sums.rows() {
        for (total, sum) in total.iter_mut().zip(sums.row::<A>(stretch)) {
            *total += *sum;
        }
    }
    for (dw, total) in dw.iter_mut().zip(total) {
        *dw = G::put(dw.get() + G::Acc::of(total.f64()));
    }
}

/// What [`rmsnorm_fwd`] of `[T, D]` costs.
pub fn rmsnorm_fwd_cost(dtype: Dtype, t: usize, d: usize) -> Cost {
    Cost::of(2 * t * d + d, dtype, 4 * t * d).and(t, dtype.stat())
}

/// What [`rmsnorm_bwd`] of `[T, D]` costs: it reads `dy`, `x` and `dx`, and writes `dx`.
pub fn rmsnorm_bwd_cost(dtype: Dtype, t: usize, d: usize) -> Cost {
    Cost::of(4 * t * d + d, dtype, 12 * t * d).and(t + 2 * d, dtype.stat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{F32, F32_GRADIENT, agree, dot, gradient, normals, within};

    const EPS: f64 = 1e-5;

    fn forward(x: &[f64], w: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut x, mut w) = (x.to_vec(), w.to_vec());
        let (d, t) = (w.len(), x.len() / w.len());
        let (mut y, mut rstd) = (vec![0.0; x.len()], vec![0.0; t]);
        let dev = Device::cpu(2);
        rmsnorm_fwd(
            &dev,
            View::of(&mut y).reshape(t, d),
            View::of(&mut rstd),
            View::of(&mut x).reshape(t, d),
            View::of(&mut w),
            EPS,
        );
        (y, rstd)
    }

    #[test]
    fn backward_is_the_derivative() {
        for (t, d) in [(1, 1), (3, 5), (17, 70)] {
            let (mut x, mut w, mut dy) = (normals(1, t * d), normals(2, d), normals(3, t * d));
            let (_, mut rstd) = forward(&x, &w);
            let (mut dx, mut dw) = (vec![0.0; t * d], vec![0.0; d]);
            let (x0, w0, dy0) = (x.clone(), w.clone(), dy.clone());
            rmsnorm_bwd(
                &Device::cpu(2),
                View::of(&mut dx).reshape(t, d),
                Some(View::of(&mut dw)),
                View::of(&mut dy).reshape(t, d),
                View::of(&mut x).reshape(t, d),
                View::of(&mut rstd),
                View::of(&mut w),
            );
            gradient("dx", &x0, &dx, |x| dot(&forward(x, &w0).0, &dy0));
            gradient("dw", &w0, &dw, |w| dot(&forward(&x0, w).0, &dy0));
        }
    }

    /// `[T, D]`: one element, tails of vectors, rows of one warp to all of a block's, rows that outgrow a block's registers.
    const CASES: [[usize; 2]; 8] = [[1, 1], [3, 5], [9, 72], [70, 64], [5, 1032], [2, 4096], [1, 8192], [2, 8210]];

    #[test]
    fn gpus_agree() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for [t, d] in CASES {
                for scale in [1.0, 1e4] {
                    agree(&format!("rmsnorm {dtype} [{t}, {d}] times {scale}"), |bed| {
                        let x = bed.normals(dtype, t, d, 1, scale);
                        let (w, dy) = (bed.normals(dtype, 1, d, 2, 1.0), bed.normals(dtype, t, d, 3, scale));
                        let (y, rstd) = (bed.zeros(dtype, t, d), bed.zeros(Dtype::F32, 1, t));
                        let (dx, dw) = (bed.normals(dtype, t, d, 4, 1.0), bed.normals(Dtype::F32, 1, d, 5, 1.0));
                        rmsnorm_fwd(&bed.dev, y, rstd, x, w, EPS);
                        rmsnorm_bwd(&bed.dev, dx, Some(dw), dy, x, rstd, w);
                        vec![
                            ("y", within(dtype), bed.get(y)),
                            ("rstd", F32, bed.get(rstd)),
                            ("dx", within(dtype), bed.get(dx)),
                            ("dw", F32_GRADIENT, bed.get(dw)),
                        ]
                    });
                }
            }
        }
    }

    #[test]
    fn gpus_see_which_operand_is_off_its_alignment() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for odd in 0..6 {
                agree(&format!("rmsnorm {dtype}, operand {odd} off"), |bed| {
                    let of = |rows, i| bed.placed(dtype, rows, 24, i, i == odd);
                    let (x, w, y, dy, dx) = (of(3, 0), of(1, 1), of(3, 2), of(3, 3), of(3, 4));
                    let (rstd, dw) = (bed.zeros(Dtype::F32, 1, 3), bed.zeros(Dtype::F32, 1, 24));
                    rmsnorm_fwd(&bed.dev, y, rstd, x, w, EPS);
                    rmsnorm_bwd(&bed.dev, dx, Some(dw), dy, x, rstd, w);
                    vec![
                        ("y", within(dtype), bed.get(y)),
                        ("dx", within(dtype), bed.get(dx)),
                        ("dw", F32_GRADIENT, bed.get(dw)),
                    ]
                });
            }
        }
    }

    #[test]
    fn gpus_take_windows_of_wider_tensors() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for cols in [3..20, 3..19, 8..24] {
                agree(&format!("rmsnorm {dtype} of columns {cols:?}"), |bed| {
                    let d = cols.len();
                    let window = |key| bed.normals(dtype, 4, 40, key, 1.0);
                    let (x, w) = (window(1).cols_in(cols.clone()), bed.normals(dtype, 1, d, 2, 1.0));
                    let (y, rstd) = (window(3), bed.zeros(Dtype::F32, 1, 4));
                    rmsnorm_fwd(&bed.dev, y.cols_in(cols.clone()), rstd, x, w, EPS);
                    let (dx, dw) = (window(4), bed.normals(dtype, 1, d, 5, 1.0));
                    rmsnorm_bwd(&bed.dev, dx.cols_in(cols.clone()), Some(dw), y.cols_in(cols.clone()), x, rstd, w);
                    vec![
                        ("y", within(dtype), bed.get(y)),
                        ("rstd", F32, bed.get(rstd)),
                        ("dx", within(dtype), bed.get(dx)),
                        ("dw", within(dtype), bed.get(dw)),
                    ]
                });
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        // Stretches of 16 rows with a short last one; of more; and one alone.
        for (t, d) in [(70, 600), (1000, 40), (3, 16)] {
            let single = |key, n| normals(key, n).iter().map(|x| *x as f32).collect::<Vec<f32>>();
            let backward = |threads| {
                let (mut x, mut w, mut dy) = (single(1, t * d), single(2, d), single(3, t * d));
                let (mut dx, mut dw, mut rstd) = (single(4, t * d), single(5, d), single(6, t));
                rmsnorm_bwd(
                    &Device::cpu(threads),
                    View::of(&mut dx).reshape(t, d),
                    Some(View::of(&mut dw)),
                    View::of(&mut dy).reshape(t, d),
                    View::of(&mut x).reshape(t, d),
                    View::of(&mut rstd),
                    View::of(&mut w),
                );
                (dx, dw)
            };
            assert_eq!(backward(1), backward(3), "{t} x {d}");
        }
    }

    #[test]
    fn gradients_add_to_what_is_there() {
        let (mut x, mut w, mut dy) = (vec![3.0, 4.0], vec![1.0, 1.0], vec![0.0, 0.0]);
        let (mut dx, mut dw, mut rstd) = (vec![5.0, 6.0], vec![7.0, 8.0], vec![0.25]);
        rmsnorm_bwd(
            &Device::cpu(1),
            View::of(&mut dx),
            Some(View::of(&mut dw)),
            View::of(&mut dy),
            View::of(&mut x),
            View::of(&mut rstd),
            View::of(&mut w),
        );
        assert_eq!((dx, dw), (vec![5.0, 6.0], vec![7.0, 8.0]));
    }
}
