//! What sharing is worth: all ordered pairs of n answers to one prompt, scored flat and as a trie, by a random model of 23.1M parameters.
//! `cargo run --release --example shared_ranking -- [ANSWERS] [PROMPT TOKENS] [ANSWER TOKENS] [ROUNDS] [LAYERS]`

use gramophone::base::dtype::Dtype;
use gramophone::base::rng::{Rng, Stream};
use gramophone::device::Device;
use gramophone::infer::scorer::{Scorer, Shape, Sharing};
use gramophone::infer::trie::Trie;
use gramophone::model::Model;
use gramophone::model::config::{Config, Family, preset};
use std::time::Instant;

/// The words that close a judge prompt.
const CLOSE: usize = 12;

fn main() -> gramophone::Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let of = |i: usize, default: usize| given.get(i).copied().unwrap_or(default);
    let (n, prompt, answer, rounds, layers) = (of(0, 16), of(1, 500), of(2, 400), of(3, 3), of(4, 6));
    let text = |key: usize, len: usize| -> Vec<i32> {
        let rng = Rng::new(1, Stream::Test, key as u64);
        (0..len as u64).map(|t| rng.below(t, 8192) as i32).collect()
    };
    let pair =
        |i: usize, j: usize| [text(0, prompt), text(1 + i, answer), text(1 + j, answer), text(999, CLOSE)].concat();
    let pairs = (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| (i, j)));
    let prompts: Vec<Vec<i32>> = pairs.map(|(i, j)| pair(i, j)).collect();

    let sizes = preset::Shape {
        vocab: Some(8192),
        width: Some(512),
        ffn: Some(1536),
        layers: Some(layers),
        heads: Some(8),
        kv_heads: Some(4),
        head_size: Some(64),
        max_positions: Some(4096),
        tied: Some(true),
        ..Default::default()
    };
    let model = Model::random(Config::family_shape(Family::Qwen3, &sizes)?, Dtype::F32, 1)?;
    let dev = Device::cpu(0);
    let mut scorer = Scorer::new(&dev, &model, Shape { context: 4096, pass: 4096 })?;
    let trie = Trie::new(&prompts).tokens();
    println!(
        "{} prompts, {} tokens; the trie has {}: {:.3}x fewer",
        prompts.len(),
        trie.flat,
        trie.computed,
        trie.ratio()
    );
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let mut timed = |sharing| -> gramophone::Result<_> {
            scorer.share(sharing);
            let (computed, start, busy) = (scorer.tokens().computed, Instant::now(), processor());
            let verdicts = scorer.verdicts(&prompts, [32, 33])?;
            Ok((verdicts, scorer.tokens().computed - computed, start.elapsed().as_secs_f64(), processor() - busy))
        };
        let (flat, all, slow, much) = timed(Sharing::Never)?;
        let (shared, computed, fast, little) = timed(Sharing::WherePaying)?;
        assert_eq!(flat, shared, "the same bits");
        println!("round {round}: flat {slow:.2} s, {all} tokens; shared {fast:.2} s, {computed} tokens; bits equal");
        println!("         {:.3}x by the clock, {:.3}x of the processor's time", slow / fast, much / little);
        ratios.push(slow / fast);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.3}x", ratios[ratios.len() / 2]);
    Ok(())
}

/// Hundredths of a second that this process has used of its processors: what it waited for others does not count.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}
