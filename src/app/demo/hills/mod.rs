//! The first chapter: GRAM's two stages in miniature, on made-up hills.
//!
//! ```text
//! world -> tokenizer -> pre-train on unlabelled pairs -> fine-tune on few labels -> judge held-out pairs, both orders
//!                    \-> the same fine-tuning from random weights: the control
//! ```
//! Everything goes through the same code as `gramophone train`, `judge` and `rank`: corpora, trainer, judge.

pub mod outcome;
pub mod world;

use super::Phase;
use crate::base::atomic::{atomic_dir, write_file};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::error::Result;
use crate::infer::scorer;
use crate::model::Model;
use crate::model::acts::Keep;
use crate::model::config::preset::Shape as Sizes;
use crate::model::config::{Config, Family};
use crate::reward::judge::{Judge, Pair, Prompts, Side as Verdict};
use crate::reward::rank::Method;
use crate::text::bpe::Recipe;
use crate::text::chat::Chat;
use crate::text::corpus::{Corpus, Limits, Orders};
use crate::text::encode::{Encoder, Stage};
use crate::text::example::{Example, Record};
use crate::text::message::Message;
use crate::text::source::{OnError, Place, Unit};
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::train::log::Record as LogRecord;
use crate::train::objective::{self, Over, Reduction};
use crate::train::optim;
use crate::train::order::Order;
use crate::train::schedule::{Schedule, Shape as Curve};
use crate::train::trainer::{Shape, Trainer};
use outcome::{Outcome, Placed, Ranked, Score, Shown, Trained};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use world::{Item, List, Response, World};

/// Sizes of the chapter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hills {
    pub seed: u64,
    pub vocab: usize,
    pub layers: usize,
    pub unlabelled: usize,
    pub labelled: usize,
    pub held_out: usize,
    pub pretrain: Phase,
    pub finetune: Phase,
}

impl Default for Hills {
    fn default() -> Hills {
        Hills {
            seed: 1,
            vocab: 1024,
            layers: 2,
            unlabelled: 51200,
            labelled: 200,
            held_out: 1000,
            pretrain: Phase { steps: 1600, batch: 32, lr: 4e-3 },
            finetune: Phase { steps: 600, batch: 32, lr: 1e-3 },
        }
    }
}

/// The judge prompt of the demo: the papers' structure without the instruction, which a model from scratch cannot read.
const TEMPLATE: &str = include_str!("judge.txt");

/// What all phases share.
struct Bench<'d> {
    dev: &'d Device,
    settings: Hills,
    world: World,
    encoder: Encoder,
    config: Config,
    prompts: Prompts,
}

/// Runs the chapter into `out`; `say` hears what happens, one line at a time.
///
/// # Errors
/// What the file system refuses; training that leaves the finite numbers.
pub fn run(dev: &Device, settings: Hills, out: &Path, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let start = Instant::now();
    let world = World::new(settings.seed);
    let unlabelled = world.unlabelled(settings.unlabelled);
    let tokenizer = Arc::new(tokenizer(&unlabelled, settings.vocab)?);
    let bench = Bench::new(dev, settings, world, tokenizer.clone())?;
    say(&format!(
        "world      {} unlabelled pairs, {} labelled, {} held out; tokenizer of {} tokens",
        settings.unlabelled,
        settings.labelled,
        settings.held_out,
        tokenizer.vocab_size()
    ));
    let model = Model::random(bench.config.clone(), Dtype::F32, settings.seed)?;
    let parameters = model.parameters();
    let pretraining = Instant::now();
    let unlabelled_pairs = bench.corpus(Stage::Pretrain, &unlabelled)?;
    let (model, curve) = bench.train(model, &unlabelled_pairs, settings.pretrain, "pre-train", say)?;
    let pretraining_seconds = pretraining.elapsed().as_secs_f64();
    let labelled = bench.world.labelled(settings.labelled);
    let labels = bench.corpus(Stage::Finetune, &labelled)?;
    let scratch = Model::random(bench.config.clone(), Dtype::F32, settings.seed)?;
    let (judge, pretrained) = bench.judge(model, &labels, "fine-tune", say)?;
    let (_, scratch) = bench.judge(scratch, &labels, "control", say)?;
    let ranked = bench.rank(&judge)?;
    let shown = Shown { unlabelled: unlabelled[0].clone(), labelled: labelled[0].clone() };
    let path = out.join("model");
    atomic_dir(&path, |dir| {
        judge.save(dir)?;
        tokenizer.save(dir)
    })?;
    write_file(out.join("judge.txt"), TEMPLATE.as_bytes())?;
    write_file(out.join("pairs.jsonl"), pairs(&bench.world.held_out(settings.held_out)).as_bytes())?;
    write_file(out.join("lists.jsonl"), list(&bench.world.list()).as_bytes())?;
    Ok(Outcome {
        settings,
        parameters,
        vocab: tokenizer.vocab_size(),
        pretraining: curve,
        pretraining_seconds,
        pretrained,
        scratch,
        ranked,
        shown,
        seconds: start.elapsed().as_secs_f64(),
        model: path,
    })
}

/// A byte-level BPE tokenizer of the world's own text.
fn tokenizer(pairs: &[Item], vocab: usize) -> Result<Tokenizer> {
    let template = JudgeTemplate::parse("demo", TEMPLATE)?;
    let texts: Vec<String> = pairs.iter().map(|p| template.fill(&p.prompt, &p.right, &p.wrong)).collect();
    Tokenizer::train(texts.iter().map(String::as_str), &Recipe::new(vocab))
}

/// Held-out pairs as rows for `gramophone judge`, right answers as response_a in even rows.
fn pairs(items: &[Item]) -> String {
    let row = |(i, item): (usize, &Item)| {
        let (a, b) = if i % 2 == 0 { (&item.right, &item.wrong) } else { (&item.wrong, &item.right) };
        json!({"id": i, "prompt": item.prompt, "response_a": a, "response_b": b}).to_string() + "\n"
    };
    items.iter().enumerate().map(row).collect()
}

/// The list as a row for `gramophone rank`.
fn list(list: &List) -> String {
    let responses: Vec<&str> = list.responses.iter().map(|r| r.text.as_str()).collect();
    json!({"id": 0, "prompt": list.prompt, "responses": responses}).to_string() + "\n"
}

impl<'d> Bench<'d> {
    fn new(dev: &'d Device, settings: Hills, world: World, tokenizer: Arc<Tokenizer>) -> Result<Bench<'d>> {
        let sizes = Sizes {
            vocab: Some(tokenizer.vocab_size().next_multiple_of(16)),
            width: Some(64),
            layers: Some(settings.layers),
            heads: Some(4),
            kv_heads: Some(4),
            head_size: Some(16),
            ffn: Some(160),
            max_positions: Some(512),
            tied: Some(true),
            rope_theta: Some(1e4),
            init_std: Some(0.125),
            ..Sizes::default()
        };
        let mut config = Config::family_shape(Family::Qwen3, &sizes)?;
        config.eos = tokenizer.stop().to_vec();
        config.pad = tokenizer.pad();
        let chat = Chat::of(tokenizer)?;
        let template = JudgeTemplate::parse("demo", TEMPLATE)?;
        let encoder = Encoder { chat: chat.clone(), template: template.clone(), stage: Stage::Pretrain };
        let prompts = Prompts::new(chat, template)?;
        Ok(Bench { dev, settings, world, encoder, config, prompts })
    }

    fn corpus(&self, stage: Stage, items: &[Item]) -> Result<Corpus> {
        let encoder = Encoder { stage, ..self.encoder.clone() };
        let limits = Limits {
            max_tokens: self.config.max_positions,
            on_error: OnError::Fail,
            orders: Orders::Drawn,
            seed: self.settings.seed,
        };
        let records = items.iter().enumerate().map(|(i, item)| record(stage, i, item)).collect();
        self.dev.install(|| Corpus::new(encoder, records, &limits))
    }

    /// Trains a model on a corpus for one phase.
    fn train(
        &self,
        model: Model,
        corpus: &Corpus,
        phase: Phase,
        name: &str,
        say: &mut dyn FnMut(&str),
    ) -> Result<(Model, Vec<LogRecord>)> {
        let settings = optim::Settings {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            ..optim::Settings::ADAMW
        };
        let objective = objective::Settings {
            labels: [self.prompts.labels.a, self.prompts.labels.b],
            smoothing: 0.05,
            over: Over::Candidates,
            reduction: Reduction::Mean,
            pad: self.config.pad,
        };
        let micro_tokens = (phase.batch * corpus.longest()).min(4096).max(corpus.longest());
        let shape = Shape { micro_tokens, keep: Keep::All, objective };
        let mut trainer = Trainer::new(self.dev, model, settings, shape)?;
        let mut order = Order::new(corpus.len(), phase.batch, phase.steps * phase.batch, self.settings.seed);
        let total = phase.steps as u64;
        let schedule = Schedule::new(Curve::Cosine, phase.lr, 0.1, 20.min(total / 4), total)?;
        let (start, mut curve, mut tokens) = (Instant::now(), Vec::new(), 0);
        for step in 0..phase.steps {
            let mut items = Vec::new();
            for (epoch, examples) in order.step(step) {
                items.extend(self.dev.install(|| corpus.items(&examples, epoch))?);
            }
            let report = trainer.step(&items, schedule.lr(step as u64))?;
            tokens += report.tally.tokens as u64;
            let elapsed = start.elapsed().as_secs_f64();
            curve.push(LogRecord {
                step: step as u64 + 1,
                total_steps: total,
                epoch: order.epochs(step + 1),
                tokens,
                elapsed,
                loss: Some(report.tally.loss),
                accuracy: report.tally.accuracy(),
                lr: Some(schedule.lr(step as u64)),
                grad_norm: Some(report.norm),
                throughput: Some(tokens as f64 / elapsed),
                ..LogRecord::default()
            });
            if (step + 1) % phase.steps.div_ceil(8).max(50) == 0 || step + 1 == phase.steps {
                let last = &curve[curve.len().saturating_sub(20)..];
                let loss = last.iter().filter_map(|r| r.loss).sum::<f64>() / last.len() as f64;
                let pace = tokens as f64 / elapsed;
                say(&format!("{name:<11}step {:>4}/{total}  loss {loss:.4}  {pace:.0} tokens/s", step + 1));
            }
        }
        Ok((trainer.into_model(), curve))
    }

    /// Fine-tunes a model into a judge and measures it on the held-out pairs.
    fn judge(&self, model: Model, labels: &Corpus, name: &str, say: &mut dyn FnMut(&str)) -> Result<(Model, Trained)> {
        let start = Instant::now();
        let (model, curve) = self.train(model, labels, self.settings.finetune, name, say)?;
        let seconds = start.elapsed().as_secs_f64();
        let tail = &curve[curve.len().saturating_sub(20)..];
        let loss = tail.iter().filter_map(|r| r.loss).sum::<f64>() / tail.len().max(1) as f64;
        let score = self.score(&model)?;
        Ok((model, Trained { score, loss, curve, seconds }))
    }

    fn score(&self, model: &Model) -> Result<Score> {
        let mut judge = Judge::new(self.dev, model, self.prompts.clone(), self.passes())?;
        let items = self.world.held_out(self.settings.held_out);
        let pair = |i: &Item| Pair { prompt: vec![Message::user(&*i.prompt)], a: i.right.clone(), b: i.wrong.clone() };
        let pairs = items.iter().map(|i| self.prompts.pair(&pair(i))).collect::<Result<Vec<_>>>()?;
        let judged = judge.judge(&pairs)?;
        Ok(Score {
            pairs: judged.len(),
            right: judged.iter().filter(|j| j.verdict == Verdict::A).count(),
            consistent: judged.iter().filter(|j| j.consistent).count(),
        })
    }

    fn rank(&self, model: &Model) -> Result<Ranked> {
        let list = self.world.list();
        let texts: Vec<String> = list.responses.iter().map(|r| r.text.clone()).collect();
        let mut judge = Judge::new(self.dev, model, self.prompts.clone(), self.passes())?;
        let ranking = judge.rank(&[Message::user(&*list.prompt)], &texts, Method::RoundRobin)?;
        let placed = |i: &usize| {
            let Response { text, height } = list.responses[*i].clone();
            let place = 1 + list.responses.iter().filter(|other| other.height > height).count();
            Placed { text, height, score: ranking.scores[*i], place }
        };
        Ok(Ranked { responses: ranking.order.iter().map(placed).collect(), prompt: list.prompt })
    }

    fn passes(&self) -> scorer::Shape {
        scorer::Shape { context: self.config.max_positions, pass: 4096 }
    }
}

fn record(stage: Stage, i: usize, item: &Item) -> Record {
    let prompt = vec![Message::user(&*item.prompt)];
    let (right, wrong) = (item.right.clone(), item.wrong.clone());
    let example = match stage {
        Stage::Pretrain => Example::Unlabelled { prompt, a: right, b: wrong },
        _ => Example::Pair { prompt, chosen: right, rejected: wrong, margin: None },
    };
    Record {
        id: Value::from(i),
        place: Place { file: "the demo's world".into(), number: i as u64 + 1, unit: Unit::Row },
        example,
    }
}
