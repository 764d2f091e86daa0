use super::*;
use crate::base::rng::{Rng, Stream};
use crate::model::config::{Config, Family, preset};
use crate::ops::check::gpus;

pub(in crate::infer) const CONTEXT: usize = 300;
pub(in crate::infer) const LABELS: [i32; 2] = [32, 33];

/// A random model whose sizes are no multiples of any block.
pub(in crate::infer) fn model(family: Family, head: HeadKind, dtype: Dtype) -> Model {
    let shape = preset::Shape {
        vocab: Some(300),
        width: Some(72),
        layers: Some(2),
        heads: Some(4),
        kv_heads: Some(2),
        head_size: Some(24),
        ffn: Some(130),
        max_positions: Some(1000),
        init_std: Some(0.15),
        ..Default::default()
    };
    let mut config = Config::family_shape(family, &shape).unwrap();
    config.head = head;
    Model::random(config, dtype, 4).unwrap()
}

pub(in crate::infer) fn text(seed: u64, len: usize) -> Vec<i32> {
    let rng = Rng::new(7, Stream::Test, seed);
    (0..len as u64).map(|t| rng.below(t, 300) as i32).collect()
}

/// Beginnings of one text, cut at every place in a block of keys and a few beyond, each with an end of its own; and the text itself.
fn cut_everywhere() -> Vec<Vec<i32>> {
    let whole = text(0, CONTEXT);
    let cut = |n: usize| [&whole[..n], &text(n as u64, 1 + n % 5)].concat();
    let mut prompts: Vec<Vec<i32>> = (1..130).chain([191, 193, 256, 257, 290]).map(cut).collect();
    prompts.push(whole);
    prompts
}

/// Judge prompts of all ordered pairs of `n` answers of different lengths.
pub(in crate::infer) fn round_robin(n: usize, prompt: usize) -> Vec<Vec<i32>> {
    let (question, close) = (text(1, prompt), text(2, 5));
    let answer = |i: usize| text(10 + i as u64, 3 + 17 * i % 29);
    let pair = |i, j| [question.clone(), answer(i), vec![9], answer(j), close.clone()].concat();
    (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect()
}

fn verdicts(
    dev: &Device,
    model: &Model,
    prompts: &[Vec<i32>],
    pass: usize,
    sharing: Sharing,
) -> (Vec<[u32; 3]>, Tokens) {
    let mut scorer = Scorer::new(dev, model, Shape { context: CONTEXT, pass }).unwrap();
    scorer.share(sharing);
    let found = scorer.verdicts(prompts, LABELS).unwrap();
    let bits = found.iter().map(|v| [v.logits[0], v.logits[1], v.lse].map(f32::to_bits)).collect();
    (bits, scorer.tokens())
}

#[test]
fn sharing_changes_no_bit_wherever_prompts_part() {
    for (family, dtype) in [(Family::Qwen3, Dtype::F32), (Family::Llama, Dtype::Bf16), (Family::Qwen2, Dtype::F64)] {
        let model = model(family, HeadKind::LanguageModel, dtype);
        for prompts in [cut_everywhere(), round_robin(6, 100)] {
            let prompts = [&prompts[..], &prompts[..3]].concat();
            let alone: Vec<[u32; 3]> = prompts
                .iter()
                .flat_map(|p| verdicts(&Device::cpu(1), &model, std::slice::from_ref(p), 64, Sharing::Never).0)
                .collect();
            assert!(alone[1..].iter().any(|v| *v != alone[0]), "the prompts are told apart");
            let computed = Trie::new(&prompts).tokens();
            let ways = if dtype == Dtype::F64 { &[(2, 100)][..] } else { &[(1, 17), (2, 128), (2, 4096)] };
            for &(threads, pass) in ways {
                let (found, tokens) = verdicts(&Device::cpu(threads), &model, &prompts, pass, Sharing::Always);
                assert!(found == alone, "{family:?} {dtype}, {threads} threads, passes of {pass}");
                assert_eq!(tokens, computed, "every token of the trie once, whatever the pass");
            }
        }
    }
}

#[test]
fn prompts_share_where_it_pays() {
    let (dev, model) = (Device::cpu(2), model(Family::Llama, HeadKind::LanguageModel, Dtype::F32));
    let strangers: Vec<Vec<i32>> = (0..5).map(|i| text(20 + i, 40)).collect();
    let ranking = round_robin(5, 50);
    for (prompts, shares) in [(&strangers, false), (&ranking, true)] {
        let [paying, always, never] = [Sharing::WherePaying, Sharing::Always, Sharing::Never]
            .map(|sharing| verdicts(&dev, &model, prompts, 200, sharing));
        assert_eq!(paying.1, if shares { always.1 } else { never.1 });
        assert_eq!(never.1.computed, never.1.flat);
        assert!((always.1.computed < always.1.flat) == shares);
        assert!(paying.0 == never.0 && always.0 == never.0);
    }
}

#[test]
fn conversations_share_too() {
    let model = model(Family::Qwen2, HeadKind::Scalar, Dtype::F32);
    let conversations: Vec<Vec<i32>> = (0..9).map(|i| [text(1, 70), text(30 + i, 4 + i as usize)].concat()).collect();
    let rewards = |sharing| {
        let dev = Device::cpu(2);
        let mut scorer = Scorer::new(&dev, &model, Shape { context: CONTEXT, pass: 50 }).unwrap();
        scorer.share(sharing);
        let bits: Vec<u32> = scorer.rewards(&conversations).unwrap().into_iter().map(f32::to_bits).collect();
        (bits, scorer.tokens().computed)
    };
    let (shared, flat) = (rewards(Sharing::WherePaying), rewards(Sharing::Never));
    assert_eq!(shared.0, flat.0);
    assert!(shared.1 * 3 < flat.1, "{} of {}", shared.1, flat.1);
}

#[test]
fn sharing_changes_no_bit_on_gpus() {
    for (called, dev) in gpus() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = model(Family::Qwen3, HeadKind::LanguageModel, dtype).on(&dev).unwrap();
            let prompts = [round_robin(3, 70), vec![text(1, 70), text(1, 33)]].concat();
            let flat = verdicts(&dev, &model, &prompts, 200, Sharing::Never).0;
            for pass in [40, 300] {
                let (shared, tokens) = verdicts(&dev, &model, &prompts, pass, Sharing::Always);
                assert!(shared == flat, "{called} {dtype}, passes of {pass}");
                assert_eq!(tokens, Trie::new(&prompts).tokens());
            }
        }
    }
}
