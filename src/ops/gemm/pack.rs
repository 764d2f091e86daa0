//! Operands rearranged for the register tiles: f32, the summed index outermost, the free index in panels.
//!
//! ```text
//! panel[l * width + i] = operand(first + i, l)      for i < count,   0 for count <= i < width
//! ```
//! "Free" is the index that survives in the output (a row of the left operand, a column of the right one). Where the
//! summed index is contiguous in memory, squares of one vector a side are transposed in registers; where the free
//! index is, rows are copied. bf16 is widened on the way.

use super::kernel::{AHEAD, to_line};
use super::vector::{MAX_LANES, Vector};
use crate::base::dtype::Elem;
use crate::device::View;
use std::ops::Range;

/// Which index of an operand is contiguous in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Along {
    Summed,
    Free,
}

/// One operand of a product.
#[derive(Clone, Copy)]
pub struct Operand<E> {
    pub start: *const E,
    /// Elements from one value of the other index to the next.
    pub stride: usize,
    pub along: Along,
}

// SAFETY: a read-only pointer into tensors that the op borrows; threads only read through it.
unsafe impl<E> Send for Operand<E> {}
unsafe impl<E> Sync for Operand<E> {}

impl<E: Elem> Operand<E> {
    pub fn of(view: View, along: Along) -> Operand<E> {
        Operand { start: view.ptr(), stride: view.stride(), along }
    }
    /// The address of one element.
    pub fn at(&self, free: usize, summed: usize) -> *const E {
        self.start.wrapping_add(match self.along {
            Along::Summed => free * self.stride + summed,
            Along::Free => summed * self.stride + free,
        })
    }
}

/// Rows ahead of their use at which they are asked for, where the free index is contiguous.
const ROWS_AHEAD: usize = 16;

/// One panel to pack.
pub struct Job<E> {
    pub from: Operand<E>,
    /// The free indices; at most `width`.
    pub free: Range<usize>,
    pub summed: Range<usize>,
    /// At most one vector, or a multiple of one.
    pub width: usize,
    pub to: *mut f32,
}

/// Packs one panel with vectors of type `V`.
///
/// # Safety
/// As [`Vector`]; the operand covers the ranges; `to` has `summed.len() * width` elements, and [`MAX_LANES`] of slack
/// that may be overwritten.
#[inline(always)]
pub unsafe fn pack_lanes<E: Elem<Acc = f32>, V: Vector>(job: Job<E>) {
    let Job { from, free, summed, width, to } = job;
    for block in (0..width).step_by(V::LANES) {
        let count = free.len().saturating_sub(block).min(V::LANES);
        let to = to.wrapping_add(block);
        // SAFETY: the caller's. Whole vectors are stored in ascending order, so what one row spills over a narrow
        // panel's edge is overwritten by the next row.
        unsafe {
            match from.along {
                Along::Summed => transposed::<E, V>(from, free.start + block, count, summed.clone(), width, to),
                Along::Free => {
                    let mut at = from.at(free.start + block, summed.start);
                    for l in 0..summed.len() {
                        V::prefetch(at.wrapping_add(ROWS_AHEAD * from.stride));
                        V::gather(at, count).store(to.add(l * width));
                        at = at.wrapping_add(from.stride);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn transposed<E: Elem<Acc = f32>, V: Vector>(
    from: Operand<E>,
    first: usize,
    count: usize,
    summed: Range<usize>,
    width: usize,
    to: *mut f32,
) {
    unsafe {
        let mut l = 0;
        while l < summed.len() {
            let at = from.at(first, summed.start + l);
            let steps = to_line(at, V::LANES).min(summed.len() - l);
            let mut square = [V::zero(); MAX_LANES];
            for (i, row) in square.iter_mut().enumerate().take(V::LANES) {
                if i < count {
                    let at = at.wrapping_add(i * from.stride);
                    V::prefetch(at.wrapping_add(AHEAD / size_of::<E>()));
                    *row = V::gather(at, steps);
                }
            }
            V::transpose(&mut square);
            for (i, row) in square.iter().enumerate().take(V::LANES) {
                if i < steps {
                    row.store(to.add((l + i) * width));
                }
            }
            l += steps;
        }
    }
}
