//! Gradients of attention: see [the formulas](super).

use super::{BLOCK, Flash, Panel, SCRATCH, carve, panels, tiles, window};
use crate::base::dtype::Elem;
use crate::base::par::Pool;
use crate::base::simd::{exp, sum_by, vectorize};
use crate::device::View;
use crate::ops::attention::Packed;
use crate::ops::gemm::kernel::{Kernel, Start, Tile};
use crate::ops::gemm::pack::{Along, Job, Operand};
use crate::ops::gemm::scratch::Scratch;
use crate::ops::gemm::vector::MAX_LANES;
use std::ops::Range;

/// [`attention_bwd`](crate::ops::attention::attention_bwd) for types that are computed in f32: `[dq, dk, dv, delta]` from `[do, o, lse, q, k, v]`.
pub fn backward<E: Elem<Acc = f32>>(pool: &Pool, kernel: Kernel, out: [View; 4], saved: [View; 6], packed: &Packed) {
    let ([dq, dk, dv, delta], [d_o, o, lse, q, k, v]) = (out, saved);
    let (flash, heads) = (Flash { kernel, packed }, packed.heads);
    pool.each(q.rows(), 16, |i| {
        vectorize(
            #[inline(always)]
            || {
                let (d_o, o) = (d_o.row::<E>(i), o.row::<E>(i));
                for (h, delta) in delta.row_mut::<f32>(i).iter_mut().enumerate() {
                    let (d_o, o) = (&d_o[heads.columns(h)], &o[heads.columns(h)]);
                    *delta = sum_by(heads.size, |c| d_o[c].get() * o[c].get());
                }
            },
        )
    });
    let saved = Saved { d_o, lse, delta, q, k, v };
    if by_sequence(kernel, packed, pool.threads()) {
        return flash.each_sequence(
            pool,
            |seq, g| by_width!(kernel, W => flash.gradients::<E, W>([dq, dk, dv], &saved, seq, g)),
        );
    }
    flash.each_job(
        pool,
        |seq, block, g| by_width!(kernel, W => flash.query_gradient::<E, W>(dq, &saved, seq, block, g)),
    );
    flash.each_job(
        pool,
        |seq, block, g| by_width!(kernel, W => flash.key_gradients::<E, W>([dk, dv], &saved, seq, block, g)),
    );
}

/// The most floats of dQ that a thread holds for a sequence: 32 MiB.
const HELD: usize = 8 << 20;

/// Whether jobs of a whole sequence and key-value head (five products) are done sooner by so many threads than jobs of a block
/// (seven), and the memory they hold is bearable.
pub fn by_sequence(kernel: Kernel, packed: &Packed, threads: usize) -> bool {
    let (heads, flash) = (packed.heads, Flash { kernel, packed });
    let lengths = || packed.sequences().map(|s| s.len()).filter(|n| *n > 0);
    let longest = lengths().max().unwrap_or(0);
    let jobs = heads.kv * lengths().count();
    let squares = heads.kv * lengths().map(|n| n * n).sum::<usize>();
    // The busiest thread has the longest sequence, or its share of jobs of middling size.
    let busiest = (longest * longest).max(jobs.div_ceil(threads) * squares / jobs.max(1));
    heads.group() * longest * flash.sum_cols() <= HELD && 5 * busiest * threads <= 7 * squares
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

/// dQ of one sequence under the heads of a group, while the blocks of keys go by.
struct QuerySums<'a> {
    /// The block of keys as the summed index.
    keys: &'a mut [f32],
    /// dS^T of one tile of queries.
    weights: &'a mut [f32],
    /// `[heads of the group][positions][K]`, rows of whole vectors.
    sums: &'a mut [f32],
}

impl Flash<'_> {
    /// Calls `f(rows of the sequence, key-value head)` for every pair, in parallel.
    fn each_sequence(&self, pool: &Pool, f: impl Fn(Range<usize>, usize) + Sync) {
        let (kv, starts) = (self.packed.heads.kv, self.packed.starts);
        pool.each((starts.len() - 1) * kv, 1, |job| {
            let b = job / kv;
            f(starts[b] as usize..starts[b + 1] as usize, job % kv)
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
            vectorize(
                #[inline(always)]
                || {
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
                },
            )
        });
    }

    /// `dq`, `dk` and `dv` of a sequence under key-value head `g`.
    #[inline(always)]
    fn gradients<E: Elem<Acc = f32>, const W: usize>(
        &self,
        [dq, dk, dv]: [View; 3],
        saved: &Saved,
        seq: Range<usize>,
        g: usize,
    ) {
        let (heads, group, rows) = (self.packed.heads, self.group(g), seq.len() * self.sum_cols());
        let block_floats = self.block_sizes::<W>(seq.len().min(BLOCK)).iter().sum();
        let sizes = [block_floats, self.summed_floats(), self.weights_floats(), group.len() * rows];
        Scratch::lend(&SCRATCH, sizes.iter().sum(), |memory| {
            vectorize(
                #[inline(always)]
                || {
                    let [block_memory, keys, weights, sums] = carve(memory, sizes);
                    sums.fill(0.0);
                    let mut to = QuerySums { keys, weights, sums };
                    for first in (0..seq.len()).step_by(BLOCK) {
                        let block = first..(first + BLOCK).min(seq.len());
                        self.pack_summed::<E>(window(saved.k, &seq, heads, g), block.clone(), to.keys);
                        self.key_block::<E, W>(block_memory, [dk, dv], Some(&mut to), saved, &seq, block, g);
                    }
                    for (head, sums) in group.zip(to.sums.chunks_exact(rows.max(1))) {
                        let all = Panel { head, first: 0, count: seq.len() };
                        self.store::<E>(window(dq, &seq, heads, head), &all, sums, self.packed.scale as f32);
                    }
                },
            )
        });
    }

    /// `dk` and `dv` of the keys at `block` under key-value head `g`.
    #[inline(always)]
    fn key_gradients<E: Elem<Acc = f32>, const W: usize>(
        &self,
        to: [View; 2],
        saved: &Saved,
        seq: Range<usize>,
        block: Range<usize>,
        g: usize,
    ) {
        Scratch::lend(&SCRATCH, self.block_sizes::<W>(block.len()).iter().sum(), |memory| {
            vectorize(
                #[inline(always)]
                || self.key_block::<E, W>(memory, to, None, saved, &seq, block, g),
            )
        });
    }

    /// Floats of what [`Flash::key_block`] holds for so many keys.
    #[inline(always)]
    fn block_sizes<const W: usize>(&self, keys: usize) -> [usize; 10] {
        let (columns, sum_floats, count) = (self.columns_floats(), W * self.sum_cols(), keys.div_ceil(W));
        [
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
        ]
    }

    /// `dk` and `dv` of the keys at `block`, and, where asked for, what they add to `dq`.
    #[inline(always)]
    fn key_block<E: Elem<Acc = f32>, const W: usize>(
        &self,
        memory: &mut [f32],
        [dk, dv]: [View; 2],
        mut to_queries: Option<&mut QuerySums>,
        saved: &Saved,
        seq: &Range<usize>,
        block: Range<usize>,
        g: usize,
    ) {
        let (heads, group, factor) = (self.packed.heads, self.group(g), self.packed.scale as f32);
        let (columns, sum_floats) = (self.columns_floats(), W * self.sum_cols());
        let [keys, values, queries, d_outs, right_q, right_do, probs, d_scores, to_k, to_v] =
            carve(memory, self.block_sizes::<W>(block.len()));
        to_k.fill(0.0);
        to_v.fill(0.0);
        let places = keys.chunks_exact_mut(columns).zip(values.chunks_exact_mut(columns));
        for (panel, (key, value)) in panels(g..g + 1, block.clone(), W).zip(places) {
            self.pack_columns::<E>(window(saved.k, seq, heads, g), &panel, 1.0, key);
            self.pack_columns::<E>(window(saved.v, seq, heads, g), &panel, 1.0, value);
        }
        let blocks = group.clone().flat_map(|h| (block.start..seq.len()).step_by(BLOCK).map(move |first| (h, first)));
        for (head, first) in blocks {
            let theirs = first..(first + BLOCK).min(seq.len());
            let (q, d_o) = (window(saved.q, seq, heads, head), window(saved.d_o, seq, heads, head));
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
                let rows = (&mut probs.as_chunks_mut::<W>().0[..theirs.len()], d_scores.as_chunks_mut::<W>().0);
                score_gradients(rows, from, first, saved, seq, head, panel.first);
                let seeing =
                    |tile: &Range<usize>| from.max((panel.first + tile.start).saturating_sub(first))..theirs.len();
                self.accumulate(to_v, panel.count, probs, right_do, Start::Load, seeing);
                self.accumulate(to_k, panel.count, d_scores, right_q, Start::Load, seeing);
                if let Some(to) = &mut to_queries {
                    let row = (head - group.start) * seq.len() + first;
                    self.add_to_queries(to, row, from, &theirs, &panel, d_scores, block.start);
                }
            }
        }
        let sums = to_k.chunks_exact(sum_floats).zip(to_v.chunks_exact(sum_floats));
        for (panel, (to_k, to_v)) in panels(g..g + 1, block, W).zip(sums) {
            self.store::<E>(window(dk, seq, heads, g), &panel, to_k, factor);
            self.store::<E>(window(dv, seq, heads, g), &panel, to_v, 1.0);
        }
    }

    /// Floats of dS^T of one tile of queries.
    #[inline(always)]
    fn weights_floats(&self) -> usize {
        (self.kernel.rows * self.kernel.cols() + MAX_LANES).next_multiple_of(MAX_LANES)
    }

    /// `to.sums[row + i][:] += sum_j d_scores[i][j] K[j][:]` over the panel's keys, for the queries `from..` of the block `theirs`.
    #[inline(always)]
    fn add_to_queries(
        &self,
        to: &mut QuerySums,
        row: usize,
        from: usize,
        theirs: &Range<usize>,
        panel: &Panel,
        d_scores: &[f32],
        keys_from: usize,
    ) {
        let (size, cols, stride) = (self.packed.heads.size, self.kernel.cols(), self.sum_cols());
        let from_scores = Operand::<f32> { start: d_scores.as_ptr(), stride: cols, along: Along::Summed };
        assert!(d_scores.len() >= theirs.len() * cols && to.sums.len() >= (row + theirs.len()) * stride);
        assert!(to.weights.len() >= self.weights_floats() && to.keys.len() >= self.summed_floats());
        for tile in tiles(theirs.len() - from, self.kernel.rows) {
            let tile = from + tile.start..from + tile.end;
            // Keys that the last query of the tile sees.
            let seen = (theirs.start + tile.end - panel.first).min(panel.count);
            let (width, weights) = (tile.len(), to.weights.as_mut_ptr());
            // SAFETY: the scores have the tile's rows; a tile of weights and the slack fit.
            unsafe {
                self.kernel.pack(Job { from: from_scores, free: tile.clone(), summed: 0..seen, width, to: weights })
            }
            for (first, right) in (0..size).step_by(cols).zip(to.keys.chunks_exact(BLOCK * cols)) {
                let vectors = (size - first).min(cols).div_ceil(self.kernel.lanes);
                let job = Tile {
                    k: seen,
                    a: weights,
                    pitch: width,
                    b: right[(panel.first - keys_from) * vectors * self.kernel.lanes..].as_ptr(),
                    c: to.sums[(row + tile.start) * stride + first..].as_mut_ptr(),
                    stride,
                    start: Start::Load,
                };
                // SAFETY: packed above and by `pack_summed`; lengths were asserted.
                unsafe { self.kernel.tile(width, vectors, job) }
            }
        }
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

/// Turns scores into probabilities and their gradients into those of the scores, for queries `from..` (rows; the first is at
/// position `first`) of a head and keys at `key..` (lanes).
#[inline(always)]
fn score_gradients<const W: usize>(
    (probs, d_scores): (&mut [[f32; W]], &mut [[f32; W]]),
    from: usize,
    first: usize,
    saved: &Saved,
    seq: &Range<usize>,
    head: usize,
    key: usize,
) {
    for (i, (p, ds)) in probs.iter_mut().zip(d_scores).enumerate().skip(from) {
        let lse = saved.lse.row::<f32>(seq.start + first + i)[head];
        let delta = saved.delta.row::<f32>(seq.start + first + i)[head];
        // Lanes from `seen` on hold keys that come after query i.
        let seen = first + i + 1 - key;
        for (c, (p, ds)) in p.iter_mut().zip(ds).enumerate() {
            *p = if c < seen { exp(*p - lse) } else { 0.0 };
            *ds = if c < seen { *p * (*ds - delta) } else { 0.0 };
        }
    }
}

/// A statistic of a panel's queries; zero in the lanes past them.
#[inline(always)]
fn gather<const W: usize>(of: View, seq: &Range<usize>, panel: &Panel) -> [f32; W] {
    let row = |c| of.row::<f32>(seq.start + panel.first + c)[panel.head];
    std::array::from_fn(|c| if c < panel.count { row(c) } else { 0.0 })
}
