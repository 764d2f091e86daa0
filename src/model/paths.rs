//! What a pass over continued sequences needs beside a pool of keys and values: which rows of the pool its tokens write, and which
//! rows each sequence attends to.

use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::Result;
use crate::ops::attention;

/// The largest pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathShape {
    /// Tokens, `T`.
    pub tokens: usize,
    /// Sequences, `B`.
    pub sequences: usize,
    /// Keys that the sequences attend to, summed over the sequences.
    pub keys: usize,
}

/// Lists of pool rows, written by the host before each pass.
pub struct Paths {
    writes: Slot,
    key_starts: Slot,
    places: Slot,
    arena: Arena,
}

impl Paths {
    /// The bytes that [`Paths::new`] would allocate.
    pub fn bytes(shape: PathShape) -> usize {
        Paths::layout(shape).0.bytes()
    }

    /// Where writes, key starts and places lie.
    fn layout(shape: PathShape) -> (Layout, [Slot; 3]) {
        let mut l = Layout::new();
        let writes = l.buffer("writes", Dtype::I32, 1, shape.tokens);
        let key_starts = l.buffer("key_starts", Dtype::I32, 1, shape.sequences + 1);
        let places = l.buffer("places", Dtype::I32, 1, shape.keys);
        (l, [writes, key_starts, places])
    }

    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, shape: PathShape) -> Result<Paths> {
        let (layout, [writes, key_starts, places]) = Paths::layout(shape);
        Ok(Paths { writes, key_starts, places, arena: Arena::new(dev, "lists of keys", &layout)? })
    }

    /// Tells a pass where its tokens go, `[T]`, where each sequence's keys start, `[B+1]`, and where they are, `[N]`.
    pub fn set<'a>(&'a self, dev: &Device, writes: &[i32], key_starts: &[i32], places: &[i32]) -> Attended<'a> {
        let view = |slot: &Slot, data: &[i32]| {
            let view = self.arena.at(slot).cols_in(0..data.len());
            dev.write(view, data);
            view
        };
        Attended {
            writes: view(&self.writes, writes),
            keys: view(&self.key_starts, key_starts),
            places: view(&self.places, places),
        }
    }
}

/// The lists of one pass.
#[derive(Clone, Copy)]
pub struct Attended<'a> {
    pub(super) writes: View<'a>,
    keys: View<'a>,
    places: View<'a>,
}

impl<'a> Attended<'a> {
    /// As attention takes them, given where the sequences' queries start.
    pub(super) fn paths(&self, queries: View<'a>) -> attention::Paths<'a> {
        attention::Paths { queries, keys: self.keys, places: self.places }
    }
}
