//! Element types: what a tensor is stored as, and what it is computed in.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

pub use half::bf16;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Only for finite differences: the whole engine runs in it on the CPU, nothing is ever saved in it.
    F64,
    F32,
    Bf16,
    /// Token ids, positions, offsets.
    I32,
    /// 8-bit optimizer states.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::Bf16 => 2,
            Dtype::U8 => 1,
        }
    }
    /// The type that statistics (`rstd`, `lse`, losses) and accumulators of this storage type have.
    pub const fn stat(self) -> Dtype {
        match self {
            Dtype::F64 => Dtype::F64,
            _ => Dtype::F32,
        }
    }
    /// The name that Hugging Face configs use.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "float64",
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::I32 => "int32",
            Dtype::U8 => "uint8",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A plain type that may lie in an arena.
pub trait Pod: bytemuck::Pod + Send + Sync {
    const DTYPE: Dtype;
}

/// A floating-point storage type. Arithmetic happens in [`Elem::Acc`]; [`Elem::put`] is the one rounding point.
pub trait Elem: Pod + fmt::Debug {
    /// f64 for f64, f32 for f32 and bf16.
    type Acc: Real;
    fn get(self) -> Self::Acc;
    fn put(x: Self::Acc) -> Self;
}

/// The arithmetic of accumulators, so that one oracle body serves f64 and f32.
pub trait Real:
    Elem<Acc = Self>
    + PartialOrd
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + std::iter::Sum
    + fmt::Display
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    /// Fused multiply-add: `self * a + b` with one rounding, on every machine.
    fn fma(self, a: Self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    /// f32: our own polynomial (`base::simd::exp`), the same bits everywhere. f64: the system's.
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn max(self, other: Self) -> Self;
    fn abs(self) -> Self;
    fn is_finite(self) -> bool;
}

macro_rules! pod {
    ($($t:ty => $d:ident),*) => { $(impl Pod for $t { const DTYPE: Dtype = Dtype::$d; })* };
}
pod!(f64 => F64, f32 => F32, bf16 => Bf16, i32 => I32, u8 => U8);

impl Elem for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    /// Round to nearest even, written without branches on the value so that loops over it vectorise.
    #[inline(always)]
    fn put(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet_nan = ((bits >> 16) | 0x40) as u16;
        bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded })
    }
}

macro_rules! real {
    ($t:ident, $exp:expr) => {
        impl Elem for $t {
            type Acc = $t;
            #[inline(always)]
            fn get(self) -> $t {
                self
            }
            #[inline(always)]
            fn put(x: $t) -> $t {
                x
            }
        }
        impl Real for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const NEG_INFINITY: $t = $t::NEG_INFINITY;
            #[inline(always)]
            fn of(x: f64) -> $t {
                x as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn fma(self, a: $t, b: $t) -> $t {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn sqrt(self) -> $t {
                self.sqrt()
            }
            #[inline(always)]
            fn exp(self) -> $t {
                ($exp)(self)
            }
            #[inline(always)]
            fn ln(self) -> $t {
                self.ln()
            }
            #[inline(always)]
            fn max(self, other: $t) -> $t {
                if self > other { self } else { other }
            }
            #[inline(always)]
            fn abs(self) -> $t {
                self.abs()
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}
real!(f64, |x: f64| x.exp());
real!(f32, crate::base::simd::exp);

/// Runs the expression with the type alias bound to the floating-point type that a [`Dtype`] names.
/// Integer types are a bug of the caller.
#[macro_export]
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::base::dtype::Dtype::F64 => {
                type $t = f64;
                $body
            }
            $crate::base::dtype::Dtype::F32 => {
                type $t = f32;
                $body
            }
            $crate::base::dtype::Dtype::Bf16 => {
                type $t = $crate::base::dtype::bf16;
                $body
            }
            other => panic!("{other} is not a floating-point type"),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounding_equals_the_half_crate() {
        let mut bits = 0u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1664525).wrapping_add(1013904223);
            let x = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Elem>::put(x), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{x:e}");
            assert!(x.is_nan() || <bf16 as Elem>::get(ours).to_bits() == theirs.to_f32().to_bits());
        }
    }
}
