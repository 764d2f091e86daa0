//! Token embeddings, and every other gather of rows: labelled rows before a head are gathered by the same op.
//!
//! ```text
//! y[t,:]            = table[ids[t],:]
//! dtable[ids[t],:] += dy[t,:]          for t = 0, 1, ..
//! ```
//! Shapes: `table`, `dtable` `[V, D]`; `y`, `dy` `[T, D]`; `ids` `[T]` of i32, each in `0..V`, repeats allowed. The forward
//! copies bits. The backward adds in ascending order of `t`, in the accumulator type, and rounds each row's sum once (a GPU once for
//! every 8192 tokens) to the type of `dtable`, which may be that of `dy` or its statistics' type. It leaves out the tokens
//! whose id is `padding`, as `torch.nn.Embedding` does with its `padding_idx`.
//!
//! An id outside `0..V` panics on the CPU; a GPU gives it a row of NaN in the forward and leaves it out in the backward.

use super::{indices, vector_grid};
use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::Gpu;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;

/// Rows that one thread copies at a time.
const ROWS: usize = 16;
/// Columns of `dtable` that one thread owns: rows may repeat, columns do not.
const COLS: usize = 128;
/// Vectors that one GPU thread copies, and tokens that one of its warps ranks (`kernels/embed.cu`).
const AT_ONCE: usize = 4;
const EACH: usize = 4;
/// Tokens that a GPU sorts at a time; the work of it grows with the square.
const STRETCH: usize = 8192;

/// `y[t] = table[ids[t]]`.
pub fn embed_fwd(dev: &Device, y: View, table: View, ids: View) {
    let [t, d] = y.shape();
    assert!(
        table.cols() == d && ids.len() == t && table.dtype() == y.dtype(),
        "embed_fwd: y {:?} of {}, table {:?} of {}, ids {:?}",
        y.shape(),
        y.dtype(),
        table.shape(),
        table.dtype(),
        ids.shape()
    );
    disjoint("embed_fwd", y, &[table, ids]);
    match dev {
        Device::Cuda(gpu) => {
            let grid = vector_grid(y, launch::EMBED_FWD_F32_THREADS, AT_ONCE);
            let [t, d, rows] = [t, d, table.rows()].map(|n| n as i32);
            let (ld_y, ld_table) = (y.stride() as i32, table.stride() as i32);
            launch::embed_fwd(gpu, y.dtype(), grid, y, table, ids, t, d, rows, ld_y, ld_table);
        }
        Device::Cpu(pool) => {
            let ids = indices("embed_fwd", "id", ids, table.rows());
            by_dtype!(y.dtype(), E => pool.each(t, ROWS, |i| {
                y.row_mut::<E>(i).copy_from_slice(table.row(ids[i] as usize));
            }))
        }
    }
}

/// `dtable[ids[t]] += dy[t]`, in ascending order of `t`, but where `ids[t]` is `padding`.
pub fn embed_bwd(dev: &Device, dtable: View, dy: View, ids: View, padding: Option<i32>) {
    let [t, d] = dy.shape();
    assert!(
        dtable.cols() == d && ids.len() == t,
        "embed_bwd: dy {:?}, dtable {:?}, ids {:?}",
        dy.shape(),
        dtable.shape(),
        ids.shape()
    );
    disjoint("embed_bwd", dtable, &[dy, ids]);
    match dev {
        Device::Cuda(gpu) => {
            let ids = ids.reshape(1, t);
            for start in (0..t).step_by(STRETCH) {
                let tokens = start..(start + STRETCH).min(t);
                add_stretch(gpu, dtable, dy.rows_in(tokens.clone()), ids.cols_in(tokens), padding);
            }
        }
        Device::Cpu(pool) => {
            let ids = indices("embed_bwd", "id", ids, dtable.rows());
            let mut order: Vec<u32> = (0..t as u32).filter(|i| Some(ids[*i as usize]) != padding).collect();
            order.sort_unstable_by_key(|i| (ids[*i as usize], *i));
            by_gradient!(dy.dtype(), dtable.dtype(), E, G => {
                pool.ranges(d, COLS, |cols| vectorize(#[inline(always)] || {
                    let (dtable, dy) = (dtable.cols_in(cols.clone()), dy.cols_in(cols));
                    for tokens in order.chunk_by(|a, b| ids[*a as usize] == ids[*b as usize]) {
                        add::<E, G>(dtable.row_mut(ids[tokens[0] as usize] as usize), dy, tokens);
                    }
                }))
            })
        }
    }
}

/// Sorts the tokens by id, then adds up those of each id in order.
fn add_stretch(gpu: &Gpu, dtable: View, dy: View, ids: View, padding: Option<i32>) {
    let [n, d] = dy.shape();
    let (order, keys) = (gpu.workspace(Dtype::I32, 1, n), gpu.workspace_after(4 * STRETCH, Dtype::I32, 1, n));
    let warps = launch::EMBED_ORDER_THREADS as usize / 32;
    // Ids are never negative, so -1 is no token's.
    let (tokens, rows, padding) = (n as i32, dtable.rows() as i32, padding.unwrap_or(-1));
    launch::embed_order(gpu, Grid::cover(n, warps * EACH), order, keys, ids, tokens, rows, padding);
    let grid = vector_grid(dy, launch::EMBED_BWD_F32_F32_THREADS, 1);
    let (cols, ld_dtable, ld_dy) = (d as i32, dtable.stride() as i32, dy.stride() as i32);
    match dy.dtype() {
        Dtype::F32 => {
            launch::embed_bwd_f32_f32(gpu, grid, dtable, dy, order, keys, tokens, cols, ld_dtable, ld_dy);
        }
        _ => {
            let dtype = dtable.dtype();
            launch::embed_bwd_bf16(gpu, dtype, grid, dtable, dy, order, keys, tokens, cols, ld_dtable, ld_dy);
        }
    }
}

/// Adds some rows of `dy`, at most [`COLS`] wide, and rounds once.
#[inline(always)]
fn add<E: Elem, G: Elem>(to: &mut [G], dy: View, rows: &[u32]) {
    let mut sums = [G::Acc::ZERO; COLS];
    let sums = &mut sums[..to.len()];
    for (sum, to) in sums.iter_mut().zip(&*to) {
        *sum = to.get();
    }
    for row in rows {
        for (sum, dy) in sums.iter_mut().zip(dy.row::<E>(*row as usize)) {
            *sum += G::Acc::of(dy.get().f64());
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        *to = G::put(*sum);
    }
}

/// What [`embed_fwd`] of `T` tokens and `D` columns costs.
pub fn embed_fwd_cost(dtype: Dtype, t: usize, d: usize) -> Cost {
    Cost::of(2 * t * d, dtype, 0).and(t, Dtype::I32)
}

/// What [`embed_bwd`] costs where every token has another id.
pub fn embed_bwd_cost(dtype: Dtype, gradient: Dtype, t: usize, d: usize) -> Cost {
    Cost::of(t * d, dtype, t * d).and(2 * t * d, gradient).and(t, Dtype::I32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::bf16;
    use crate::ops::check::{Bed, Within, agree, dot, gpus, gradient, matrix, normals, stored};

    const IDS: [i32; 6] = [3, 0, 3, 4, 3, 1];

    fn forward(table: &[f64]) -> Vec<f64> {
        let (mut table, mut ids) = (table.to_vec(), IDS);
        let mut y = vec![f64::NAN; ids.len() * table.len() / 5];
        embed_fwd(&Device::cpu(2), matrix(&mut y, 6), matrix(&mut table, 5), View::of(&mut ids));
        y
    }

    fn backward<E: Elem, G: Elem>(threads: usize, dtable: &mut [G], dy: &mut [E]) {
        let mut ids = IDS;
        embed_bwd(&Device::cpu(threads), matrix(dtable, 5), matrix(dy, 6), View::of(&mut ids), None);
    }

    #[test]
    fn backward_is_the_derivative_and_adds() {
        for d in [1, 7, 300] {
            let (table, mut dy) = (normals(1, 5 * d), normals(2, 6 * d));
            let mut dtable = vec![0.0; 5 * d];
            backward(2, &mut dtable, &mut dy);
            gradient("dtable", &table, &dtable, |table| dot(&forward(table), &dy));
            let once = dtable.clone();
            backward(1, &mut dtable, &mut dy);
            assert!(dtable.iter().zip(&once).all(|(twice, once)| (twice - 2.0 * once).abs() < 1e-12));
        }
    }

    #[test]
    fn padding_gets_no_gradient_and_other_rows_keep_theirs() {
        let (d, mut ids) = (7, IDS);
        let mut dy = normals(2, 6 * d);
        let (mut all, mut padded) = (vec![0.0; 5 * d], vec![0.0; 5 * d]);
        backward(1, &mut all, &mut dy);
        embed_bwd(&Device::cpu(1), matrix(&mut padded, 5), matrix(&mut dy, 6), View::of(&mut ids), Some(3));
        assert!(all[3 * d..4 * d].iter().all(|g| *g != 0.0));
        all[3 * d..4 * d].fill(0.0);
        assert_eq!(all, padded);
    }

    #[test]
    fn bf16_gradients_sum_in_f32_with_the_same_bits_on_any_threads() {
        let d = 300;
        let mut dy: Vec<bf16> = stored(&normals(3, 6 * d));
        let (mut one, mut two) = (vec![0f32; 5 * d], vec![0f32; 5 * d]);
        backward(1, &mut one, &mut dy);
        backward(2, &mut two, &mut dy);
        assert_eq!(one, two);
        for c in 0..d {
            let terms: Vec<f32> = [0, 2, 4].iter().map(|t| dy[t * d + c].to_f32()).collect();
            assert_eq!(one[3 * d + c], terms[0] + terms[1] + terms[2]);
        }
    }

    #[test]
    #[should_panic(expected = "id 5 (number 1) is not in 0..5")]
    fn an_id_outside_the_table_is_named() {
        let (mut table, mut y) = ([0f32; 10], [0f32; 4]);
        embed_fwd(&Device::cpu(1), matrix(&mut y, 2), matrix(&mut table, 5), View::of(&mut [0i32, 5]));
    }

    /// Ids, and the width: no repeats; one id alone; repeats longer than a thread's run, in an order that is not sorted.
    fn id_cases() -> [(Vec<i32>, usize); 4] {
        let mixed = (0..300).map(|t| [7, t % 5, 8, t % 11, 7, 0][t as usize % 6]).collect();
        [(vec![2], 1), (vec![4; 9], 16), (vec![3, 0, 3, 4, 3, 1], 72), (mixed, 37)]
    }

    #[test]
    fn gpus_agree() {
        for (stored, gradient) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)] {
            for (ids, d) in id_cases() {
                for padding in [None, Some(7)] {
                    agree(&format!("embed {stored}, {gradient} gradients, {} ids, {padding:?}", ids.len()), |bed| {
                        let t = ids.len();
                        let (table, ids) = (bed.normals(stored, 12, d, 1, 1e4), bed.ints(1, t, &ids));
                        let (y, dtable) = (bed.zeros(stored, t, d), bed.normals(gradient, 12, d, 2, 1.0));
                        embed_fwd(&bed.dev, y, table, ids);
                        embed_bwd(&bed.dev, dtable, bed.normals(stored, t, d, 3, 1.0), ids, padding);
                        vec![("y", Within::Bits, bed.get(y)), ("dtable", Within::Bits, bed.get(dtable))]
                    });
                }
            }
        }
    }

    #[test]
    fn gpus_see_which_operand_is_off_its_alignment() {
        for odd in 0..5 {
            agree(&format!("embed, operand {odd} off"), |bed| {
                let of = |rows, i| bed.placed(Dtype::Bf16, rows, 24, i, i == odd);
                let (table, y, dtable, dy) = (of(5, 0), of(6, 1), of(5, 2), of(6, 3));
                let ids = bed.ints(1, 6, &IDS);
                embed_fwd(&bed.dev, y, table, ids);
                embed_bwd(&bed.dev, dtable, dy, ids, None);
                vec![("y", Within::Bits, bed.get(y)), ("dtable", Within::Bits, bed.get(dtable))]
            });
        }
    }

    #[test]
    fn a_bf16_row_is_rounded_once_however_often_its_id_is_there() {
        let t = 3000;
        let mut dy: Vec<bf16> = vec![bf16::put(0.01); t];
        let (mut dtable, mut ids) = ([bf16::put(0.0)], vec![0i32; t]);
        embed_bwd(&Device::cpu(1), View::of(&mut dtable), matrix(&mut dy, t), View::of(&mut ids), None);
        let want = t as f32 * dy[0].get();
        assert!((dtable[0].get() - want).abs() <= want / 256.0, "{} is not {want}", dtable[0]);
    }

    #[test]
    fn gpus_take_windows_of_wider_tensors_and_more_than_one_stretch_of_tokens() {
        let t = STRETCH + 3;
        let ids: Vec<i32> = (0..t as i32).map(|t| t % 3).collect();
        agree("embed of columns 1 to 2", |bed| {
            let (table, ids) = (bed.normals(Dtype::F32, 3, 5, 1, 1.0), bed.ints(1, t, &ids));
            let (y, dtable) = (bed.zeros(Dtype::F32, t, 3), bed.normals(Dtype::F32, 3, 4, 2, 1.0));
            embed_fwd(&bed.dev, y.cols_in(1..2), table.cols_in(3..4), ids);
            embed_bwd(&bed.dev, dtable.cols_in(1..2), y.cols_in(1..2), ids, None);
            vec![("y", Within::Bits, bed.get(y)), ("dtable", Within::Bits, bed.get(dtable))]
        });
    }

    #[test]
    fn on_gpus_an_id_outside_the_table_gives_nan_and_no_gradient() {
        for (_, dev) in gpus() {
            let bed = Bed::new(dev);
            let (table, ids) = (bed.normals(Dtype::F32, 5, 8, 1, 1.0), bed.ints(1, 3, &[5, -1, 4]));
            let (y, dtable) = (bed.zeros(Dtype::F32, 3, 8), bed.zeros(Dtype::F32, 5, 8));
            embed_fwd(&bed.dev, y, table, ids);
            let rows = bed.get(y);
            assert!(rows[..16].iter().all(|x| x.is_nan()) && rows[16..] == bed.get(table)[32..]);
            embed_bwd(&bed.dev, dtable, table.top(3), ids, None);
            let rows = bed.get(dtable);
            assert!(rows[..32].iter().all(|x| *x == 0.0) && rows[32..] == bed.get(table)[16..24]);
        }
    }
}
