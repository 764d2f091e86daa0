//! Weights: arenas filled from a model directory or with random numbers, and written back.
//!
//! Slots are named as Hugging Face names the tensors, so a [`Layout`] says everything: which tensors, their shapes and
//! the types to hold them in. A directory whose types are already those is used where it lies ([`open`]).

mod checkpoint;
mod safetensors;
mod save;

pub use checkpoint::Checkpoint;
pub use save::{copy_sidecars, save, save_sharded, save_tensors};

use crate::base::dtype::{Elem, Real};
use crate::base::par::Pool;
use crate::base::rng::{Rng, Stream};
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
    let pool = Pool::new(0);
    let arena = Arena::new(&Device::Cpu(pool.clone()), "the weights", layout)?;
    for slot in layout.slots() {
        draw(&pool, &arena, slot, seed);
    }
    Ok(arena)
}

/// Elements drawn by one thread at a time; a multiple of four.
const PIECE: usize = 1 << 14;

/// Draws one tensor.
fn draw(pool: &Pool, arena: &Arena, slot: &Slot, seed: u64) {
    let rng = Rng::new(seed, Stream::Init, slot.index as u64);
    let four = |group: usize| match slot.init {
        Init::Zeros => [0.0; 4],
        Init::Ones => [1.0; 4],
        Init::Normal(std) => normals(rng.words(group as u64)).map(|x| (x * std as f64) as f32),
    };
    let row = arena.at(slot).reshape(1, slot.len());
    by_dtype!(row.dtype(), T => pool.ranges(slot.len(), PIECE, |range| {
        let first = range.start / 4;
        for (i, xs) in row.cols_in(range).row_mut::<T>(0).chunks_mut(4).enumerate() {
            for (x, drawn) in xs.iter_mut().zip(four(first + i)) {
                *x = T::put(<T as Elem>::Acc::of(drawn as f64));
            }
        }
    }));
}

/// Four standard normals from four words: Box and Muller's transform keeps both coordinates of a random point.
fn normals(words: [u32; 4]) -> [f64; 4] {
    let uniform = |word: u32| (word as f64 + 0.5) / 4_294_967_296.0;
    let point = |a: u32, b: u32| {
        let radius = (-2.0 * uniform(a).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(b)).sin_cos();
        (radius * cos, radius * sin)
    };
    let ((a, b), (c, d)) = (point(words[0], words[1]), point(words[2], words[3]));
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
