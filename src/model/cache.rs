//! Keys and values of sequences being generated, in pages, and the pure bookkeeping of who owns which page.

use super::config::Config;
use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::Result;

/// Tokens in a page.
pub const PAGE: usize = 64;

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Pages in the pool, over all sequences.
    pub pages: usize,
    /// Sequences that decode together, `B`.
    pub sequences: usize,
    /// Longest sequence in tokens.
    pub tokens: usize,
    /// Most tokens of one prefill pass.
    pub prefill: usize,
}

/// The cache's memory: for each layer a pool of key rows and one of value rows, `[pages * PAGE, G K]`.
pub struct Cache {
    pools: Vec<[Slot; 2]>,
    places: Slot,
    table: Slot,
    lens: Slot,
    partials: Slot,
    arena: Arena,
}

impl Cache {
    /// Allocates the pools.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, c: &Config, dtype: Dtype, shape: CacheShape) -> Result<Cache> {
        let mut l = Layout::new();
        let (rows, cols) = (shape.pages * PAGE, c.heads.kv * c.heads.size);
        let pools = (0..c.layers)
            .map(|i| ["k", "v"].map(|name| l.buffer(format!("layers.{i}.{name}"), dtype, rows, cols)))
            .collect();
        let b = shape.sequences;
        let places = l.buffer("places", Dtype::I32, 1, shape.prefill.max(b));
        let table = l.buffer("table", Dtype::I32, b, shape.tokens.div_ceil(PAGE));
        let lens = l.buffer("lens", Dtype::I32, 1, b);
        let scratch = crate::ops::decode::partials_width(c.heads, shape.tokens);
        let partials = l.buffer("partials", dtype.stat(), b, scratch);
        Ok(Cache { pools, places, table, lens, partials, arena: Arena::new(dev, "the key-value cache", &l)? })
    }

    /// Key and value pools of a layer.
    pub fn pools(&self, layer: usize) -> [View<'_>; 2] {
        [self.arena.at(&self.pools[layer][0]), self.arena.at(&self.pools[layer][1])]
    }
    /// Tokens in a page.
    pub fn page(&self) -> usize {
        PAGE
    }
    /// Pool rows to which the pass's tokens are written.
    pub fn places(&self, tokens: usize) -> View<'_> {
        self.arena.at(&self.places).cols_in(0..tokens)
    }
    /// Page numbers of each decoding sequence.
    pub fn table(&self, sequences: usize) -> View<'_> {
        self.arena.at(&self.table).top(sequences)
    }
    /// Length of each decoding sequence, the new token included.
    pub fn lens(&self, sequences: usize) -> View<'_> {
        self.arena.at(&self.lens).cols_in(0..sequences)
    }
    pub fn partials(&self) -> View<'_> {
        self.arena.at(&self.partials)
    }

    /// Tells where the tokens of a prefill pass go: the pages of each sequence, in order of the pass, from position 0.
    pub fn set_prefill(&self, dev: &Device, sequences: &[(&[u32], usize)]) {
        let mut places = Vec::new();
        for (pages, len) in sequences {
            places.extend((0..*len).map(|p| place(pages, p)));
        }
        dev.write(self.places(places.len()), &places);
    }

    /// Tells where the new token of each sequence goes and what it attends to: its pages and its length with the token. A GPU's
    /// batch may be padded to `rows`; the rows beyond the sequences go nowhere and attend to one token of some page.
    pub fn set_decode(&self, dev: &Device, sequences: &[(&[u32], usize)], rows: usize) {
        let n = rows;
        let mut places: Vec<i32> = sequences.iter().map(|(pages, len)| place(pages, len - 1)).collect();
        let mut lens: Vec<i32> = sequences.iter().map(|(_, len)| *len as i32).collect();
        places.resize(n, NOWHERE);
        lens.resize(n, 1);
        let width = self.table.cols;
        let mut table = vec![0i32; n * width];
        for (row, (pages, _)) in table.chunks_mut(width).zip(sequences) {
            for (to, page) in row.iter_mut().zip(*pages) {
                *to = *page as i32;
            }
        }
        dev.write(self.places(n), &places);
        dev.write(self.lens(n), &lens);
        dev.write(self.table(n), &table);
    }
}

/// The pool row of a token that is not kept: no row, so that the page write of a GPU passes over it.
const NOWHERE: i32 = -1;

/// The pool row of position `p` of a sequence.
fn place(pages: &[u32], p: usize) -> i32 {
    (pages[p / PAGE] as usize * PAGE + p % PAGE) as i32
}

/// Which pages are free. Pure: no memory is touched.
#[derive(Clone, Debug)]
pub struct PageList {
    free: Vec<u32>,
}

impl PageList {
    pub fn new(pages: usize) -> PageList {
        PageList { free: (0..pages as u32).rev().collect() }
    }
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Pages for `tokens` tokens, or `None` (and nothing taken) when there are too few.
    pub fn take(&mut self, tokens: usize) -> Option<Vec<u32>> {
        let n = tokens.div_ceil(PAGE);
        (n <= self.free.len()).then(|| self.free.split_off(self.free.len() - n).into_iter().rev().collect())
    }
    pub fn give_back(&mut self, pages: Vec<u32>) {
        self.free.extend(pages.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_conserved_and_never_shared() {
        let mut list = PageList::new(10);
        let a = list.take(PAGE * 3 - 1).unwrap();
        let b = list.take(1).unwrap();
        assert_eq!((a.len(), b.len(), list.free()), (3, 1, 6));
        assert!(a.iter().all(|p| !b.contains(p)));
        assert!(list.take(PAGE * 7).is_none());
        list.give_back(a);
        list.give_back(b);
        assert_eq!(list.free(), 10);
        assert_eq!(list.take(PAGE * 10).unwrap().len(), 10);
    }
}
