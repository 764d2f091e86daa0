//! Launches of `kernels/rope.cu`.

use super::{Paged, QkNorm, RopeTable};
use crate::base::dtype::Dtype;
use crate::device::View;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};
use crate::ops::Heads;
use crate::ops::partials::partials_add;

/// Stretches of tokens whose gradients of norm weights are summed apart, at most; fixed, so that bits do not depend on the GPU.
const STRETCHES: usize = 512;
/// Heads of a token that a group of lanes takes at once.
const AT_ONCE: usize = 2;

/// Lanes that share a head: each has 16 bytes of the lower half and 16 of the upper.
fn lanes(dtype: Dtype, heads: Heads) -> usize {
    (heads.size / 2).div_ceil(16 / dtype.size()).next_power_of_two()
}

/// Blocks in which every group of lanes takes [`AT_ONCE`] heads of one token, queries, keys, and values that are paged each by themselves.
fn grid(threads: u32, tokens: usize, dtype: Dtype, heads: Heads, paged: bool) -> Grid {
    let groups = tokens * (heads.query.div_ceil(AT_ONCE) + heads.kv.div_ceil(AT_ONCE) * if paged { 2 } else { 1 });
    Grid::cover(groups * lanes(dtype, heads), threads as usize)
}

/// Their pool, values and places, and the pool's rows and the strides of both, if they are paged.
type Parts<'a> = (Option<View<'a>>, Option<View<'a>>, Option<View<'a>>, [i32; 3]);
fn parts(paged: Option<Paged>) -> Parts {
    match paged {
        None => (None, None, None, [0; 3]),
        Some(Paged { v_pool, v, places }) => {
            let numbers = [v_pool.rows(), v_pool.stride(), v.stride()].map(|n| n as i32);
            (Some(v_pool), Some(v), Some(places), numbers)
        }
    }
}

/// The rotation without a norm; by negated angles where `turn` is -1.
pub(super) fn turn(
    gpu: &Gpu,
    [q_out, k_out]: [View; 2],
    [q, k]: [View; 2],
    paged: Option<Paged>,
    table: RopeTable,
    positions: View,
    heads: Heads,
    turn: f32,
) {
    let (t, dtype) = (q.rows(), q.dtype());
    let (v_out, v, places, [rows, ld_v_out, ld_v]) = parts(paged);
    let [a, b, c, d, e, f] = [q_out, k_out, q, k, table.cos, table.sin].map(|v| v.stride() as i32);
    let [tokens, table_rows, query, kv, size, lanes] =
        [t, table.cos.rows(), heads.query, heads.kv, heads.size, lanes(dtype, heads)].map(|n| n as i32);
    let grid = grid(launch::ROPE_FWD_F32_THREADS, t, dtype, heads, paged.is_some());
    let RopeTable { cos, sin } = table;
    launch::rope_fwd(
        gpu, dtype, grid, q_out, k_out, v_out, q, k, v, places, cos, sin, positions, tokens, table_rows, rows, query,
        kv, size, a, b, ld_v_out, c, d, ld_v, e, f, lanes, turn,
    );
}

pub(super) fn norm_fwd(
    gpu: &Gpu,
    [q_out, k_out]: [View; 2],
    rstd: View,
    [q, k]: [View; 2],
    paged: Option<Paged>,
    norm: QkNorm,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    let (t, dtype) = (q.rows(), q.dtype());
    let (v_out, v, places, [rows, ld_v_out, ld_v]) = parts(paged);
    let [a, b, c, d, e, f, g] = [q_out, k_out, rstd, q, k, table.cos, table.sin].map(|v| v.stride() as i32);
    let [tokens, table_rows, query, kv, size, lanes] =
        [t, table.cos.rows(), heads.query, heads.kv, heads.size, lanes(dtype, heads)].map(|n| n as i32);
    let grid = grid(launch::ROPE_NORM_FWD_F32_THREADS, t, dtype, heads, paged.is_some());
    let (RopeTable { cos, sin }, eps) = (table, norm.eps as f32);
    launch::rope_norm_fwd(
        gpu, dtype, grid, q_out, k_out, v_out, rstd, q, k, v, places, norm.q, norm.k, cos, sin, positions, tokens,
        table_rows, rows, query, kv, size, a, b, ld_v_out, c, d, e, ld_v, f, g, lanes, eps,
    );
}

pub(super) fn norm_bwd(
    gpu: &Gpu,
    [dq, dk]: [View; 2],
    dnorm: Option<(View, View)>,
    [q, k]: [View; 2],
    rstd: View,
    norm: QkNorm,
    table: RopeTable,
    positions: View,
    heads: Heads,
) {
    let (t, dtype) = (q.rows(), q.dtype());
    let stretch = t.div_ceil(STRETCHES).max(1);
    let parts = t.div_ceil(stretch);
    let sums = gpu.workspace(Dtype::F32, 2 * parts, heads.size);
    let (q_sums, k_sums) = (sums.top(parts), sums.rows_in(parts..2 * parts));
    let [a, b, c, d, e, f, g] = [dq, dk, q, k, rstd, table.cos, table.sin].map(|v| v.stride() as i32);
    let [tokens, rows, query, kv, size, lanes, stretch] =
        [t, table.cos.rows(), heads.query, heads.kv, heads.size, lanes(dtype, heads), stretch].map(|n| n as i32);
    let RopeTable { cos, sin } = table;
    launch::rope_norm_bwd(
        gpu,
        dtype,
        Grid::new(parts, 2, 1),
        dq,
        dk,
        q_sums,
        k_sums,
        q,
        k,
        rstd,
        norm.q,
        norm.k,
        cos,
        sin,
        positions,
        tokens,
        rows,
        query,
        kv,
        size,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        lanes,
        stretch,
    );
    if let Some((dqw, dkw)) = dnorm {
        partials_add(gpu, dqw, q_sums);
        partials_add(gpu, dkw, k_sums);
    }
}
