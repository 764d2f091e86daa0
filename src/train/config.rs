//! The run file: what `gramophone train run.toml [key=value ...]` is told.
//!
//! Every key is named once, in the table `run_file!` below, with its meaning, type, default and range. From that table
//! come the typed [`Run`], the checks, `--print-config` ([`Run::explain`]) and the reference ([`reference()`]). A default
//! in brackets depends on the stage: `[pretrain, finetune, sft, scalar, prove]`. Defaults are GRAM's published ones.

use crate::error::{Error, Result};
use crate::train::checkpoint::{Resume, Retention};
use crate::train::schedule::{Schedule, Shape};
use given::Given;
use key::{Effect::*, run_file};
use setting::{Range::*, Setting, choices};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use toml::Value;

mod check;
mod explain;
pub(crate) mod given;
pub(crate) mod key;
pub(crate) mod setting;

pub use check::ALL_LINEAR;
pub use explain::{Row, reference};
pub(crate) use explain::{digest, reference_of, write};
pub use key::{Key, Origin};
pub use setting::Span;

choices! {
    /// What is learned.
    Stage {
        /// Both responses given the prompt, on unlabelled pairs.
        Pretrain = "pretrain",
        /// The label of the better response, smoothed, between two candidates.
        Finetune = "finetune",
        /// A completion given a prompt, such as a rationale.
        Sft = "sft",
        /// A scalar reward (Bradley-Terry).
        Scalar = "scalar",
        /// The proof of a known label.
        Prove = "prove",
    }
    /// Storage type of weights and activations.
    Precision {
        /// That of the weights on disk.
        Auto = "auto",
        F32 = "f32",
        Bf16 = "bf16",
    }
    /// Architecture of a model with random weights.
    Family { Llama = "llama", Qwen2 = "qwen2", Qwen3 = "qwen3", }
    /// What stands on top of the last layer.
    Head {
        /// As the stage needs it: see [`Run::head`].
        Auto = "auto",
        Lm = "lm",
        Verdict = "verdict",
        Scalar = "scalar",
    }
    /// What a row that cannot be used does.
    OnError { Fail = "fail", Skip = "skip", }
    /// [`Shape`] without its numbers.
    Curve { Cosine = "cosine", Linear = "linear", Constant = "constant", Wsd = "wsd", }
    Optimizer {
        /// f32 moments; bf16 weights follow f32 master copies.
        Adamw = "adamw",
        /// f32 moments; bf16 weights are rounded at random, without master copies.
        AdamwSr = "adamw-sr",
        /// Moments of one byte; bf16 weights are rounded at random.
        Adamw8bit = "adamw-8bit",
        /// Muon for matrices, AdamW for tables, heads and vectors; bf16 weights are rounded at random.
        Muon = "muon",
    }
    /// Storage type of gradients.
    Gradients { F32 = "f32", Bf16 = "bf16", }
    /// How the losses of one step become one.
    Reduction {
        /// The mean over all examples (or tokens) of the step.
        Mean = "mean",
        /// The sum over micro-batches of their means, as the reference code has it.
        GramCompat = "gram_compat",
    }
    /// What the verdict is normalised over.
    Verdict { Candidates = "candidates", Vocabulary = "vocabulary", }
    /// What is computed again in the backward pass instead of kept.
    Recompute { None = "none", Cheap = "cheap", Layer = "layer", }
}

/// Sequences of a step and tokens of a micro-batch, at most: far more than fit anywhere.
const MOST: f64 = (1 << 20) as f64;

const MUON_MOMENTUM: f64 = 0.95;
const MUON_RATE: f64 = 1.0;

run_file! {
    /// A run file with its overrides: every value, checked, and where it came from.
    Run;
    /// Where the weights and the tokenizer come from.
    model: Model, Learned {
        /// Hugging Face model directory to start from.
        path: Option<PathBuf> = None;
        /// A `config.json` to start from random weights.
        config: Option<PathBuf> = None;
        /// Architecture to start from random weights, with the sizes below.
        family: Option<Family> = None;
        /// Layers of a random model.
        layers: Option<u64> = None, AtLeast(1.0);
        /// Width of a random model.
        hidden: Option<u64> = None, AtLeast(1.0);
        /// Query heads of a random model.
        heads: Option<u64> = None, AtLeast(1.0);
        /// Key and value heads of a random model; as many as query heads if not set.
        kv_heads: Option<u64> = None, AtLeast(1.0);
        /// Feed-forward width of a random model.
        ffn: Option<u64> = None, AtLeast(1.0);
        /// Tokenizer directory; that of `path` if not set.
        tokenizer: Option<PathBuf> = None;
        /// Storage type of weights and activations; `auto` is that of the weights on disk.
        dtype: Precision = Precision::Auto;
        /// What stands on top of the last layer; `auto` is what the stage needs.
        head: Head = Head::Auto;
    }
    /// What is read, and how.
    data: Data, Learned {
        /// Training files: paths or globs, or `-` for standard input.
        train: Vec<String> = Vec::new();
        /// Evaluation files.
        eval: Vec<String> = Vec::new(); Inert;
        /// Layout of the rows; `auto` finds out.
        format: String = "auto".into();
        /// Names of this data's columns for ours: `{ prompt = "question" }`.
        columns: BTreeMap<String, String> = BTreeMap::new();
        /// LLaMA-Factory's `dataset_info.json`; `train` and `eval` then name its entries.
        dataset_info: Option<PathBuf> = None;
        /// Seed of the order of examples; `train.seed` if not set.
        shuffle_seed: Option<u64> = None;
        /// Longer examples are dropped and counted.
        max_tokens: u64 => [2048, 2048, 4096, 2048, 4096], AtLeast(1.0);
        /// What a row that cannot be used does: end the run, or be skipped and counted.
        on_error: OnError = OnError::Fail;
        /// Judge prompt template, in stage prove the proving template; ours if not set.
        template: Option<PathBuf> = None;
        /// Layout of rationales; ours if not set.
        rationale_form: Option<PathBuf> = None;
        /// Layout of proofs, of the same sections; ours if not set.
        proof_form: Option<PathBuf> = None;
        /// The date that a chat template may write, such as 2024-07-26; a fixed one if not set.
        template_date: Option<String> = None;
        /// Use only this many rows.
        limit: Option<u64> = None, AtLeast(1.0);
        /// Draw the rows of `limit` with this seed instead of taking the first; fewer are then some of more.
        limit_seed: Option<u64> = None;
    }
    /// What is learned, and how.
    train: Train, Learned {
        /// What is learned: response pairs, verdicts, completions, a scalar reward, or proofs of labels.
        stage: Stage = Stage::Finetune;
        /// Length of the run in optimizer steps; instead of `epochs`.
        steps: Option<u64> = None, AtLeast(1.0);
        /// Length of the run in passes over the data.
        epochs: Option<f64> => [Some(1.0), Some(2.0), Some(3.0), Some(1.0), Some(3.0)], Above(0.0);
        /// Sequences (or pairs) in one optimizer step, all micro-batches together.
        batch: u64 => [256, 128, 128, 128, 128], Within(1.0, MOST);
        /// Tokens in one packed micro-batch, at most: what fits into memory.
        micro_tokens: u64 = 8192, Within(1.0, MOST);
        /// Peak learning rate.
        lr: f64 => [1e-5, 2e-5, 1e-5, 1e-5, 1e-5], AtLeast(0.0);
        /// How the rate goes on after the warm-up.
        schedule: Curve = Curve::Cosine;
        /// Warm-up from 0, in steps (whole number) or as a fraction of the run.
        warmup: Span => [Span::Fraction(0.1), Span::Fraction(0.1), Span::Fraction(0.05), Span::Fraction(0.1), Span::Fraction(0.05)];
        /// Final learning rate as a fraction of the peak.
        final_lr: f64 = 0.0, Within(0.0, 1.0);
        /// Length of the final decay of `wsd`, in steps or as a fraction of the run.
        wsd_decay: Span = Span::Fraction(0.1);
        /// What steps the weights (see Optimizers); weight decay is decoupled in all.
        optimizer: Optimizer = Optimizer::Adamw;
        /// Storage type of gradients; `bf16` goes with bf16 weights and rounds with each micro-batch that is added.
        gradients: Gradients = Gradients::F32;
        /// Decay rate of Muon's momentum.
        muon_momentum: f64 = MUON_MOMENTUM, Below(0.0, 1.0);
        /// Learning rate of Muon's matrices as a multiple of `lr`.
        muon_rate: f64 = MUON_RATE, AtLeast(0.0);
        /// Decay rate of AdamW's first moment.
        beta1: f64 = 0.9, Below(0.0, 1.0);
        /// Decay rate of AdamW's second moment.
        beta2: f64 = 0.999, Below(0.0, 1.0);
        /// Added to the root of AdamW's second moment.
        eps: f64 = 1e-8, Above(0.0);
        /// Decoupled weight decay of matrices.
        weight_decay: f64 = 0.0, AtLeast(0.0);
        /// Norm that gradients are clipped to; 0 for no clipping.
        clip: f64 = 1.0, AtLeast(0.0);
        /// Label smoothing: probability the target gives to the wrong label.
        epsilon: f64 = 0.05, Below(0.0, 0.5);
        /// The same by PyTorch's name and scale, twice `epsilon`; give one of the two.
        label_smoothing_torch: Option<f64> = None, Below(0.0, 1.0);
        /// How micro-batch losses become one; `gram_compat` adds their means, as the reference code does.
        reduction: Reduction = Reduction::Mean;
        /// What the verdict is normalised over.
        verdict: Verdict = Verdict::Candidates;
        /// The two verdicts, one token each.
        labels: [String; 2] = ["A".into(), "B".into()];
        /// Share of the proofs of stage prove that are learned without their context, too.
        empty_context: f64 = 0.1, Within(0.0, 1.0);
        /// Train on every pair in both orders.
        both_orders: bool = false;
        /// What the backward pass computes again instead of keeping; saves memory, changes no result.
        recompute: Recompute = Recompute::None; Inert;
        /// Seed of everything random.
        seed: u64 = 42;
    }
    /// Low-rank adaptation (LoRA): an adapter is trained beside a frozen model.
    lora: Lora, Learned {
        /// Rank of the adapter's pairs; without one, and without `adapter`, the whole model is trained.
        rank: Option<u64> = None, Within(1.0, 65536.0);
        /// Strength of the pairs, which count alpha / rank; twice the rank if not set.
        alpha: Option<f64> = None, Above(0.0);
        /// Projections with a pair: names such as "q_proj", or "all-linear".
        targets: Vec<String> = vec!["all-linear".into()];
        /// Pairs count alpha / sqrt(rank) (rsLoRA).
        rslora: bool = false;
        /// Adapter directory (PEFT) to go on from instead of a new adapter.
        adapter: Option<PathBuf> = None;
    }
    /// What is measured on `data.eval`.
    eval: Eval, Inert {
        /// Evaluate every so many steps, and at the end; 0 for the end only.
        every: u64 = 200;
        /// Use only this many rows.
        rows: Option<u64> = None, AtLeast(1.0);
    }
    /// What survives a crash.
    checkpoint: Checkpoint, Inert {
        /// Where checkpoints are written.
        dir: PathBuf = "gramophone-run".into();
        /// Write one every so many steps, and at the end; 0 for the end only.
        every: u64 = 500;
        /// How many of the newest to keep.
        keep: u64 = 2, AtLeast(1.0);
        /// Those at multiples of so many steps are kept for ever; 0 for none.
        major: u64 = 0;
        /// Go on from the newest checkpoint in `dir`, never, or from the one given.
        resume: Resume = Resume::Auto;
    }
    /// What is told on the way.
    log: Log, Inert {
        /// Log every so many steps.
        every: u64 = 10, AtLeast(1.0);
        /// Where the logs are written; `checkpoint.dir` if not set.
        dir: Option<PathBuf> = None;
        /// Write TensorBoard event files.
        tensorboard: bool = true;
        /// Write `metrics.csv`.
        csv: bool = true;
        /// Write `report.html`.
        report: bool = true;
    }
}

/// The text of a run file.
///
/// # Errors
/// It cannot be read, and why.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("there is no run file {}", path.display())),
        std::io::ErrorKind::InvalidData => Error::usage(format!("{}: not UTF-8 text", path.display())),
        std::io::ErrorKind::IsADirectory => Error::usage(format!("{} is a directory; name a run file", path.display())),
        _ => Error::io("read", path, e),
    })
}

impl Run {
    /// Reads a run file and applies `key=value` overrides, the later ones last.
    ///
    /// # Errors
    /// The file cannot be read; or the first thing wrong in it, with file and line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Run> {
        Run::parse(&text_of(path)?, &path.display().to_string(), overrides)
    }

    /// [`Run::load`] of a text; `name` stands for the file in messages.
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Run> {
        let mut given = Given::of(KEYS, "");
        given.file(text, name)?;
        for argument in overrides {
            given.argument(argument)?;
        }
        Run::of(&given)
    }

    /// The run that the values given come to.
    ///
    /// # Errors
    /// The first thing wrong with them.
    pub(crate) fn of(given: &Given) -> Result<Run> {
        let (stage, _) = given.read("train.stage", Any, Stage::Finetune)?;
        let mut run = Run::read(given, stage)?;
        run.settle()?;
        Ok(run)
    }

    /// The head, `auto` resolved: `verdict` for two-candidate fine-tuning, `scalar` for rewards, else `lm`.
    pub fn head(&self) -> Head {
        match self.model.head {
            Head::Auto => self.auto_head(),
            head => head,
        }
    }

    fn auto_head(&self) -> Head {
        match (self.train.stage, self.train.verdict) {
            (Stage::Finetune, Verdict::Candidates) => Head::Verdict,
            (Stage::Scalar, _) => Head::Scalar,
            _ => Head::Lm,
        }
    }

    /// Optimizer steps of the run over `examples` training examples. Every batch is full: the last one of an epoch
    /// reaches into the next, so the run ends less than a batch after `epochs` passes.
    pub fn total_steps(&self, examples: u64) -> u64 {
        match self.train.steps {
            Some(steps) => steps,
            None => {
                let epochs = self.train.epochs.expect("a run has steps or epochs");
                ((epochs * examples as f64 / self.train.batch as f64).ceil() as u64).max(1)
            }
        }
    }

    /// The learning rate of a run of `total` steps.
    ///
    /// # Errors
    /// The warm-up is longer than the run.
    pub fn schedule(&self, total: u64) -> Result<Schedule> {
        let train = &self.train;
        let shape = match train.schedule {
            Curve::Constant => Shape::Constant,
            Curve::Linear => Shape::Linear,
            Curve::Cosine => Shape::Cosine,
            Curve::Wsd => Shape::Wsd { decay: train.wsd_decay.steps(total) },
        };
        Schedule::new(shape, train.lr, train.final_lr, train.warmup.steps(total), total)
            .map_err(|e| self.wrong("train.warmup", format!("train.warmup: {e}")))
    }

    /// The same run from the weights and the tokenizer of a model directory.
    pub fn starting_from(mut self, dir: &Path) -> Run {
        let Model { dtype, head, .. } = self.model;
        self.model = Model {
            path: Some(dir.into()),
            config: None,
            family: None,
            layers: None,
            hidden: None,
            heads: None,
            kv_heads: None,
            ffn: None,
            tokenizer: None,
            dtype,
            head,
        };
        self
    }

    /// Which checkpoints are kept.
    pub fn retention(&self) -> Retention {
        Retention { keep: self.checkpoint.keep as usize, major: self.checkpoint.major }
    }

    /// Where the logs go.
    pub fn log_dir(&self) -> &Path {
        self.log.dir.as_deref().unwrap_or(&self.checkpoint.dir)
    }

    /// Seed of the order of examples.
    pub fn shuffle_seed(&self) -> u64 {
        self.data.shuffle_seed.unwrap_or(self.train.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest run file that is complete.
    pub(super) const MINIMAL: &str = "[model]\npath = \"m\"\n[data]\ntrain = \"d.jsonl\"\n";

    pub(super) fn minimal(overrides: &[&str]) -> Result<Run> {
        Run::parse(MINIMAL, "run.toml", &overrides.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_are_those_of_the_published_recipes() {
        let run = minimal(&[]).unwrap();
        let t = &run.train;
        assert_eq!((t.stage, t.lr, t.batch, t.epochs, t.epsilon), (Stage::Finetune, 2e-5, 128, Some(2.0), 0.05));
        assert_eq!((t.warmup, t.schedule, t.clip), (Span::Fraction(0.1), Curve::Cosine, 1.0));
        assert_eq!((t.beta1, t.beta2, t.eps, t.weight_decay), (0.9, 0.999, 1e-8, 0.0));
        assert_eq!(
            (run.head(), run.data.max_tokens, run.log_dir()),
            (Head::Verdict, 2048, Path::new("gramophone-run"))
        );
        let run = minimal(&["train.stage=pretrain"]).unwrap();
        assert_eq!((run.train.lr, run.train.batch, run.train.epochs), (1e-5, 256, Some(1.0)));
        assert_eq!(run.head(), Head::Lm);
        assert_eq!(minimal(&["train.stage=scalar"]).unwrap().head(), Head::Scalar);
        assert_eq!(minimal(&["train.verdict=vocabulary"]).unwrap().head(), Head::Lm);
    }

    #[test]
    fn the_command_line_has_the_last_word_and_needs_no_quotes() {
        let text = format!("{MINIMAL}[train]\nlr = 1e-4\nlabels = [\"x\", \"y\"]\n[log]\ncsv = false\n");
        let arguments = [
            "train.lr=3e-4",
            "train.lr = 5e-4",
            "model.path=./other model",
            "train.warmup=20",
            "train.steps=100",
            "data.train=[\"a\", \"b\"]",
            "data.template_date=2024-07-26",
            "checkpoint.resume=run/checkpoint-000010",
            "data.columns.prompt=question",
            "data.columns.chosen=good",
            "log.dir=7",
        ];
        let run = Run::parse(&text, "run.toml", &arguments.map(String::from)).unwrap();
        assert_eq!((run.train.lr, run.train.warmup, run.train.steps), (5e-4, Span::Steps(20), Some(100)));
        assert_eq!((run.model.path.as_deref(), run.log_dir()), (Some(Path::new("./other model")), Path::new("7")));
        assert_eq!((run.train.labels[0].as_str(), run.log.csv, run.train.epochs), ("x", false, None));
        assert_eq!((run.data.train.len(), run.data.template_date.as_deref()), (2, Some("2024-07-26")));
        assert_eq!(run.checkpoint.resume, Resume::From("run/checkpoint-000010".into()));
        let columns: Vec<_> = run.data.columns.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(columns, [("chosen", "good"), ("prompt", "question")]);
        assert_eq!(*run.origin("train.lr"), Origin::CommandLine);
        assert_eq!(run.origin("train.labels").to_string(), "run.toml:7");
    }

    #[test]
    fn lengths_and_rates() {
        let run = minimal(&["train.epochs=1.5", "train.batch=10"]).unwrap();
        assert_eq!([0, 1, 20, 21].map(|n| run.total_steps(n)), [1, 1, 3, 4]);
        assert_eq!(minimal(&["train.steps=7"]).unwrap().total_steps(1000), 7);
        let schedule = run.schedule(100).unwrap();
        assert_eq!((schedule.lr(0), schedule.lr(10)), (0.0, 2e-5));
        let error = minimal(&["train.warmup=101"]).unwrap().schedule(100).unwrap_err();
        assert!(error.to_string().starts_with("command line: train.warmup: warm-up of 101 steps"), "{error}");
        assert!(minimal(&["train.schedule=wsd", "train.wsd_decay=0.95"]).unwrap().schedule(100).is_err());
    }
}
