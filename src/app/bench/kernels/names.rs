//! What the cases are called: the op and its shape, in one place for the cases and for who looks them up.

use crate::base::dtype::Dtype;
use crate::ops::Heads;

/// Rows of so many columns.
pub fn rows(e: Dtype, rows: usize, cols: usize) -> String {
    format!("{e} {rows} x {cols}")
}
/// A product of `[M, K]` and `[K, N]`; of anything that has three edges.
pub fn product(e: Dtype, m: usize, n: usize, k: usize) -> String {
    format!("{e} {m} x {n} x {k}")
}
/// Tokens with their heads.
pub fn tokens(e: Dtype, tokens: usize, heads: Heads) -> String {
    format!("{e} {tokens} tokens, {}", on(heads))
}
/// Packed sequences of these lengths.
pub fn sequences(e: Dtype, lengths: &[usize], heads: Heads) -> String {
    format!("{e} {} tokens, {}", list(lengths), on(heads))
}
/// The last tokens of packed sequences.
pub fn ends(e: Dtype, asked: usize, lengths: &[usize], heads: Heads) -> String {
    format!("{e} last {asked} of {} tokens, {}", list(lengths), on(heads))
}
/// One token for each of `b` sequences with `len` keys.
pub fn decoding(e: Dtype, [b, len]: [usize; 2], heads: Heads) -> String {
    format!("{e} {b} x {len} tokens, {}", on(heads))
}
/// One token for each of `b` samples of one prompt.
pub fn samples(e: Dtype, [b, prompt, own]: [usize; 3], heads: Heads) -> String {
    format!("{e} {b} samples of {prompt}+{own} tokens, {}", on(heads))
}
/// So many parameters in this form.
pub fn parameters(form: &str, n: usize) -> String {
    format!("{form} {n}")
}

fn on(heads: Heads) -> String {
    format!("{} on {} heads of {}", heads.query, heads.kv, heads.size)
}

/// Equal lengths are counted: `2048*8`, `8192+2048*4`.
fn list(lengths: &[usize]) -> String {
    let runs = lengths.chunk_by(|a, b| a == b).map(|run| match run {
        [n] => n.to_string(),
        _ => format!("{}*{}", run[0], run.len()),
    });
    runs.collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lengths_are_counted() {
        let heads = Heads { query: 4, kv: 2, size: 64 };
        assert_eq!(sequences(Dtype::Bf16, &[9, 7, 7], heads), "bfloat16 9+7*2 tokens, 4 on 2 heads of 64");
        assert_eq!(decoding(Dtype::F32, [2, 70], heads), "float32 2 x 70 tokens, 4 on 2 heads of 64");
        assert_eq!(samples(Dtype::F32, [2, 70, 8], heads), "float32 2 samples of 70+8 tokens, 4 on 2 heads of 64");
    }
}
