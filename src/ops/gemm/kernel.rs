//! Register tiles: the innermost loops of the products and of attention, one body for every instruction set.
//!
//! A tile is `rows x (vectors * lanes)` elements of the output, held in registers while the summed index runs. Its left
//! operand is packed as `[summed][rows]` (or any wider rows), its right operand as `[summed][vectors * lanes]` (see [`super::pack`]): per
//! step one load for each vector of the right operand, one broadcast for each row of the left one.
//!
//! Tile sizes fill the register file: AVX-512 has 32 registers, 14 rows x 2 vectors leave 4 for operands; AVX2 has 16,
//! 6 rows x 2 vectors leave 4. Both keep more than the 10 independent chains that hide the latency of an FMA, and
//! need far fewer loads than FMAs. The portable tile is what LLVM makes of arrays.

use super::pack::{Job, pack_lanes};
use super::vector::{MAX_LANES, Portable, Vector};
use crate::base::dtype::Elem;
use crate::base::simd::Level;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// What the accumulators hold before the first step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Zero,
    /// The old contents of the tile.
    Load,
}

/// The tiles of one instruction set.
#[derive(Clone, Copy)]
pub struct Kernel {
    level: Level,
    /// The most rows of a tile.
    pub rows: usize,
    /// Columns of one vector; a tile is one or two vectors wide.
    pub lanes: usize,
}

impl Kernel {
    /// The tiles of a level that this machine has.
    pub fn at(level: Level) -> Kernel {
        assert!(level <= crate::base::simd::level(), "{level:?} instructions on a machine without them");
        match level {
            Level::Avx512 => Kernel { level, rows: 14, lanes: 16 },
            Level::Avx2 => Kernel { level, rows: 6, lanes: 8 },
            Level::Baseline => Kernel { level, rows: 4, lanes: 8 },
        }
    }
    /// The most columns of a tile.
    pub fn cols(&self) -> usize {
        2 * self.lanes
    }

    /// Computes one tile; `1 <= rows <= self.rows`, `vectors` is 1 or 2.
    ///
    /// # Safety
    /// The pointers are valid for what [`Tile`]'s formula touches.
    #[inline]
    pub unsafe fn tile(&self, rows: usize, vectors: usize, tile: Tile) {
        debug_assert!(rows >= 1 && rows <= self.rows && (vectors == 1 || vectors == 2));
        // SAFETY: the caller's, and `at` checked the level.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512_tile(rows, vectors, tile),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2_tile(rows, vectors, tile),
                _ => portable_tile(rows, vectors, tile),
            }
        }
    }

    /// The most rows of [`Kernel::stream`].
    pub fn stream_rows(&self) -> usize {
        if self.level == Level::Avx512 { 8 } else { 4 }
    }

    /// As [`Kernel::tile`], one vector wide, with the right operand as it lies in memory, its summed index contiguous:
    /// squares of it are transposed in registers and used at once. For few rows, where packing would cost more than the
    /// sums; `1 <= rows <= self.stream_rows()`.
    ///
    /// # Safety
    /// The pointers are valid for what [`Stream`]'s formula touches.
    #[inline]
    pub unsafe fn stream<E: Elem<Acc = f32>>(&self, rows: usize, stream: Stream<E>) {
        debug_assert!(rows >= 1 && rows <= self.stream_rows() && stream.count <= self.lanes);
        // SAFETY: the caller's, and `at` checked the level.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512_stream(rows, stream),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2_stream(rows, stream),
                _ => portable_stream(rows, stream),
            }
        }
    }

    /// See [`super::pack`].
    ///
    /// # Safety
    /// As [`pack_lanes`].
    pub unsafe fn pack<E: Elem<Acc = f32>>(&self, job: Job<E>) {
        // SAFETY: the caller's, and `at` checked the level.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
                    unsafe fn run<E: Elem<Acc = f32>>(job: Job<E>) {
                        unsafe { pack_lanes::<E, __m512>(job) }
                    }
                    run(job)
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    #[target_feature(enable = "avx2,fma")]
                    unsafe fn run<E: Elem<Acc = f32>>(job: Job<E>) {
                        unsafe { pack_lanes::<E, __m256>(job) }
                    }
                    run(job)
                }
                _ => pack_lanes::<E, Portable>(job),
            }
        }
    }
}

/// `c[i * stride + :] (+)= sum_l a[l * pitch + i] b[l * width + :]` for `i < rows`, `l < k` ascending, where
/// `width = vectors * lanes` columns are computed.
pub struct Tile {
    pub k: usize,
    pub a: *const f32,
    pub pitch: usize,
    pub b: *const f32,
    pub c: *mut f32,
    pub stride: usize,
    pub start: Start,
}

/// Calls `tile::<V, rows, vectors>` for run-time numbers.
macro_rules! dispatch {
    ($v:ty, $rows:expr, $vectors:expr, $tile:expr, $($r:literal)*) => {
        match ($rows, $vectors) {
            $(($r, 1) => tile::<$v, $r, 1>($tile), ($r, _) => tile::<$v, $r, 2>($tile),)*
            (rows, _) => unreachable!("a tile of {rows} rows"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512_tile(rows: usize, vectors: usize, t: Tile) {
    unsafe { dispatch!(__m512, rows, vectors, t, 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_tile(rows: usize, vectors: usize, t: Tile) {
    unsafe { dispatch!(__m256, rows, vectors, t, 1 2 3 4 5 6) }
}

unsafe fn portable_tile(rows: usize, vectors: usize, t: Tile) {
    unsafe { dispatch!(Portable, rows, vectors, t, 1 2 3 4) }
}

#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(t: Tile) {
    // SAFETY: the caller of `Kernel::tile` vouches for the pointers.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        if t.start == Start::Load {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = V::load(t.c.add(i * t.stride + v * V::LANES));
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k {
            let right: [V; VECTORS] = std::array::from_fn(|v| V::load(b.add(v * V::LANES)));
            for (i, row) in sums.iter_mut().enumerate() {
                let left = V::splat(*a.add(i));
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = left.fma(right[v], *sum);
                }
            }
            a = a.wrapping_add(t.pitch);
            b = b.wrapping_add(VECTORS * V::LANES);
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                sum.store(t.c.add(i * t.stride + v * V::LANES));
            }
        }
    }
}

/// `c[i * stride + j] (+)= sum_l a[l * rows + i] b[j * pitch + l]` for `i < rows`, `j < count`, `l < k` ascending; whole
/// vectors of `c` are written.
pub struct Stream<E> {
    pub k: usize,
    pub a: *const f32,
    pub b: *const E,
    pub pitch: usize,
    pub count: usize,
    pub c: *mut f32,
    pub stride: usize,
    pub start: Start,
}

macro_rules! dispatch_stream {
    ($v:ty, $rows:expr, $stream:expr, $($r:literal)*) => {
        match $rows {
            $($r => stream::<E, $v, $r>($stream),)*
            rows => unreachable!("a stream of {rows} rows"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512_stream<E: Elem<Acc = f32>>(rows: usize, s: Stream<E>) {
    unsafe { dispatch_stream!(__m512, rows, s, 1 2 3 4 5 6 7 8) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_stream<E: Elem<Acc = f32>>(rows: usize, s: Stream<E>) {
    unsafe { dispatch_stream!(__m256, rows, s, 1 2 3 4) }
}

unsafe fn portable_stream<E: Elem<Acc = f32>>(rows: usize, s: Stream<E>) {
    unsafe { dispatch_stream!(Portable, rows, s, 1 2 3 4) }
}

/// Bytes ahead of its use at which a row is asked for.
pub const AHEAD: usize = 512;

/// How many elements to take from `at` so that the next vector starts on a cache line, if elements allow it at all:
/// else a whole vector. Mapped files start anywhere, and rows that straddle lines cost twice the traffic.
#[inline(always)]
pub fn to_line<E>(at: *const E, lanes: usize) -> usize {
    let past = (at as usize / size_of::<E>()) % lanes;
    lanes - past
}

#[inline(always)]
unsafe fn stream<E: Elem<Acc = f32>, V: Vector, const ROWS: usize>(s: Stream<E>) {
    // SAFETY: the caller of `Kernel::stream` vouches for the pointers.
    unsafe {
        let mut sums = [V::zero(); ROWS];
        if s.start == Start::Load {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(s.c.add(i * s.stride));
            }
        }
        let (mut a, mut l) = (s.a, 0);
        while l < s.k {
            let steps = to_line(s.b.wrapping_add(l), V::LANES).min(s.k - l);
            let mut square = [V::zero(); MAX_LANES];
            for (i, row) in square.iter_mut().enumerate().take(V::LANES) {
                if i < s.count {
                    let at = s.b.add(i * s.pitch + l);
                    V::prefetch(at.wrapping_add(AHEAD / size_of::<E>()));
                    *row = V::gather(at, steps);
                }
            }
            V::transpose(&mut square);
            for (i, right) in square.iter().enumerate().take(V::LANES) {
                if i < steps {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = V::splat(*a.add(i * ROWS + r)).fma(*right, *sum);
                    }
                }
            }
            a = a.add(steps * ROWS);
            l += steps;
        }
        for (i, sum) in sums.iter().enumerate() {
            sum.store(s.c.add(i * s.stride));
        }
    }
}
