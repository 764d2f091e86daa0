//! The yardsticks of memory: what a device can copy and read at most, measured with the plainest of loops.
//!
//! ```text
//! copy   to[i] = from[i]
//! read   out[b] = exclusive or of the bits of from[b PIECE ..]
//! ```
//! Shapes: `to`, `from` f32 `[n]`, contiguous, aligned to 16 bytes, `n` a multiple of 4; `out` i32 `[pieces(n)]`.

use crate::base::simd::vectorize;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};

/// Elements of one piece of a read.
const PIECE: usize = 1 << 16;
/// Elements that a block of a GPU's threads copies.
const COPIED: usize = 16 * launch::CEILING_COPY_THREADS as usize;
/// Elements of a vector of 16 bytes.
const VECTOR: usize = 4;

/// How many results a read of `n` elements has.
pub fn pieces(n: usize) -> usize {
    n.div_ceil(PIECE)
}

/// `to = from`.
pub fn ceiling_copy(dev: &Device, to: View, from: View) {
    let n = from.len();
    assert!(to.len() == n && to.is_contiguous() && from.is_contiguous(), "ceiling_copy: {:?}", to.shape());
    assert!(n.is_multiple_of(VECTOR), "ceiling_copy: {n} elements");
    disjoint("ceiling_copy", to, &[from]);
    match dev {
        Device::Cuda(gpu) => launch::ceiling_copy(gpu, Grid::cover(n, COPIED), to, from, (n / VECTOR) as u64),
        Device::Cpu(pool) => {
            let (to, from) = (to.reshape(1, n), from.reshape(1, n));
            pool.ranges(n, PIECE, |range| {
                to.cols_in(range.clone()).row_mut::<f32>(0).copy_from_slice(from.cols_in(range).row(0));
            });
        }
    }
}

/// Reads everything and keeps one word for each piece.
pub fn ceiling_read(dev: &Device, out: View, from: View) {
    let n = from.len();
    assert!(out.len() == pieces(n) && from.is_contiguous(), "ceiling_read: out {:?} of {n}", out.shape());
    assert!(n.is_multiple_of(VECTOR), "ceiling_read: {n} elements");
    match dev {
        Device::Cuda(gpu) => {
            let grid = Grid::rows(pieces(n));
            launch::ceiling_read(gpu, grid, out, from, (n / VECTOR) as u64, (PIECE / VECTOR) as i32);
        }
        Device::Cpu(pool) => {
            let (out, from) = (out.reshape(pieces(n), 1), from.reshape(1, n));
            pool.each(pieces(n), 1, |b| {
                let words = from.cols_in(b * PIECE..((b + 1) * PIECE).min(n)).row::<f32>(0);
                let all = vectorize(
                    #[inline(always)]
                    || words.iter().fold(0, |all, x| all ^ x.to_bits()),
                );
                out.row_mut::<i32>(b)[0] = all as i32;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::Dtype;
    use crate::ops::check::{Within, agree};

    #[test]
    fn gpus_agree() {
        for n in [4, 4096, 4100, PIECE - 4, PIECE + 1028] {
            agree(&format!("copying and reading {n}"), |bed| {
                let from = bed.normals(Dtype::F32, 1, n, 1, 1.0);
                let (to, out) = (bed.zeros(Dtype::F32, 1, n), bed.zeros(Dtype::I32, 1, pieces(n)));
                ceiling_copy(&bed.dev, to, from);
                ceiling_read(&bed.dev, out, from);
                assert_eq!(bed.get(to), bed.get(from));
                vec![("to", Within::Bits, bed.get(to)), ("out", Within::Bits, bed.get(out))]
            });
        }
    }
}
