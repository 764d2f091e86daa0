//! The fast path of attention, for f32 and bf16: blocks of keys at absolute positions, online softmax, register tiles.
//!
//! Scores are computed with vectors along one side of the square and the summed index of the *next* product down the
//! other, so that a block of probabilities is, as it lies, the packed left operand of the product that consumes it:
//!
//! ```text
//! forward   panel of queries:  S^T [keys][queries] = K (scale Q)^T;  online softmax down the columns;  O += (P^T)^T V
//! backward  panel of queries:  S^T, dP^T = V dO^T,  dS^T = P^T (dP^T - delta)                 ;  dQ += (dS^T)^T K
//!           panel of keys:     S [queries][keys] = (scale Q) K^T, dP = dO V^T, dS              ;  dV += P^T dO
//!                                                                                                 dK += dS^T Q
//! ```
//! A *panel* is as many queries (or keys) as a register tile has columns, all of one head; softmax statistics are
//! vectors along it, and nothing is ever summed across lanes. Jobs are (sequence, key-value head, block), so the group's
//! query heads share the packed keys and values; a block of keys is packed once for all panels of the job. The
//! backward runs two passes, one for dQ and one for dK and dV: it computes scores twice (seven products instead of
//! five), but its jobs are independent however few sequences and heads there are, and no sum is shared by threads.
//!
//! Why bits do not depend on the batch: a score is one chain of FMAs over K; a row meets its keys in ascending order, in
//! blocks that start at multiples of [`BLOCK`] of its own sequence; a masked key adds an exact zero to a sum that holds
//! no negative zero in the end. Which rows share a panel, a tile or a job changes none of this, nor does the thread.

use super::{Heads, Packed};
use crate::base::dtype::{Elem, Real};
use crate::base::par::Pool;
use crate::base::simd::{exp, sum_by, vectorize};
use crate::device::View;
use crate::ops::gemm::kernel::{Kernel, MAX_LANES, Start, Tile};
use crate::ops::gemm::pack::{Along, Job, Operand};
use crate::ops::gemm::scratch::Scratch;
use std::ops::Range;

/// Keys per block of the online softmax, and queries (or keys) per job. Packed keys and values of a block, 2 x 32 KiB
/// for heads of 64, stay in L2; scores of a panel, 128 x 32 floats, 16 KiB, in L1.
const BLOCK: usize = 128;

thread_local! {
    static SCRATCH: Scratch = const { Scratch::new() };
}

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

/// [`super::attention_fwd`] for types that are computed in f32.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Elem<Acc = f32>>(
    pool: &Pool,
    kernel: Kernel,
    o: View,
    lse: View,
    q: View,
    k: View,
    v: View,
    packed: &Packed,
) {
    let flash = Flash { kernel, packed };
    flash.each_job(
        pool,
        |seq, block, g| by_width!(kernel, W => vectorize(|| flash.forward::<E, W>(o, lse, [q, k, v], seq, block, g))),
    );
}

/// [`super::attention_bwd`] for types that are computed in f32: `[dq, dk, dv, delta]` from `[do, o, lse, q, k, v]`.
pub fn backward<E: Elem<Acc = f32>>(pool: &Pool, kernel: Kernel, out: [View; 4], saved: [View; 6], packed: &Packed) {
    let ([dq, dk, dv, delta], [d_o, o, lse, q, k, v]) = (out, saved);
    let (flash, heads) = (Flash { kernel, packed }, packed.heads);
    pool.each(q.rows(), 16, |i| {
        vectorize(|| {
            let (d_o, o) = (d_o.row::<E>(i), o.row::<E>(i));
            for (h, delta) in delta.row_mut::<f32>(i).iter_mut().enumerate() {
                let (d_o, o) = (&d_o[heads.columns(h)], &o[heads.columns(h)]);
                *delta = sum_by(heads.size, |c| d_o[c].get() * o[c].get());
            }
        })
    });
    let saved = Saved { d_o, lse, delta, q, k, v };
    flash.each_job(
        pool,
        |seq, block, g| by_width!(kernel, W => vectorize(|| flash.query_gradient::<E, W>(dq, &saved, seq, block, g))),
    );
    flash.each_job(pool, |seq, block, g| {
        by_width!(kernel, W => vectorize(|| flash.key_gradients::<E, W>([dk, dv], &saved, seq, block, g)))
    });
}

struct Flash<'a> {
    kernel: Kernel,
    packed: &'a Packed<'a>,
}

/// What the backward reads.
struct Saved<'a> {
    d_o: View<'a>,
    lse: View<'a>,
    delta: View<'a>,
    q: View<'a>,
    k: View<'a>,
    v: View<'a>,
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

    /// Outputs and statistics of the queries at `block`, for the query heads of key-value head `g`.
    #[inline(always)]
    fn forward<E: Elem<Acc = f32>, const W: usize>(
        &self,
        o: View,
        lse: View,
        [q, k, v]: [View; 3],
        seq: Range<usize>,
        block: Range<usize>,
        g: usize,
    ) {
        let (heads, group) = (self.packed.heads, self.group(g));
        let count = group.len() * block.len().div_ceil(W);
        let (k, v) = (window(k, &seq, heads, g), window(v, &seq, heads, g));
        let sum_floats = W * self.sum_cols();
        let sizes = [
            count * self.columns_floats(),
            self.rows_floats(),
            self.summed_floats(),
            BLOCK * W,
            count * sum_floats,
            count * W,
            count * W,
        ];
        Scratch::lend(&SCRATCH, sizes.iter().sum(), |memory| {
            let [queries, keys, values, scores, sums, tops, totals] = carve(memory, sizes);
            for (panel, to) in
                panels(group.clone(), block.clone(), W).zip(queries.chunks_exact_mut(self.columns_floats()))
            {
                self.pack_columns::<E>(window(q, &seq, heads, panel.head), &panel, self.packed.scale as f32, to);
            }
            tops.fill(f32::NEG_INFINITY);
            totals.fill(0.0);
            for first in (0..block.end).step_by(BLOCK) {
                let theirs = first..(first + BLOCK).min(block.end);
                self.pack_rows::<E>(k, theirs.clone(), 1.0, keys);
                self.pack_summed::<E>(v, theirs.clone(), values);
                let state = queries.chunks_exact(self.columns_floats()).zip(sums.chunks_exact_mut(sum_floats));
                let state = state.zip(tops.as_chunks_mut::<W>().0.iter_mut().zip(totals.as_chunks_mut::<W>().0));
                for (panel, ((queries, sums), (top, total))) in panels(group.clone(), block.clone(), W).zip(state) {
                    let seen = theirs.len().min(panel.last() + 1 - first);
                    self.cross(keys, theirs.len(), 0..seen, queries, scores);
                    let rows = &mut scores.as_chunks_mut::<W>().0[..seen];
                    let shrink = online_softmax(rows, first, panel.first, top, total);
                    let start = if first == 0 { Start::Zero } else { Start::Load };
                    if start == Start::Load {
                        for (sums, shrink) in sums.chunks_exact_mut(self.sum_cols()).zip(shrink).take(panel.count) {
                            scale(sums, shrink);
                        }
                    }
                    let visible = |tile: &Range<usize>| 0..seen.min(panel.first + tile.end - first);
                    self.accumulate(sums, panel.count, scores, values, start, visible);
                }
            }
            let state = sums.chunks_exact(sum_floats).zip(tops.chunks_exact(W).zip(totals.chunks_exact(W)));
            for (panel, (sums, (top, total))) in panels(group, block, W).zip(state) {
                let o = window(o, &seq, heads, panel.head);
                for c in 0..panel.count {
                    let sums = &sums[c * self.sum_cols()..];
                    for (o, sum) in o.row_mut::<E>(panel.first + c).iter_mut().zip(sums) {
                        // Adding zero makes a negative zero, which masked keys may have flipped, positive.
                        *o = E::put(sum / total[c] + 0.0);
                    }
                    let lse = lse.rows_in(seq.clone()).cols_in(panel.head..panel.head + 1);
                    lse.row_mut::<f32>(panel.first + c)[0] = top[c] + total[c].ln();
                }
            }
        });
    }

    /// `dq` of the queries at `block`, for the query heads of key-value head `g`.
    #[inline(always)]
    fn query_gradient<E: Elem<Acc = f32>, const W: usize>(
        &self,
        dq: View,
        saved: &Saved,
        seq: Range<usize>,
        block: Range<usize>,
        g: usize,
    ) {
        let (heads, group, factor) = (self.packed.heads, self.group(g), self.packed.scale as f32);
        let count = group.len() * block.len().div_ceil(W);
        let (k, v) = (window(saved.k, &seq, heads, g), window(saved.v, &seq, heads, g));
        let (columns, sum_floats) = (self.columns_floats(), W * self.sum_cols());
        let sizes = [
            count * columns,
            count * columns,
            self.rows_floats(),
            self.rows_floats(),
            self.summed_floats(),
            BLOCK * W,
            BLOCK * W,
            count * sum_floats,
        ];
        Scratch::lend(&SCRATCH, sizes.iter().sum(), |memory| {
            let [queries, d_outs, keys, values, right, scores, d_scores, sums] = carve(memory, sizes);
            let places = queries.chunks_exact_mut(columns).zip(d_outs.chunks_exact_mut(columns));
            for (panel, (query, d_out)) in panels(group.clone(), block.clone(), W).zip(places) {
                self.pack_columns::<E>(window(saved.q, &seq, heads, panel.head), &panel, factor, query);
                self.pack_columns::<E>(window(saved.d_o, &seq, heads, panel.head), &panel, 1.0, d_out);
            }
            for first in (0..block.end).step_by(BLOCK) {
                let theirs = first..(first + BLOCK).min(block.end);
                self.pack_rows::<E>(k, theirs.clone(), 1.0, keys);
                self.pack_rows::<E>(v, theirs.clone(), 1.0, values);
                self.pack_summed::<E>(k, theirs.clone(), right);
                let state = queries.chunks_exact(columns).zip(d_outs.chunks_exact(columns));
                let state = state.zip(sums.chunks_exact_mut(sum_floats));
                for (panel, ((query, d_out), sums)) in panels(group.clone(), block.clone(), W).zip(state) {
                    let seen = theirs.len().min(panel.last() + 1 - first);
                    self.cross(keys, theirs.len(), 0..seen, query, scores);
                    self.cross(values, theirs.len(), 0..seen, d_out, d_scores);
                    let lse = gather::<W>(saved.lse, &seq, &panel);
                    let delta = gather::<W>(saved.delta, &seq, &panel);
                    let (scores_of, d_scores_of) = (scores.as_chunks_mut::<W>().0, d_scores.as_chunks::<W>().0);
                    for (j, (s, dp)) in scores_of.iter_mut().zip(d_scores_of).take(seen).enumerate() {
                        // Lanes before `hidden` hold queries that come before key j.
                        let hidden = (first + j).saturating_sub(panel.first);
                        for c in 0..W {
                            let p = exp(s[c] - lse[c]);
                            s[c] = if c < hidden { 0.0 } else { p * (dp[c] - delta[c]) };
                        }
                    }
                    let start = if first == 0 { Start::Zero } else { Start::Load };
                    let visible = |tile: &Range<usize>| 0..seen.min(panel.first + tile.end - first);
                    self.accumulate(sums, panel.count, scores, right, start, visible);
                }
            }
            for (panel, sums) in panels(group, block, W).zip(sums.chunks_exact(sum_floats)) {
                self.store::<E>(window(dq, &seq, heads, panel.head), &panel, sums, factor);
            }
        });
    }

    /// `dk` and `dv` of the keys at `block` under key-value head `g`.
    #[inline(always)]
    fn key_gradients<E: Elem<Acc = f32>, const W: usize>(
        &self,
        [dk, dv]: [View; 2],
        saved: &Saved,
        seq: Range<usize>,
        block: Range<usize>,
        g: usize,
    ) {
        let (heads, factor) = (self.packed.heads, self.packed.scale as f32);
        let (columns, sum_floats, count) = (self.columns_floats(), W * self.sum_cols(), block.len().div_ceil(W));
        let sizes = [
            count * columns,
            count * columns,
            self.rows_floats(),
            self.rows_floats(),
            self.summed_floats(),
            self.summed_floats(),
            BLOCK * W,
            BLOCK * W,
            count * sum_floats,
            count * sum_floats,
        ];
        Scratch::lend(&SCRATCH, sizes.iter().sum(), |memory| {
            let [keys, values, queries, d_outs, right_q, right_do, probs, d_scores, to_k, to_v] = carve(memory, sizes);
            to_k.fill(0.0);
            to_v.fill(0.0);
            let places = keys.chunks_exact_mut(columns).zip(values.chunks_exact_mut(columns));
            for (panel, (key, value)) in panels(g..g + 1, block.clone(), W).zip(places) {
                self.pack_columns::<E>(window(saved.k, &seq, heads, g), &panel, 1.0, key);
                self.pack_columns::<E>(window(saved.v, &seq, heads, g), &panel, 1.0, value);
            }
            let blocks =
                self.group(g).flat_map(|h| (block.start..seq.len()).step_by(BLOCK).map(move |first| (h, first)));
            for (head, first) in blocks {
                let theirs = first..(first + BLOCK).min(seq.len());
                let (q, d_o) = (window(saved.q, &seq, heads, head), window(saved.d_o, &seq, heads, head));
                self.pack_rows::<E>(q, theirs.clone(), factor, queries);
                self.pack_rows::<E>(d_o, theirs.clone(), 1.0, d_outs);
                self.pack_summed::<E>(q, theirs.clone(), right_q);
                self.pack_summed::<E>(d_o, theirs.clone(), right_do);
                let state = keys.chunks_exact(columns).zip(values.chunks_exact(columns));
                let state = state.zip(to_k.chunks_exact_mut(sum_floats).zip(to_v.chunks_exact_mut(sum_floats)));
                for (panel, ((key, value), (to_k, to_v))) in panels(g..g + 1, block.clone(), W).zip(state) {
                    // The first query of the block that sees a key of the panel.
                    let from = panel.first.saturating_sub(first);
                    self.cross(queries, theirs.len(), from..theirs.len(), key, probs);
                    self.cross(d_outs, theirs.len(), from..theirs.len(), value, d_scores);
                    let (probs_of, d_scores_of) = (probs.as_chunks_mut::<W>().0, d_scores.as_chunks_mut::<W>().0);
                    for i in from..theirs.len() {
                        let lse = saved.lse.row::<f32>(seq.start + first + i)[head];
                        let delta = saved.delta.row::<f32>(seq.start + first + i)[head];
                        // Lanes from `seen` on hold keys that come after query i.
                        let seen = first + i + 1 - panel.first;
                        for (c, (p, ds)) in probs_of[i].iter_mut().zip(&mut d_scores_of[i]).enumerate() {
                            *p = if c < seen { exp(*p - lse) } else { 0.0 };
                            *ds = if c < seen { *p * (*ds - delta) } else { 0.0 };
                        }
                    }
                    let seeing =
                        |tile: &Range<usize>| from.max((panel.first + tile.start).saturating_sub(first))..theirs.len();
                    self.accumulate(to_v, panel.count, probs, right_do, Start::Load, seeing);
                    self.accumulate(to_k, panel.count, d_scores, right_q, Start::Load, seeing);
                }
            }
            let sums = to_k.chunks_exact(sum_floats).zip(to_v.chunks_exact(sum_floats));
            for (panel, (to_k, to_v)) in panels(g..g + 1, block, W).zip(sums) {
                self.store::<E>(window(dk, &seq, heads, g), &panel, to_k, factor);
                self.store::<E>(window(dv, &seq, heads, g), &panel, to_v, 1.0);
            }
        });
    }

    /// The sums of a panel, times a factor, rounded.
    #[inline(always)]
    fn store<E: Elem<Acc = f32>>(&self, to: View, panel: &Panel, sums: &[f32], factor: f32) {
        for (c, sums) in sums.chunks_exact(self.sum_cols()).enumerate().take(panel.count) {
            for (to, sum) in to.row_mut::<E>(panel.first + c).iter_mut().zip(sums) {
                *to = E::put(sum * factor + 0.0);
            }
        }
    }
}

/// One block of the online softmax of Milakov and Gimelshein: turns the scores of keys `first..` (rows) and queries
/// `query..` (lanes) into probabilities relative to the new maximum, and returns what earlier sums must be scaled by.
#[inline(always)]
fn online_softmax<const W: usize>(
    scores: &mut [[f32; W]],
    first: usize,
    query: usize,
    top: &mut [f32; W],
    total: &mut [f32; W],
) -> [f32; W] {
    let old = *top;
    for (j, s) in scores.iter_mut().enumerate() {
        let hidden = (first + j).saturating_sub(query);
        for c in 0..W {
            s[c] = if c < hidden { f32::NEG_INFINITY } else { s[c] };
            top[c] = Real::max(s[c], top[c]);
        }
    }
    let mut shrink = [0.0; W];
    for c in 0..W {
        shrink[c] = exp(old[c] - top[c]);
        total[c] *= shrink[c];
    }
    for s in scores {
        for c in 0..W {
            s[c] = exp(s[c] - top[c]);
            total[c] += s[c];
        }
    }
    shrink
}

/// A statistic of a panel's queries; zero in the lanes past them.
#[inline(always)]
fn gather<const W: usize>(of: View, seq: &Range<usize>, panel: &Panel) -> [f32; W] {
    let row = |c| of.row::<f32>(seq.start + panel.first + c)[panel.head];
    std::array::from_fn(|c| if c < panel.count { row(c) } else { 0.0 })
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
