//! The fast path of attention, for f32 and bf16: blocks of keys at absolute positions, online softmax, register tiles.
//!
//! Scores are computed with vectors along one side of the square and the summed index of the *next* product down the
//! other, so that a block of probabilities is, as it lies, the packed left operand of the product that consumes it:
//!
//! ```text
//! forward   panel of queries:  S^T [keys][queries] = K (scale Q)^T;  online softmax down the columns;  O += (P^T)^T V
//! backward  panel of keys:     S [queries][keys] = (scale Q) K^T, dP = dO V^T                  ;  dV += P^T dO
//!                              dS = P (dP - delta)                                            ;  dK += dS^T Q
//!                              dS^T, transposed in registers                                  ;  dQ += (dS^T)^T K
//!   or, for dQ alone,
//!           panel of queries:  S^T, dP^T = V dO^T,  dS^T = P^T (dP^T - delta)                 ;  dQ += (dS^T)^T K
//! ```
//! A *panel* is as many queries (or keys) as a register tile has columns, all of one head; softmax statistics are
//! vectors along it, and nothing is ever summed across lanes. Jobs are (sequence, key-value head, block), so the group's
//! query heads share the packed keys and values; a block of keys is packed once for all panels of the job.
//!
//! The backward has two ways to the same bits. With enough sequences and key-value heads for the threads, a job is one of
//! each pair: it walks the key blocks in order and adds to dQ as it goes, five products in all. Else a pass for dQ and one
//! for dK and dV, whose jobs are blocks: scores are computed twice, seven products, but no sum is shared by threads
//! however few sequences and heads there are. (`flash/backward.rs` decides.)
//!
//! Keys that a list names are packed from where they are if those of a block are neighbours, else from a copy.
//!
//! Why bits do not depend on the batch: a score is one chain of FMAs over K; a row meets its keys in ascending order, in
//! blocks that start at multiples of [`BLOCK`] of its own sequence; a masked key adds an exact zero to a sum that holds
//! no negative zero in the end. Which rows share a panel, a tile or a job changes none of this, nor does the thread.

/// Runs `$body` with the constant `$w` bound to the width of a panel.
macro_rules! by_width {
    ($kernel:expr, $w:ident => $body:expr) => {
        match $kernel.cols() {
            32 => {
                const $w: usize = 32;
                $body
            }
            16 => {
                const $w: usize = 16;
                $body
            }
            other => unreachable!("a tile of {other} columns"),
        }
    };
}

mod backward;
mod forward;

pub use backward::backward;
#[cfg(test)]
pub use backward::by_sequence;
pub use forward::forward;

use super::{Heads, Packed};
use crate::base::dtype::Elem;
use crate::base::par::Pool;
use crate::device::View;
use crate::ops::gemm::kernel::{Kernel, Start, Tile};
use crate::ops::gemm::pack::{Along, Job, Operand};
use crate::ops::gemm::scratch::Scratch;
use crate::ops::gemm::vector::MAX_LANES;
use std::ops::Range;

/// Keys per block of the online softmax, and queries (or keys) per job. Packed keys and values of a block, 2 x 32 KiB
/// for heads of 64, stay in L2; scores of a panel, 128 x 32 floats, 16 KiB, in L1.
const BLOCK: usize = 128;

thread_local! {
    static SCRATCH: Scratch = const { Scratch::new() };
}

struct Flash<'a> {
    kernel: Kernel,
    packed: &'a Packed<'a>,
}

/// Some neighbouring positions of a sequence under one head, at most as many as a tile has columns.
struct Panel {
    head: usize,
    first: usize,
    count: usize,
}

impl Panel {
    fn last(&self) -> usize {
        self.first + self.count - 1
    }
}

/// The part of a tensor that belongs to one sequence and one head: `[positions, K]`.
fn window<'v>(view: View<'v>, seq: &Range<usize>, heads: Heads, head: usize) -> View<'v> {
    view.rows_in(seq.clone()).cols_in(heads.columns(head))
}

/// Positions `block` under the `heads`, in panels of `width`.
fn panels(heads: Range<usize>, block: Range<usize>, width: usize) -> impl Iterator<Item = Panel> {
    heads.flat_map(move |head| {
        let end = block.end;
        block.clone().step_by(width).map(move |first| Panel { head, first, count: (end - first).min(width) })
    })
}

impl Flash<'_> {
    /// Calls `f(rows of the sequence, positions of the block in it, key-value head)` for every job, in parallel.
    fn each_job(&self, pool: &Pool, f: impl Fn(Range<usize>, Range<usize>, usize) + Sync) {
        let kv = self.packed.heads.kv;
        let blocks = self.packed.sequences().map(|s| s.len().div_ceil(BLOCK)).sum::<usize>();
        pool.each(blocks * kv, 1, |job| {
            let mut block = job / kv;
            for seq in self.packed.sequences() {
                let here = seq.len().div_ceil(BLOCK);
                if block < here {
                    let positions = block * BLOCK..((block + 1) * BLOCK).min(seq.len());
                    return f(seq, positions, job % kv);
                }
                block -= here;
            }
        });
    }

    fn group(&self, g: usize) -> Range<usize> {
        let group = self.packed.heads.group();
        g * group..(g + 1) * group
    }

    /// Floats of a row of sums, whole vectors.
    #[inline(always)]
    fn sum_cols(&self) -> usize {
        self.packed.heads.size.next_multiple_of(self.kernel.lanes)
    }

    // The packed operands of a job. In front of each, what it holds.

    /// `[K][W]`: the positions of a panel as columns, times a factor.
    #[inline(always)]
    fn columns_floats(&self) -> usize {
        (self.packed.heads.size * self.kernel.cols()).next_multiple_of(MAX_LANES)
    }
    #[inline(always)]
    fn pack_columns<E: Elem<Acc = f32>>(&self, view: View, panel: &Panel, factor: f32, to: &mut [f32]) {
        let (size, width) = (self.packed.heads.size, self.kernel.cols());
        assert!(to.len() >= size * width && panel.first + panel.count <= view.rows());
        let free = panel.first..panel.first + panel.count;
        let job =
            Job { from: Operand::<E>::of(view, Along::Summed), free, summed: 0..size, width, to: to.as_mut_ptr() };
        // SAFETY: the place is large enough; the width is whole vectors, so there is no spill.
        unsafe { self.kernel.pack(job) }
        scale(&mut to[..size * width], factor);
    }

    /// `[K][rows]` for each tile of rows: positions of a block as rows, times a factor.
    #[inline(always)]
    fn rows_floats(&self) -> usize {
        BLOCK.div_ceil(self.kernel.rows) * self.row_tile_floats()
    }
    #[inline(always)]
    fn row_tile_floats(&self) -> usize {
        (self.packed.heads.size * self.kernel.rows + MAX_LANES).next_multiple_of(MAX_LANES)
    }
    #[inline(always)]
    fn pack_rows<E: Elem<Acc = f32>>(&self, view: View, block: Range<usize>, factor: f32, to: &mut [f32]) {
        assert!(block.end <= view.rows());
        for (tile, to) in tiles(block.len(), self.kernel.rows).zip(to.chunks_exact_mut(self.row_tile_floats())) {
            let (size, width) = (self.packed.heads.size, tile.len());
            let free = block.start + tile.start..block.start + tile.end;
            let from = Operand::<E>::of(view, Along::Summed);
            // SAFETY: a chunk holds a tile and the slack.
            unsafe { self.kernel.pack(Job { from, free, summed: 0..size, width, to: to.as_mut_ptr() }) }
            scale(&mut to[..size * width], factor);
        }
    }

    /// `[positions][W]` for each panel of W columns of K: positions of a block as the summed index.
    #[inline(always)]
    fn summed_floats(&self) -> usize {
        BLOCK * self.packed.heads.size.next_multiple_of(self.kernel.cols())
    }
    #[inline(always)]
    fn pack_summed<E: Elem<Acc = f32>>(&self, view: View, block: Range<usize>, to: &mut [f32]) {
        assert!(block.end <= view.rows() && block.len() <= BLOCK);
        let (size, cols) = (self.packed.heads.size, self.kernel.cols());
        for (first, to) in (0..size).step_by(cols).zip(to.chunks_exact_mut(BLOCK * cols)) {
            let free = first..(first + cols).min(size);
            let width = free.len().next_multiple_of(self.kernel.lanes);
            let from = Operand::<E>::of(view, Along::Free);
            // SAFETY: a chunk holds the block, whole vectors wide.
            unsafe { self.kernel.pack(Job { from, free, summed: block.clone(), width, to: to.as_mut_ptr() }) }
        }
    }

    /// `to[r][:] = sum_c rows[c][r] columns[c][:]` for the tiles of `count` rows that reach into `wanted`.
    #[inline(always)]
    fn cross(&self, rows: &[f32], count: usize, wanted: Range<usize>, columns: &[f32], to: &mut [f32]) {
        let (size, cols) = (self.packed.heads.size, self.kernel.cols());
        assert!(columns.len() >= size * cols && to.len() >= count * cols);
        for (tile, rows) in tiles(count, self.kernel.rows).zip(rows.chunks_exact(self.row_tile_floats())) {
            if tile.end <= wanted.start || tile.start >= wanted.end {
                continue;
            }
            let (a, b, c) = (rows.as_ptr(), columns.as_ptr(), to[tile.start * cols..].as_mut_ptr());
            let job = Tile { k: size, a, pitch: tile.len(), b, c, stride: cols, start: Start::Zero };
            // SAFETY: packed by `pack_rows` and `pack_columns`; `to` holds `count` rows.
            unsafe { self.kernel.tile(tile.len(), 2, job) }
        }
    }

    /// `sums[r][:] += sum_l weights[l][r] right[l][:]` for `r < count`, `l` over `summed(rows of the tile)`.
    #[inline(always)]
    fn accumulate(
        &self,
        sums: &mut [f32],
        count: usize,
        weights: &[f32],
        right: &[f32],
        start: Start,
        summed: impl Fn(&Range<usize>) -> Range<usize>,
    ) {
        let (size, cols, stride) = (self.packed.heads.size, self.kernel.cols(), self.sum_cols());
        assert!(sums.len() >= count * stride && weights.len() >= BLOCK * cols && right.len() >= self.summed_floats());
        for tile in tiles(count, self.kernel.rows) {
            let summed = summed(&tile);
            assert!(summed.end <= BLOCK && tile.end <= cols);
            for (first, right) in (0..size).step_by(cols).zip(right.chunks_exact(BLOCK * cols)) {
                let vectors = (size - first).min(cols).div_ceil(self.kernel.lanes);
                let job = Tile {
                    k: summed.len(),
                    a: weights[summed.start * cols + tile.start..].as_ptr(),
                    pitch: cols,
                    b: right[summed.start * vectors * self.kernel.lanes..].as_ptr(),
                    c: sums[tile.start * stride + first..].as_mut_ptr(),
                    stride,
                    start,
                };
                // SAFETY: packed by `pack_summed`; lengths and ends were asserted.
                unsafe { self.kernel.tile(tile.len(), vectors, job) }
            }
        }
    }
}

#[inline(always)]
fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `count` rows in the fewest tiles of at most `most`, which differ by at most one row.
#[inline(always)]
fn tiles(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = count.div_ceil(most);
    (0..tiles).map(move |t| t * count / tiles..(t + 1) * count / tiles)
}

/// Consecutive pieces of the scratch; each size is a multiple of a cache line.
#[inline(always)]
fn carve<const N: usize>(mut memory: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (piece, rest) = std::mem::take(&mut memory).split_at_mut(size);
        memory = rest;
        piece
    })
}
