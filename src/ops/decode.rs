//! Attention of one new token per sequence over its paged cache.
//!
//! ```text
//! place(j) = table[b, j / P] P + j mod P                                        j < lens[b]
//! s[j]     = scale sum_k q[b,h,k] k_pool[place(j), h / (H/G), k]
//! o[b,h,:] = sum_j exp(s[j]) v_pool[place(j), h / (H/G), :] / sum_j exp(s[j])
//! ```
//! Positions are split into chunks of [`CHUNK`] at absolute places `0, 512, ..`. A chunk leaves its largest score `m`, its sum `l` of
//! `exp(s - m)` and its weighted values; then chunks are merged in ascending order. The split is the same for every batch, so a
//! sequence's bits depend on its own query and cache alone.
//!
//! Shapes: `o`, `q` `[B, H*K]`; pools `[pages * P, G*K]`, page `p` being rows `p*P .. (p+1)*P`; `table` `[B, max_pages]` and `lens` `[B]` of i32, entries
//! of the table beyond a sequence's length unread; the scratch `partials` `[B, >= partials_width(..)]` in the statistics' type. A sequence
//! of length 0 gives zeros. Dot products sum in the fixed lanes of `sum_by`, values by fused multiply-adds in ascending order of position,
//! in the accumulator type; `o` is rounded once.
//!
//! On a GPU the launch knows no lengths, so it can be captured and replayed while they change: `partials` has room for all that the
//! table can hold. Its first H columns count the chunks that are done; they must be zero before the first call, and each call leaves them
//! zero. A length or page that is out of range gives NaN. Heads have at most 256 columns. bf16 rounds probabilities to bf16.
//! Keys and values that several sequences share are read once for all of them, as [`shares()`] tells; no bit depends on it.

mod shares;

pub use shares::shares;

use super::Heads;
use super::softmax::max_by;
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::{sum_by, vectorize};
use crate::by_dtype;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use std::ops::Range;

/// Positions that one partial result covers.
pub const CHUNK: usize = 512;
/// The largest head size: weighted values lie in local memory.
const SIZE: usize = 512;
/// Query heads that go over keys and values together.
const TEAM: usize = 4;

/// Columns of `partials` that sequences of at most `positions` positions need.
pub fn partials_width(heads: Heads, positions: usize) -> usize {
    heads.query + positions.div_ceil(CHUNK) * heads.query * (heads.size + 2)
}

/// The paged keys and values of a batch.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    pub k: View<'a>,
    pub v: View<'a>,
    /// Page numbers of each sequence.
    pub table: View<'a>,
    pub lens: View<'a>,
    /// What each sequence has in common with the one before it, as [`shares()`] wrote it from this table and these lengths, `[B]`.
    pub shares: View<'a>,
    /// Positions in a page.
    pub page: usize,
}

/// One query per sequence.
pub fn decode_fwd(dev: &Device, o: View, q: View, cache: Paged, heads: Heads, scale: f64, partials: View) {
    cache.check_shapes([o, q], heads);
    disjoint("decode_fwd", o, &[q, cache.k, cache.v, partials]);
    disjoint("decode_fwd", partials, &[q, cache.k, cache.v]);
    let b = q.rows();
    match dev {
        Device::Cuda(gpu) => launch_fwd(gpu, o, partials, q, &cache, heads, scale),
        Device::Cpu(pool) => by_dtype!(q.dtype(), E => {
            let longest = cache.check_pages();
            check_room(partials, b, longest, heads);
            let chunks = longest.div_ceil(CHUNK);
            pool.each(b * chunks * heads.kv, 1, |item| {
                let (i, chunk, group) = (item / heads.kv / chunks, item / heads.kv % chunks, item % heads.kv);
                if chunk * CHUNK < cache.len(i) {
                    chunk_fwd::<E>(partials, q, &cache, i, chunk, group, heads, scale);
                }
            });
            pool.each(b * heads.query, 1, |item| {
                let (i, head) = (item / heads.query, item % heads.query);
                let o = o.cols_in(head * heads.size..(head + 1) * heads.size).row_mut::<E>(i);
                vectorize(#[inline(always)] || merge(o, partials, i, cache.len(i).div_ceil(CHUNK), head, heads));
            });
        }),
    }
}

impl Paged<'_> {
    fn len(&self, i: usize) -> usize {
        self.lens.slice::<i32>()[i] as usize
    }

    /// The pool's row of position `j` of sequence `i`.
    #[inline(always)]
    fn place(&self, i: usize, j: usize) -> usize {
        self.table.row::<i32>(i)[j / self.page] as usize * self.page + j % self.page
    }

    /// Positions that the table has room for.
    fn capacity(&self) -> usize {
        self.table.cols() * self.page
    }

    fn check_shapes(&self, [o, q]: [View; 2], heads: Heads) {
        let (b, Heads { query, kv, size }) = (q.rows(), heads);
        assert!(
            q.shape() == [b, query * size]
                && o.shape() == q.shape()
                && self.k.cols() == kv * size
                && self.v.shape() == self.k.shape()
                && self.table.rows() == b
                && self.lens.len() == b
                && self.shares.len() == b,
            "decode_fwd: o {:?}, q {:?}, pools {:?} and {:?}, table {:?}, lens {:?}, shares {:?}, {heads:?}",
            o.shape(),
            q.shape(),
            self.k.shape(),
            self.v.shape(),
            self.table.shape(),
            self.lens.shape(),
            self.shares.shape()
        );
        assert!(
            size <= SIZE && query % kv == 0 && self.page > 0 && self.k.rows().is_multiple_of(self.page),
            "decode_fwd: {heads:?}, pages of {} in {:?}",
            self.page,
            self.k.shape()
        );
    }

    /// Checks every length and every page that will be read; the length of the longest sequence.
    fn check_pages(&self) -> usize {
        let (pages, room) = (self.k.rows() / self.page, self.capacity());
        let lens = self.lens.slice::<i32>();
        for (i, &len) in lens.iter().enumerate() {
            assert!(len >= 0 && len as usize <= room, "decode_fwd: length {len} of sequence {i} is not in 0..={room}");
            for page in &self.table.row::<i32>(i)[..(len as usize).div_ceil(self.page)] {
                let exists = *page >= 0 && (*page as usize) < pages;
                assert!(exists, "decode_fwd: page {page} of sequence {i} is not in 0..{pages}");
            }
        }
        lens.iter().map(|len| *len as usize).max().unwrap_or(0)
    }
}

fn check_room(partials: View, sequences: usize, positions: usize, heads: Heads) {
    assert!(
        partials.rows() >= sequences && partials.cols() >= partials_width(heads, positions),
        "decode_fwd: partials {:?} for {sequences} sequences of at most {positions} positions, {heads:?}",
        partials.shape()
    );
}

/// Rows that the matrix units take at once: query heads of one key-value head.
const ROWS: usize = 16;
/// Rows of (sequence, head) that may read shared keys together.
const TOGETHER: usize = 64;
/// Bytes of shared memory for each column of a head: four warps' rings of 3 stages of 16 keys and values, bf16; or one ring of 4 stages of
/// 32, and the sums of 64 rows in f32.
const COLUMN: usize = 4 * 3 * 2 * ROWS * 2;

/// bf16 goes through the matrix units where rows are whole vectors of 16 bytes and heads are at most 128 wide; the rest through
/// plain multiply-adds. There are no more blocks than fit the GPU at once, or than there may be items.
fn launch_fwd(gpu: &Gpu, o: View, partials: View, q: View, cache: &Paged, heads: Heads, scale: f64) {
    let (b, dtype, capacity) = (q.rows(), q.dtype(), cache.capacity());
    check_room(partials, b, capacity, heads);
    let whole = |v: View| {
        let row = v.stride() * v.dtype().size();
        v.dtype() == Dtype::Bf16 && v.address().is_multiple_of(16) && row.is_multiple_of(16)
    };
    let matrix = heads.size <= 128
        && heads.size.is_multiple_of(8)
        && scale >= 0.0
        && [o, q, cache.k, cache.v].into_iter().all(whole);
    let items = b * capacity.div_ceil(CHUNK).max(1) * heads.kv * heads.group().div_ceil(ROWS);
    let grid = |per_processor: usize| Grid::rows(items.min(gpu.multiprocessors() * per_processor));
    let [ld_o, ld_partials, ld_q, ld_k, ld_v, ld_table] =
        [o, partials, q, cache.k, cache.v, cache.table].map(|v| v.stride() as i32);
    let [sequences, query, group, size] = [b, heads.query, heads.group(), heads.size].map(|n| n as i32);
    let [page, pages, capacity] = [cache.page, cache.k.rows() / cache.page, capacity].map(|n| n as i32);
    let (Paged { k, v, table, lens, shares, .. }, scale) = (*cache, scale as f32);
    let together = together(heads.group()) as i32;
    macro_rules! matrix {
        ($kernel:ident, $d:expr) => {
            launch::$kernel(
                gpu,
                grid(2).shared(COLUMN * $d),
                o,
                partials,
                q,
                k,
                v,
                table,
                lens,
                shares,
                sequences,
                together,
                query,
                group,
                size,
                page,
                pages,
                capacity,
                ld_o,
                ld_partials,
                ld_q,
                ld_k,
                ld_v,
                ld_table,
                scale,
            )
        };
    }
    macro_rules! plain {
        ($kernel:ident) => {
            // Queries, keys and values as floats: 16, 32 and 32 rows.
            launch::$kernel(
                gpu,
                dtype,
                grid(3).shared(4 * 80 * (heads.size.next_multiple_of(4) + 4)),
                o,
                partials,
                q,
                k,
                v,
                table,
                lens,
                sequences,
                query,
                group,
                size,
                page,
                pages,
                capacity,
                ld_o,
                ld_partials,
                ld_q,
                ld_k,
                ld_v,
                ld_table,
                scale,
            )
        };
    }
    match heads.size {
        0..=64 if matrix => matrix!(decode_fwd_64_bf16, 64),
        65..=96 if matrix => matrix!(decode_fwd_96_bf16, 96),
        _ if matrix => matrix!(decode_fwd_128_bf16, 128),
        0..=128 => plain!(decode_fwd_plain_128),
        129..=256 => plain!(decode_fwd_plain_256),
        size => panic!("decode_fwd: heads of {size} columns; on a GPU they have at most 256"),
    }
}

/// How many sequences may be in one item: a power of two, as the kernel counts by warps.
fn together(group: usize) -> usize {
    match TOGETHER / group {
        _ if group > ROWS => 1,
        0..=1 => 1,
        n => (1 << n.ilog2()).min(32),
    }
}

/// The partial results of some heads: largest score, sum, weighted values, head after head.
#[inline(always)]
fn partial<'a>(partials: View<'a>, chunk: usize, team: Range<usize>, heads: Heads) -> View<'a> {
    let width = heads.size + 2;
    let first = chunk * heads.query;
    let counters = heads.query;
    partials.cols_in(counters + (first + team.start) * width..counters + (first + team.end) * width)
}

/// Every query head of one group over one chunk.
fn chunk_fwd<E: Elem>(
    partials: View,
    q: View,
    cache: &Paged,
    i: usize,
    chunk: usize,
    group: usize,
    heads: Heads,
    scale: f64,
) {
    let (start, end) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(cache.len(i)));
    let mut places = [0; CHUNK];
    for (place, j) in places.iter_mut().zip(start..end) {
        *place = cache.place(i, j);
    }
    let places = &places[..end - start];
    let cols = group * heads.size..(group + 1) * heads.size;
    let (k, v) = (cache.k.cols_in(cols.clone()), cache.v.cols_in(cols));
    let sharing = heads.query / heads.kv;
    let q = q.row::<E>(i);
    for first in (group * sharing..(group + 1) * sharing).step_by(TEAM) {
        let team = first..(first + TEAM).min((group + 1) * sharing);
        let q = &q[team.start * heads.size..team.end * heads.size];
        let out = partial(partials, chunk, team, heads).row_mut::<E::Acc>(i);
        vectorize(
            #[inline(always)]
            || team_fwd::<E>(out, q, k, v, places, E::Acc::of(scale)),
        );
    }
}

/// A few heads over one chunk, so that each key and value is read once.
#[inline(always)]
fn team_fwd<E: Elem>(out: &mut [E::Acc], q: &[E], k: View, v: View, places: &[usize], scale: E::Acc) {
    let (size, n) = (k.cols(), places.len());
    let mut scores = [[E::Acc::ZERO; CHUNK]; TEAM];
    for (j, place) in places.iter().enumerate() {
        let k = k.row::<E>(*place);
        for (scores, q) in scores.iter_mut().zip(q.chunks_exact(size)) {
            scores[j] = scale * sum_by(size, |i| q[i].get() * k[i].get());
        }
    }
    for (out, scores) in out.chunks_exact_mut(size + 2).zip(&mut scores) {
        let scores = &mut scores[..n];
        let largest = max_by(n, |j| scores[j]);
        for s in scores.iter_mut() {
            *s = (*s - largest).exp();
        }
        out[0] = largest;
        out[1] = sum_by(n, |j| scores[j]);
    }
    let mut sums = [[E::Acc::ZERO; SIZE]; TEAM];
    let whole = n - n % 4;
    for j in (0..whole).step_by(4) {
        let v = [0, 1, 2, 3].map(|r| v.row::<E>(places[j + r]));
        for (sum, s) in sums.iter_mut().zip(&scores).take(q.len() / size) {
            add4::<E>(&mut sum[..size], [s[j], s[j + 1], s[j + 2], s[j + 3]], v);
        }
    }
    for j in whole..n {
        let v = v.row::<E>(places[j]);
        for (sum, s) in sums.iter_mut().zip(&scores).take(q.len() / size) {
            for (sum, v) in sum.iter_mut().zip(v) {
                *sum = s[j].fma(v.get(), *sum);
            }
        }
    }
    for (out, sum) in out.chunks_exact_mut(size + 2).zip(&sums) {
        out[2..].copy_from_slice(&sum[..size]);
    }
}

/// Four positions of a weighted sum at once, in ascending order.
#[inline(always)]
fn add4<E: Elem>(sum: &mut [E::Acc], s: [E::Acc; 4], v: [&[E]; 4]) {
    let n = sum.len();
    let [a, b, c, d] = v.map(|v| &v[..n]);
    for i in 0..n {
        let two = s[1].fma(b[i].get(), s[0].fma(a[i].get(), sum[i]));
        sum[i] = s[3].fma(d[i].get(), s[2].fma(c[i].get(), two));
    }
}

#[inline(always)]
fn merge<E: Elem>(o: &mut [E], partials: View, i: usize, chunks: usize, head: usize, heads: Heads) {
    let part = |chunk: usize| partial(partials, chunk, head..head + 1, heads).row::<E::Acc>(i);
    let largest = max_by(chunks, |c| part(c)[0]);
    let mut total = E::Acc::ZERO;
    let mut sum = [E::Acc::ZERO; SIZE];
    for c in 0..chunks {
        let part = part(c);
        let weight = (part[0] - largest).exp();
        total = part[1].fma(weight, total);
        for (sum, x) in sum.iter_mut().zip(&part[2..]) {
            *sum = x.fma(weight, *sum);
        }
    }
    let inverse = if chunks == 0 { E::Acc::ZERO } else { E::Acc::ONE / total };
    for (o, sum) in o.iter_mut().zip(sum) {
        *o = E::put(sum * inverse);
    }
}

/// What [`decode_fwd`] over sequences of these lengths costs, whose first `shared` positions are the same pages: every key and value once.
pub fn decode_fwd_cost(dtype: Dtype, lengths: &[usize], shared: usize, heads: Heads) -> Cost {
    let (b, keys) = (lengths.len(), lengths.iter().sum::<usize>());
    let elements = 2 * ((keys - b.saturating_sub(1) * shared) * heads.kv + b * heads.query) * heads.size;
    Cost::of(elements, dtype, 4 * keys * heads.query * heads.size)
}

#[cfg(test)]
mod tests;
