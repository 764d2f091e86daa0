//! Token embeddings, and every other gather of rows: labelled rows before a head are gathered by the same op.
//!
//! ```text
//! y[t,:]            = table[ids[t],:]
//! dtable[ids[t],:] += dy[t,:]          for t = 0, 1, ..
//! ```
//! Shapes: `table`, `dtable` `[V, D]`; `y`, `dy` `[T, D]`; `ids` `[T]` of i32, each in `0..V`, repeats allowed. The forward
//! copies bits. The backward adds in ascending order of `t`, in the accumulator type, and rounds each sum to the type of
//! `dtable`, which may be that of `dy` or its statistics' type (f32 gradients of bf16 weights). It leaves out the tokens
//! whose id is `padding`, as `torch.nn.Embedding` does with its `padding_idx`.

use super::indices;
use crate::base::dtype::{Elem, Real};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::{Device, View, disjoint};

/// Rows that one thread copies at a time.
const ROWS: usize = 16;
/// Columns of `dtable` that one thread owns: rows may repeat, columns do not.
const COLS: usize = 128;

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
    let ids = indices("embed_fwd", "id", ids, table.rows());
    match dev {
        Device::Cuda(_) => panic!("no CUDA kernel yet"),
        Device::Cpu(pool) => by_dtype!(y.dtype(), E => pool.each(t, ROWS, |i| {
            y.row_mut::<E>(i).copy_from_slice(table.row(ids[i] as usize));
        })),
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
    let ids = indices("embed_bwd", "id", ids, dtable.rows());
    match dev {
        Device::Cuda(_) => panic!("no CUDA kernel yet"),
        Device::Cpu(pool) => by_gradient!(dy.dtype(), dtable.dtype(), E, G => {
            pool.ranges(d, COLS, |cols| vectorize(#[inline(always)] || {
                let (dtable, dy) = (dtable.cols_in(cols.clone()), dy.cols_in(cols));
                for (i, id) in ids.iter().enumerate().filter(|(_, id)| Some(**id) != padding) {
                    add::<E, G>(dtable.row_mut(*id as usize), dy.row(i));
                }
            }))
        }),
    }
}

#[inline(always)]
fn add<E: Elem, G: Elem>(to: &mut [G], from: &[E]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = G::put(to.get() + G::Acc::of(from.get().f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::bf16;
    use crate::ops::check::{dot, gradient, matrix, normals, stored};

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
}
