//! The engine's side of the comparison with PyTorch: the same token ids, the same model, the same JSON.
//!
//! `cargo run --release --example peer_engine -- train|judge --work target/peers --threads 2`

use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::HeadKind;
use gramophone::text::encode::Item;
use gramophone::train::objective::{Over, Reduction, Settings};
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let flag = |name: &str, default: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default.to_string(), String::clone)
    };
    let work = PathBuf::from(flag("--work", "target/peers"));
    let threads: usize = flag("--threads", "1").parse()?;
    let dev = Device::cpu(threads);
    let result = match arguments.get(1).map(String::as_str) {
        Some("train") => train(&dev, &work, flag("--steps", "10").parse()?, flag("--batch", "4").parse()?)?,
        Some("judge") => judge(&dev, &work, flag("--repeats", "3").parse()?, flag("--pass", "4096").parse()?)?,
        _ => return Err("the first argument is train or judge".into()),
    };
    println!("{}", json!({"result": result, "threads": threads, "peak_rss_mib": peak_rss_mib()}));
    Ok(())
}

/// Steps of AdamW on unpadded batches, next-token loss on every position but the first.
fn train(dev: &Device, work: &Path, steps: usize, batch: usize) -> Fallible<Value> {
    const WARMUP: usize = 2;
    let (model, _) = Model::open_to_train(&work.join("model"), |_| Dtype::F32, HeadKind::LanguageModel, 0)?;
    let settings =
        optim::Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, clip: 1.0, ..optim::Settings::ADAMW };
    let rows: Vec<Vec<i32>> = lines(&work.join("train.jsonl"))?.iter().map(|row| ids(&row["ids"])).collect();
    let objective =
        Settings { labels: [0, 1], smoothing: 0.0, over: Over::Candidates, reduction: Reduction::Mean, pad: None };
    let shape = Shape { micro_tokens: batch * rows[0].len(), keep: Keep::All, objective };
    let mut trainer = Trainer::new(dev, model, settings, shape)?;
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for step in 0..WARMUP + steps {
        let item = |i: usize| Item::Tokens { ids: rows[(step * batch + i) % rows.len()].clone(), start: 1 };
        let items: Vec<Item> = (0..batch).map(item).collect();
        let start = Instant::now();
        losses.push(trainer.step(&items, 1e-4)?.tally.loss);
        if step >= WARMUP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let tokens = (batch * rows[0].len()) as f64;
    Ok(json!({"work": "train", "losses": losses, "tokens_per_s": tokens / median(&mut seconds), "seconds": seconds}))
}

/// Both orders of ragged pairs, packed.
fn judge(dev: &Device, work: &Path, repeats: usize, pass: usize) -> Fallible<Value> {
    let model = Model::open(&work.join("model"), |_| Dtype::F32)?;
    let labels: Value = serde_json::from_str(&std::fs::read_to_string(work.join("labels.json"))?)?;
    let labels = ["A", "B"].map(|l| labels[l].as_i64().unwrap_or(0) as i32);
    let pairs = lines(&work.join("judge.jsonl"))?;
    let prompts: Vec<Vec<i32>> = pairs.iter().flat_map(|p| [ids(&p["ab"]), ids(&p["ba"])]).collect();
    let mut scorer = Scorer::new(dev, &model, scorer::Shape { context: 1024, pass })?;
    let (mut seconds, mut margins) = (Vec::new(), Vec::new());
    for _ in 0..repeats + 1 {
        let start = Instant::now();
        margins = scorer.verdicts(&prompts, labels)?.iter().map(|v| v.margin()).collect();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    let rate = pairs.len() as f64 / median(&mut seconds);
    Ok(json!({"work": "judge", "pairs_per_s": rate, "first_margins": &margins[..2], "seconds": seconds}))
}

fn lines(path: &Path) -> Fallible<Vec<Value>> {
    Ok(std::fs::read_to_string(path)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().map_or(Vec::new(), |list| list.iter().filter_map(|id| Some(id.as_i64()? as i32)).collect())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The high-water mark of resident memory.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}
