//! The loops around the register tiles: blocking for the caches, the split between threads, and what happens to a
//! tile once its sums are complete.
//!
//! ```text
//! for chunk of rows:                          packed left operand <= CHUNK floats
//!   pack all its row panels, over the whole summed index             (threads share the panels)
//!   for job in (rows x columns of the chunk):                        (threads share the jobs)
//!     for group of up to GROUP column panels:
//!       for block of DEPTH summed indices:
//!         pack the group's block                                     (stays in the L2 cache, or L1 for few rows)
//!         for row panel, for column panel of the group: one register tile
//!         in the last block: finish the tile
//! ```
//! Why so: each element of the right operand (the weights, in a forward pass) is packed once per chunk, right before
//! it is used, so it crosses the memory bus once. The left operand is packed once and shared; a group of column panels
//! is swept per pass over it, so it may lie in the L3 cache or in memory: one core reads `4 * rows` bytes of it per
//! `2 * rows * GROUP` cycles. A row panel of one block (14 x 256 floats, 14 KiB) stays in L1 while the group's panels
//! (32 KiB each) stream through it from L2, 5 bytes a cycle; depths from 128 to 384 measured the same within noise.
//! Between blocks the partial sums go to memory and come back as the accumulators' start, which continues each chain of
//! FMAs unchanged: DEPTH decides speed, never bits. Row panels of one product differ by at most one row, so no tile is
//! much smaller than the others (16 rows are 8 + 8, not 14 + 2).
//!
//! With very few rows (generation, a scalar head) packing would cost more than the sums: the right operand is then
//! transposed in registers and used at once, at the speed of memory ([`Kernel::stream`]).
//!
//! Partial sums stay in the output itself where it is f32 and a tile's columns are whole vectors; else (bf16 output,
//! bias, residual, ragged edge) in scratch, and a finishing pass over the tile, still in cache, adds and rounds. An
//! output with very few columns is computed transposed, so that vectors run along its long side.

use super::Into;
use super::kernel::{Kernel, Start, Stream, Tile};
use super::pack::{Along, Job, Operand};
use super::scratch::{Scratch, Shared};
use super::vector::MAX_LANES;
use crate::base::dtype::{Dtype, Elem};
use crate::base::par::Pool;
use crate::base::simd::vectorize;
use crate::device::View;
use std::ops::Range;

/// Summed indices per block: a column panel of 32 x DEPTH floats, 32 KiB, streams through L1 beside the row panel.
const DEPTH: usize = 256;
/// Column panels packed together when there are enough rows to use them: 128 KiB of L2.
const GROUP: usize = 4;
/// Floats of the packed left operand (8 MiB), and the fewest row panels of a chunk however deep the sum is.
const CHUNK: usize = 2 << 20;
const CHUNK_PANELS: usize = 16;
/// Row panels of one job, so that its partial sums stay in L2.
const JOB_PANELS: usize = 72;
/// Multiply-adds below which waking a second thread costs more than it saves.
const SMALL: usize = 1 << 18;
/// Outputs at most this wide are computed transposed.
const NARROW: usize = 8;

thread_local! {
    static LEFT: Scratch = const { Scratch::new() };
    static RIGHT: Scratch = const { Scratch::new() };
}

/// Where sums end: `y (=|+=) sums (+ bias) (+ residual)`, rounded once.
pub struct Output<'a> {
    pub y: View<'a>,
    pub into: Into,
    pub bias: Option<View<'a>>,
    pub residual: Option<View<'a>>,
}

/// `y[i,j] = sum_l left(i,l) right(j,l)` for `l < depth` ascending.
pub fn product<E, O>(pool: &Pool, kernel: Kernel, left: Operand<E>, right: Operand<E>, depth: usize, out: Output)
where
    E: Elem<Acc = f32>,
    O: Elem<Acc = f32>,
{
    let [m, n] = out.y.shape();
    if m == 0 || n == 0 {
        return;
    }
    let transposed = n <= NARROW && m > n;
    let (left, right, rows, cols) = if transposed { (right, left, n, m) } else { (left, right, m, n) };
    let panels = rows.div_ceil(kernel.rows);
    let product = Product { kernel, left, right, rows, cols, depth, panels, transposed, out };
    let per_chunk = (CHUNK / product.panel_floats()).clamp(CHUNK_PANELS, panels.max(CHUNK_PANELS));
    // Chunks of equal size.
    let chunks = panels.div_ceil(per_chunk);
    for chunk in 0..chunks {
        product.chunk::<O>(pool, chunk * panels / chunks..(chunk + 1) * panels / chunks);
    }
}

struct Product<'a, E> {
    kernel: Kernel,
    left: Operand<E>,
    right: Operand<E>,
    rows: usize,
    cols: usize,
    depth: usize,
    /// Row panels.
    panels: usize,
    /// Rows here are columns of the output.
    transposed: bool,
    out: Output<'a>,
}

impl<E: Elem<Acc = f32>> Product<'_, E> {
    /// The rows of a row panel, or of several.
    fn rows_of(&self, panels: Range<usize>) -> Range<usize> {
        panels.start * self.rows / self.panels..panels.end * self.rows / self.panels
    }
    /// Floats from one packed row panel to the next; the slack keeps two threads' vectors apart.
    fn panel_floats(&self) -> usize {
        (self.depth * self.rows.div_ceil(self.panels) + MAX_LANES).next_multiple_of(MAX_LANES)
    }

    /// All columns of some row panels.
    fn chunk<O: Elem<Acc = f32>>(&self, pool: &Pool, panels: Range<usize>) {
        let (count, floats) = (panels.len(), self.panel_floats());
        Scratch::lend(&LEFT, count * floats, |memory| {
            let packed = Shared::new(memory);
            let pack_grain =
                if self.depth * self.rows < SMALL / 8 { count } else { count.div_ceil(4 * pool.threads()) };
            pool.ranges(count, pack_grain, |some| {
                for p in some {
                    let panel = panels.start + p..panels.start + p + 1;
                    let free = self.rows_of(panel);
                    let job = Job {
                        from: self.left,
                        width: free.len(),
                        free,
                        summed: 0..self.depth,
                        to: packed.at(p * floats),
                    };
                    // SAFETY: panel p's place holds depth * width floats and the slack.
                    unsafe { self.kernel.pack(job) };
                }
            });
            let grid = Grid::new(pool.threads(), self.rows * self.cols * self.depth, count, self.col_panels());
            pool.each(grid.jobs(), 1, |job| {
                let (rows, cols) = grid.job(job);
                self.job::<O>(rows.start + panels.start..rows.end + panels.start, cols, packed.at(rows.start * floats));
            });
        });
    }

    fn col_panels(&self) -> usize {
        self.cols.div_ceil(self.kernel.cols())
    }

    /// Some row panels, packed at `left`, times some column panels.
    fn job<O: Elem<Acc = f32>>(&self, panels: Range<usize>, columns: Range<usize>, left: *const f32) {
        if self.rows <= self.kernel.stream_rows() && self.right.along == Along::Summed {
            return vectorize(
                #[inline(always)]
                || self.stream::<O>(columns, left),
            );
        }
        let rows = self.rows_of(panels.clone()).len();
        let group = if panels.len() < GROUP { 1 } else { GROUP };
        let width = self.kernel.cols();
        let (right, partial) = (DEPTH * width * group + MAX_LANES, rows * group * width);
        Scratch::lend(&RIGHT, right + partial, |memory| {
            let (right, partial) = memory.split_at_mut(right);
            vectorize(
                #[inline(always)]
                || {
                    let mut first = columns.start;
                    while first < columns.end {
                        let group = first..(first + group).min(columns.end);
                        let mut l = 0;
                        loop {
                            let block = l..(l + DEPTH).min(self.depth);
                            self.block::<O>(panels.clone(), group.clone(), block.clone(), left, right, partial);
                            l = block.end;
                            if l == self.depth {
                                break;
                            }
                        }
                        first = group.end;
                    }
                },
            )
        });
    }

    /// All rows, few as they are, times some column panels: the right operand is read once and never packed.
    #[inline(always)]
    fn stream<O: Elem<Acc = f32>>(&self, panels: Range<usize>, left: *const f32) {
        let (rows, lanes) = (0..self.rows, self.kernel.lanes);
        let mut tile = [0f32; MAX_LANES * MAX_LANES];
        let mut first = panels.start * self.kernel.cols();
        while first < (panels.end * self.kernel.cols()).min(self.cols) {
            let columns = first..(first + lanes).min(self.cols);
            let (c, start) = (tile.as_mut_ptr(), if self.out.into == Into::Add { Start::Load } else { Start::Zero });
            if start == Start::Load {
                self.begin::<O>(&rows, &columns, c, lanes);
            }
            let (b, pitch, count) = (self.right.at(first, 0), self.right.stride, columns.len());
            let stream = Stream { k: self.depth, a: left, b, pitch, count, c, stride: lanes, start };
            // SAFETY: the left operand is packed, all rows in one panel; the tile holds them.
            unsafe { self.kernel.stream(self.rows, stream) };
            self.finish::<O>(&rows, &columns, c, lanes);
            first = columns.end;
        }
    }

    /// One block of the summed index for some row panels and a group of column panels.
    #[inline(always)]
    fn block<O: Elem<Acc = f32>>(
        &self,
        panels: Range<usize>,
        group: Range<usize>,
        block: Range<usize>,
        left: *const f32,
        right: &mut [f32],
        partial: &mut [f32],
    ) {
        let (lanes, width) = (self.kernel.lanes, self.kernel.cols());
        let columns = |panel: usize| panel * width..((panel + 1) * width).min(self.cols);
        let vectors = |panel: usize| columns(panel).len().div_ceil(lanes);
        for (g, panel) in group.clone().enumerate() {
            let to = right[g * DEPTH * width..].as_mut_ptr();
            let width = vectors(panel) * lanes;
            let job = Job { from: self.right, free: columns(panel), summed: block.clone(), width, to };
            // SAFETY: the scratch holds a block per panel of the group, and slack.
            unsafe { self.kernel.pack(job) };
        }
        let (is_first, is_last) = (block.start == 0, block.end == self.depth);
        let first_row = self.rows_of(panels.clone()).start;
        for (p, panel) in panels.enumerate() {
            let rows = self.rows_of(panel..panel + 1);
            let left = left.wrapping_add(p * self.panel_floats() + block.start * rows.len());
            for (g, panel) in group.clone().enumerate() {
                let columns = columns(panel);
                let right = right[g * DEPTH * width..].as_ptr();
                let in_place = self.in_place::<O>(&columns);
                let stride = group.len() * width;
                let (c, stride) = if in_place {
                    (
                        self.out.y.rows_in(rows.clone()).cols_in(columns.clone()).ptr_mut::<O>().cast(),
                        self.out.y.stride(),
                    )
                } else {
                    (partial[(rows.start - first_row) * stride + g * width..].as_mut_ptr(), stride)
                };
                let adds = self.out.into == Into::Add;
                if is_first && adds && !in_place {
                    self.begin::<O>(&rows, &columns, c, stride);
                }
                let start = if is_first && !adds { Start::Zero } else { Start::Load };
                let tile = Tile { k: block.len(), a: left, pitch: rows.len(), b: right, c, stride, start };
                // SAFETY: both operands are packed for this tile; c holds its rows, whole vectors wide.
                unsafe { self.kernel.tile(rows.len(), vectors(panel), tile) };
                if is_last && !in_place {
                    self.finish::<O>(&rows, &columns, c, stride);
                }
            }
        }
    }

    /// Whether a tile's sums may lie in the output from the start.
    #[inline(always)]
    fn in_place<O: Elem>(&self, columns: &Range<usize>) -> bool {
        let plain = O::DTYPE == Dtype::F32 && self.out.bias.is_none() && self.out.residual.is_none();
        plain && !self.transposed && columns.len().is_multiple_of(self.kernel.lanes)
    }

    /// The part of an output-shaped tensor under a tile.
    #[inline(always)]
    fn window<'v>(&self, of: View<'v>, rows: &Range<usize>, columns: &Range<usize>) -> View<'v> {
        if self.transposed {
            of.rows_in(columns.clone()).cols_in(rows.clone())
        } else {
            of.rows_in(rows.clone()).cols_in(columns.clone())
        }
    }

    /// Where row `i`, column `j` of a window lies in a tile whose rows are `stride` apart.
    #[inline(always)]
    fn index(&self, i: usize, j: usize, stride: usize) -> usize {
        if self.transposed { j * stride + i } else { i * stride + j }
    }

    /// The old output starts the sums.
    #[inline(always)]
    fn begin<O: Elem<Acc = f32>>(&self, rows: &Range<usize>, columns: &Range<usize>, tile: *mut f32, stride: usize) {
        let y = self.window(self.out.y, rows, columns);
        for i in 0..y.rows() {
            for (j, y) in y.row::<O>(i).iter().enumerate() {
                // SAFETY: inside the tile.
                unsafe { *tile.add(self.index(i, j, stride)) = y.get() };
            }
        }
    }

    /// The sums are complete: adds bias and residual, rounds, stores.
    #[inline(always)]
    fn finish<O: Elem<Acc = f32>>(&self, rows: &Range<usize>, columns: &Range<usize>, tile: *mut f32, stride: usize) {
        let y = self.window(self.out.y, rows, columns);
        // SAFETY: indices lie inside the tile.
        let sum = |i, j| unsafe { &mut *tile.add(self.index(i, j, stride)) };
        if let Some(bias) = self.out.bias {
            let bias = &bias.slice::<E>()[if self.transposed { rows.clone() } else { columns.clone() }];
            for i in 0..y.rows() {
                for (j, bias) in bias.iter().enumerate() {
                    *sum(i, j) += bias.get();
                }
            }
        }
        if let Some(residual) = self.out.residual {
            let residual = self.window(residual, rows, columns);
            for i in 0..y.rows() {
                for (j, residual) in residual.row::<E>(i).iter().enumerate() {
                    *sum(i, j) += residual.get();
                }
            }
        }
        for i in 0..y.rows() {
            for (j, y) in y.row_mut::<O>(i).iter_mut().enumerate() {
                *y = O::put(*sum(i, j));
            }
        }
    }
}

/// The split of a chunk into jobs, by columns first because that packs nothing twice.
struct Grid {
    row_panels: usize,
    col_panels: usize,
    row_jobs: usize,
    col_jobs: usize,
}

impl Grid {
    fn new(threads: usize, work: usize, row_panels: usize, col_panels: usize) -> Grid {
        // A few jobs per thread even out what the machine's other programs take.
        let want = if threads == 1 || work < SMALL { 1 } else { 4 * threads };
        let col_jobs = want.min(col_panels);
        let row_jobs = (want / col_jobs).min(row_panels).max(row_panels.div_ceil(JOB_PANELS));
        Grid { row_panels, col_panels, row_jobs, col_jobs }
    }
    fn jobs(&self) -> usize {
        self.row_jobs * self.col_jobs
    }
    fn job(&self, job: usize) -> (Range<usize>, Range<usize>) {
        let part = |all: usize, parts: usize, i: usize| i * all / parts..(i + 1) * all / parts;
        (
            part(self.row_panels, self.row_jobs, job / self.col_jobs),
            part(self.col_panels, self.col_jobs, job % self.col_jobs),
        )
    }
}
