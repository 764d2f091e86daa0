//! An objective is the targets it writes. Each batch of examples becomes packed token ids and [`Targets`] of one head;
//! nothing downstream knows which paper they came from. Pure: values in, values out.
//!
//! Weights make the loss a mean over the whole step, however the step is cut into micro-batches: each labelled row weighs
//! `1 / rows of the step`. With [`Reduction::GramCompat`] each micro-batch is its own mean and the micro-batches are
//! summed, as the reference implementation of GRAM does (its loss function bypasses the division by the accumulation).

/// How losses of one step are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over all labelled rows of the step.
    Mean,
    /// The sum over micro-batches of each one's mean.
    GramCompat,
}

/// What the loss of one sequence (or pair of sequences) is.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Next-token loss on the tokens from `from` on (G1, rationales, proofs): position `from - 1` predicts token `from`.
    Continuation { from: usize },
    /// The two-candidate loss at the last position: candidate `label` is right (G2).
    Verdict { label: u8 },
    /// Next-token losses at the last position towards several ids with their weights: the full-vocabulary form of G2.
    Distribution { ids: [i32; 2], weights: [f32; 2] },
    /// The reward at the last position is the chosen (or rejected) one of pair `pair` within the example.
    Reward,
}

/// One training example: one sequence, or two (chosen, rejected) for a scalar reward.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub sequences: Vec<Vec<i32>>,
    pub target: Target,
    /// Bradley-Terry margin.
    pub margin: f32,
}

impl Example {
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
    /// Rows that carry a loss.
    fn rows(&self) -> usize {
        match &self.target {
            Target::Continuation { from } => self.sequences[0].len() - from,
            Target::Verdict { .. } | Target::Distribution { .. } | Target::Reward => 1,
        }
    }
}

/// Targets of one head, for the rows of one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Language-model head: row `rows[r]` of the pass should predict `ids[r]`.
    Vocab { rows: Vec<i32>, ids: Vec<i32>, weights: Vec<f32> },
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
            Targets::Vocab { weights, .. } | Targets::Verdict { weights, .. } | Targets::Scalar { weights, .. } => weights,
        }
    }
    fn weights_mut(&mut self) -> &mut Vec<f32> {
        match self {
            Targets::Vocab { weights, .. } | Targets::Verdict { weights, .. } | Targets::Scalar { weights, .. } => weights,
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
}

/// The candidates and epsilon of verdict targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidates {
    pub ids: [i32; 2],
    pub smoothing: f32,
}

/// Cuts the examples of one step into micro-batches of at most `tokens` tokens (an example that is longer gets its own)
/// and weighs their targets.
pub fn micro_batches(examples: &[&Example], candidates: Candidates, tokens: usize, reduction: Reduction) -> Vec<MicroBatch> {
    let mut groups: Vec<Vec<&Example>> = Vec::new();
    let mut used = 0;
    for example in examples {
        if groups.is_empty() || used + example.tokens() > tokens {
            groups.push(Vec::new());
            used = 0;
        }
        used += example.tokens();
        groups.last_mut().expect("just pushed").push(example);
    }
    let rows = |group: &[&Example]| group.iter().map(|e| e.rows()).sum::<usize>();
    let all = rows(examples);
    groups
        .iter()
        .map(|group| {
            let mut batch = assemble(group, candidates);
            let terms = match reduction {
                Reduction::Mean => all,
                Reduction::GramCompat => rows(group),
            };
            batch.targets.weights_mut().iter_mut().for_each(|w| *w /= terms as f32);
            batch
        })
        .collect()
}

/// Packs examples of one kind; weights are not divided yet.
fn assemble(examples: &[&Example], candidates: Candidates) -> MicroBatch {
    let (mut ids, mut positions, mut starts) = (Vec::new(), Vec::new(), vec![0i32]);
    let mut targets = match examples[0].target {
        Target::Continuation { .. } | Target::Distribution { .. } => {
            Targets::Vocab { rows: vec![], ids: vec![], weights: vec![] }
        }
        Target::Verdict { .. } => Targets::Verdict {
            rows: vec![],
            candidates: candidates.ids,
            labels: vec![],
            smoothing: vec![],
            weights: vec![],
        },
        Target::Reward => {
            Targets::Scalar { rows: vec![], chosen: vec![], rejected: vec![], margins: vec![], weights: vec![] }
        }
    };
    for example in examples {
        let first = ids.len();
        let mut last = Vec::new();
        for sequence in &example.sequences {
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as i32);
            starts.push(ids.len() as i32);
            last.push(ids.len() as i32 - 1);
        }
        push(&mut targets, example, first, &last, candidates.smoothing);
    }
    MicroBatch { ids, positions, starts, targets }
}

/// Adds one example's targets; `first` is its first packed row, `last` the last row of each of its sequences.
fn push(targets: &mut Targets, example: &Example, first: usize, last: &[i32], epsilon: f32) {
    match (targets, &example.target) {
        (Targets::Vocab { rows, ids, weights }, Target::Continuation { from }) => {
            for (i, id) in example.sequences[0].iter().enumerate().skip(*from) {
                rows.push((first + i - 1) as i32);
                ids.push(*id);
                weights.push(1.0);
            }
        }
        (Targets::Vocab { rows, ids, weights }, Target::Distribution { ids: towards, weights: share }) => {
            for (id, weight) in towards.iter().zip(share) {
                rows.push(last[0]);
                ids.push(*id);
                weights.push(*weight);
            }
        }
        (Targets::Verdict { rows, labels, smoothing, weights, .. }, Target::Verdict { label }) => {
            rows.push(last[0]);
            labels.push(*label as i32);
            smoothing.push(epsilon);
            weights.push(1.0);
        }
        (Targets::Scalar { rows, chosen, rejected, margins, weights }, Target::Reward) => {
            let at = rows.len() as i32;
            rows.extend_from_slice(&last[..2]);
            chosen.push(at);
            rejected.push(at + 1);
            margins.push(example.margin);
            weights.push(1.0);
        }
        _ => panic!("examples of different stages in one micro-batch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CANDIDATES: Candidates = Candidates { ids: [7, 8], smoothing: 0.05 };

    fn continuation(len: usize, from: usize) -> Example {
        let ids = (0..len as i32).collect();
        Example { sequences: vec![ids], target: Target::Continuation { from }, margin: 0.0 }
    }

    #[test]
    fn continuation_rows_predict_the_next_token() {
        let (a, b) = (continuation(4, 2), continuation(3, 1));
        let batches = micro_batches(&[&a, &b], CANDIDATES, 100, Reduction::Mean);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].starts, [0, 4, 7]);
        assert_eq!(batches[0].positions, [0, 1, 2, 3, 0, 1, 2]);
        let want = Targets::Vocab { rows: vec![1, 2, 4, 5], ids: vec![2, 3, 1, 2], weights: vec![0.25; 4] };
        assert_eq!(batches[0].targets, want);
    }

    #[test]
    fn gram_compat_sums_the_means_of_micro_batches() {
        let verdict = |label| Example { sequences: vec![vec![1; 10]], target: Target::Verdict { label }, margin: 0.0 };
        let (a, b, c) = (verdict(0), verdict(1), verdict(1));
        let weights = |reduction| -> Vec<Vec<f32>> {
            let batches = micro_batches(&[&a, &b, &c], CANDIDATES, 20, reduction);
            batches.iter().map(|b| b.targets.weights().to_vec()).collect()
        };
        assert_eq!(weights(Reduction::Mean), [vec![1.0 / 3.0; 2], vec![1.0 / 3.0]]);
        assert_eq!(weights(Reduction::GramCompat), [vec![0.5; 2], vec![1.0]]);
    }

    #[test]
    fn a_pair_of_rewards_points_at_its_own_rows() {
        let pair = Example { sequences: vec![vec![1; 3], vec![2; 2]], target: Target::Reward, margin: 0.5 };
        let batches = micro_batches(&[&pair, &pair], CANDIDATES, 100, Reduction::Mean);
        let Targets::Scalar { rows, chosen, rejected, margins, .. } = &batches[0].targets else { panic!() };
        assert_eq!((&rows[..], &chosen[..], &rejected[..]), (&[2, 4, 7, 9][..], &[0, 2][..], &[1, 3][..]));
        assert_eq!(margins, &[0.5, 0.5]);
    }

    proptest! {
        #[test]
        fn micro_batches_conserve_examples_and_total_weight(
            lens in prop::collection::vec(2usize..40, 1..30), budget in 1usize..100,
        ) {
            let examples: Vec<Example> = lens.iter().map(|l| continuation(*l, 1)).collect();
            let borrowed: Vec<&Example> = examples.iter().collect();
            let batches = micro_batches(&borrowed, CANDIDATES, budget, Reduction::Mean);
            let tokens: usize = batches.iter().map(|b| b.ids.len()).sum();
            prop_assert_eq!(tokens, lens.iter().sum::<usize>());
            let weight: f32 = batches.iter().flat_map(|b| b.targets.weights()).sum();
            prop_assert!((weight - 1.0).abs() < 1e-4);
            for batch in &batches {
                prop_assert!(batch.ids.len() <= budget || batch.starts.len() == 2);
            }
        }
    }
}
