//! Micro-batches of sequences of any length, laid end to end: no padding is stored and none is computed.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::text::encode::Item;
use crate::text::example::Side;

/// Cuts a list of items into consecutive runs of at most `budget` tokens, each as long as it can be. An item is never split,
/// and order is kept. An item that exceeds the budget alone is an error.
pub fn batches(lengths: &[usize], budget: usize) -> Result<Vec<Range<usize>>> {
    if let Some(longest) = lengths.iter().max().filter(|&&n| n > budget) {
        return Err(Error::usage(format!(
            "a micro-batch of {budget} tokens cannot hold an example of {longest}; allow more tokens in a micro-batch, \
             or fewer in an example"
        )));
    }
    let (mut runs, mut start, mut used) = (Vec::new(), 0, 0);
    for (i, &length) in lengths.iter().enumerate() {
        if used + length > budget {
            runs.push(start..i);
            (start, used) = (i, 0);
        }
        used += length;
    }
    if start < lengths.len() {
        runs.push(start..lengths.len());
    }
    Ok(runs)
}

/// A micro-batch. Rows are positions in `ids`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// The sequences, end to end `[T]`.
    pub ids: Vec<i32>,
    /// Where sequences begin, and the end of the last `[B + 1]`.
    pub bounds: Vec<i32>,
    /// The row at which a token is predicted, and that token.
    pub tokens: Vec<(i32, i32)>,
    /// The row at which a verdict is read, and which side is better.
    pub verdicts: Vec<(i32, Side)>,
    /// The rows at which the rewards of a chosen and a rejected response are read, and the margin.
    pub scalars: Vec<(i32, i32, f64)>,
}

impl Packed {
    /// Lays items end to end.
    pub fn new<'a>(items: impl IntoIterator<Item = &'a Item>) -> Packed {
        let mut packed = Packed { bounds: vec![0], ..Packed::default() };
        for item in items {
            match item {
                Item::Tokens { ids, start } => {
                    let base = packed.push(ids);
                    let targets = (*start..ids.len()).map(|t| (base + t as i32 - 1, ids[t]));
                    packed.tokens.extend(targets);
                }
                Item::Verdict { ids, label } => {
                    packed.push(ids);
                    let row = packed.last_row();
                    packed.verdicts.push((row, *label));
                }
                Item::Scalar { chosen, rejected, margin } => {
                    packed.push(chosen);
                    let high = packed.last_row();
                    packed.push(rejected);
                    let low = packed.last_row();
                    packed.scalars.push((high, low, *margin));
                }
            }
        }
        packed
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    fn push(&mut self, ids: &[i32]) -> i32 {
        let base = self.ids.len() as i32;
        self.ids.extend_from_slice(ids);
        self.bounds.push(self.ids.len() as i32);
        base
    }

    fn last_row(&self) -> i32 {
        self.ids.len() as i32 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_point_at_what_predicts() {
        let items = [
            Item::Tokens { ids: vec![1, 2, 3, 4], start: 2 },
            Item::Verdict { ids: vec![5, 6], label: Side::B },
            Item::Scalar { chosen: vec![7], rejected: vec![8, 9], margin: 0.5 },
        ];
        let p = Packed::new(&items);
        assert_eq!(p.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(p.bounds, [0, 4, 6, 7, 9]);
        assert_eq!(p.tokens, [(1, 3), (2, 4)]);
        assert_eq!(p.verdicts, [(5, Side::B)]);
        assert_eq!(p.scalars, [(6, 8, 0.5)]);
        assert_eq!(p.sequences(), 4);
        assert_eq!(Packed::new(&[]).sequences(), 0);
    }

    #[test]
    fn an_item_beyond_the_budget_is_refused() {
        let error = batches(&[3, 9], 8).unwrap_err();
        assert!(error.to_string().contains("cannot hold an example of 9") && error.exit_code() == 2);
        assert!(batches(&[], 0).unwrap().is_empty());
    }

    proptest! {
        /// Runs cover everything in order, keep the budget, and end only where the next item would not fit.
        #[test]
        fn packing_conserves_items(lengths in prop::collection::vec(0usize..20, 0..60), extra in 0usize..40) {
            let budget = lengths.iter().max().copied().unwrap_or(0) + extra;
            let runs = batches(&lengths, budget).unwrap();
            let mut next = 0;
            for run in &runs {
                prop_assert_eq!(run.start, next);
                prop_assert!(run.start < run.end);
                let used: usize = lengths[run.clone()].iter().sum();
                prop_assert!(used <= budget);
                if let Some(following) = lengths.get(run.end) {
                    prop_assert!(used + following > budget);
                }
                next = run.end;
            }
            prop_assert_eq!(next, lengths.len());
        }

        /// Cutting the packed ids at the bounds gives the sequences back.
        #[test]
        fn sequences_survive_packing(sequences in prop::collection::vec(prop::collection::vec(0i32..100, 1..9), 0..12)) {
            let items: Vec<Item> = sequences.iter().map(|ids| Item::Tokens { ids: ids.clone(), start: 1 }).collect();
            let packed = Packed::new(&items);
            let cut: Vec<Vec<i32>> =
                packed.bounds.windows(2).map(|w| packed.ids[w[0] as usize..w[1] as usize].to_vec()).collect();
            prop_assert_eq!(&cut, &sequences);
            for (row, id) in packed.tokens {
                prop_assert_eq!(packed.ids[row as usize + 1], id);
            }
        }
    }
}
