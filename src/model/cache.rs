//! Keys and values of sequences being generated, in pages, and the pure bookkeeping of who owns which page.

use super::config::Config;
use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout, Slot, View};
use crate::error::Result;
use crate::ops::decode::{self, Paged};
use crate::ops::embed::embed_fwd;
use crate::ops::pages::pages_write;

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
    shares: Slot,
    partials: Slot,
    held: Slot,
    arena: Arena,
}

impl Cache {
    /// The bytes that [`Cache::new`] would allocate.
    pub fn bytes(c: &Config, dtype: Dtype, shape: CacheShape) -> usize {
        Cache::layout(c, dtype, shape).0.bytes()
    }

    /// Where everything lies: the pools of each layer; places, table, lens, shares, partials and held.
    fn layout(c: &Config, dtype: Dtype, shape: CacheShape) -> (Layout, Vec<[Slot; 2]>, [Slot; 6]) {
        let mut l = Layout::new();
        let (rows, cols) = (shape.pages * PAGE, c.heads.kv * c.heads.size);
        let pools = (0..c.layers)
            .map(|i| ["k", "v"].map(|name| l.buffer(format!("layers.{i}.{name}"), dtype, rows, cols)))
            .collect();
        let b = shape.sequences;
        let scratch = decode::partials_width(c.heads, shape.tokens);
        let others = [
            l.buffer("places", Dtype::I32, 1, shape.prefill.max(b)),
            l.buffer("table", Dtype::I32, b, shape.tokens.div_ceil(PAGE)),
            l.buffer("lens", Dtype::I32, 1, b),
            l.buffer("shares", Dtype::I32, 1, b),
            l.buffer("partials", dtype.stat(), b, scratch),
            l.buffer("held", dtype, 1, c.width),
        ];
        (l, pools, others)
    }

    /// Allocates the pools.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &Device, c: &Config, dtype: Dtype, shape: CacheShape) -> Result<Cache> {
        let (layout, pools, [places, table, lens, shares, partials, held]) = Cache::layout(c, dtype, shape);
        let arena = Arena::new(dev, "the key-value cache", &layout)?;
        Ok(Cache { pools, places, table, lens, shares, partials, held, arena })
    }

    /// Key and value pools of a layer.
    pub fn pools(&self, layer: usize) -> [View<'_>; 2] {
        [self.arena.at(&self.pools[layer][0]), self.arena.at(&self.pools[layer][1])]
    }
    /// Tokens in a page.
    pub fn page(&self) -> usize {
        PAGE
    }
    /// Pool rows to which the pass's tokens are written; for a row that is no sequence, -1.
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
    /// What the decode steps of a layer read.
    pub fn paged(&self, layer: usize, sequences: usize) -> Paged<'_> {
        let ([k, v], shares) = (self.pools(layer), self.arena.at(&self.shares).cols_in(0..sequences));
        Paged { k, v, table: self.table(sequences), lens: self.lens(sequences), shares, page: PAGE }
    }
    /// Finds out which pages the decoding sequences share. Before the layers of every step.
    pub fn find_shares(&self, dev: &Device, sequences: usize) {
        let Paged { k, table, lens, shares, page, .. } = self.paged(0, sequences);
        decode::shares(dev, shares, table, lens, page, k.rows() / page);
    }
    pub fn partials(&self) -> View<'_> {
        self.arena.at(&self.partials)
    }

    /// The residual stream at the end of a prompt for which more sequences wait, `[1, D]`.
    pub fn held(&self) -> View<'_> {
        self.arena.at(&self.held)
    }

    /// Copies rows `from` of another cache's pools, or of ours, to our rows `to`, in every layer, by way of `scratch`: as many rows for
    /// keys, and for values.
    pub fn copy(&self, dev: &Device, source: &Cache, from: View, to: View, scratch: [View; 2]) {
        for layer in 0..self.pools.len() {
            let ([from_k, from_v], [k, v]) = (source.pools(layer), self.pools(layer));
            embed_fwd(dev, scratch[0], from_k, from);
            embed_fwd(dev, scratch[1], from_v, from);
            pages_write(dev, k, v, scratch[0], scratch[1], to);
        }
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
pub fn place(pages: &[u32], p: usize) -> i32 {
    (pages[p / PAGE] as usize * PAGE + p % PAGE) as i32
}

/// Which pages are free, and how many sequences use the others. Pure: no memory is touched.
#[derive(Clone, Debug)]
pub struct PageList {
    free: Vec<u32>,
    users: Vec<u32>,
}

impl PageList {
    pub fn new(pages: usize) -> PageList {
        PageList { free: (0..pages as u32).rev().collect(), users: vec![0; pages] }
    }
    /// As many pages, all of them free.
    pub fn emptied(&self) -> PageList {
        PageList::new(self.users.len())
    }
    pub fn free(&self) -> usize {
        self.free.len()
    }
    /// Pages for `tokens` tokens, or `None` (and nothing taken) when there are too few.
    pub fn take(&mut self, tokens: usize) -> Option<Vec<u32>> {
        let n = tokens.div_ceil(PAGE);
        let pages: Vec<u32> =
            (n <= self.free.len()).then(|| self.free.split_off(self.free.len() - n).into_iter().rev().collect())?;
        self.share(&pages);
        Some(pages)
    }
    /// Counts one more user of each of these pages, which somebody has taken.
    pub fn share(&mut self, pages: &[u32]) {
        for page in pages {
            self.users[*page as usize] += 1;
        }
    }
    /// One user less of each; a page without any is free again.
    pub fn give_back(&mut self, pages: Vec<u32>) {
        for page in pages.into_iter().rev() {
            let users = &mut self.users[page as usize];
            *users = users.checked_sub(1).expect("a page that is given back was taken");
            if *users == 0 {
                self.free.push(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_conserved_and_never_taken_twice() {
        let mut list = PageList::new(10);
        let a = list.take(PAGE * 3 - 1).unwrap();
        let b = list.take(1).unwrap();
        assert_eq!((a.len(), b.len(), list.free()), (3, 1, 6));
        assert!(a.iter().all(|p| !b.contains(p)));
        assert!(list.take(PAGE * 7).is_none());
        list.share(&a[..2]);
        list.give_back(a.clone());
        assert_eq!(list.free(), 7, "two pages have another user");
        list.give_back(a[..2].to_vec());
        list.give_back(b);
        assert_eq!(list.free(), 10);
        assert_eq!(list.take(PAGE * 10).unwrap().len(), 10);
    }

    #[test]
    #[should_panic(expected = "was taken")]
    fn a_page_is_not_given_back_twice() {
        let mut list = PageList::new(2);
        let a = list.take(1).unwrap();
        list.give_back(a.clone());
        list.give_back(a);
    }

    proptest! {
        /// Whoever takes, shares and gives back: a page is free if and only if nobody uses it, and is handed out once.
        #[test]
        fn free_pages_have_no_users(steps in prop::collection::vec((0usize..3, 0usize..200), 0..60)) {
            let mut list = PageList::new(12);
            let mut users: Vec<Vec<u32>> = Vec::new();
            for (what, n) in steps {
                match what {
                    0 => {
                        if let Some(pages) = list.take(n) {
                            prop_assert!(pages.iter().all(|p| users.iter().all(|u| !u.contains(p))));
                            users.push(pages);
                        }
                    }
                    1 if !users.is_empty() => {
                        let pages = users[n % users.len()].clone();
                        list.share(&pages);
                        users.push(pages);
                    }
                    _ if !users.is_empty() => list.give_back(users.swap_remove(n % users.len())),
                    _ => {}
                }
                let used = (0..12).filter(|p| users.iter().any(|u| u.contains(p))).count();
                prop_assert_eq!(list.free(), 12 - used);
            }
        }
    }
}
