//! Attention on a GPU: which kernel takes which shape, the list of work, grids and shared memory.
//!
//! bf16 goes through the matrix units (`attention.cu`, `attention_bwd.cu`) where rows are whole vectors of 16 bytes and heads are at
//! most 128 wide; f32, and whatever else, through plain multiply-adds (`attention_plain.cu`), for heads of at most 256.

use super::{Heads, Paths};
use crate::base::dtype::Dtype;
use crate::device::View;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};

/// Queries of a block of the forward through the matrix units; keys, and queries of the backward.
const QUERIES: usize = 128;
const BLOCK: usize = 64;
/// Both of the plain kernels, and floats of a row of their squares of scores.
const TILE: usize = 32;
const PITCH: usize = TILE + 4;

/// Which kernel, by the columns that its tiles are wide.
enum Way {
    Matrix(usize),
    Plain(usize),
}

impl Way {
    fn of(op: &str, heads: Heads, scale: f64, tensors: &[View]) -> Way {
        let whole = |v: &View| {
            let row = v.stride() * v.dtype().size();
            v.dtype() == Dtype::Bf16 && v.address().is_multiple_of(16) && row.is_multiple_of(16)
        };
        match heads.size {
            size if size <= 128 && size.is_multiple_of(8) && scale >= 0.0 && tensors.iter().all(whole) => {
                Way::Matrix(if size <= 64 { 64 } else { size.next_multiple_of(32) })
            }
            size if size <= 256 => Way::Plain(if size <= 128 { 128 } else { 256 }),
            size => panic!("{op}: heads of {size} columns; on a GPU they have at most 256"),
        }
    }
}

impl Way {
    /// Queries of a block of the forward.
    fn queries(&self) -> usize {
        if matches!(self, Way::Matrix(_)) { QUERIES } else { TILE }
    }
    fn forward_grid(&self, plan: &Plan, heads: Heads) -> Grid {
        let bytes = match self {
            Way::Matrix(d) => 2 * d * (QUERIES + 2 * BLOCK),
            Way::Plain(_) => plain_bytes(heads, 3, 1),
        };
        plan.grid(heads.query, bytes)
    }
}

/// What every launch needs: blocks of positions of all sequences, heaviest first.
struct Plan<'a> {
    list: View<'a>,
    entries: usize,
}

impl<'a> Plan<'a> {
    /// Blocks of so many positions. Only the device knows the lengths: the list has room for as many as there can be.
    fn new(gpu: &'a Gpu, starts: View, tokens: usize, rows: usize) -> Plan<'a> {
        Plan::of(gpu, starts.len() - 1, tokens, rows, |grid, list, [count, tokens, rows, slots]| {
            launch::attention_plan(gpu, grid, list, starts, count, tokens, rows, slots);
        })
    }

    /// The same where keys are listed.
    fn gathered(gpu: &'a Gpu, paths: &Paths, tokens: usize, rows: usize) -> Plan<'a> {
        let Paths { queries, keys, places } = *paths;
        let listed = places.len() as i32;
        Plan::of(gpu, queries.len() - 1, tokens, rows, |grid, list, [count, tokens, rows, slots]| {
            launch::attention_gather_plan(gpu, grid, list, queries, keys, count, tokens, listed, rows, slots);
        })
    }

    fn of(gpu: &'a Gpu, sequences: usize, tokens: usize, rows: usize, fill: impl Fn(Grid, View, [i32; 4])) -> Plan<'a> {
        let entries = ((tokens + sequences * (rows - 1)) / rows).min(tokens);
        let list = gpu.workspace(Dtype::I32, entries, 4);
        let warps = launch::ATTENTION_PLAN_THREADS as usize / 32;
        fill(Grid::cover(entries, warps), list, [sequences, tokens, rows, entries].map(|n| n as i32));
        Plan { list, entries }
    }

    /// A block for each entry and head.
    fn grid(&self, heads: usize, shared: usize) -> Grid {
        Grid::rows(self.entries * heads).shared(shared)
    }
}

/// Bytes of shared memory of a plain kernel with so many tiles and squares of scores.
fn plain_bytes(heads: Heads, tiles: usize, squares: usize) -> usize {
    4 * TILE * (tiles * (heads.size.next_multiple_of(4) + 4) + squares * PITCH)
}

/// [`super::attention_fwd`], its operands checked.
pub fn forward(gpu: &Gpu, o: View, lse: View, [q, k, v]: [View; 3], starts: View, heads: Heads, scale: f64) {
    let dtype = q.dtype();
    let way = Way::of("attention_fwd", heads, scale, &[o, q, k, v]);
    let plan = Plan::new(gpu, starts, q.rows(), way.queries());
    let [query, group, size] = [heads.query, heads.group(), heads.size].map(|n| n as i32);
    let [ld_o, ld_lse, ld_q, ld_k, ld_v] = [o, lse, q, k, v].map(|v| v.stride() as i32);
    let (list, scale, grid) = (plan.list, scale as f32, way.forward_grid(&plan, heads));
    macro_rules! launch {
        ($kernel:ident $(, $dtype:ident)?) => {
            launch::$kernel(gpu, $($dtype,)? grid, o, lse, q, k, v, list, query, group, size, ld_o, ld_lse, ld_q, ld_k, ld_v, scale)
        };
    }
    match way {
        Way::Matrix(64) => launch!(attention_fwd_64_bf16),
        Way::Matrix(96) => launch!(attention_fwd_96_bf16),
        Way::Matrix(_) => launch!(attention_fwd_128_bf16),
        Way::Plain(128) => launch!(attention_fwd_plain_128, dtype),
        Way::Plain(_) => launch!(attention_fwd_plain_256, dtype),
    }
}

/// [`super::attention_gather_fwd`], its operands checked.
pub fn gather_forward(gpu: &Gpu, o: View, lse: View, [q, k, v]: [View; 3], paths: Paths, heads: Heads, scale: f64) {
    let dtype = q.dtype();
    let way = Way::of("attention_gather_fwd", heads, scale, &[o, q, k, v]);
    let plan = Plan::gathered(gpu, &paths, q.rows(), way.queries());
    let [limit, query, group, size] = [k.rows(), heads.query, heads.group(), heads.size].map(|n| n as i32);
    let [ld_o, ld_lse, ld_q, ld_k, ld_v] = [o, lse, q, k, v].map(|v| v.stride() as i32);
    let (list, places, scale, grid) = (plan.list, paths.places, scale as f32, way.forward_grid(&plan, heads));
    macro_rules! launch {
        ($kernel:ident $(, $dtype:ident)?) => {
            launch::$kernel(
                gpu, $($dtype,)? grid, o, lse, q, k, v, list, places, limit, query, group, size, ld_o, ld_lse, ld_q, ld_k, ld_v, scale,
            )
        };
    }
    match way {
        Way::Matrix(64) => launch!(attention_gather_fwd_64_bf16),
        Way::Matrix(96) => launch!(attention_gather_fwd_96_bf16),
        Way::Matrix(_) => launch!(attention_gather_fwd_128_bf16),
        Way::Plain(128) => launch!(attention_gather_fwd_plain_128, dtype),
        Way::Plain(_) => launch!(attention_gather_fwd_plain_256, dtype),
    }
}

/// [`super::attention_bwd`], its operands checked: `[dq, dk, dv, delta]` from `[do, o, lse, q, k, v]`.
pub fn backward(
    gpu: &Gpu,
    [dq, dk, dv, delta]: [View; 4],
    [d_o, o, lse, q, k, v]: [View; 6],
    starts: View,
    heads: Heads,
    scale: f64,
) {
    let dtype = q.dtype();
    let way = Way::of("attention_bwd", heads, scale, &[dq, dk, dv, d_o, q, k, v]);
    let [rows, query, kv, group, size] = [q.rows(), heads.query, heads.kv, heads.group(), heads.size].map(|n| n as i32);
    let [ld_dq, ld_dk, ld_dv, ld_delta] = [dq, dk, dv, delta].map(|v| v.stride() as i32);
    let [ld_do, ld_o, ld_lse, ld_q, ld_k, ld_v] = [d_o, o, lse, q, k, v].map(|v| v.stride() as i32);
    let warps = launch::ATTENTION_DELTA_F32_THREADS as usize / 32;
    let each = Grid::cover(q.rows() * heads.query, warps);
    launch::attention_delta(gpu, dtype, each, delta, d_o, o, rows, query, size, ld_delta, ld_do, ld_o);

    let plan = Plan::new(gpu, starts, q.rows(), if matches!(way, Way::Matrix(_)) { BLOCK } else { TILE });
    let (list, scale) = (plan.list, scale as f32);
    macro_rules! launch {
        ($dkdv:ident, $dq:ident, $grids:expr $(, $dtype:ident)?) => {{
            let [of_keys, of_queries] = $grids;
            launch::$dkdv(
                gpu, $($dtype,)? of_keys, dk, dv, d_o, lse, delta, q, k, v, list, kv, group, size, ld_dk, ld_dv, ld_do,
                ld_lse, ld_delta, ld_q, ld_k, ld_v, scale,
            );
            launch::$dq(
                gpu, $($dtype,)? of_queries, dq, d_o, lse, delta, q, k, v, list, query, group, size, ld_dq, ld_do, ld_lse,
                ld_delta, ld_q, ld_k, ld_v, scale,
            );
        }};
    }
    let matrix = |d: usize| {
        // Statistics of two blocks of queries: lse and delta.
        let (tile, statistics) = (2 * d * BLOCK, 4 * 2 * 2 * BLOCK);
        [plan.grid(heads.kv, 5 * tile + statistics), plan.grid(heads.query, 4 * tile)]
    };
    let plain = || [plan.grid(heads.kv, plain_bytes(heads, 4, 2)), plan.grid(heads.query, plain_bytes(heads, 4, 1))];
    match way {
        Way::Matrix(64) => launch!(attention_dkdv_64_bf16, attention_dq_64_bf16, matrix(64)),
        Way::Matrix(96) => launch!(attention_dkdv_96_bf16, attention_dq_96_bf16, matrix(96)),
        Way::Matrix(_) => launch!(attention_dkdv_128_bf16, attention_dq_128_bf16, matrix(128)),
        Way::Plain(128) => launch!(attention_dkdv_plain_128, attention_dq_plain_128, plain(), dtype),
        Way::Plain(_) => launch!(attention_dkdv_plain_256, attention_dq_plain_256, plain(), dtype),
    }
}
