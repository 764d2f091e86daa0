//! What a pass costs: operations, for progress lines and plans.

use super::config::Config;

/// Multiplications and additions of one forward over sequences of these lengths, with `vocab_rows` rows of vocabulary
/// logits. Products and attention only; a backward costs twice as much again.
pub fn forward_flops(c: &Config, lengths: impl Iterator<Item = usize>, vocab_rows: usize) -> f64 {
    let (d, f) = (c.width as f64, c.ffn as f64);
    let (q, kv) = ((c.heads.query * c.heads.size) as f64, (c.heads.kv * c.heads.size) as f64);
    let per_token = 2.0 * d * (2.0 * q + 2.0 * kv + 3.0 * f);
    let (mut tokens, mut pairs) = (0.0, 0.0);
    for n in lengths {
        tokens += n as f64;
        pairs += n as f64 * (n as f64 + 1.0) / 2.0;
    }
    c.layers as f64 * (per_token * tokens + 4.0 * q * pairs) + 2.0 * d * c.vocab as f64 * vocab_rows as f64
}
