//! Muon (Jordan et al., 2024): momentum whose matrix is brought close to the nearest orthogonal one, by five steps of a quintic
//! Newton-Schulz iteration.
//!
//! ```text
//! g' = clip g
//! m  = m + (1 - momentum) (g' - m)
//! u  = g' + momentum (m - g')                                     Nesterov
//! X  = u / (|u| + 1e-7)                                           |.| Frobenius
//! five times:  A = X X^T,  X = 3.4445 X - 4.7750 A X + 2.0315 A A X
//! p  = p (1 - lr decay) - lr 0.2 sqrt(max(rows, cols)) X
//! ```
//! The iteration leaves singular vectors as they are and moves singular values near 1 (to about 0.7 .. 1.2). The factor gives
//! updates the root mean square of AdamW's, so that one learning rate serves both (Liu et al., 2025). Only for matrices; embeddings, heads and
//! vectors belong to AdamW.
//!
//! With more rows than columns the products are taken on the other side (`A = X^T X`, `X A`), so `A` is always `[n, n]` with
//! `n = min(rows, cols)`. `A` and its square are symmetric: blocks up to the diagonal are computed, those above mirrored.
//!
//! Shapes: `p`, `m`, `g` `[rows, cols]`, contiguous; `m` and the scratch have the statistics' type of `p`; `g` any floating-point type. A bf16 `p` is rounded at
//! random, keyed by (seed, step, element of the whole arena).

use super::gemm::{Into, gemm_nn, gemm_nt, gemm_tn};
use super::norm2::{blocks, norm2};
use super::rounding::{BLOCK, Draws, Rounded};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::par::Pool;
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use std::ops::Range;

/// The settings of one step.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    pub lr: f64,
    pub momentum: f64,
    /// Weight decay, decoupled: the parameter shrinks by `lr * decay` a step.
    pub decay: f64,
    /// What gradients are multiplied with first; 1 where nothing is clipped.
    pub clip: f64,
    /// Counted from 1; with `seed`, the key of random rounding.
    pub step: u64,
    pub seed: u64,
}

/// Memory for one matrix at a time, in the statistics' type; the same for every matrix of a model, cut to shape.
#[derive(Clone, Copy)]
pub struct MuonScratch<'a> {
    /// `[rows, cols]` each.
    pub x: View<'a>,
    pub y: View<'a>,
    /// `[n, n]` each, `n = min(rows, cols)`.
    pub gram: View<'a>,
    pub poly: View<'a>,
    /// f64, as [`norm2`] needs it for a matrix.
    pub partials: View<'a>,
    /// f64 `[1]`.
    pub sum: View<'a>,
}

const STEPS: usize = 5;
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Rows of a symmetric product computed at a time: the grain at which the upper half is spared. No bit depends on it.
const ROWS: usize = 128;
/// The same on a GPU, where a product must be large to keep it busy.
const GPU_ROWS: usize = 1024;
/// Elements that a block of a GPU's threads takes: 4 in each.
const COVERED: usize = 4 * launch::MUON_SCALE_THREADS as usize;
/// Edge of the squares that a GPU mirrors.
const TILE: usize = 32;

/// One step of one matrix; `first` is the index of its element 0 in the whole arena.
pub fn muon(dev: &Device, hp: &Muon, p: View, m: View, g: View, scratch: MuonScratch, first: u64) {
    let [rows, cols] = p.shape();
    let (n, stat) = (rows.min(cols), p.dtype().stat());
    let MuonScratch { x, y, gram, poly, partials, sum } = scratch;
    assert!(
        [m, g, x, y].iter().all(|v| v.shape() == [rows, cols]) && [gram, poly].iter().all(|v| v.shape() == [n, n]),
        "muon: p {:?}, m {:?}, g {:?}, scratch {:?} {:?} {:?} {:?}",
        p.shape(),
        m.shape(),
        g.shape(),
        x.shape(),
        y.shape(),
        gram.shape(),
        poly.shape()
    );
    assert!(
        [m, x, y, gram, poly].iter().all(|v| v.dtype() == stat && v.is_contiguous())
            && p.is_contiguous()
            && g.is_contiguous()
            && partials.len() >= blocks(p.len())
            && sum.len() == 1,
        "muon: contiguous tensors of {stat}, and {} partial sums, are needed",
        blocks(p.len())
    );
    let all = [p, m, g, x, y, gram, poly];
    for (i, view) in all.iter().enumerate() {
        disjoint("muon", *view, &all[i + 1..]);
    }
    average(dev, hp, x, m, g);
    orthogonalise(dev, scratch);
    apply(dev, hp, p, y, first);
}

/// The new momentum, and in `u` what Nesterov looks ahead to.
fn average(dev: &Device, hp: &Muon, u: View, m: View, g: View) {
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(u.len(), COVERED), u.len() as u64);
            let [clip, keep, new] = [hp.clip, hp.momentum, 1.0 - hp.momentum].map(|x| x as f32);
            launch::muon_average(gpu, g.dtype(), grid, u, m, g, n, clip, keep, new);
        }
        Device::Cpu(pool) => {
            by_stat!(u.dtype(), A => by_dtype!(g.dtype(), G => average_rows::<A, G>(pool, hp, u, m, g)))
        }
    }
}

fn average_rows<A: Real, G: Elem>(pool: &Pool, hp: &Muon, u: View, m: View, g: View) {
    let (clip, keep, new) = (A::of(hp.clip), A::of(hp.momentum), A::of(1.0 - hp.momentum));
    pool.each(u.rows(), 1, |i| {
        let (u, m, g) = (u.row_mut::<A>(i), m.row_mut::<A>(i), g.row::<G>(i));
        vectorize(
            #[inline(always)]
            || {
                for ((u, m), g) in u.iter_mut().zip(m).zip(g) {
                    let g = clip * A::of(g.get().f64());
                    *m = new.fma(g - *m, *m);
                    *u = keep.fma(*m - g, g);
                }
            },
        );
    });
}

/// Takes the matrix in `scratch.x` to the nearly orthogonal one in `scratch.y`.
fn orthogonalise(dev: &Device, scratch: MuonScratch) {
    let MuonScratch { mut x, mut y, gram, poly, partials, sum } = scratch;
    let [rows, cols] = x.shape();
    dev.zero(sum);
    norm2(dev, sum, partials, x);
    scale(dev, x, x, Factor::OneOverRoot(sum));
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..STEPS {
        // gram = A, poly = b A + c A^2, y = a x + poly x.
        if rows <= cols {
            symmetric(dev, gram, |out, rows, cols| gemm_nt(dev, out, x.rows_in(rows), x.rows_in(cols), None, None));
        } else {
            symmetric(dev, gram, |out, rows, cols| gemm_tn(dev, out, x.cols_in(rows), x.cols_in(cols), Into::Store));
        }
        symmetric(dev, poly, |out, rows, cols| gemm_nt(dev, out, gram.rows_in(rows), gram.rows_in(cols), None, None));
        combine(dev, poly, gram, b, c);
        scale(dev, y, x, Factor::Of(a));
        if rows <= cols {
            gemm_nn(dev, y, poly, x, Into::Add);
        } else {
            gemm_nn(dev, y, x, poly, Into::Add);
        }
        (x, y) = (y, x);
    }
    // An odd number of swaps: the result lies where the caller looks for it.
    const { assert!(STEPS % 2 == 1) };
}

/// A symmetric matrix by `product(block, rows, columns)` on blocks of rows up to the diagonal; the rest is mirrored.
fn symmetric(dev: &Device, out: View, product: impl Fn(View, Range<usize>, Range<usize>)) {
    let n = out.rows();
    let step = if matches!(dev, Device::Cuda(_)) { GPU_ROWS } else { ROWS };
    for start in (0..n).step_by(step) {
        let end = (start + step).min(n);
        product(out.rows_in(start..end).cols_in(0..end), start..end, 0..end);
    }
    match dev {
        Device::Cuda(gpu) => {
            let tiles = n.div_ceil(TILE);
            launch::muon_mirror(gpu, Grid::new(tiles, tiles, 1), out, n as i32, out.stride() as i32);
        }
        Device::Cpu(pool) => by_stat!(out.dtype(), A => pool.each(n, 16, |i| {
            for j in i / ROWS * ROWS + ROWS..n {
                // SAFETY: i, j < n; only blocks above the diagonal are written, only blocks below it read.
                unsafe { *out.ptr_mut::<A>().add(i * out.stride() + j) = *out.ptr::<A>().add(j * out.stride() + i) };
            }
        })),
    }
}

/// What a matrix is multiplied with.
#[derive(Clone, Copy)]
enum Factor<'a> {
    Of(f64),
    /// 1 over the square root of what lies there (f64), kept away from zero.
    OneOverRoot(View<'a>),
}

/// `to = factor from`; they may be one view.
fn scale(dev: &Device, to: View, from: View, factor: Factor) {
    match dev {
        Device::Cuda(gpu) => {
            let (factor, square) = match factor {
                Factor::Of(factor) => (factor as f32, None),
                Factor::OneOverRoot(square) => (1.0, Some(square)),
            };
            launch::muon_scale(gpu, Grid::cover(to.len(), COVERED), to, from, square, to.len() as u64, factor);
        }
        Device::Cpu(pool) => by_stat!(to.dtype(), A => {
            let factor = A::of(match factor {
                Factor::Of(factor) => factor,
                Factor::OneOverRoot(square) => 1.0 / (square.slice::<f64>()[0].sqrt() + 1e-7),
            });
            pool.each(to.rows(), 1, |i| {
                for j in 0..to.cols() {
                    let x = from.row::<A>(i)[j];
                    to.row_mut::<A>(i)[j] = factor * x;
                }
            });
        }),
    }
}

/// `square = b gram + c square`.
fn combine(dev: &Device, square: View, gram: View, b: f64, c: f64) {
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(square.len(), COVERED), square.len() as u64);
            launch::muon_combine(gpu, grid, square, gram, n, b as f32, c as f32);
        }
        Device::Cpu(pool) => by_stat!(square.dtype(), A => {
            let (b, c) = (A::of(b), A::of(c));
            pool.each(square.rows(), 1, |i| {
                let (square, gram) = (square.row_mut::<A>(i), gram.row::<A>(i));
                vectorize(#[inline(always)] || for (square, gram) in square.iter_mut().zip(gram) {
                    *square = b * *gram + c * *square;
                });
            });
        }),
    }
}

/// Decay and the step itself.
fn apply(dev: &Device, hp: &Muon, p: View, x: View, first: u64) {
    let shrink = 1.0 - hp.lr * hp.decay;
    let factor = -hp.lr * 0.2 * (p.rows().max(p.cols()) as f64).sqrt();
    let draws = Draws::new(hp.seed, hp.step);
    match dev {
        Device::Cuda(gpu) => {
            let (grid, n) = (Grid::cover(p.len(), COVERED), p.len() as u64);
            let [key0, key1, stream, step] = draws.key();
            let (shrink, factor) = (shrink as f32, factor as f32);
            launch::muon_apply(gpu, p.dtype(), grid, p, x, n, shrink, factor, first, key0, key1, stream, step);
        }
        Device::Cpu(pool) => by_dtype!(p.dtype(), P => apply_blocks::<P>(pool, p, x, [shrink, factor], &draws, first)),
    }
}

fn apply_blocks<P: Rounded>(pool: &Pool, p: View, x: View, [shrink, factor]: [f64; 2], draws: &Draws, first: u64) {
    let (shrink, factor) = (P::Acc::of(shrink), P::Acc::of(factor));
    let (p, x) = (p.reshape(1, p.len()), x.reshape(1, x.len()));
    pool.ranges(p.len(), BLOCK, |range| {
        let [words] = draws.block(first + range.start as u64);
        let (p, x) = (p.cols_in(range.clone()).row_mut::<P>(0), x.cols_in(range).row::<P::Acc>(0));
        vectorize(
            #[inline(always)]
            || {
                for ((p, x), word) in p.iter_mut().zip(x).zip(&words) {
                    *p = P::put_random(factor.fma(*x, p.get() * shrink), *word);
                }
            },
        );
    });
}

/// What [`muon`] of a matrix costs: three products a step of the iteration, the symmetric ones at half.
pub fn muon_cost(parameter: Dtype, gradient: Dtype, rows: usize, cols: usize) -> Cost {
    let (n, wide) = (rows.min(cols), rows.max(cols));
    let flops = STEPS * (n * n * wide + n * n * n + 2 * n * n * wide);
    Cost::of(2 * rows * cols, parameter, flops).and(rows * cols, gradient).and(2 * rows * cols, Dtype::F32)
}

#[cfg(test)]
mod tests;
