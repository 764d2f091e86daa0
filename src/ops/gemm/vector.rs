//! One register of f32 lanes on every instruction set: what the register tiles and the packing are written in.

use crate::base::dtype::{Dtype, Elem};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// The most lanes any instruction set has; scratch that is read or written by whole vectors has this much slack.
pub const MAX_LANES: usize = 16;

/// A register of f32 lanes.
///
/// # Safety
/// Every method must be inlined into a function that was compiled for the instruction set; the pointers are valid for
/// the lanes touched.
pub trait Vector: Copy {
    const LANES: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The first `n` lanes from memory, widened; the others zero, their memory untouched.
    unsafe fn gather<E: Elem<Acc = f32>>(from: *const E, n: usize) -> Self;
    /// Asks for the cache line of an address, which need not be valid.
    fn prefetch<E>(_: *const E) {}
    /// Turns the first [`Vector::LANES`] vectors, as rows of a square, into its columns.
    unsafe fn transpose(square: &mut [Self; MAX_LANES]);
}

/// Eight lanes as an array.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Vector for Portable {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0.0; 8])
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Portable(from.cast::<[f32; 8]>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn gather<E: Elem<Acc = f32>>(from: *const E, n: usize) -> Self {
        Portable(std::array::from_fn(|i| if i < n { unsafe { (*from.add(i)).get() } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn transpose(square: &mut [Self; MAX_LANES]) {
        let old = *square;
        for (i, row) in square.iter_mut().enumerate().take(8) {
            *row = Portable(std::array::from_fn(|j| old[j].0[i]));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn gather<E: Elem<Acc = f32>>(from: *const E, n: usize) -> Self {
        let mask = ((1u32 << n) - 1) as u16;
        unsafe {
            if E::DTYPE == Dtype::F32 {
                _mm512_maskz_loadu_ps(mask, from.cast())
            } else {
                let half = _mm256_maskz_loadu_epi16(mask, from.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
            }
        }
    }
    #[inline(always)]
    fn prefetch<E>(at: *const E) {
        // SAFETY: a hint; it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(s: &mut [Self; MAX_LANES]) {
        // Each step exchanges blocks of twice the size: single lanes, pairs, quarters, halves.
        unsafe {
            for i in (0..16).step_by(2) {
                (s[i], s[i + 1]) = (_mm512_unpacklo_ps(s[i], s[i + 1]), _mm512_unpackhi_ps(s[i], s[i + 1]));
            }
            for i in (0..16).step_by(4) {
                let d: [__m512d; 4] = std::array::from_fn(|j| _mm512_castps_pd(s[i + j]));
                s[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(d[0], d[2]));
                s[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(d[0], d[2]));
                s[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d[1], d[3]));
                s[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d[1], d[3]));
            }
            for i in [0, 1, 2, 3, 8, 9, 10, 11] {
                let (a, b) = (s[i], s[i + 4]);
                s[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                s[i + 4] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            }
            for i in 0..8 {
                let (a, b) = (s[i], s[i + 8]);
                s[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                s[i + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn gather<E: Elem<Acc = f32>>(from: *const E, n: usize) -> Self {
        unsafe {
            if n < 8 {
                let lanes: [f32; 8] = std::array::from_fn(|i| if i < n { (*from.add(i)).get() } else { 0.0 });
                _mm256_loadu_ps(lanes.as_ptr())
            } else if E::DTYPE == Dtype::F32 {
                _mm256_loadu_ps(from.cast())
            } else {
                let half = _mm_loadu_si128(from.cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            }
        }
    }
    #[inline(always)]
    fn prefetch<E>(at: *const E) {
        // SAFETY: a hint; it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(s: &mut [Self; MAX_LANES]) {
        unsafe {
            for i in (0..8).step_by(2) {
                (s[i], s[i + 1]) = (_mm256_unpacklo_ps(s[i], s[i + 1]), _mm256_unpackhi_ps(s[i], s[i + 1]));
            }
            for i in [0, 4] {
                let d: [__m256d; 4] = std::array::from_fn(|j| _mm256_castps_pd(s[i + j]));
                s[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(d[0], d[2]));
                s[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(d[0], d[2]));
                s[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(d[1], d[3]));
                s[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(d[1], d[3]));
            }
            for i in 0..4 {
                let (a, b) = (s[i], s[i + 4]);
                s[i] = _mm256_permute2f128_ps::<0x20>(a, b);
                s[i + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }
}
