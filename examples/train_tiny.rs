//! Teaches a tiny random model to count, step by step, with the trainer alone: `cargo run --release --example train_tiny`.

use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Config, Family};
use gramophone::text::encode::Item;
use gramophone::train::objective::{Over, Reduction, Settings};
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};

fn main() -> gramophone::Result<()> {
    let dev = Device::cpu(0);
    let model = Model::random(Config::tiny(Family::Qwen3), Dtype::F32, 1)?;
    let optimizer =
        optim::Settings { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, clip: 1.0, ..optim::Settings::ADAMW };
    let objective =
        Settings { labels: [0, 1], smoothing: 0.0, over: Over::Candidates, reduction: Reduction::Mean, pad: None };
    let shape = Shape { micro_tokens: 256, keep: Keep::All, objective };
    let mut trainer = Trainer::new(&dev, model, optimizer, shape)?;
    // Every sequence counts up from its first number.
    let items: Vec<Item> = (0..8).map(|n| Item::Tokens { ids: (n..n + 10).collect(), start: 1 }).collect();
    for step in 1..=60 {
        let report = trainer.step(&items, 1e-2)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.4}, gradient norm {:.3}", report.tally.loss, report.norm);
        }
    }
    Ok(())
}
