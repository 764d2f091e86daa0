//! Memory that a thread keeps between calls: it grows to the largest request and is never given back, so that nothing
//! is allocated in steady state.

use std::cell::Cell;
use std::thread::LocalKey;

/// One cache line, and the widest vector.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; LINE]);
const LINE: usize = 16;

/// A thread's scratch of one purpose.
pub struct Scratch(Cell<Vec<Line>>);

impl Scratch {
    pub const fn new() -> Scratch {
        Scratch(Cell::new(Vec::new()))
    }

    /// Lends at least `len` floats of any contents, aligned to a cache line. They are moved out of the thread's slot
    /// meanwhile: a nested loan (a thread that waits for others may run their work) gets memory of its own.
    pub fn lend<R>(slot: &'static LocalKey<Scratch>, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut lines = slot.with(|s| s.0.take());
        if lines.len() * LINE < len {
            lines.resize(len.div_ceil(LINE), Line([0.0; LINE]));
        }
        let result = f(bytemuck::cast_slice_mut(&mut lines));
        slot.with(|s| s.0.set(lines));
        result
    }
}

/// A pointer into scratch that threads share; each writes its own part.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32);

// SAFETY: who writes which part is decided by the code that shares it, and parts do not overlap.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(memory: &mut [f32]) -> Shared {
        Shared(memory.as_mut_ptr())
    }
    /// `offset` floats in; a method, so that closures capture the whole and not the bare pointer.
    pub fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}
