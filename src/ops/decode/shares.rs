//! Which keys sequences of a batch have in common, found from their pages.
//!
//! ```text
//! shares[b] = the largest n for which b and b - 1 both fill n chunks and table[b] and table[b - 1] name the same pages for them
//! ```
//! Shapes: `shares`, `lens` `[B]`, `table` `[B, pages]`, all of i32. A page beyond the pool's is shared by nobody, a sequence whose length is out of
//! range shares nothing, and the first one does not either. Sequences that share should stand next to each other.

use super::CHUNK;
use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};

/// Compares each sequence with the one before it. `page` is the number of positions in a page, `pages` the number of pages in the pool.
pub fn shares(dev: &Device, shares: View, table: View, lens: View, page: usize, pages: usize) {
    let (b, width) = (table.rows(), table.cols());
    assert!(
        shares.len() == b && shares.is_contiguous() && lens.len() == b && lens.is_contiguous() && page > 0,
        "decode shares {:?} of table {:?}, lens {:?}",
        shares.shape(),
        table.shape(),
        lens.shape()
    );
    disjoint("decode shares", shares, &[table, lens]);
    match dev {
        Device::Cuda(gpu) => {
            let grid = Grid::cover(32 * b, launch::DECODE_SHARES_THREADS as usize);
            let stride = table.stride() as i32;
            let [b, width, page, pages] = [b, width, page, pages].map(|n| n as i32);
            launch::decode_shares(gpu, grid, shares, table, lens, b, width, page, pages, stride);
        }
        Device::Cpu(_) => {
            let lens = lens.slice::<i32>();
            let fits = |i: usize| (0..=(width * page) as i32).contains(&lens[i]);
            for (i, to) in shares.slice_mut::<i32>().iter_mut().enumerate() {
                *to = 0;
                if i > 0 && fits(i) && fits(i - 1) {
                    let pairs = table.row::<i32>(i).iter().zip(table.row::<i32>(i - 1));
                    let same = pairs.take_while(|(a, b)| a == b && (0..pages as i32).contains(a)).count();
                    *to = (lens[i].min(lens[i - 1]) as usize).min(same * page) as i32 / CHUNK as i32;
                }
            }
        }
    }
}
