//! Whole things: encoding text, a training step, scoring prompts. `cargo bench --bench engine [FILTER]`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::preset::Shape as Sizes;
use gramophone::model::config::{Config, Family};
use gramophone::text::bpe::Recipe;
use gramophone::text::encode::Item;
use gramophone::text::tokenizer::Tokenizer;
use gramophone::train::objective::{Over, Reduction, Settings};
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};

/// A 6M parameter model in Qwen3's shape.
fn model() -> Model {
    let sizes = Sizes {
        vocab: Some(4096),
        width: Some(256),
        layers: Some(4),
        heads: Some(4),
        kv_heads: Some(2),
        head_size: Some(64),
        ffn: Some(768),
        tied: Some(true),
        ..Sizes::default()
    };
    let config = Config::family_shape(Family::Qwen3, &sizes).expect("sizes that fit together");
    Model::random(config, Dtype::F32, 1).expect("memory for a small model")
}

fn tokens(n: usize) -> Vec<i32> {
    (0..n as i32).map(|i| (i * 37 + 11) % 4096).collect()
}

fn text(c: &mut Criterion) {
    let line = "The quick brown fox counts 12345 sheep; it doesn't hurry. Ein Satz, une phrase, 一句话.\n";
    let text = line.repeat(200);
    let tokenizer = Tokenizer::train([text.as_str()].into_iter(), &Recipe::new(600)).expect("a tokenizer");
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |b| b.iter(|| tokenizer.encode(&text).expect("plain text")));
    group.finish();
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step");
    group.sample_size(10);
    for threads in [1, 2] {
        let dev = Device::cpu(threads);
        let optimizer = optim::Settings {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            ..optim::Settings::ADAMW
        };
        let objective =
            Settings { labels: [0, 1], smoothing: 0.0, over: Over::Candidates, reduction: Reduction::Mean, pad: None };
        let shape = Shape { micro_tokens: 1024, keep: Keep::All, objective };
        let mut trainer = Trainer::new(&dev, model(), optimizer, shape).expect("memory");
        let items = vec![Item::Tokens { ids: tokens(512), start: 1 }; 2];
        group.throughput(Throughput::Elements(1024));
        group.bench_function(format!("2 x 512 tokens, {threads} threads"), |b| {
            b.iter(|| trainer.step(&items, 1e-5).expect("a finite loss"))
        });
    }
    group.finish();
}

fn score(c: &mut Criterion) {
    let mut group = c.benchmark_group("scoring");
    group.sample_size(10);
    let model = model();
    for threads in [1, 2] {
        let dev = Device::cpu(threads);
        let shape = scorer::Shape { context: 1024, pass: 4096 };
        let mut scorer = Scorer::new(&dev, &model, shape).expect("memory");
        let prompts: Vec<Vec<i32>> = (0..16).map(|i| tokens(100 + 37 * i)).collect();
        group.throughput(Throughput::Elements(prompts.iter().map(Vec::len).sum::<usize>() as u64));
        group.bench_function(format!("16 ragged prompts, {threads} threads"), |b| {
            b.iter(|| scorer.verdicts(&prompts, [32, 33]).expect("prompts that fit"))
        });
    }
    group.finish();
}

criterion_group!(benches, text, step, score);
criterion_main!(benches);
