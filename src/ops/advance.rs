//! From one decode step to the next without the host: the inputs move on by one token, and the tokens that were drawn go in.
//!
//! ```text
//! ids[r] = drawn[r]    positions[r] += 1    lens[r] += 1    step[r] += 1
//! places[r] = table[r, p / P] * P + p mod P    where p = positions[r]
//! ```
//! Shapes: `ids`, `positions`, `lens`, `places` and `drawn` `[R]`, `table` `[R, pages]`, `settings` `[R, 8]` as [`Sampling::row`] writes
//! them, all of i32. A row whose place is negative is no sequence and stays as it is. A position beyond a sequence's pages
//! panics on the CPU; on a GPU its place becomes -1, where nothing is written.

use crate::device::cuda::launch::{self, Grid};
use crate::device::{Device, View, disjoint};
use crate::ops::sample::Sampling;

/// What a decode step reads of each row.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub ids: View<'a>,
    pub positions: View<'a>,
    pub lens: View<'a>,
    pub places: View<'a>,
    pub settings: View<'a>,
    /// The pages of each row, of `page` tokens each.
    pub table: View<'a>,
    pub page: usize,
}

/// Moves `step` on, with the tokens that it drew.
pub fn advance(dev: &Device, step: Step, drawn: View) {
    let Step { ids, positions, lens, places, settings, table, page } = step;
    let rows = ids.len();
    assert!(
        [positions, lens, places, drawn].iter().all(|x| x.len() == rows && x.is_contiguous())
            && settings.shape() == [rows, Sampling::WORDS]
            && settings.is_contiguous()
            && table.rows() == rows
            && table.is_contiguous()
            && page > 0,
        "advance: ids {:?}, positions {:?}, lens {:?}, places {:?}, settings {:?}, table {:?}, drawn {:?}",
        ids.shape(),
        positions.shape(),
        lens.shape(),
        places.shape(),
        settings.shape(),
        table.shape(),
        drawn.shape()
    );
    let written = [ids, positions, lens, places, settings];
    for (i, x) in written.iter().enumerate() {
        disjoint("advance", *x, &[&written[i + 1..], &[drawn, table]].concat());
    }
    match dev {
        Device::Cuda(gpu) => {
            let grid = Grid::cover(rows, launch::ADVANCE_THREADS as usize);
            let [r, width, page] = [rows, table.cols(), page].map(|n| n as i32);
            launch::advance(gpu, grid, ids, positions, lens, places, settings, drawn, table, r, width, page);
        }
        Device::Cpu(_) => {
            let [ids, positions, lens, places] = [ids, positions, lens, places].map(|x| x.slice_mut::<i32>());
            for (r, drawn) in drawn.slice::<i32>().iter().enumerate() {
                if places[r] >= 0 {
                    (ids[r], positions[r], lens[r]) = (*drawn, positions[r] + 1, lens[r] + 1);
                    let p = positions[r] as usize;
                    places[r] = table.row::<i32>(r)[p / page] * page as i32 + (p % page) as i32;
                    let row = settings.row_mut::<i32>(r);
                    let Sampling { step, .. } = Sampling::of(row);
                    row.copy_from_slice(&Sampling { step: step.wrapping_add(1), ..Sampling::of(row) }.row());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Bed, Within, agree, gpus};

    /// Rows with a place or without, at the edges of pages and of a step's words. One row more than are moved on: it must stay.
    fn case(bed: &Bed, rows: usize) -> Vec<(&'static str, Within, Vec<f64>)> {
        let n = rows as i32 + 1;
        let row = |of: fn(i32) -> i32| bed.ints(1, rows + 1, &(0..n).map(of).collect::<Vec<_>>());
        let (ids, drawn) = (row(|r| 7 * r), row(|r| 1000 + r));
        let (positions, lens) = (row(|r| [0, 2, 3, 6, 7][r as usize % 5]), row(|r| 10 + r));
        let places = row(|r| if r % 3 == 2 { -1 } else { r });
        let steps = |r: u64| [0, 5, u64::from(u32::MAX), u64::MAX - 1][r as usize % 4];
        let settings = |r| Sampling { temperature: 0.5, top_k: 3, seed: u64::MAX, step: steps(r), ..Sampling::GREEDY };
        let words: Vec<i32> = (0..=rows as u64).flat_map(|r| settings(r).row()).collect();
        let settings = bed.ints(rows + 1, Sampling::WORDS, &words);
        let table = bed.ints(rows + 1, 3, &(0..3 * n).map(|i| (i * 5) % 11).collect::<Vec<_>>());
        let step = Step {
            ids: ids.cols_in(0..rows),
            positions: positions.cols_in(0..rows),
            lens: lens.cols_in(0..rows),
            places: places.cols_in(0..rows),
            settings: settings.top(rows),
            table: table.top(rows),
            page: 4,
        };
        advance(&bed.dev, step, drawn.cols_in(0..rows));
        let all = [("ids", ids), ("positions", positions), ("lens", lens), ("places", places), ("settings", settings)];
        all.map(|(name, x)| (name, Within::Bits, bed.get(x))).to_vec()
    }

    #[test]
    fn gpus_agree() {
        for rows in [1, 5, 130] {
            agree(&format!("advance, {rows} rows"), |bed| case(bed, rows));
        }
    }

    #[test]
    fn rows_move_on_by_a_token_and_the_others_stay() {
        let found = case(&Bed::new(Device::cpu(1)), 4);
        let ints = |i: usize| found[i].2.iter().map(|x| *x as i64).collect::<Vec<_>>();
        let first = |i: usize| ints(i)[..4].to_vec();
        assert_eq!(first(0), [1000, 1001, 14, 1003]);
        assert_eq!(first(1), [1, 3, 3, 7]);
        assert_eq!(first(2), [11, 12, 12, 14]);
        // Pages 0, 4 (15 mod 11) and 6 (50 mod 11) of four rows each.
        assert_eq!(first(3), [1, 4 * 4 + 3, -1, 6 * 4 + 3]);
        let words = |r: usize| ints(4)[8 * r + 6..8 * r + 8].to_vec();
        assert_eq!([words(0), words(1)], [[1, 0], [6, 0]]);
        assert_eq!([words(2), words(3)], [[-1, 0], [-1, -1]], "row 2 is no sequence");
    }
    #[test]
    fn on_gpus_a_position_beyond_its_pages_has_no_place() {
        for (called, dev) in gpus() {
            let bed = Bed::new(dev);
            let one = |x: i32| bed.ints(1, 1, &[x]);
            let settings = bed.ints(1, Sampling::WORDS, &Sampling::GREEDY.row());
            let (positions, places) = (one(7), one(3));
            // What lies behind the two pages would be a page, too.
            let table = bed.ints(1, 3, &[0, 1, 2]).cols_in(0..2);
            let step = Step { ids: one(0), positions, lens: one(8), places, settings, table, page: 4 };
            advance(&bed.dev, step, one(5));
            assert_eq!((bed.get(positions)[0], bed.get(places)[0]), (8.0, -1.0), "{called}");
        }
    }
}
