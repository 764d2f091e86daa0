//! Weights: arenas filled from a model directory or with random numbers, and written back.
//!
//! Slots are named as Hugging Face names the tensors, so a [`Layout`] says everything: which tensors, their shapes and
//! the types to hold them in. A directory whose types are already those is used where it lies ([`open`]).

mod checkpoint;
mod safetensors;
mod save;

pub use checkpoint::Checkpoint;
pub(super) use save::save_json;
pub use save::{copy_sidecars, save, save_sharded, save_tensors, save_tensors_with};

use crate::base::dtype::{Elem, Real};
use crate::base::normal::normals;
use crate::base::par::Pool;
use crate::base::rng::{Rng, Stream};
use crate::base::simd::vectorize;
use crate::by_dtype;
use crate::device::{Arena, Device, Init, Layout, Slot};
use crate::error::Result;
use std::path::Path;

/// What to do about tensors that a layout has and a directory lacks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Missing<'a> {
    /// An error.
    Refuse,
    /// Those with these names get random weights by their slots' [`Init`], as [`init`] would draw them; others are an
    /// error. For a new head on an old model.
    Draw { names: &'a [&'a str], seed: u64 },
}

/// Weights for reading: mapped where the files hold the layout's types, else converted into memory (float32, bfloat16,
/// float16 and float64 files into any float type).
///
/// # Errors
/// Damaged, missing or foreign files, with the tensor's name; or the memory is not there.
pub fn open(dir: &Path, layout: &Layout) -> Result<Arena> {
    let checkpoint = Checkpoint::open(dir)?;
    match checkpoint.map(layout)? {
        Some(arena) => Ok(arena),
        None => checkpoint.read(layout, Missing::Refuse).map(|(arena, _)| arena),
    }
}

/// Weights for training: always a writable copy. Also gives the names of the tensors that were missing and drawn.
///
/// # Errors
/// As [`open`].
pub fn open_owned(dir: &Path, layout: &Layout, missing: Missing) -> Result<(Arena, Vec<String>)> {
    Checkpoint::open(dir)?.read(layout, missing)
}

/// What [`save_tensors`] wrote, as a writable arena.
///
/// # Errors
/// As [`open`].
pub fn open_tensors(path: &Path, layout: &Layout) -> Result<Arena> {
    Checkpoint::file(path)?.read(layout, Missing::Refuse).map(|(arena, _)| arena)
}

/// Random weights by each slot's [`Init`]. They depend on the seed, the slot's index and the element alone, and are
/// drawn in f32: another storage type holds the same numbers, rounded.
///
/// # Errors
/// When the memory is not there.
pub fn init(layout: &Layout, seed: u64) -> Result<Arena> {
    let pool = Pool::start(0)?;
    let arena = Arena::new(&Device::Cpu(pool.clone()), "the weights", layout)?;
    for slot in layout.slots() {
        draw(&pool, &arena, slot, seed);
    }
    Ok(arena)
}

/// Elements drawn by one thread at a time, and at a time in its local memory; multiples of four.
const PIECE: usize = 1 << 14;
const BLOCK: usize = 256;

/// Draws one tensor.
fn draw(pool: &Pool, arena: &Arena, slot: &Slot, seed: u64) {
    let rng = Rng::new(seed, Stream::Init, slot.index as u64);
    let row = arena.at(slot).reshape(1, slot.len());
    by_dtype!(row.dtype(), T => pool.ranges(slot.len(), PIECE, |range| vectorize(#[inline(always)] || {
        let (first, mut drawn) = (range.start, [0.0; BLOCK]);
        for (i, xs) in row.cols_in(range).row_mut::<T>(0).chunks_mut(BLOCK).enumerate() {
            match slot.init {
                Init::Zeros => drawn.fill(0.0),
                Init::Ones => drawn.fill(1.0),
                Init::Normal(std) => draw_normals(&mut drawn, &rng, first + i * BLOCK, std),
            }
            for (x, drawn) in xs.iter_mut().zip(drawn) {
                *x = T::put(<T as Elem>::Acc::of(drawn as f64));
            }
        }
    })));
}

/// Elements from number `first` on.
#[inline(always)]
fn draw_normals(to: &mut [f32; BLOCK], rng: &Rng, first: usize, std: f32) {
    // Apart, so that the loop that draws stores whole vectors.
    let mut drawn = [[0.0; BLOCK / 4]; 4];
    let [a, b, c, d] = &mut drawn;
    for i in 0..BLOCK / 4 {
        let four = normals(rng.words((first / 4 + i) as u64)).map(|x| (x * std as f64) as f32);
        [a[i], b[i], c[i], d[i]] = four;
    }
    for (i, to) in to.iter_mut().enumerate() {
        *to = drawn[i % 4][i / 4];
    }
}

#[cfg(test)]
mod tests;
