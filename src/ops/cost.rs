//! What an op costs at least: the bytes that must cross memory once, and the multiplications and additions. Each op's file has
//! its own `.._cost`; benchmarks hold measured times against them.

use crate::base::dtype::Dtype;
use std::ops::Add;

/// Bytes moved (each operand read or written once) and floating-point operations (a multiply-add is two).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub bytes: f64,
    pub flops: f64,
}

impl Cost {
    /// So many elements of one type moved, and operations on them.
    pub(super) fn of(elements: usize, dtype: Dtype, flops: usize) -> Cost {
        Cost { bytes: (elements * dtype.size()) as f64, flops: flops as f64 }
    }
    /// With other elements moved as well.
    pub(super) fn and(self, elements: usize, dtype: Dtype) -> Cost {
        self + Cost::of(elements, dtype, 0)
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}
