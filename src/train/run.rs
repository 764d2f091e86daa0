//! A whole training run: what `gramophone train run.toml` does.
//!
//! ```text
//! read and encode the data -> open the model (or the newest checkpoint) -> plan the memory
//! each step: its examples (a function of the seed and the step) -> trainer -> log
//! now and then: evaluate, checkpoint; at the end, or when told to stop: checkpoint
//! ```
//! A checkpoint directory is a model directory: the weights and the tokenizer as any other program loads them, beside the
//! optimizer's state, the run file as it was understood, and `state.json`. Of a run that trains an adapter it is an adapter
//! directory, with the same beside.

mod adapter;

use super::checkpoint::{self, State};
use super::config::{self, Precision, Recompute, Run, Stage};
use super::data::{Data, Evaluation};
use super::log::{Log, LogFiles, Record, Sink, progress_line};
use super::objective::{self, Over, Reduction};
use super::optim::{self, Method};
use super::order::Order;
use super::pass::Tally;
use super::plan::Plan;
use super::schedule::Schedule;
use super::trainer::{self, Report, Shape, Trainer};
use crate::base::atomic::write_file;
use crate::base::dtype::Dtype;
use crate::device::{Arena, Device, Layout};
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::model::acts::{Acts, Keep};
use crate::model::config::preset;
use crate::model::config::{Config, Family, HeadKind};
use crate::model::lora;
use crate::ops::gemm::gemm_nt;
use crate::text::corpus::Corpus;
use crate::text::encode::Item;
use crate::text::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    pub step: u64,
    pub total_steps: u64,
    /// It was told to stop before the end.
    pub stopped: bool,
    /// Training examples, over-long ones left out.
    pub examples: usize,
    /// All rows of its log.
    pub records: Vec<Record>,
}

/// Runs to the end, or until `stop` says so; then, too, a checkpoint is written first.
///
/// # Errors
/// What is wrong with the data, the model or the memory, before the first step; a loss that is not finite, with its
/// step; a disk that is full. The last checkpoint stays usable.
pub fn run(dev: &Device, run: &Run, sink: &mut dyn Sink, stop: &dyn Fn() -> bool) -> Result<Finished> {
    let mut session = Session::open(dev, run, sink)?;
    let mut stopped = false;
    while session.state.step < session.total {
        if stop() {
            stopped = true;
            break;
        }
        session.step(sink)?;
    }
    let checkpoint = session.save()?;
    if stopped {
        sink.note(&format!(
            "stopped at step {} of {}; the same command goes on from there",
            session.state.step, session.total
        ));
    }
    Ok(Finished {
        checkpoint,
        step: session.state.step,
        total_steps: session.total,
        examples: session.data.train.len(),
        stopped,
        records: session.log.records().to_vec(),
    })
}

/// The memory plan of a run on a device with so many free bytes, without reading its data or its weights.
///
/// # Errors
/// A model directory or shape that cannot be used.
pub fn plan(run: &Run, available: Option<usize>) -> Result<Plan> {
    let config = match (&run.model.path, shape_of(run)?) {
        (Some(path), _) => {
            let mut config = Config::open(path)?;
            config.head = head(run);
            config
        }
        (None, Some(config)) => config,
        (None, None) => return Err(no_model()),
    };
    let dtype = dtype(run, config.dtype);
    let shape = adapter::wanted(run)?.map(|peft| peft.resolve(&config, "lora")).transpose()?;
    plan_of(run, &config, dtype, shape.as_ref(), available)
}

/// The memory plan of a run, were it of a model of this shape, on a device with so many free bytes.
///
/// # Errors
/// Settings that do not go with the type of the weights.
pub fn plan_shape(run: &Run, config: &Config, available: Option<usize>) -> Result<Plan> {
    let mut config = config.clone();
    config.head = head(run);
    let shape = adapter::wanted(run)?.map(|peft| peft.resolve(&config, "lora")).transpose()?;
    plan_of(run, &config, dtype(run, config.dtype), shape.as_ref(), available)
}

/// Measures the model that a run starts from on the run's evaluation examples.
///
/// # Errors
/// As [`run`], before its first step; a run without `data.eval`.
pub fn evaluate(dev: &Device, run: &Run, sink: &mut dyn Sink) -> Result<Record> {
    let tokenizer = Arc::new(Tokenizer::open(&tokenizer_dir(run)?)?);
    let Evaluation { examples, labels, notes } = dev.install(|| Evaluation::open(run, tokenizer.clone()))?;
    notes.iter().for_each(|note| sink.note(note));
    let model = open_model(run, None, &tokenizer, sink)?.on(dev)?;
    let shape = Shape { keep: Keep::Nothing, ..step_shape(run, labels, tokenizer.pad()) };
    let acts = Acts::new(dev, &model.config, model.dtype, shape.capacity(model.ranks()))?;
    let mut record = Record::default();
    measure(run, &examples, &mut record, |items| trainer::evaluate(dev, &model, &acts, &shape, items))?;
    Ok(record)
}

/// A run under way.
struct Session<'a> {
    run: &'a Run,
    data: Data,
    trainer: Trainer<'a>,
    order: Order,
    schedule: Schedule,
    total: u64,
    log: Log,
    state: State,
    saved: Option<PathBuf>,
    /// What this session adds to `state.elapsed`.
    started: Instant,
    before: f64,
    window: Window,
    peak: f64,
}

/// What happened since the last row of the log.
struct Window {
    since: Instant,
    tally: Tally,
    steps: u64,
}

impl Window {
    fn new() -> Window {
        Window { since: Instant::now(), tally: Tally::default(), steps: 0 }
    }
}

impl<'a> Session<'a> {
    fn open(dev: &'a Device, run: &'a Run, sink: &mut dyn Sink) -> Result<Session<'a>> {
        let found = checkpoint::find(&run.checkpoint.dir, &run.checkpoint.resume)?;
        let tokenizer = Arc::new(Tokenizer::open(&tokenizer_dir(run)?)?);
        let data = dev.install(|| Data::open(run, tokenizer.clone()))?;
        data.notes.iter().for_each(|note| sink.note(note));
        let resumed = found.as_ref().map(|f| f.dir.clone());
        let model = open_model(run, resumed.as_deref(), &tokenizer, sink)?;
        let adapter = model.adapter.as_ref().map(|a| &a.shape);
        let plan = plan_of(run, &model.config, model.dtype, adapter, dev.free_memory())?;
        if let Err(error) = plan.check() {
            plan.table().lines().for_each(|line| sink.note(line));
            return Err(error);
        }
        sink.note(&format!(
            "model: {} parameters, {}, {}; {}",
            model.parameters(),
            model.config.family.name(),
            model.dtype,
            dev.name()
        ));
        if let Some(adapter) = &model.adapter {
            sink.note(&format!("adapter: {} parameters are trained, the model is frozen", adapter.parameters()));
        }
        let steps = shape(run, &data, &tokenizer);
        // Measured before there is anything else, in memory that the rest is for afterwards.
        let opened = peak_flops(dev).and_then(|peak| {
            let trainer = Trainer::new(dev, model.on(dev)?, optimizer_settings(run), steps)?;
            Ok((peak, trainer))
        });
        // Another process may have taken what was free a moment ago.
        let (peak, mut trainer) = opened.inspect_err(|error| {
            if error.kind() == Kind::Device {
                plan.table().lines().for_each(|line| sink.note(line));
            }
        })?;
        let mut state = State { config_hash: run.config_hash(), ..State::default() };
        if let Some(found) = &found {
            found.damaged.iter().for_each(|e| sink.note(&format!("passed over a damaged checkpoint: {e}")));
            note_changes(run, found, sink);
            trainer.optimizer.load(dev, &found.dir)?;
            trainer.step = found.state.step;
            state = State { config_hash: run.config_hash(), ..found.state.clone() };
            sink.note(&format!("resumed at step {} from {}", state.step, found.dir.display()));
        }
        let total = run.total_steps(data.train.len() as u64);
        let batch = run.train.batch as usize;
        let order = Order::new(data.train.len(), batch, (total as usize).saturating_mul(batch), run.shuffle_seed());
        let files = LogFiles { csv: run.log.csv, tensorboard: run.log.tensorboard };
        let log = Log::open(run.log_dir(), files, found.as_ref().map(|f| f.state.step))?;
        Ok(Session {
            run,
            data,
            trainer,
            order,
            schedule: run.schedule(total)?,
            total,
            log,
            before: state.elapsed,
            state,
            saved: resumed,
            started: Instant::now(),
            window: Window::new(),
            peak,
        })
    }

    /// One step, and what is due after it.
    fn step(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let lr = self.schedule.lr(self.state.step);
        let items = self.items()?;
        let report = self.trainer.step(&items, lr).map_err(|e| self.mention_checkpoint(e))?;
        self.state.step += 1;
        self.state.examples += items.len() as u64;
        self.state.tokens += report.tally.tokens as u64;
        self.state.elapsed = self.before + self.started.elapsed().as_secs_f64();
        self.window.tally.add(report.tally);
        self.window.steps += 1;
        self.saved = None;
        let (step, last) = (self.state.step, self.state.step == self.total);
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let evaluate = self.data.eval.is_some() && (last || due(self.run.eval.every));
        if last || evaluate || due(self.run.log.every) {
            self.record(report, lr, evaluate, sink)?;
        }
        if due(self.run.checkpoint.every) {
            self.save()?;
        }
        Ok(())
    }

    /// The encoded examples of the next step.
    fn items(&mut self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (epoch, examples) in self.order.step(self.state.step as usize) {
            items.extend(self.data.train.items(&examples, epoch)?);
        }
        Ok(items)
    }

    fn record(&mut self, report: Report, lr: f64, evaluate: bool, sink: &mut dyn Sink) -> Result<()> {
        let window = std::mem::replace(&mut self.window, Window::new());
        let seconds = window.since.elapsed().as_secs_f64();
        // Forward, gradients of inputs, gradients of weights; a frozen model has none of the last.
        let passes = if self.trainer.model.adapter.is_some() { 2.0 } else { 3.0 };
        let passes = passes + if self.run.train.recompute == Recompute::Layer { 1.0 } else { 0.0 };
        let mut record = Record {
            step: self.state.step,
            total_steps: self.total,
            epoch: self.order.epochs(self.state.step as usize),
            tokens: self.state.tokens,
            elapsed: self.state.elapsed,
            loss: Some(window.tally.loss / window.steps as f64),
            accuracy: window.tally.accuracy(),
            lr: Some(lr),
            grad_norm: Some(report.norm),
            throughput: Some(window.tally.tokens as f64 / seconds),
            peak: Some(passes * window.tally.flops / seconds / self.peak),
            ..Record::default()
        };
        if evaluate {
            self.evaluate(&mut record)?;
            self.window.since = Instant::now();
        }
        self.log.write(&record)?;
        sink.record(&record, &progress_line(&record));
        Ok(())
    }

    fn evaluate(&self, record: &mut Record) -> Result<()> {
        match &self.data.eval {
            Some(eval) => measure(self.run, eval, record, |items| self.trainer.evaluate(items)),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint, unless this step's is there already.
    fn save(&mut self) -> Result<PathBuf> {
        if let Some(saved) = &self.saved {
            return Ok(saved.clone());
        }
        let (run, trainer, tokenizer) = (self.run, &self.trainer, self.data.train.encoder().chat.tokenizer());
        let dir = checkpoint::save(&run.checkpoint.dir, &self.state, run.retention(), |dir| {
            trainer.model.save(dir)?;
            tokenizer.save(dir)?;
            trainer.optimizer.save(dir)?;
            write_file(dir.join(RUN_FILE), run.explain().as_bytes())
        })?;
        self.saved = Some(dir.clone());
        Ok(dir)
    }

    fn mention_checkpoint(&self, e: Error) -> Error {
        let kept = match checkpoint::latest(&self.run.checkpoint.dir) {
            Ok(found) => format!("; the checkpoint {} is untouched", found.dir.display()),
            Err(_) => "; no checkpoint had been written yet".to_string(),
        };
        Error::new(e.kind(), format!("{e}{kept}"))
    }
}

/// Measures the evaluation examples. Preferences come in both orders, one after the other: a pair is right when the
/// right side leads over both orders together, and consistent when it leads or trails in both.
fn measure(
    run: &Run,
    eval: &Corpus,
    record: &mut Record,
    evaluate: impl Fn(&[Item]) -> Result<(Tally, Vec<f64>)>,
) -> Result<()> {
    let all: Vec<u32> = (0..eval.len() as u32).collect();
    let (mut tally, mut leads) = (Tally::default(), Vec::new());
    for chunk in all.chunks(256) {
        let (part, more) = evaluate(&eval.items(chunk, 0)?)?;
        tally.add(part);
        leads.extend(more);
    }
    record.eval_loss = Some(tally.mean_nll());
    let both = run.train.stage == Stage::Finetune && leads.len() == eval.len() && in_both_orders(eval);
    let share = |n: usize, of: usize| (of > 0).then(|| n as f64 / of as f64);
    if both {
        let pairs = leads.chunks(2);
        record.eval_accuracy = share(pairs.clone().filter(|p| p[0] + p[1] > 0.0).count(), pairs.len());
        record.eval_consistency = share(pairs.clone().filter(|p| p[0] * p[1] > 0.0).count(), pairs.len());
    } else {
        record.eval_accuracy = share(tally.correct, tally.judged);
    }
    Ok(())
}

/// The run file inside a checkpoint.
const RUN_FILE: &str = "run.toml";

/// Whether a corpus holds every pair twice, as [`Orders::Both`](crate::text::corpus::Orders) makes it.
fn in_both_orders(corpus: &Corpus) -> bool {
    corpus.len().is_multiple_of(2)
        && (0..corpus.len()).step_by(2).all(|i| corpus.record(i).place == corpus.record(i + 1).place)
}

/// Says which settings differ from those of the checkpoint.
fn note_changes(run: &Run, found: &checkpoint::Found, sink: &mut dyn Sink) {
    if found.state.config_hash == run.config_hash() {
        return;
    }
    let path = found.dir.join(RUN_FILE);
    let changes = match Run::load(&path, &[]) {
        Ok(before) => run.differences(&before).join("; "),
        Err(e) => format!("it cannot be read: {e}"),
    };
    sink.note(&format!("the run file is not the checkpoint's any more ({changes}); going on with the new one"));
}

fn open_model(
    run: &Run,
    resumed: Option<&std::path::Path>,
    tokenizer: &Tokenizer,
    sink: &mut dyn Sink,
) -> Result<Model> {
    let model = match (resumed.or(run.model.path.as_deref()), shape_of(run)?) {
        (Some(_), _) if let Some(peft) = adapter::of(run, resumed)? => adapter::open(run, peft, resumed, sink)?,
        (Some(dir), _) => {
            let (model, drawn) = Model::open_to_train(dir, |stored| dtype(run, stored), head(run), run.train.seed)?;
            note_drawn(&drawn, sink);
            model
        }
        (None, Some(config)) => {
            let dtype = dtype(run, config.dtype);
            Model::random(config, dtype, run.train.seed)?
        }
        (None, None) => return Err(no_model()),
    };
    if tokenizer.vocab_size() > model.config.vocab {
        return Err(Error::model(format!(
            "the tokenizer has {} tokens but the model only {}; they do not belong together",
            tokenizer.vocab_size(),
            model.config.vocab
        )));
    }
    Ok(model)
}

fn note_drawn(drawn: &[String], sink: &mut dyn Sink) {
    if !drawn.is_empty() {
        sink.note(&format!("{} is new and starts from random weights", drawn.join(", ")));
    }
}

/// The shape of a run that starts from random weights.
fn shape_of(run: &Run) -> Result<Option<Config>> {
    let m = &run.model;
    let mut config = match (&m.config, m.family) {
        (Some(path), _) => {
            let json = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            Config::parse(&json, &path.display().to_string())?
        }
        (None, Some(family)) => {
            let size = |n: Option<u64>| n.map(|n| n as usize);
            let vocab = Tokenizer::open(&tokenizer_dir(run)?)?.vocab_size();
            let shape = preset::Shape {
                vocab: Some(vocab),
                width: size(m.hidden),
                layers: size(m.layers),
                heads: size(m.heads),
                kv_heads: size(m.kv_heads),
                ffn: size(m.ffn),
                ..preset::Shape::default()
            };
            let family = match family {
                config::Family::Llama => Family::Llama,
                config::Family::Qwen2 => Family::Qwen2,
                config::Family::Qwen3 => Family::Qwen3,
            };
            Config::family_shape(family, &shape)?
        }
        (None, None) => return Ok(None),
    };
    config.check_new()?;
    config.head = head(run);
    Ok(Some(config))
}

/// The directory of the run's tokenizer.
///
/// # Errors
/// It names none.
pub fn tokenizer_dir(run: &Run) -> Result<PathBuf> {
    let dir = run.model.tokenizer.as_ref().or(run.model.path.as_ref());
    dir.cloned().ok_or_else(|| Error::usage("a model from random weights needs model.tokenizer, a tokenizer directory"))
}

fn no_model() -> Error {
    Error::usage("the run names no model: set model.path, model.config or model.family")
}

fn head(run: &Run) -> HeadKind {
    match run.train.stage {
        Stage::Scalar => HeadKind::Scalar,
        Stage::Pretrain | Stage::Finetune | Stage::Sft | Stage::Prove => HeadKind::LanguageModel,
    }
}

fn dtype(run: &Run, stored: Dtype) -> Dtype {
    match run.model.dtype {
        Precision::Auto => stored,
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::Bf16,
    }
}

fn keep(run: &Run) -> Keep {
    match run.train.recompute {
        Recompute::None => Keep::All,
        Recompute::Cheap => Keep::Costly,
        Recompute::Layer => Keep::Doors,
    }
}

/// The shape of the run's steps; `labels` and `pad` matter for its objective only.
fn step_shape(run: &Run, labels: [i32; 2], pad: Option<i32>) -> Shape {
    let train = &run.train;
    Shape {
        micro_tokens: train.micro_tokens as usize,
        keep: keep(run),
        objective: objective::Settings {
            labels,
            smoothing: train.epsilon as f32,
            over: match train.verdict {
                config::Verdict::Candidates => Over::Candidates,
                config::Verdict::Vocabulary => Over::Vocabulary,
            },
            reduction: match train.reduction {
                config::Reduction::Mean => Reduction::Mean,
                config::Reduction::GramCompat => Reduction::GramCompat,
            },
            pad,
        },
    }
}

fn shape(run: &Run, data: &Data, tokenizer: &Tokenizer) -> Shape {
    step_shape(run, data.labels, tokenizer.pad())
}

fn plan_of(
    run: &Run,
    config: &Config,
    dtype: Dtype,
    adapter: Option<&lora::Shape>,
    available: Option<usize>,
) -> Result<Plan> {
    let settings = optimizer_settings(run);
    settings.check(dtype)?;
    let shape = step_shape(run, [0, 0], None);
    let ranks = adapter.map_or([0; 7], lora::Shape::ranks);
    let capacity = |tokens| Shape { micro_tokens: tokens, ..shape }.capacity(ranks);
    Ok(Plan::new(config, dtype, adapter, &settings, (keep(run), shape.micro_tokens), capacity, available))
}

fn optimizer_settings(run: &Run) -> optim::Settings {
    let t = &run.train;
    optim::Settings {
        method: match t.optimizer {
            config::Optimizer::Adamw => Method::AdamW,
            config::Optimizer::AdamwSr => Method::AdamWSr,
            config::Optimizer::Adamw8bit => Method::AdamW8bit,
            config::Optimizer::Muon => Method::Muon { momentum: t.muon_momentum, rate: t.muon_rate },
        },
        beta1: t.beta1,
        beta2: t.beta2,
        eps: t.eps,
        weight_decay: t.weight_decay,
        clip: if t.clip > 0.0 { t.clip } else { f64::INFINITY },
        gradients: match t.gradients {
            config::Gradients::F32 => Dtype::F32,
            config::Gradients::Bf16 => Dtype::Bf16,
        },
        seed: t.seed,
    }
}

/// Operations a second that this device reaches in a matrix product of a friendly size, measured here and now.
fn peak_flops(dev: &Device) -> Result<f64> {
    const N: usize = 768;
    let mut l = Layout::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| l.buffer(name, Dtype::F32, N, N));
    let arena = Arena::new(dev, "the measurement of the peak", &l)?;
    let (mut best, begun) = (f64::INFINITY, Instant::now());
    for round in 0..4 {
        // A device that is slow has been measured well enough.
        if round > 0 && begun.elapsed().as_secs_f64() > 0.2 {
            break;
        }
        let start = Instant::now();
        dev.install(|| gemm_nt(dev, arena.at(&c), arena.at(&a), arena.at(&b), None, None));
        dev.sync()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (N * N * N) as f64 / best)
}
