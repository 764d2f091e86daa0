//! Outputs and statistics of attention: see [the formulas](super).

use super::{BLOCK, Flash, Panel, SCRATCH, carve, panels, scale, window};
use crate::base::dtype::{Elem, Real};
use crate::base::par::Pool;
use crate::base::simd::{exp, vectorize};
use crate::device::View;
use crate::ops::attention::{Packed, Sequence};
use crate::ops::gemm::kernel::{Kernel, Start};
use crate::ops::gemm::scratch::Scratch;
use std::ops::Range;

/// [`attention_fwd`](crate::ops::attention::attention_fwd) for types that are computed in f32.
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
    flash.each_query_block(
        pool,
        |seq, block, g| by_width!(kernel, W => flash.forward::<E, W>(o, lse, [q, k, v], seq, block, g)),
    );
}

impl Flash<'_> {
    /// Calls `f(sequence, positions of queries within one block, key-value head)` for every job, in parallel.
    fn each_query_block(&self, pool: &Pool, f: impl Fn(Sequence, Range<usize>, usize) + Sync) {
        let kv = self.packed.heads.kv;
        let blocks_of = |seq: &Sequence| {
            let queries = seq.queries();
            if queries == 0 { 0..0 } else { seq.before / BLOCK..seq.len.div_ceil(BLOCK) }
        };
        let blocks = self.packed.continued().map(|s| blocks_of(&s).len()).sum::<usize>();
        pool.each(blocks * kv, 1, |job| {
            let mut block = job / kv;
            for seq in self.packed.continued() {
                let here = blocks_of(&seq);
                if block < here.len() {
                    let first = (here.start + block) * BLOCK;
                    return f(seq, first.max(seq.before)..(first + BLOCK).min(seq.len), job % kv);
                }
                block -= here.len();
            }
        });
    }

    /// Outputs and statistics of the queries at `block`, for the query heads of key-value head `g`.
    #[inline(always)]
    fn forward<E: Elem<Acc = f32>, const W: usize>(
        &self,
        o: View,
        lse: View,
        [q, k, v]: [View; 3],
        seq: Sequence,
        block: Range<usize>,
        g: usize,
    ) {
        let (heads, group) = (self.packed.heads, self.group(g));
        let count = group.len() * block.len().div_ceil(W);
        let (k, v) = (k.cols_in(heads.columns(g)), v.cols_in(heads.columns(g)));
        let rows = seq.row..seq.row + seq.queries();
        let sum_floats = W * self.sum_cols();
        let sizes = [
            count * self.columns_floats(),
            self.rows_floats(),
            self.summed_floats(),
            BLOCK * W,
            count * sum_floats,
            count * W,
            count * W,
            if seq.places.is_some() { BLOCK * heads.size } else { 0 },
        ];
        Scratch::lend(&SCRATCH, sizes.iter().sum(), |memory| {
            vectorize(
                #[inline(always)]
                || {
                    let [queries, keys, values, scores, sums, tops, totals, copy] = carve(memory, sizes);
                    for (panel, to) in
                        panels(group.clone(), block.clone(), W).zip(queries.chunks_exact_mut(self.columns_floats()))
                    {
                        let of = Panel { first: panel.first - seq.before, ..panel };
                        let q = window(q, &rows, heads, panel.head);
                        self.pack_columns::<E>(q, &of, self.packed.scale as f32, to);
                    }
                    tops.fill(f32::NEG_INFINITY);
                    totals.fill(0.0);
                    for first in (0..block.end).step_by(BLOCK) {
                        let theirs = first..(first + BLOCK).min(block.end);
                        self.pack_rows::<E>(together::<E>(k, &seq, theirs.clone(), copy), 0..theirs.len(), 1.0, keys);
                        self.pack_summed::<E>(together::<E>(v, &seq, theirs.clone(), copy), 0..theirs.len(), values);
                        let state = queries.chunks_exact(self.columns_floats()).zip(sums.chunks_exact_mut(sum_floats));
                        let state =
                            state.zip(tops.as_chunks_mut::<W>().0.iter_mut().zip(totals.as_chunks_mut::<W>().0));
                        for (panel, ((queries, sums), (top, total))) in
                            panels(group.clone(), block.clone(), W).zip(state)
                        {
                            let seen = theirs.len().min(panel.last() + 1 - first);
                            self.cross(keys, theirs.len(), 0..seen, queries, scores);
                            let rows = &mut scores.as_chunks_mut::<W>().0[..seen];
                            let shrink = online_softmax(rows, first, panel.first, top, total);
                            let start = if first == 0 { Start::Zero } else { Start::Load };
                            if start == Start::Load {
                                for (sums, shrink) in
                                    sums.chunks_exact_mut(self.sum_cols()).zip(shrink).take(panel.count)
                                {
                                    scale(sums, shrink);
                                }
                            }
                            let visible = |tile: &Range<usize>| 0..seen.min(panel.first + tile.end - first);
                            self.accumulate(sums, panel.count, scores, values, start, visible);
                        }
                    }
                    let state = sums.chunks_exact(sum_floats).zip(tops.chunks_exact(W).zip(totals.chunks_exact(W)));
                    for (panel, (sums, (top, total))) in panels(group, block, W).zip(state) {
                        let o = window(o, &rows, heads, panel.head);
                        let lse = lse.rows_in(rows.clone()).cols_in(panel.head..panel.head + 1);
                        for c in 0..panel.count {
                            let (row, sums) = (panel.first - seq.before + c, &sums[c * self.sum_cols()..]);
                            for (o, sum) in o.row_mut::<E>(row).iter_mut().zip(sums) {
                                // Adding zero makes a negative zero, which masked keys may have flipped, positive.
                                *o = E::put(sum / total[c] + 0.0);
                            }
                            lse.row_mut::<f32>(row)[0] = top[c] + total[c].ln();
                        }
                    }
                },
            )
        });
    }
}

/// The keys (or values) of a sequence at some positions as one tensor: where they lie if they are neighbours, else a copy.
#[inline(always)]
fn together<'v, E: Elem>(view: View<'v>, seq: &Sequence, positions: Range<usize>, copy: &'v mut [f32]) -> View<'v> {
    let first = seq.key(positions.start);
    let Some(places) = seq.places.map(|p| &p[positions.clone()]) else {
        return view.rows_in(first..first + positions.len());
    };
    if places.windows(2).all(|w| w[1] == w[0] + 1) {
        return view.rows_in(first..first + positions.len());
    }
    let size = view.cols();
    let copy = View::of(&mut copy[..places.len() * size]).reshape(places.len(), size).narrowed(E::DTYPE);
    for (i, place) in places.iter().enumerate() {
        copy.row_mut::<E>(i).copy_from_slice(view.row(*place as usize));
    }
    copy
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
