//! What does not fit into the memory of a GPU is refused before anything is done, with its plan and the largest size that would fit.
//! That is the largest: with it the same command runs, and with more it is refused.

use crate::cli::{Bench, golden, utf8};
use crate::devices::{covers_emulated, emulated};
use crate::fixture::{Adapted, Case};
use crate::gpu::{ends, under};
use crate::invariance::{CONTEXT, Stage, model, shape, texts};
use crate::optimizers::FORMS;
use gramophone::device::Device;
use gramophone::infer::scorer::{self, Scorer, Sharing};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::config::{Family, HeadKind};
use gramophone::text::encode::Item;
use gramophone::train::optim::{self, Optimizer};
use gramophone::train::plan::Plan;
use gramophone::train::trainer::{Shape, Trainer};
use gramophone_emu::Settings;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

/// The size that a refusal says would fit.
fn number(refusal: &str) -> usize {
    let digits = refusal.rsplit_once("at most ").map(|(_, after)| after.split(|c: char| !c.is_ascii_digit()));
    digits.and_then(|mut words| words.next()?.parse().ok()).unwrap_or_else(|| panic!("no size in {refusal}"))
}

fn advised(out: &Output) -> usize {
    number(String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or_default())
}

/// The table of the plan is there.
fn planned(out: &Output) -> bool {
    String::from_utf8_lossy(&out.stdout).contains("largest micro-batch that fits")
}

#[test]
fn the_largest_micro_batch_is_the_largest() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    let lean = ["model.dtype=bf16", "train.optimizer=adamw-8bit", "train.gradients=bf16", "train.recompute=layer"];
    for (memory, more) in [
        ("memory=200000000", &[][..]),
        ("memory=4000000000,taken=3900000000", &["train.optimizer=muon"]),
        ("memory=100000000", &lean),
    ] {
        let train = |tokens: usize, steps: usize| {
            let [tokens, steps] = [format!("train.micro_tokens={tokens}"), format!("train.steps={steps}")];
            let args = [&["train", "run.toml", &tokens, &steps, "--device", "cuda"], more].concat();
            under(&b, &format!("fast,{memory}"), &args)
        };
        let refused = |tokens: usize, steps: usize| {
            let out = train(tokens, steps);
            ends(&out, 1, &["the run needs", "are free", "train.micro_tokens to at most"]);
            assert!(planned(&out), "{memory} {more:?}");
            assert!(!b.path(&format!("run/checkpoint-{steps:06}")).exists(), "{memory} {more:?}");
            advised(&out)
        };
        let most = refused(1_000_000, 1);
        ends(&train(most, 1), 0, &[]);
        // Going on from a checkpoint takes no more.
        ends(&train(most, 2), 0, &[]);
        assert_eq!(refused(most + most / 20, 3), most, "{memory} {more:?}");
        fs::remove_dir_all(b.path("run")).unwrap();
    }
}

/// What another process took a moment too late is said with the plan, too.
#[test]
fn memory_that_is_gone_is_said_with_the_plan() {
    if !covers_emulated() {
        return;
    }
    let b = Bench::new();
    b.run_file();
    let args = ["train", "run.toml", "train.micro_tokens=100000", "train.steps=1", "--device", "cuda"];
    for nth in [2, 4] {
        let out = under(&b, &format!("fast,memory=4000000000,fail=cuMemAlloc:{nth}:2"), &args);
        ends(&out, 1, &["not enough memory for"]);
        assert!(planned(&out) && !b.path("run/checkpoint-000001").exists());
    }
    ends(&under(&b, "fast,memory=4000000000", &args), 0, &[]);
}

/// Every byte that a trainer allocates stands in its plan, and its steps allocate none.
#[test]
fn a_plan_counts_every_byte() {
    if !covers_emulated() {
        return;
    }
    let check = |settings: optim::Settings, model: Model, micro: Shape, items: &[Item]| {
        let ordinal = gramophone_emu::open(Settings::fast());
        let dev = Device::open(&format!("cuda:{ordinal}"), 0).unwrap();
        let adapter = model.adapter.as_ref().map(|a| a.shape.clone());
        let ranks = model.ranks();
        let capacity = |tokens| Shape { micro_tokens: tokens, ..micro }.capacity(ranks);
        let (c, sizes) = (model.config.clone(), (micro.keep, micro.micro_tokens));
        let plan = Plan::new(&c, model.dtype, adapter.as_ref(), &settings, sizes, capacity, None);
        let before = gramophone_emu::statistics(ordinal);
        let mut trainer = Trainer::new(&dev, model.on(&dev).unwrap(), settings, micro).unwrap();
        let after = gramophone_emu::statistics(ordinal);
        let scratch = Optimizer::scratch(trainer.model.trained().0);
        let named = plan.weights + plan.gradients + plan.optimizer + plan.working() + scratch;
        assert_eq!((after.allocated_bytes - before.allocated_bytes) as usize, named, "{settings:?}");
        // Whole pieces: never more than one is lost to an allocation.
        let lost = plan.total() - named;
        let count = (after.allocations - before.allocations) as usize;
        assert!(lost > 0 && lost < count * gramophone::device::GRANULE, "{settings:?}: {lost} of {count} allocations");
        trainer.step(items, 1e-3).unwrap();
        assert_eq!(gramophone_emu::statistics(ordinal).peak_bytes, after.allocated_bytes, "{settings:?}");
    };
    for (method, weights, gradients) in FORMS {
        let settings = optim::Settings { method, gradients, ..optim::Settings::ADAMW };
        let random = Model::random(model(Family::Llama, HeadKind::LanguageModel).config, weights, 4).unwrap();
        check(settings, random, shape(500, Keep::Costly), &Stage::Verdict.items(0)[..2]);
    }
    let adapted = Case::<Adapted>::open("lora/qwen3").model();
    check(optim::Settings::ADAMW, adapted, shape(500, Keep::Doors), &Stage::Tokens.items(0)[..2]);
}

/// A directory with rows, and a command over them on a GPU with so much memory.
struct Desk {
    bench: Bench,
    model: String,
    rows: String,
}

impl Desk {
    fn new() -> Desk {
        let (bench, model) = (Bench::new(), utf8(&golden("qwen3")).to_string());
        let rows = utf8(&bench.rows()).to_string();
        Desk { bench, model, rows }
    }

    fn run(&self, memory: usize, args: &[&str]) -> Output {
        let files = ["--model", &self.model, "--input", &self.rows, "--output", "out.jsonl", "--device", "cuda"];
        under(&self.bench, &format!("fast,memory={memory}"), &[args, &files].concat())
    }

    /// What a run that has its memory writes.
    fn writes(&self, memory: usize, args: &[&str]) -> String {
        ends(&self.run(memory, args), 0, &[]);
        let path = self.bench.path("out.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    }

    fn refuses(&self, memory: usize, args: &[&str], words: &[&str]) -> usize {
        let out = self.run(memory, args);
        ends(&out, 1, &[&["not enough memory; wanted besides the weights: activations "], words].concat());
        assert!(!self.bench.path("out.jsonl").exists());
        advised(&out)
    }
}

const PLENTY: usize = 4_000_000_000;

#[test]
fn the_longest_text_to_judge_is_the_longest() {
    if !covers_emulated() {
        return;
    }
    let (desk, memory) = (Desk::new(), 42_000_000);
    let refused = |args: &[&str]| {
        let words = ["keys and values ", "lists of keys ", " tokens a text (--context) would fit"];
        desk.refuses(memory, args, &words)
    };
    let most = refused(&["judge"]);
    let judged = desk.writes(memory, &["judge", "--context", &most.to_string()]);
    assert_eq!(judged, desk.writes(PLENTY, &["judge"]));
    assert_eq!(refused(&["judge", "--context", &(most + 1).to_string()]), most);
}

#[test]
fn the_most_sequences_that_write_together_are_the_most() {
    if !covers_emulated() {
        return;
    }
    let (desk, memory) = (Desk::new(), 200_000_000);
    let generate = |batch: usize| ["generate", "--max-tokens", "3", "--batch", &batch.to_string()].map(String::from);
    let refused = |batch: usize| {
        let words = ["keys and values ", " sequences of 4096 tokens (--batch, --context) would fit"];
        let args = generate(batch);
        desk.refuses(memory, &args.each_ref().map(String::as_str), &words)
    };
    let most = refused(500);
    let args = generate(most);
    assert_eq!(desk.writes(memory, &args.each_ref().map(String::as_str)).lines().count(), 3);
    assert_eq!(refused(most + 1), most);
}

/// A server says so before it listens.
#[test]
fn the_most_tokens_that_a_server_keeps_are_the_most() {
    if !covers_emulated() {
        return;
    }
    let (b, model) = (Bench::new(), golden("qwen3"));
    let serve = ["serve", "--model", utf8(&model), "--addr", "127.0.0.1:0", "--device", "cuda", "--cache-tokens"];
    // The first line that it says, whatever it does then.
    let says = |memory: usize, tokens: usize| {
        let mut command = b.command(&[&serve[..], &[&tokens.to_string()]].concat());
        command.env("LD_PRELOAD", gramophone_emu::library()).env("GRAMOPHONE_EMU", format!("fast,memory={memory}"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line
    };
    let refused = |memory: usize, tokens: usize, end: &str| {
        let line = says(memory, tokens);
        for words in ["not enough memory; wanted besides the weights: activations ", "keys and values ", end] {
            assert!(line.contains(words), "no {words:?} in {line}");
        }
        line
    };
    let many = |tokens| number(&refused(500_000_000, tokens, " tokens in memory (--cache-tokens) would fit"));
    let most = many(8_000_000);
    assert!(most > 1 << 20, "the search goes on beyond a million");
    let line = says(500_000_000, most);
    assert!(line.contains("serving on "), "{line}");
    assert_eq!(many(most + 1), most);
    // Where a pass and a text do not fit, fewer tokens to keep would not help.
    refused(42_000_000, 0, "nothing fits");
}

/// A pass takes what is free; what it finds does not depend on it, whether prompts share or not.
#[test]
fn a_pass_shrinks_to_what_is_free_and_changes_no_bit() {
    if !covers_emulated() {
        return;
    }
    let prompts: Vec<Vec<i32>> =
        texts(12, 1).into_iter().flat_map(|t| [[&t[..], &[5]].concat(), [&t[..], &[6, 7]].concat()]).collect();
    let verdicts = |memory: u64, sharing: Sharing| {
        let dev = emulated(Settings { memory, ..Settings::fast() });
        let model = model(Family::Qwen3, HeadKind::LanguageModel).on(&dev).unwrap();
        let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: CONTEXT, pass: 4096 }).unwrap();
        scorer.share(sharing);
        let found = scorer.verdicts(&prompts, [32, 33]).unwrap();
        let bits: Vec<[u32; 3]> = found.iter().map(|v| [v.logits[0], v.logits[1], v.lse].map(f32::to_bits)).collect();
        (scorer.pass_tokens(), bits)
    };
    for sharing in [Sharing::Always, Sharing::Never] {
        let (whole, want) = verdicts(4 << 30, sharing);
        assert_eq!(whole, 4096);
        for memory in [46_000_000, 56_000_000] {
            let (pass, found) = verdicts(memory, sharing);
            assert!((64..4096).contains(&pass), "{memory}: passes of {pass}");
            assert!(found == want, "{memory}: passes of {pass}");
        }
    }
}
