//! What the passes read: token ids, lengths, pairs. Pure; `benches/peers/engine.py` makes the same sizes.

/// Tokens that close a judge prompt.
pub const CLOSE: usize = 12;

/// Token ids that differ from each other and from row to row.
pub fn ids(vocab: usize, row: usize, n: usize) -> Vec<i32> {
    (0..n).map(|i| ((i * 7919 + row * 104_729 + 3) % vocab) as i32).collect()
}

/// Lengths of judged prompts: pairs in both orders, so two of each, spread evenly from an eighth of the longest to the longest, long and
/// short ones mixed.
pub fn lengths(prompts: usize, longest: usize) -> Vec<usize> {
    let (pairs, least) = (prompts.div_ceil(2), longest / 8);
    let steps = (pairs - 1).max(1);
    // Seven has no common factor with a power of two, nor has it with most numbers.
    let stride = if pairs.is_multiple_of(7) { 5 } else { 7 };
    (0..prompts).map(|i| least + (longest - least) * (i / 2 * stride % pairs) / steps).collect()
}

/// The prompts of all ordered pairs of `n` answers: question, first answer, second answer, closing words.
pub fn pairs(vocab: usize, question: usize, [n, answer]: [usize; 2]) -> Vec<Vec<i32>> {
    let text = |row: usize, len: usize| ids(vocab, row, len);
    let pair =
        |i: usize, j: usize| [text(0, question), text(1 + i, answer), text(1 + j, answer), text(1 + n, CLOSE)].concat();
    (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect()
}

/// Every how many of the pairs are measured by themselves: some two dozen do.
pub fn stride(pairs: usize) -> usize {
    (pairs / 24).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::trie::Trie;

    #[test]
    fn lengths_are_spread_and_come_in_twos() {
        let large = lengths(32, 4096);
        assert_eq!((large.iter().min(), large.iter().max()), (Some(&512), Some(&4096)));
        assert!(large.chunks(2).all(|pair| pair[0] == pair[1]));
        let mut apart = large.clone();
        apart.sort();
        apart.dedup();
        assert_eq!(apart.len(), 16, "{large:?}");
        assert_eq!(lengths(2, 64), [8, 8]);
        assert_eq!(lengths(4, 64), [8, 8, 64, 64]);
    }

    #[test]
    fn a_ranking_shares_what_the_trie_says() {
        let all = pairs(100_000, 500, [16, 400]);
        let tokens = Trie::new(&all).tokens();
        // A trie of question, first answers, and second answers with their close.
        assert_eq!((tokens.computed, tokens.flat), (500 + 16 * 400 + 240 * 412, 240 * 1312));
        assert_eq!(all.iter().step_by(stride(all.len())).count(), 24);
    }
}
