//! The products on a GPU: which kernel, which tile, how many blocks.
//!
//! All tiles of a kernel family give the same bits (`kernels/gemm_tile.cuh`), so the tile may depend on anything, the number of
//! rows included: it decides speed only. Hopper's own kernels ([`super::hopper`]) have other bits; they take what they can
//! serve whatever the number of rows.

use super::{Into, hopper};
use crate::base::dtype::Dtype;
use crate::device::cuda::WORKSPACE;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Gpu, View};
use crate::ops::partials::partials_add;

/// Stretches of rows whose parts of a bias's gradient are summed apart, at most. Fixed, so that bits do not depend on the GPU.
const STRETCHES: usize = 256;
/// Columns of a bias's gradient whose parts fit into the workspace.
const COLS: usize = WORKSPACE / (4 * STRETCHES);

/// Outputs that one block computes: rows x columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// For few rows: bound by reading the weights.
    T16x32,
    T64x64,
    T128x128,
    T128x256,
}

impl Tile {
    pub(super) const ALL: [Tile; 4] = [Tile::T16x32, Tile::T64x64, Tile::T128x128, Tile::T128x256];

    fn shape(self) -> [usize; 2] {
        match self {
            Tile::T16x32 => [16, 32],
            Tile::T64x64 => [64, 64],
            Tile::T128x128 => [128, 128],
            Tile::T128x256 => [128, 256],
        }
    }

    /// Bytes of shared memory: stages of 64 summed indices.
    fn shared(self) -> usize {
        let [rows, cols] = self.shape();
        let stages = match self {
            Tile::T16x32 => 8,
            Tile::T64x64 => 4,
            Tile::T128x128 | Tile::T128x256 => 3,
        };
        stages * (rows + cols) * 64 * 2
    }

    /// Products per second of a busy multiprocessor, relative to the largest tile: larger ones read less shared memory and
    /// level-2 cache for each. Estimates.
    fn rate(self) -> f64 {
        match self {
            Tile::T16x32 => 0.2,
            Tile::T64x64 => 0.5,
            Tile::T128x128 => 0.85,
            Tile::T128x256 => 1.0,
        }
    }

    /// The one that is done first, by the number of tiles that the busiest multiprocessor gets.
    fn choose(gpu: &Gpu, tiles: &[Tile], [rows, cols]: [usize; 2]) -> Tile {
        let time = |tile: &Tile| {
            let [r, c] = tile.shape();
            let each = (rows.div_ceil(r) * cols.div_ceil(c)).div_ceil(gpu.multiprocessors());
            (each * r * c) as f64 / tile.rate()
        };
        let fits = |tile: &&Tile| tile.shared() <= gpu.properties().shared_per_block as usize;
        let best = tiles.iter().filter(fits).min_by(|a, b| time(a).total_cmp(&time(b)));
        *best.expect("every GPU that is supported has the shared memory of the smallest tile")
    }

    fn grid(self, [rows, cols]: [usize; 2]) -> Grid {
        let [r, c] = self.shape();
        Grid::rows(rows.div_ceil(r) * cols.div_ceil(c)).shared(self.shared())
    }
}

/// f32 tiles are 64 x 64.
fn grid_f32([rows, cols]: [usize; 2]) -> Grid {
    Grid::rows(rows.div_ceil(64) * cols.div_ceil(64))
}

fn ld(view: View) -> i32 {
    view.stride() as i32
}

/// `y = x w^T (+ bias) (+ residual)`.
pub(super) fn nt(gpu: &Gpu, y: View, x: View, w: View, bias: Option<View>, residual: Option<View>) {
    if hopper::serves(gpu, w.shape(), x, w) {
        let few = x.rows() <= 64;
        let tile = if few { hopper::Tile::T64x32 } else { hopper::Tile::choose(gpu, y.shape()) };
        return hopper::nt(gpu, tile, y, x, w, bias, residual);
    }
    if x.dtype() == Dtype::Bf16 {
        let few = x.rows() <= 16;
        let tile = if few { Tile::T16x32 } else { Tile::choose(gpu, &Tile::ALL[1..], y.shape()) };
        return nt_tiled(gpu, tile, y, x, w, bias, residual);
    }
    let ([m, k], n, ld_residual) = (x.shape(), w.rows(), residual.map_or(0, ld));
    let (m, n, k) = (m as i32, n as i32, k as i32);
    let grid = grid_f32(y.shape());
    launch::gemm_nt_f32(gpu, y.dtype(), grid, y, x, w, bias, residual, m, n, k, ld(y), ld(x), ld(w), ld_residual);
}

/// `y = silu(x wg^T) * (x wu^T)` in one launch, if there is one for it.
pub(super) fn gated(gpu: &Gpu, y: View, x: View, w: View) -> bool {
    let served = y.dtype() == Dtype::Bf16 && hopper::serves(gpu, w.shape(), x, w);
    if served {
        let few = x.rows() <= 64;
        let tile = if few { hopper::Tile::T64x32 } else { hopper::Tile::choose(gpu, [x.rows(), w.rows()]) };
        hopper::gated(gpu, tile, y, x, w);
    }
    served
}

/// `dx (=|+=) dy w`.
pub(super) fn nn(gpu: &Gpu, dx: View, dy: View, w: View, into: Into) {
    if hopper::serves(gpu, w.shape(), dy, w) {
        return hopper::nn(gpu, hopper::Tile::choose(gpu, dx.shape()), dx, dy, w, into);
    }
    if dy.dtype() == Dtype::Bf16 {
        return nn_tiled(gpu, Tile::choose(gpu, &Tile::ALL[1..], dx.shape()), dx, dy, w, into);
    }
    let (m, n, k) = (dy.rows() as i32, w.rows() as i32, w.cols() as i32);
    let grid = grid_f32(dx.shape());
    launch::gemm_nn_f32(gpu, dx.dtype(), grid, dx, dy, w, m, n, k, ld(dx), ld(dy), ld(w), into.add());
}

/// `dw (=|+=) dy^T x`.
pub(super) fn tn(gpu: &Gpu, dw: View, dy: View, x: View, into: Into) {
    if hopper::serves(gpu, dw.shape(), dy, x) {
        return hopper::tn(gpu, hopper::Tile::choose(gpu, dw.shape()), dw, dy, x, into);
    }
    if dy.dtype() == Dtype::Bf16 {
        return tn_tiled(gpu, Tile::choose(gpu, &Tile::ALL[1..], dw.shape()), dw, dy, x, into);
    }
    let (m, n, k) = (dy.rows() as i32, dy.cols() as i32, x.cols() as i32);
    let grid = grid_f32(dw.shape());
    launch::gemm_tn_f32(gpu, dw.dtype(), grid, dw, dy, x, m, n, k, ld(dw), ld(dy), ld(x), into.add());
}

impl Into {
    pub(super) fn add(self) -> i32 {
        i32::from(self == Into::Add)
    }
}

/// [`nt`] of bf16 operands with this tile.
pub(super) fn nt_tiled(gpu: &Gpu, tile: Tile, y: View, x: View, w: View, bias: Option<View>, residual: Option<View>) {
    let ([m, k], n, ld_residual) = (x.shape(), w.rows(), residual.map_or(0, ld));
    let (m, n, k) = (m as i32, n as i32, k as i32);
    let launch = match tile {
        Tile::T16x32 => launch::gemm_nt_16x32_bf16,
        Tile::T64x64 => launch::gemm_nt_64x64_bf16,
        Tile::T128x128 => launch::gemm_nt_128x128_bf16,
        Tile::T128x256 => launch::gemm_nt_128x256_bf16,
    };
    let grid = tile.grid(y.shape());
    launch(gpu, y.dtype(), grid, y, x, w, bias, residual, m, n, k, ld(y), ld(x), ld(w), ld_residual);
}

/// [`nn`] of bf16 operands with this tile.
pub(super) fn nn_tiled(gpu: &Gpu, tile: Tile, dx: View, dy: View, w: View, into: Into) {
    let (m, n, k) = (dy.rows() as i32, w.rows() as i32, w.cols() as i32);
    let launch = match tile {
        Tile::T64x64 => launch::gemm_nn_64x64_bf16,
        Tile::T128x128 => launch::gemm_nn_128x128_bf16,
        Tile::T128x256 => launch::gemm_nn_128x256_bf16,
        Tile::T16x32 => panic!("gemm_nn has no {tile:?}"),
    };
    launch(gpu, dx.dtype(), tile.grid(dx.shape()), dx, dy, w, m, n, k, ld(dx), ld(dy), ld(w), into.add());
}

/// [`tn`] of bf16 operands with this tile.
pub(super) fn tn_tiled(gpu: &Gpu, tile: Tile, dw: View, dy: View, x: View, into: Into) {
    let (m, n, k) = (dy.rows() as i32, dy.cols() as i32, x.cols() as i32);
    let launch = match tile {
        Tile::T64x64 => launch::gemm_tn_64x64_bf16,
        Tile::T128x128 => launch::gemm_tn_128x128_bf16,
        Tile::T128x256 => launch::gemm_tn_128x256_bf16,
        Tile::T16x32 => panic!("gemm_tn has no {tile:?}"),
    };
    launch(gpu, dw.dtype(), tile.grid(dw.shape()), dw, dy, x, m, n, k, ld(dw), ld(dy), ld(x), into.add());
}

/// `db += sum_m dy[m,:]`: stretches of rows in parts of their own, then the parts in order.
pub(super) fn bias_bwd(gpu: &Gpu, db: View, dy: View) {
    let [m, n] = dy.shape();
    let stretch = m.div_ceil(STRETCHES).max(1);
    let parts = m.div_ceil(stretch);
    let each = launch::BIAS_BWD_F32_THREADS as usize * 16 / dy.dtype().size();
    for first in (0..n).step_by(COLS) {
        let cols = first..(first + COLS).min(n);
        let partials = gpu.workspace(Dtype::F32, parts, cols.len());
        let grid = Grid::new(cols.len().div_ceil(each), parts, 1);
        let (db, dy) = (db.reshape(1, n).cols_in(cols.clone()), dy.cols_in(cols));
        launch::bias_bwd(gpu, dy.dtype(), grid, partials, dy, m as i32, dy.cols() as i32, ld(dy), stretch as i32);
        partials_add(gpu, db, partials);
    }
}
