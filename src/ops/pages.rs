//! Writing keys and values into a paged cache.
//!
//! ```text
//! k_pool[places[t],:] = k[t,:]
//! v_pool[places[t],:] = v[t,:]
//! ```
//! A pool is `[pages * P, G*K]`: page `p` is rows `p*P .. (p+1)*P`. Shapes: `k`, `v` `[T, G*K]` of the pools' type, `places` `[T]` of i32. Of
//! tokens with one place, the last stays. A place outside the pool panics on the CPU; a GPU leaves its token out.

use super::indices;
use crate::base::dtype::Dtype;
use crate::by_dtype;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;

/// Columns that one thread copies: places may repeat, columns do not.
const COLS: usize = 256;

/// Copies each token's key and value to its place.
pub fn pages_write(dev: &Device, k_pool: View, v_pool: View, k: View, v: View, places: View) {
    let [t, width] = k.shape();
    assert!(
        v.shape() == [t, width]
            && k_pool.cols() == width
            && v_pool.shape() == k_pool.shape()
            && places.len() == t
            && [v, k_pool, v_pool].iter().all(|x| x.dtype() == k.dtype()),
        "pages_write: pools {:?} and {:?}, k {:?}, v {:?}, places {:?}",
        k_pool.shape(),
        v_pool.shape(),
        k.shape(),
        v.shape(),
        places.shape()
    );
    disjoint("pages_write", k_pool, &[v_pool, k, v]);
    disjoint("pages_write", v_pool, &[k, v]);
    match dev {
        Device::Cuda(gpu) => {
            let grid = Grid::cover(t, launch::PAGES_WRITE_F32_THREADS as usize / 32);
            let [t, width, rows] = [t, width, k_pool.rows()].map(|n| n as i32);
            let [a, b, c, d] = [k_pool, v_pool, k, v].map(|x| x.stride() as i32);
            launch::pages_write(gpu, k.dtype(), grid, k_pool, v_pool, k, v, places, t, width, rows, a, b, c, d);
        }
        Device::Cpu(pool) => {
            let places = indices("pages_write", "place", places, k_pool.rows());
            by_dtype!(k.dtype(), E => pool.ranges(width, COLS, |cols| {
                for (pool, x) in [(k_pool, k), (v_pool, v)] {
                    let (pool, x) = (pool.cols_in(cols.clone()), x.cols_in(cols.clone()));
                    for (i, place) in places.iter().enumerate() {
                        pool.row_mut::<E>(*place as usize).copy_from_slice(x.row(i));
                    }
                }
            }))
        }
    }
}

/// What [`pages_write`] of `T` tokens, keys and values `width` wide, costs.
pub fn pages_write_cost(dtype: Dtype, t: usize, width: usize) -> Cost {
    Cost::of(4 * t * width, dtype, 0).and(t, Dtype::I32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::{Dtype, bf16};
    use crate::ops::check::{Bed, Within, agree, gpus, matrix, normals, stored};

    #[test]
    fn tokens_go_to_their_places_and_the_rest_stays() {
        let width = 300;
        let (mut k, mut v): (Vec<bf16>, Vec<bf16>) = (stored(&normals(1, 3 * width)), stored(&normals(2, 3 * width)));
        let [mut k_pool, mut v_pool] = [(); 2].map(|()| vec![bf16::ONE; 6 * width]);
        let mut places = [4, 1, 4];
        let (k_view, v_view) = (matrix(&mut k, 3), matrix(&mut v, 3));
        let (k_rows, v_rows) = (matrix(&mut k_pool, 6), matrix(&mut v_pool, 6));
        pages_write(&Device::cpu(2), k_rows, v_rows, k_view, v_view, View::of(&mut places));
        for (pool, x) in [(k_rows, k_view), (v_rows, v_view)] {
            assert_eq!(pool.row::<bf16>(1), x.row::<bf16>(1));
            assert_eq!(pool.row::<bf16>(4), x.row::<bf16>(2));
            assert!([0, 2, 3, 5].iter().all(|r| pool.row::<bf16>(*r).iter().all(|x| *x == bf16::ONE)));
        }
    }

    #[test]
    #[should_panic(expected = "place 6 (number 0) is not in 0..6")]
    fn a_place_outside_the_pool_is_named() {
        let [mut k, mut v, mut k_pool, mut v_pool] = [vec![0f32; 2], vec![0f32; 2], vec![0f32; 12], vec![0f32; 12]];
        let (k, v) = (matrix(&mut k, 1), matrix(&mut v, 1));
        let (k_pool, v_pool) = (matrix(&mut k_pool, 6), matrix(&mut v_pool, 6));
        pages_write(&Device::cpu(1), k_pool, v_pool, k, v, View::of(&mut [6i32]));
    }

    /// Places, the width, and the first column of keys and values in wider tensors.
    const CASES: [(&[i32], usize, usize); 5] = [
        (&[3], 1, 0),
        (&[5, 0, 1, 2, 3, 4, 6], 264, 8),
        (&[2, 1, 2, 2, 0, 1], 40, 0),
        (&[1, 2, 1], 40, 3),
        (&[4; 70], 13, 0),
    ];

    #[test]
    fn gpus_agree() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (places, width, first) in CASES {
                agree(&format!("pages_write {dtype}, places {places:?}, {width} columns from {first}"), |bed| {
                    let t = places.len();
                    let [k, v] = [1, 2].map(|key| bed.normals(dtype, t, first + width, key, 1e4));
                    let [k_pool, v_pool] = [3, 4].map(|key| bed.normals(dtype, 7, width, key, 1.0));
                    let [k, v] = [k, v].map(|x| x.cols_in(first..first + width));
                    pages_write(&bed.dev, k_pool, v_pool, k, v, bed.ints(1, t, places));
                    vec![("keys", Within::Bits, bed.get(k_pool)), ("values", Within::Bits, bed.get(v_pool))]
                });
            }
        }
    }

    #[test]
    fn gpus_see_which_operand_is_off_its_alignment() {
        for odd in 0..5 {
            agree(&format!("pages_write, operand {odd} off"), |bed| {
                let of = |rows, i| bed.placed(Dtype::Bf16, rows, 24, i, i == odd);
                let (k, v, k_pool, v_pool) = (of(3, 0), of(3, 1), of(5, 2), of(5, 3));
                pages_write(&bed.dev, k_pool, v_pool, k, v, bed.ints(1, 3, &[4, 0, 2]));
                vec![("keys", Within::Bits, bed.get(k_pool)), ("values", Within::Bits, bed.get(v_pool))]
            });
        }
    }

    #[test]
    fn on_gpus_a_place_outside_the_pool_is_left_out() {
        for (_, dev) in gpus() {
            let bed = Bed::new(dev);
            let [k, v, k_pool, v_pool] = [3, 3, 2, 2].map(|rows| bed.normals(Dtype::F32, rows, 4, rows as u64, 1.0));
            let before = bed.get(k_pool);
            pages_write(&bed.dev, k_pool, v_pool, k, v, bed.ints(1, 3, &[2, -1, 1]));
            assert_eq!(bed.get(k_pool), [&before[..4], &bed.get(k)[8..]].concat());
        }
    }
}
