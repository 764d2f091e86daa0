//! Sequences that share beginnings, as one stream in which every token occurs once, and the walk that cuts it into passes. Pure.
//!
//! In sorted order the sequences are a trie in depth-first order: a sequence adds to the one before it what follows their common
//! beginning. So a node is a [`Run`] of tokens, its ancestors are the rows of the path to it, and nothing else needs to be known:
//!
//! ```text
//! prompts    system question A1 B2      runs    system question A1 B2
//!            system question A1 B3                                 B3        after  system question A1
//!            system question A2 B1                              A2 B1        after  system question
//! ```
//! The stream may be cut anywhere: a token's keys and values stay in a pool of rows until no later token needs them, which is as long
//! as they are on the path of the walk. So the pool holds at most one path and one pass, whatever the size of the trie, and nothing is
//! computed twice.

use std::ops::Range;

/// Tokens that a sequence does not share with the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they stand in the sequence; its last token is the sequence's last.
    pub tokens: Range<usize>,
    /// The sequences that end here, in [`Trie::order`]: one, and those equal to it.
    pub sequences: Range<usize>,
}

/// What sharing saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Computed, each once.
    pub computed: usize,
    /// In all sequences together.
    pub flat: usize,
}

impl Tokens {
    pub fn add(&mut self, more: Tokens) {
        self.computed += more.computed;
        self.flat += more.flat;
    }
    /// How many tokens of the sequences one computed token stands for.
    pub fn ratio(&self) -> f64 {
        if self.computed == 0 { 1.0 } else { self.flat as f64 / self.computed as f64 }
    }
}

/// Some sequences, each token of a common beginning once. Empty sequences have no run.
pub struct Trie<'s> {
    sequences: &'s [Vec<i32>],
    order: Vec<usize>,
    runs: Vec<Run>,
}

impl<'s> Trie<'s> {
    pub fn new(sequences: &'s [Vec<i32>]) -> Trie<'s> {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by(|a, b| sequences[*a].cmp(&sequences[*b]));
        let mut runs: Vec<Run> = Vec::with_capacity(order.len());
        let mut before: &[i32] = &[];
        for (i, sequence) in order.iter().map(|s| sequences[*s].as_slice()).enumerate() {
            let shared = before.iter().zip(sequence).take_while(|(a, b)| a == b).count();
            // A beginning is sorted before what it begins: only an equal sequence adds nothing.
            if shared < sequence.len() {
                runs.push(Run { tokens: shared..sequence.len(), sequences: i..i + 1 });
            } else if let Some(run) = runs.last_mut() {
                run.sequences.end += 1;
            }
            before = sequence;
        }
        Trie { sequences, order, runs }
    }

    /// The runs, depth first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Numbers of the sequences, as runs speak of them.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.runs.iter().map(|r| r.tokens.end).max().unwrap_or(0)
    }

    pub fn tokens(&self) -> Tokens {
        Tokens {
            computed: self.runs.iter().map(|r| r.tokens.len()).sum(),
            flat: self.sequences.iter().map(Vec::len).sum(),
        }
    }

    fn sequence(&self, run: &Run) -> &'s [i32] {
        &self.sequences[self.order[run.sequences.start]]
    }
}

/// What a pass may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that it computes, and pieces of runs that they belong to.
    pub tokens: usize,
    pub pieces: usize,
    /// Keys that the pieces attend to, summed over the pieces; at least the longest sequence.
    pub keys: usize,
}

/// One pass over the stream: pieces of runs, packed, and the pool rows that they write and read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// `[T]`
    pub ids: Vec<i32>,
    pub positions: Vec<i32>,
    /// `[T]` the row of the pool to which each token's key and value go.
    pub writes: Vec<i32>,
    /// `[B+1]` where each piece starts among the tokens, and where its keys start in `places`.
    pub starts: Vec<i32>,
    pub key_starts: Vec<i32>,
    /// Rows of the pool with the keys of each piece from position 0, its own included.
    pub places: Vec<i32>,
    /// Tokens of the pass that end sequences, and which (in [`Trie::order`]).
    pub ends: Vec<i32>,
    pub ended: Vec<Range<usize>>,
}

/// Cuts a trie into passes.
pub struct Walk<'t> {
    trie: &'t Trie<'t>,
    limits: Limits,
    /// The run to go on with, and from which position.
    run: usize,
    from: usize,
    /// Pool rows of the tokens up to there.
    path: Vec<i32>,
    free: Vec<i32>,
}

impl<'t> Walk<'t> {
    /// Rows that the pool needs for sequences of at most `longest` tokens.
    pub fn rows(longest: usize, limits: Limits) -> usize {
        longest + limits.tokens
    }

    /// A walk whose pool has `rows` rows ([`Walk::rows`]).
    pub fn new(trie: &'t Trie<'t>, limits: Limits, rows: usize) -> Walk<'t> {
        let free = (0..rows as i32).rev().collect();
        Walk { trie, limits, run: 0, from: trie.runs.first().map_or(0, |r| r.tokens.start), path: Vec::new(), free }
    }
}

impl Iterator for Walk<'_> {
    type Item = Pass;

    fn next(&mut self) -> Option<Pass> {
        let mut pass = Pass { starts: vec![0], key_starts: vec![0], ..Pass::default() };
        // Rows that leave the path while pieces of this pass still read them.
        let mut left = Vec::new();
        while let Some(run) = self.trie.runs.get(self.run) {
            let room = self.limits.tokens - pass.ids.len();
            let piece = self.from..run.tokens.end.min(self.from + room);
            let fits = pass.starts.len() <= self.limits.pieces && pass.places.len() + piece.end <= self.limits.keys;
            if piece.is_empty() || (!fits && !pass.ids.is_empty()) {
                break;
            }
            left.extend(self.path.drain(piece.start..).rev());
            let taken = self.free.len() - piece.len()..;
            self.path.extend(self.free.drain(taken).rev());
            pass.ids.extend_from_slice(&self.trie.sequence(run)[piece.clone()]);
            pass.positions.extend(piece.clone().map(|p| p as i32));
            pass.writes.extend_from_slice(&self.path[piece.start..]);
            pass.places.extend_from_slice(&self.path);
            pass.starts.push(pass.ids.len() as i32);
            pass.key_starts.push(pass.places.len() as i32);
            self.from = piece.end;
            if piece.end == run.tokens.end {
                pass.ends.push(pass.ids.len() as i32 - 1);
                pass.ended.push(run.sequences.clone());
                self.run += 1;
                self.from = self.trie.runs.get(self.run).map_or(0, |next| next.tokens.start);
            }
        }
        self.free.append(&mut left);
        (!pass.ids.is_empty()).then_some(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Judge prompts of all ordered pairs of `n` answers.
    fn round_robin(n: usize, prompt: usize, answer: usize, close: usize) -> Vec<Vec<i32>> {
        let pair = |i: usize, j: usize| {
            let mut ids = vec![1; prompt];
            ids.extend(vec![10 + i as i32; answer]);
            ids.extend(vec![10 + j as i32; answer]);
            ids.extend(vec![2; close]);
            ids
        };
        (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| pair(i, j))).collect()
    }

    #[test]
    fn ranking_shares_the_prompt_and_each_first_answer() {
        let prompts = round_robin(16, 500, 400, 12);
        let tokens = Trie::new(&prompts).tokens();
        assert_eq!(tokens.computed, 500 + 16 * 400 + 16 * 15 * 412);
        assert_eq!(tokens.flat, 16 * 15 * 1312);
        assert!((tokens.ratio() - 2.98).abs() < 0.005, "{}", tokens.ratio());
    }

    #[test]
    fn equal_sequences_and_beginnings_are_computed_once() {
        let prompts = vec![vec![5, 6, 7], vec![5], vec![5, 6, 7], vec![], vec![5, 8]];
        let trie = Trie::new(&prompts);
        assert_eq!(trie.order(), [3, 1, 0, 2, 4]);
        let runs: Vec<_> = trie.runs().iter().map(|r| (r.tokens.clone(), r.sequences.clone())).collect();
        assert_eq!(runs, [(0..1, 1..2), (1..3, 2..4), (1..2, 4..5)]);
        assert_eq!(trie.tokens(), Tokens { computed: 4, flat: 9 });
    }

    fn sequences() -> impl Strategy<Value = Vec<Vec<i32>>> {
        prop::collection::vec(prop::collection::vec(0..3, 0..12), 0..20)
    }

    proptest! {
        #[test]
        fn every_beginning_is_computed_exactly_once(sequences in sequences()) {
            let all: BTreeSet<&[i32]> = sequences.iter().flat_map(|s| (1..=s.len()).map(|n| &s[..n])).collect();
            prop_assert_eq!(Trie::new(&sequences).tokens().computed, all.len());
        }

        /// Plays the passes: what a row of the pool holds is the beginning that was written to it.
        #[test]
        fn a_walk_computes_each_token_once_after_its_own_beginning(
            sequences in sequences(), tokens in 1usize..9, pieces in 1usize..4, keys in 12usize..40,
        ) {
            let trie = Trie::new(&sequences);
            let limits = Limits { tokens, pieces, keys };
            let rows = Walk::rows(12, limits);
            let mut pool: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            let mut answered = vec![0; sequences.len()];
            let mut computed = 0;
            for pass in Walk::new(&trie, limits, rows) {
                prop_assert!(pass.ids.len() <= tokens && pass.starts.len() <= pieces + 1 && pass.places.len() <= keys);
                let distinct: BTreeSet<&i32> = pass.writes.iter().collect();
                prop_assert_eq!(distinct.len(), pass.ids.len());
                prop_assert!(pass.writes.iter().all(|r| (0..rows as i32).contains(r)));
                computed += pass.ids.len();
                let mut made = Vec::new();
                for (piece, keys) in pass.starts.windows(2).zip(pass.key_starts.windows(2)) {
                    let keys = &pass.places[keys[0] as usize..keys[1] as usize];
                    for t in piece[0] as usize..piece[1] as usize {
                        let position = pass.positions[t] as usize;
                        prop_assert_eq!(keys[position], pass.writes[t]);
                        let mut beginning = match position {
                            0 => Vec::new(),
                            // Written in this pass or in one before.
                            p => pass.writes.iter().position(|w| *w == keys[p - 1]).map_or_else(
                                || pool[&keys[p - 1]].clone(),
                                |at| made.get(at).cloned().expect("computed before it is read"),
                            ),
                        };
                        prop_assert_eq!(beginning.len(), position);
                        beginning.push(pass.ids[t]);
                        made.push(beginning);
                    }
                    prop_assert_eq!(keys.len(), pass.positions[piece[1] as usize - 1] as usize + 1);
                }
                for (end, ended) in pass.ends.iter().zip(&pass.ended) {
                    for sequence in &trie.order()[ended.clone()] {
                        prop_assert_eq!(&made[*end as usize], &sequences[*sequence]);
                        answered[*sequence] += 1;
                    }
                }
                pool.extend(pass.writes.iter().copied().zip(made));
            }
            prop_assert_eq!(computed, trie.tokens().computed);
            let wanted: Vec<i32> = sequences.iter().map(|s| i32::from(!s.is_empty())).collect();
            prop_assert_eq!(answered, wanted);
        }
    }
}
