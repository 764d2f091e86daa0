//! SwiGLU (Shazeer, 2020), element by element.
//!
//! ```text
//! s     = 1 / (1 + exp(-gate))
//! y     = gate s up
//! dgate = dy up s (1 + gate (1 - s))
//! dup   = dy gate s
//! ```
//! Every operand is `[T, F]` of one type; arithmetic is in the accumulator type, rounded once on storing. Each output
//! may be an input of the same place: `y` may be `gate` or `up`, `dgate` may be `gate`, `dup` may be `up`. Gradients are stored,
//! not added.

use crate::base::dtype::{Dtype, Elem, Real};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::cuda::launch;
use crate::device::{Device, View, disjoint};
use crate::ops::cost::Cost;
use crate::ops::vector_grid;
use std::ops::Range;

/// Rows of work that one thread takes at a time.
const ROWS: usize = 4;
/// Columns computed at a time in local memory: they are all read before the first is written, so outputs may be inputs.
const BLOCK: usize = 256;

/// Vectors that one GPU thread takes in the forward (`kernels/swiglu.cu`).
const FWD_AT_ONCE: usize = 2;

/// `y = silu(gate) * up`.
pub fn swiglu_fwd(dev: &Device, y: View, gate: View, up: View) {
    let [t, f] = y.shape();
    assert!(
        gate.shape() == [t, f] && up.shape() == [t, f],
        "swiglu_fwd: y {:?}, gate {:?}, up {:?}",
        y.shape(),
        gate.shape(),
        up.shape()
    );
    match dev {
        Device::Cuda(gpu) => {
            let grid = vector_grid(y, launch::SWIGLU_FWD_F32_THREADS, FWD_AT_ONCE);
            let [ld_y, ld_gate, ld_up] = [y, gate, up].map(|v| v.stride() as i32);
            launch::swiglu_fwd(gpu, y.dtype(), grid, y, gate, up, t as i32, f as i32, ld_y, ld_gate, ld_up);
        }
        Device::Cpu(pool) => {
            by_dtype!(y.dtype(), E => pool.ranges(t, ROWS, |rows| vectorize(#[inline(always)] || for i in rows {
                for cols in blocks(f) {
                    fwd_block::<E>(y, gate, up, i, cols);
                }
            })))
        }
    }
}

/// Stores the gradients of [`swiglu_fwd`].
pub fn swiglu_bwd(dev: &Device, dgate: View, dup: View, dy: View, gate: View, up: View) {
    let [t, f] = dy.shape();
    assert!(
        [dgate, dup, gate, up].iter().all(|v| v.shape() == [t, f]),
        "swiglu_bwd: dy {:?}, dgate {:?}, dup {:?}, gate {:?}, up {:?}",
        dy.shape(),
        dgate.shape(),
        dup.shape(),
        gate.shape(),
        up.shape()
    );
    disjoint("swiglu_bwd", dgate, &[dup, dy, up]);
    disjoint("swiglu_bwd", dup, &[dy, gate]);
    match dev {
        Device::Cuda(gpu) => {
            let grid = vector_grid(dy, launch::SWIGLU_BWD_F32_THREADS, 1);
            let (rows, cols) = (t as i32, f as i32);
            let [ld_dgate, ld_dup, ld_dy, ld_gate, ld_up] = [dgate, dup, dy, gate, up].map(|v| v.stride() as i32);
            launch::swiglu_bwd(
                gpu,
                dy.dtype(),
                grid,
                dgate,
                dup,
                dy,
                gate,
                up,
                rows,
                cols,
                ld_dgate,
                ld_dup,
                ld_dy,
                ld_gate,
                ld_up,
            );
        }
        Device::Cpu(pool) => {
            by_dtype!(dy.dtype(), E => pool.ranges(t, ROWS, |rows| vectorize(#[inline(always)] || for i in rows {
                for cols in blocks(f) {
                    bwd_block::<E>([dgate, dup], dy, gate, up, i, cols);
                }
            })))
        }
    }
}

#[inline(always)]
fn blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(n))
}

#[inline(always)]
fn sigmoid<A: Real>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}

#[inline(always)]
fn fwd_block<E: Elem>(y: View, gate: View, up: View, row: usize, cols: Range<usize>) {
    let mut out = [E::Acc::ZERO; BLOCK];
    let (gate, up) = (&gate.row::<E>(row)[cols.clone()], &up.row::<E>(row)[cols.clone()]);
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let gate = gate.get();
        *out = gate * sigmoid(gate) * up.get();
    }
    store(&mut y.row_mut::<E>(row)[cols], &out);
}

#[inline(always)]
fn bwd_block<E: Elem>(out: [View; 2], dy: View, gate: View, up: View, row: usize, cols: Range<usize>) {
    let (mut dgate, mut dup) = ([E::Acc::ZERO; BLOCK], [E::Acc::ZERO; BLOCK]);
    {
        let n = cols.len();
        let (dgate, dup) = (&mut dgate[..n], &mut dup[..n]);
        let (gate, up) = (&gate.row::<E>(row)[cols.clone()], &up.row::<E>(row)[cols.clone()]);
        let dy = &dy.row::<E>(row)[cols.clone()];
        for i in 0..n {
            let (gate, up, dy) = (gate[i].get(), up[i].get(), dy[i].get());
            let s = sigmoid(gate);
            dgate[i] = dy * up * s * (E::Acc::ONE + gate * (E::Acc::ONE - s));
            dup[i] = dy * gate * s;
        }
    }
    store(&mut out[0].row_mut::<E>(row)[cols.clone()], &dgate);
    store(&mut out[1].row_mut::<E>(row)[cols], &dup);
}

#[inline(always)]
fn store<E: Elem>(to: &mut [E], from: &[E::Acc]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = E::put(*from);
    }
}

/// What [`swiglu_fwd`] of `n` elements costs.
pub fn swiglu_fwd_cost(dtype: Dtype, n: usize) -> Cost {
    Cost::of(3 * n, dtype, 5 * n)
}

/// What [`swiglu_bwd`] of `n` elements costs.
pub fn swiglu_bwd_cost(dtype: Dtype, n: usize) -> Cost {
    Cost::of(5 * n, dtype, 12 * n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::{Dtype, bf16};
    use crate::ops::check::{F32, agree, close, dot, gradient, matrix, normals, stored, within};

    fn forward<E: Elem>(threads: usize, rows: usize, gate: &[E], up: &[E]) -> Vec<E> {
        let (mut gate, mut up) = (gate.to_vec(), up.to_vec());
        let mut y = gate.clone();
        swiglu_fwd(&Device::cpu(threads), matrix(&mut y, rows), matrix(&mut gate, rows), matrix(&mut up, rows));
        y
    }

    fn backward(rows: usize, dy: &[f64], gate: &[f64], up: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut dy, mut gate, mut up) = (dy.to_vec(), gate.to_vec(), up.to_vec());
        let (mut dgate, mut dup) = (vec![f64::NAN; dy.len()], vec![f64::NAN; dy.len()]);
        let [dgate_view, dup_view] = [matrix(&mut dgate, rows), matrix(&mut dup, rows)];
        let [dy, gate, up] = [matrix(&mut dy, rows), matrix(&mut gate, rows), matrix(&mut up, rows)];
        swiglu_bwd(&Device::cpu(2), dgate_view, dup_view, dy, gate, up);
        (dgate, dup)
    }

    #[test]
    fn backward_is_the_derivative() {
        for (t, f) in [(1, 1), (3, 5), (9, 300)] {
            let (gate, up, dy) = (normals(1, t * f), normals(2, t * f), normals(3, t * f));
            let (dgate, dup) = backward(t, &dy, &gate, &up);
            // The op is elementwise, so a few coordinates of the large case say as much as all.
            let n = (t * f).min(40);
            let with = |x: &[f64], full: &[f64]| [x, &full[n..]].concat();
            gradient("dgate", &gate[..n], &dgate[..n], |x| dot(&forward(2, t, &with(x, &gate), &up), &dy));
            gradient("dup", &up[..n], &dup[..n], |x| dot(&forward(2, t, &gate, &with(x, &up)), &dy));
        }
    }

    #[test]
    fn in_place_is_the_same() {
        let (t, f) = (5, 700);
        let (mut gate, mut up, mut dy) = (normals(1, t * f), normals(2, t * f), normals(3, t * f));
        let apart = backward(t, &dy, &gate, &up);
        let y = forward(2, t, &gate, &up);
        let mut over = gate.clone();
        let place = matrix(&mut over, t);
        swiglu_fwd(&Device::cpu(2), place, place, matrix(&mut up, t));
        assert_eq!(over, y);
        let (g, u) = (matrix(&mut gate, t), matrix(&mut up, t));
        swiglu_bwd(&Device::cpu(2), g, u, matrix(&mut dy, t), g, u);
        assert_eq!((gate, up), apart);
    }

    #[test]
    fn stored_types_follow_f64_and_threads_change_no_bit() {
        let (t, f) = (6, 300);
        let (gate, up): (Vec<f64>, _) = (normals(1, t * f).iter().map(|x| x * 4.0).collect(), normals(2, t * f));
        let (gate32, up32): (Vec<f32>, Vec<f32>) = (stored(&gate), stored(&up));
        let exact = forward(1, t, &gate, &up);
        let one = forward(1, t, &gate32, &up32);
        close("f32", &one, &exact, 1e-6);
        assert_eq!(one, forward(2, t, &gate32, &up32));
        close("bf16", &forward::<bf16>(2, t, &stored(&gate), &stored(&up)), &exact, 0.02);
        // A row alone has the bits it has among others.
        assert_eq!(one[f..2 * f], forward(1, 1, &gate32[f..2 * f], &up32[f..2 * f]));
    }

    #[test]
    fn extreme_gates_stay_finite() {
        let y = forward::<f32>(1, 1, &[-1e4, 1e4, -90.0, 0.0], &[2.0; 4]);
        assert_eq!(y[1], 2e4);
        assert!(y[0].abs() == 0.0 && y[2].abs() < 1e-30 && y[3] == 0.0, "{y:?}");
        let (dgate, dup) = backward(1, &[1.0; 2], &[-1e3, 1e3], &[2.0; 2]);
        assert_eq!((dgate, dup.iter().map(|x| x.abs()).collect::<Vec<_>>()), (vec![0.0, 2.0], vec![0.0, 1e3]));
    }

    #[test]
    fn gpus_agree() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for [t, f] in [[1, 1], [3, 5], [2, 72], [7, 600], [5, 4104]] {
                for scale in [1.0, 1e4] {
                    agree(&format!("swiglu {dtype} [{t}, {f}] times {scale}"), |bed| {
                        let gate = bed.normals(dtype, t, f, 1, scale);
                        let (up, dy) = (bed.normals(dtype, t, f, 2, 1.0), bed.normals(dtype, t, f, 3, 1.0));
                        let [y, dgate, dup] = [(); 3].map(|()| bed.zeros(dtype, t, f));
                        swiglu_fwd(&bed.dev, y, gate, up);
                        swiglu_bwd(&bed.dev, dgate, dup, dy, gate, up);
                        swiglu_bwd(&bed.dev, gate, up, dy, gate, up);
                        vec![
                            ("y", within(dtype), bed.get(y)),
                            ("dgate", within(dtype), bed.get(dgate)),
                            ("dup", within(dtype), bed.get(dup)),
                            ("dgate in place", within(dtype), bed.get(gate)),
                            ("dup in place", within(dtype), bed.get(up)),
                        ]
                    });
                }
            }
        }
    }

    #[test]
    fn gpus_see_which_operand_is_off_its_alignment() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for odd in 0..6 {
                agree(&format!("swiglu {dtype}, operand {odd} off"), |bed| {
                    let [gate, up, y, d_gate, d_up] = [0, 1, 2, 3, 4].map(|i| bed.placed(dtype, 3, 24, i, i == odd));
                    swiglu_fwd(&bed.dev, y, gate, up);
                    let out = bed.get(y);
                    swiglu_bwd(&bed.dev, d_gate, d_up, y, gate, up);
                    let class = within(dtype);
                    vec![("y", class, out), ("d_gate", class, bed.get(d_gate)), ("d_up", class, bed.get(d_up))]
                });
            }
        }
    }

    #[test]
    fn gpus_take_windows_of_wider_tensors() {
        // Halves of one tensor, aligned and not.
        for (f, first) in [(16, 8), (16, 3), (13, 0)] {
            agree(&format!("swiglu of {f} columns from {first}"), |bed| {
                let both = bed.normals(Dtype::F32, 5, 2 * f + first, 1, 2.0);
                let (gate, up) = (both.cols_in(first..first + f), both.cols_in(first + f..first + 2 * f));
                let y = bed.normals(Dtype::F32, 5, f + first, 2, 1.0);
                swiglu_fwd(&bed.dev, y.cols_in(first..first + f), gate, up);
                swiglu_bwd(&bed.dev, gate, up, y.cols_in(first..first + f), gate, up);
                vec![("y", F32, bed.get(y)), ("gradients", F32, bed.get(both))]
            });
        }
    }
}
