//! The bf16 products on H100 and H200 (`kernels/gemm_sm90.cu`).
//!
//! Their bits are not those of the portable kernels, so [`serves`] looks at nothing that changes with the batch: the GPU, the shape of
//! the weight, and alignments, which are the layout's. The tile changes no bits and may depend on anything.

use super::Into;
use super::pack::Along;
use crate::base::dtype::Dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::cuda::{Products, Swizzle, TensorMap};
use crate::device::{Gpu, View};

/// Summed indices of a stage, and free ones of a box whose free index is contiguous: 128 bytes.
const BOX: usize = 64;
/// Rows of an epilogue's box: a warpgroup's.
const WARPGROUP_ROWS: usize = 64;
/// Weights narrower or shallower than this are left to the portable kernels.
const LEAST: usize = 128;

/// Whether these kernels compute products with a weight (or gradient of one) of this shape from these operands.
pub(super) fn serves(gpu: &Gpu, weight: [usize; 2], left: View, right: View) -> bool {
    let aligned = |v: View| v.address().is_multiple_of(16) && (v.stride() * v.dtype().size()).is_multiple_of(16);
    let bf16 = left.dtype() == Dtype::Bf16 && right.dtype() == Dtype::Bf16;
    // Products without rows or without a sum have no bits to keep.
    let any = !left.is_empty() && !right.is_empty();
    let asked = gpu.capability() == (9, 0) && gpu.products() != Products::Portable;
    bf16 && any && asked && weight.iter().all(|n| *n >= LEAST) && aligned(left) && aligned(right)
}

/// Outputs that one block computes at a time: rows x columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// For few rows: bound by reading the weights.
    T64x32,
    T128x128,
    T128x256,
}

impl Tile {
    #[cfg(test)]
    pub(super) const ALL: [Tile; 3] = [Tile::T64x32, Tile::T128x128, Tile::T128x256];

    fn shape(self) -> [usize; 2] {
        match self {
            Tile::T64x32 => [64, 32],
            Tile::T128x128 => [128, 128],
            Tile::T128x256 => [128, 256],
        }
    }

    fn stages(self) -> usize {
        if self == Tile::T64x32 { 8 } else { 4 }
    }

    fn count(self, [rows, cols]: [usize; 2]) -> usize {
        let [r, c] = self.shape();
        rows.div_ceil(r) * cols.div_ceil(c)
    }

    /// The one that is done first, by the number of tiles that the busiest multiprocessor gets. The smaller large tile reads a
    /// third more of shared memory and level-2 cache for each product; how much slower it is for that is an estimate.
    pub(super) fn choose(gpu: &Gpu, output: [usize; 2]) -> Tile {
        let time = |tile: Tile, rate: f64| {
            let [r, c] = tile.shape();
            (tile.count(output).div_ceil(gpu.multiprocessors()) * r * c) as f64 / rate
        };
        if time(Tile::T128x128, 0.8) < time(Tile::T128x256, 1.0) { Tile::T128x128 } else { Tile::T128x256 }
    }

    /// Blocks stay and take tile after tile. Shared memory: the ring, and the epilogue's buffers of 8 KiB: two for each of two consumers.
    fn grid(self, gpu: &Gpu, output: [usize; 2]) -> Grid {
        let [r, c] = self.shape();
        let (resident, buffers) = if self == Tile::T64x32 { (2, 1) } else { (1, 4) };
        let shared = self.stages() * (r + c) * BOX * 2 + buffers * 8192;
        Grid::rows(self.count(output).min(gpu.multiprocessors() * resident)).shared(shared)
    }
}

/// An operand as TMA brings it: `free` is how many free indices a tile has.
fn operand(view: View, along: Along, free: usize) -> TensorMap {
    let rows = if along == Along::Summed { free } else { BOX };
    TensorMap::new(view, rows, BOX, Swizzle::Bytes128).expect("`serves` has checked the operand's alignment")
}

/// The map that outputs are stored through, where TMA can write them, of tiles with so many columns.
fn output(y: View, cols: usize) -> Option<TensorMap> {
    let size = y.dtype().size();
    let aligned = y.address().is_multiple_of(16) && (y.stride() * size).is_multiple_of(16);
    let wide = cols * size >= 128;
    (aligned && wide).then(|| {
        TensorMap::new(y, WARPGROUP_ROWS, 128 / size, Swizzle::Bytes128).expect("the output's alignment was checked")
    })
}

/// `y = x w^T (+ bias) (+ residual)`.
pub(super) fn nt(gpu: &Gpu, tile: Tile, y: View, x: View, w: View, bias: Option<View>, residual: Option<View>) {
    let ([m, k], n, [rows, cols]) = (x.shape(), w.rows(), tile.shape());
    let (from_x, from_w, to) = (operand(x, Along::Summed, rows), operand(w, Along::Summed, cols), output(y, cols));
    let launch = match tile {
        Tile::T64x32 => launch::gemm_nt_64x32_sm90,
        Tile::T128x128 => launch::gemm_nt_128x128_sm90,
        Tile::T128x256 => launch::gemm_nt_128x256_sm90,
    };
    launch(
        gpu,
        y.dtype(),
        tile.grid(gpu, [m, n]),
        y,
        bias,
        residual,
        &from_x,
        &from_w,
        to.as_ref().unwrap_or(&from_x),
        m as i32,
        n as i32,
        k as i32,
        y.stride() as i32,
        residual.map_or(0, |r| r.stride() as i32),
        i32::from(to.is_some()),
    );
}

/// `y = silu(x wg^T) * (x wu^T)`, gate and up one under the other in `w`.
pub(super) fn gated(gpu: &Gpu, tile: Tile, y: View, x: View, w: View) {
    let ([m, k], [rows, cols]) = (x.shape(), tile.shape());
    // Half of a tile's columns are gate's, half are up's.
    let (from_x, from_w) = (operand(x, Along::Summed, rows), operand(w, Along::Summed, cols / 2));
    let to = output(y, cols / 2);
    let launch = match tile {
        Tile::T64x32 => launch::gemm_gated_64x32_sm90_bf16,
        Tile::T128x128 => launch::gemm_gated_128x128_sm90_bf16,
        Tile::T128x256 => launch::gemm_gated_128x256_sm90_bf16,
    };
    let [n, k, stride] = [y.cols(), k, y.stride()].map(|n| n as i32);
    let (grid, mapped) = (tile.grid(gpu, [m, w.rows()]), i32::from(to.is_some()));
    launch(gpu, grid, y, &from_x, &from_w, to.as_ref().unwrap_or(&from_x), m as i32, n, k, stride, mapped);
}

/// `dx (=|+=) dy w`.
pub(super) fn nn(gpu: &Gpu, tile: Tile, dx: View, dy: View, w: View, into: Into) {
    let [rows, cols] = tile.shape();
    let maps = (operand(dy, Along::Summed, rows), operand(w, Along::Free, cols), output(dx, cols));
    let launch = match tile {
        Tile::T128x128 => launch::gemm_nn_128x128_sm90,
        Tile::T128x256 => launch::gemm_nn_128x256_sm90,
        Tile::T64x32 => panic!("gemm_nn has no {tile:?}"),
    };
    gradient(gpu, tile, launch, dx, maps, [dy.rows(), w.rows(), w.cols()], into);
}

/// `dw (=|+=) dy^T x`.
pub(super) fn tn(gpu: &Gpu, tile: Tile, dw: View, dy: View, x: View, into: Into) {
    let [rows, cols] = tile.shape();
    let maps = (operand(dy, Along::Free, rows), operand(x, Along::Free, cols), output(dw, cols));
    let launch = match tile {
        Tile::T128x128 => launch::gemm_tn_128x128_sm90,
        Tile::T128x256 => launch::gemm_tn_128x256_sm90,
        Tile::T64x32 => panic!("gemm_tn has no {tile:?}"),
    };
    gradient(gpu, tile, launch, dw, maps, [dy.rows(), dy.cols(), x.cols()], into);
}

type Gradient = fn(&Gpu, Dtype, Grid, View, &TensorMap, &TensorMap, &TensorMap, i32, i32, i32, i32, i32, i32);

fn gradient(
    gpu: &Gpu,
    tile: Tile,
    launch: Gradient,
    out: View,
    (left, right, to): (TensorMap, TensorMap, Option<TensorMap>),
    [m, n, k]: [usize; 3],
    into: Into,
) {
    launch(
        gpu,
        out.dtype(),
        tile.grid(gpu, out.shape()),
        out,
        &left,
        &right,
        to.as_ref().unwrap_or(&left),
        m as i32,
        n as i32,
        k as i32,
        out.stride() as i32,
        i32::from(to.is_some()),
        into.add(),
    );
}
