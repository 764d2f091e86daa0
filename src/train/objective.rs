//! An objective is the targets it writes. Each batch of examples becomes packed token ids and [`Targets`] of one head;
//! nothing downstream knows which paper they came from. Pure: values in, values out.
//!
//! Weights make the loss a mean over the whole step, however the step is cut into micro-batches: each labelled row weighs
//! `1 / rows of the step`. With [`Reduction::GramCompat`] each micro-batch is its own mean and the micro-batches are
//! summed, as the reference implementation of GRAM does (its loss function bypasses the division by the accumulation).

use crate::error::Result;
use crate::text::encode::Item;
use crate::text::pack::batches;
use std::ops::Range;

/// How losses of one step are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over all labelled rows of the step.
    Mean,
    /// The sum over micro-batches of each one's mean.
    GramCompat,
}

/// What verdict items are trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The label tokens A and B.
    pub labels: [i32; 2],
    /// Epsilon: half of the alpha that PyTorch calls `label_smoothing`.
    pub smoothing: f32,
    pub over: Over,
    pub reduction: Reduction,
    /// The padding token, which a scalar reward does not read ([`Config::scored`](crate::model::config::Config::scored)).
    pub pad: Option<i32>,
}

/// What the two-candidate loss is normalised over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The two labels (GRAM's released code): the two-row head.
    Candidates,
    /// The vocabulary: `-(1 - eps) log p(right) - eps log p(wrong)`, two weighted targets of the language-model head.
    Vocabulary,
}

/// Targets of one head, for the rows of one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Language-model head: row `rows[r]` of the pass should predict `ids[r]`. `verdicts` says which pairs of targets
    /// are a preference, right and wrong; of plain text none are.
    Vocab { rows: Vec<i32>, ids: Vec<i32>, weights: Vec<f32>, verdicts: Vec<[usize; 2]> },
    /// Two-row head: candidate `labels[r]` of the two is right; `smoothing` is epsilon (half of PyTorch's alpha).
    Verdict { rows: Vec<i32>, candidates: [i32; 2], labels: Vec<i32>, smoothing: Vec<f32>, weights: Vec<f32> },
    /// Scalar head: pairs `(chosen[p], rejected[p])` are indices into `rows`.
    Scalar { rows: Vec<i32>, chosen: Vec<i32>, rejected: Vec<i32>, margins: Vec<f32>, weights: Vec<f32> },
}

impl Targets {
    pub fn rows(&self) -> &[i32] {
        match self {
            Targets::Vocab { rows, .. } | Targets::Verdict { rows, .. } | Targets::Scalar { rows, .. } => rows,
        }
    }
    /// One weight for each loss term.
    pub fn weights(&self) -> &[f32] {
        match self {
            Targets::Vocab { weights, .. } | Targets::Verdict { weights, .. } | Targets::Scalar { weights, .. } => {
                weights
            }
        }
    }
    fn weights_mut(&mut self) -> &mut Vec<f32> {
        match self {
            Targets::Vocab { weights, .. } | Targets::Verdict { weights, .. } | Targets::Scalar { weights, .. } => {
                weights
            }
        }
    }
}

/// Sequences packed one after another, and what the head should say.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatch {
    pub ids: Vec<i32>,
    pub positions: Vec<i32>,
    pub starts: Vec<i32>,
    pub targets: Targets,
    /// Loss terms: how many tokens, verdicts or pairs a mean over this micro-batch is taken over.
    pub terms: usize,
    /// What the weights were divided by: the terms of the step, or of this micro-batch alone.
    pub divisor: usize,
}

/// Cuts the items of one step into micro-batches of at most `tokens` tokens and weighs their targets. All items are of one
/// kind.
///
/// # Errors
/// An item with more tokens than that.
pub fn micro_batches(items: &[Item], settings: &Settings, tokens: usize) -> Result<Vec<MicroBatch>> {
    let lengths: Vec<usize> = items.iter().map(Item::tokens).collect();
    let all = items.iter().map(terms).sum::<usize>();
    let weigh = |range: Range<usize>| {
        let group = &items[range];
        let mut batch = assemble(group, settings);
        batch.divisor = match settings.reduction {
            Reduction::Mean => all,
            Reduction::GramCompat => batch.terms,
        };
        let divisor = batch.divisor as f32;
        batch.targets.weights_mut().iter_mut().for_each(|w| *w /= divisor);
        batch
    };
    Ok(batches(&lengths, tokens)?.into_iter().map(weigh).collect())
}

/// Loss terms of an item: what a mean is taken over.
fn terms(item: &Item) -> usize {
    match item {
        Item::Tokens { ids, start } => ids.len() - start,
        Item::Verdict { .. } | Item::Scalar { .. } => 1,
    }
}

/// Packs items of one kind; weights are not divided yet.
fn assemble(items: &[Item], settings: &Settings) -> MicroBatch {
    let (mut ids, mut positions, mut starts) = (Vec::new(), Vec::new(), vec![0i32]);
    let mut targets = match (&items[0], settings.over) {
        (Item::Tokens { .. }, _) | (Item::Verdict { .. }, Over::Vocabulary) => {
            Targets::Vocab { rows: vec![], ids: vec![], weights: vec![], verdicts: vec![] }
        }
        (Item::Verdict { .. }, Over::Candidates) => Targets::Verdict {
            rows: vec![],
            candidates: settings.labels,
            labels: vec![],
            smoothing: vec![],
            weights: vec![],
        },
        (Item::Scalar { .. }, _) => {
            Targets::Scalar { rows: vec![], chosen: vec![], rejected: vec![], margins: vec![], weights: vec![] }
        }
    };
    for item in items {
        let first = ids.len();
        for sequence in item.sequences() {
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as i32);
            starts.push(ids.len() as i32);
        }
        push(&mut targets, item, first, settings);
    }
    let terms = items.iter().map(terms).sum();
    MicroBatch { ids, positions, starts, targets, terms, divisor: 1 }
}

/// Adds one item's targets; `first` is its first packed row.
fn push(targets: &mut Targets, item: &Item, first: usize, settings: &Settings) {
    let at = |i: usize| (first + i) as i32;
    match (targets, item) {
        (Targets::Vocab { rows, ids, weights, .. }, Item::Tokens { ids: tokens, start }) => {
            for (i, id) in tokens.iter().enumerate().skip(*start) {
                rows.push(at(i - 1));
                ids.push(*id);
                weights.push(1.0);
            }
        }
        (Targets::Vocab { rows, ids, weights, verdicts }, Item::Verdict { ids: tokens, label }) => {
            let right = *label as usize;
            verdicts.push([rows.len(), rows.len() + 1]);
            for (side, share) in [(right, 1.0 - settings.smoothing), (1 - right, settings.smoothing)] {
                rows.push(at(tokens.len() - 1));
                ids.push(settings.labels[side]);
                weights.push(share);
            }
        }
        (Targets::Verdict { rows, labels, smoothing, weights, .. }, Item::Verdict { ids: tokens, label }) => {
            rows.push(at(tokens.len() - 1));
            labels.push(*label as i32);
            smoothing.push(settings.smoothing);
            weights.push(1.0);
        }
        (
            Targets::Scalar { rows, chosen, rejected, margins, weights },
            Item::Scalar { chosen: c, rejected: r, margin },
        ) => {
            let scored = |ids: &[i32]| ids.iter().rposition(|id| Some(*id) != settings.pad).unwrap_or(ids.len() - 1);
            let pair = rows.len() as i32;
            rows.extend([at(scored(c)), at(c.len() + scored(r))]);
            chosen.push(pair);
            rejected.push(pair + 1);
            margins.push(*margin as f32);
            weights.push(1.0);
        }
        _ => panic!("items of different stages in one micro-batch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::example::Side;
    use proptest::prelude::*;

    const SETTINGS: Settings =
        Settings { labels: [7, 8], smoothing: 0.05, over: Over::Candidates, reduction: Reduction::Mean, pad: None };

    fn tokens(len: usize, start: usize) -> Item {
        Item::Tokens { ids: (0..len as i32).collect(), start }
    }
    fn verdict(len: usize, label: Side) -> Item {
        Item::Verdict { ids: vec![1; len], label }
    }

    #[test]
    fn every_target_is_predicted_from_the_row_before_it() {
        let batches = micro_batches(&[tokens(4, 2), tokens(3, 1)], &SETTINGS, 100).unwrap();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].starts, [0, 4, 7]);
        assert_eq!(batches[0].positions, [0, 1, 2, 3, 0, 1, 2]);
        let (rows, ids) = (vec![1, 2, 4, 5], vec![2, 3, 1, 2]);
        let want = Targets::Vocab { rows, ids, weights: vec![0.25; 4], verdicts: vec![] };
        assert_eq!(batches[0].targets, want);
    }

    #[test]
    fn gram_compat_sums_the_means_of_micro_batches() {
        let items = [verdict(10, Side::A), verdict(10, Side::B), verdict(10, Side::B)];
        let weights = |reduction| -> Vec<Vec<f32>> {
            let batches = micro_batches(&items, &Settings { reduction, ..SETTINGS }, 20).unwrap();
            batches.iter().map(|b| b.targets.weights().to_vec()).collect()
        };
        assert_eq!(weights(Reduction::Mean), [vec![1.0 / 3.0; 2], vec![1.0 / 3.0]]);
        assert_eq!(weights(Reduction::GramCompat), [vec![0.5; 2], vec![1.0]]);
    }

    #[test]
    fn verdicts_over_the_vocabulary_are_two_weighted_targets() {
        let settings = Settings { over: Over::Vocabulary, ..SETTINGS };
        let batches = micro_batches(&[verdict(3, Side::B)], &settings, 20).unwrap();
        let (rows, ids, weights) = (vec![2, 2], vec![8, 7], vec![0.95, 0.05]);
        let want = Targets::Vocab { rows, ids, weights, verdicts: vec![[0, 1]] };
        assert_eq!(batches[0].targets, want);
    }

    #[test]
    fn a_pair_of_rewards_points_at_its_own_rows_and_skips_padding() {
        let pair = Item::Scalar { chosen: vec![1, 1, 9], rejected: vec![2, 2], margin: 0.5 };
        let settings = Settings { pad: Some(9), ..SETTINGS };
        let batches = micro_batches(&[pair.clone(), pair], &settings, 100).unwrap();
        let Targets::Scalar { rows, chosen, rejected, margins, .. } = &batches[0].targets else { panic!() };
        assert_eq!((&rows[..], &chosen[..], &rejected[..]), (&[1, 4, 6, 9][..], &[0, 2][..], &[1, 3][..]));
        assert_eq!(margins, &[0.5, 0.5]);
    }

    proptest! {
        #[test]
        fn micro_batches_conserve_items_and_total_weight(
            lens in prop::collection::vec(2usize..40, 1..30), budget in 40usize..100,
        ) {
            let items: Vec<Item> = lens.iter().map(|l| tokens(*l, 1)).collect();
            let batches = micro_batches(&items, &SETTINGS, budget).unwrap();
            let total: usize = batches.iter().map(|b| b.ids.len()).sum();
            prop_assert_eq!(total, lens.iter().sum::<usize>());
            let weight: f32 = batches.iter().flat_map(|b| b.targets.weights()).sum();
            prop_assert!((weight - 1.0).abs() < 1e-4);
            prop_assert!(batches.iter().all(|b| b.ids.len() <= budget));
        }
    }
}
