//! Adapters: against PEFT, and as a person trains, runs, mixes and merges them.

use crate::cli::{Bench, golden, json_lines, utf8};
use crate::devices::devices;
use crate::fixture::{Adapted, Case, Language, Scalar};
use crate::golden::{SCORER, adamw, gradients, on_devices, read};
use crate::invariance::texts;
use crate::tolerance::{ADAPTED, BF16_LOSS, VALUE, agree};
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::Keep;
use gramophone::model::adapter::Start;
use gramophone::model::adapter::peft::Peft;
use gramophone::train::optim;
use gramophone::train::trainer::{Shape, Trainer};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn logits_and_rewards_are_those_of_peft() {
    on_devices("values of adapters", |check, dev| {
        let (case, base) = (Case::<Adapted>::open("lora/qwen3"), Case::<Language>::open("qwen3"));
        let model = case.model().on(dev).unwrap();
        let rows = &read(dev, &model, &[&base.expected.sequences[2].ids])[0].logits;
        check.values(VALUE, "logits", &[0, 16, 32].map(|i: usize| rows[i].clone()).concat(), case.array("logits"));
        let (case, base) = (Case::<Adapted>::open("lora/qwen3_scalar"), Case::<Scalar>::open("qwen3_scalar"));
        let model = case.model().on(dev).unwrap();
        let conversations: Vec<Vec<i32>> = base.expected.rewards.iter().map(|r| r.ids.clone()).collect();
        let ours = Scorer::new(dev, &model, SCORER).unwrap().rewards(&conversations).unwrap();
        assert_eq!(ours.len(), case.expected.rewards.len());
        for (ours, theirs) in ours.into_iter().zip(&case.expected.rewards) {
            check.value(VALUE, "reward", ours, *theirs);
        }
    });
}

#[test]
fn gradients_and_runs_of_adamw_are_those_of_peft() {
    on_devices("training adapters", |check, dev| {
        let (case, base) = (Case::<Adapted>::open("lora/qwen3"), Case::<Language>::open("qwen3"));
        let (expected, objective) = (&case.expected, base.objective());
        let lm = expected.lm.as_ref().unwrap();
        gradients(dev, check, &case, "grad.lm", objective, &base.continuations(&lm.batch), &lm.of);
        gradients(dev, check, &case, "grad.gram", objective, &base.judgments(), expected.gram.as_ref().unwrap());
        adamw(dev, check, ADAPTED, &case, &expected.adamw, objective, |batch| base.continuations(batch));
        let (case, base) = (Case::<Adapted>::open("lora/qwen3_scalar"), Case::<Scalar>::open("qwen3_scalar"));
        let (expected, objective) = (&case.expected, base.objective());
        let bt = expected.bradley_terry.as_ref().unwrap();
        gradients(dev, check, &case, "grad.bradley_terry", objective, &base.preferences(&bt.batch), &bt.of);
        adamw(dev, check, ADAPTED, &case, &expected.adamw, objective, |batch| base.preferences(batch));
    });
}

/// An adapter of PEFT's beside its base, all stored as this type.
fn stored(dtype: Dtype, dev: &Device) -> Model {
    let (base, dir) = (golden("qwen3"), golden("lora/qwen3"));
    let (base, _) = Model::open_base(&base, |_| dtype, None, 0).unwrap();
    base.on(dev).unwrap().adapted(dev, Peft::open(&dir).unwrap(), Start::From(&dir)).unwrap()
}

#[test]
fn scores_with_an_adapter_depend_on_the_prompt_alone() {
    for (name, dev) in devices() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (model, prompts) = (stored(dtype, &dev), texts(20, 1));
            let verdicts = |pass: usize, batch: usize| -> Vec<[u32; 2]> {
                let mut scorer = Scorer::new(&dev, &model, scorer::Shape { context: 512, pass }).unwrap();
                let found = prompts.chunks(batch).flat_map(|p| scorer.verdicts(p, [3, 4]).unwrap());
                found.map(|v| v.logits.map(f32::to_bits)).collect()
            };
            let reference = verdicts(4096, 20);
            for (pass, batch) in [(4096, 1), (60, 20)] {
                assert_eq!(reference, verdicts(pass, batch), "{name}, {dtype}, passes of {pass}, batches of {batch}");
            }
        }
    }
}

/// In bf16, where pairs have master copies and a scale may need two factors: whatever is kept the bits are the same, and the
/// numbers are near those of f32.
#[test]
fn bf16_adapters_train_on_every_device() {
    agree("training adapters in bf16", |check| {
        let base = Case::<Language>::open("qwen3");
        let settings = optim::Settings { clip: 1.0, ..optim::Settings::ADAMW };
        let losses = |dtype: Dtype, dev: &Device, keep: Keep| {
            let shape = Shape { micro_tokens: 400, keep, objective: base.objective() };
            let mut trainer = Trainer::new(dev, stored(dtype, dev), settings, shape).unwrap();
            let mut step = |_| trainer.step(&base.continuations(&[1, 2, 3]), 1e-3).unwrap().tally.loss;
            (0..4).map(&mut step).collect::<Vec<f64>>()
        };
        let want = losses(Dtype::F32, &Device::cpu(1), Keep::All);
        for (name, dev) in devices() {
            let got = losses(Dtype::Bf16, &dev, Keep::All);
            assert_eq!(got, losses(Dtype::Bf16, &dev, Keep::Doors), "{name}");
            for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                check.value(BF16_LOSS, format_args!("loss {k} on {name}"), *got, *want);
            }
            assert!(got[3] < got[0], "{name}: {got:?}");
        }
    });
}

/// A bench with a run file that trains an adapter beside `golden/qwen3`.
fn bench() -> Bench {
    let b = Bench::new();
    b.pairs();
    b.rows();
    b.write(
        "run.toml",
        &format!(
            "[model]\npath = {:?}\ndtype = \"f32\"\n[data]\ntrain = [\"pairs.jsonl\"]\neval = [\"pairs.jsonl\"]\n\
             [train]\nsteps = 8\nbatch = 4\nlr = 1e-2\nmicro_tokens = 2048\n[lora]\nrank = 3\nalpha = 4\n\
             [checkpoint]\ndir = \"run\"\nevery = 4\nkeep = 5\n[log]\nevery = 4\n",
            golden("qwen3")
        ),
    );
    b
}

/// Trains an adapter with a seed; its directory.
fn adapter(b: &Bench, seed: u64) -> PathBuf {
    let dir = format!("seed-{seed}");
    b.ok(&["train", "run.toml", &format!("train.seed={seed}"), &format!("checkpoint.dir={dir}")]);
    b.path(&dir).join("checkpoint-000008")
}

fn judge(b: &Bench, rows: &Path, more: &[&str]) -> String {
    let model = golden("qwen3");
    b.ok(&[&["judge", "--model", utf8(&model), "--input", utf8(rows), "--dtype", "f32"], more].concat())
}

fn margins(answers: &str) -> Vec<f64> {
    let both = |a: Value| ["margin_ab", "margin_ba"].map(|name| a[name].as_f64().unwrap());
    json_lines(answers).into_iter().flat_map(both).collect()
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn a_run_trains_the_adapter_alone_and_resumes_in_the_same_bytes() {
    let b = bench();
    let said = b.ok(&["train", "run.toml"]);
    assert!(said.contains("adapter: ") && said.contains("the model is frozen"), "{said}");
    let last = b.path("run/checkpoint-000008");
    assert!(last.join("adapter_config.json").exists() && !last.join("model.safetensors").exists());
    let files = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer/first_moments.safetensors",
        "optimizer/second_moments.safetensors",
    ];
    let bytes = || files.map(|f| fs::read(last.join(f)).unwrap());
    let straight = bytes();
    fs::remove_dir_all(&last).unwrap();
    let said = b.ok(&["train", "run.toml"]);
    assert!(said.contains("resumed at step 4"), "{said}");
    assert!(straight == bytes(), "8 steps are 4 and 4");
    let log = json_lines(&fs::read_to_string(b.path("run/trainer_log.jsonl")).unwrap());
    let loss = |i: usize| log[i]["eval_loss"].as_f64().or(log[i]["loss"].as_f64()).unwrap();
    assert!(loss(log.len() - 1) < log[0]["loss"].as_f64().unwrap(), "{log:?}");
    // What is trained cannot change on the way.
    b.fails(&["train", "run.toml", "lora.rank=4"], 2, &["another adapter"]);
    b.fails(&["train", "run.toml", "train.seed=1", "lora.alpha=5"], 2, &["another adapter"]);
}

#[test]
fn the_plan_shows_what_an_adapter_saves() {
    let b = bench();
    let plan = b.ok(&["plan", "run.toml"]);
    assert!(plan.contains("saved by the adapter") && plan.contains("trained parameters"), "{plan}");
    b.fails(&["plan", "run.toml", "lora.targets=lm_head"], 2, &["lm_head", "q_proj"]);
}

#[test]
fn every_stage_trains_an_adapter_in_bf16() {
    let b = bench();
    b.write(
        "sft.jsonl",
        "{\"prompt\": \"Say a\", \"completion\": \"a\"}\n{\"prompt\": \"Say b\", \"completion\": \"b\"}\n",
    );
    for (stage, data) in [("pretrain", "pairs"), ("sft", "sft"), ("scalar", "pairs"), ("finetune", "pairs")] {
        let set = [
            format!("train.stage={stage}"),
            format!("data.train={data}.jsonl"),
            format!("data.eval={data}.jsonl"),
            format!("checkpoint.dir={stage}"),
            "data.max_tokens=1024".into(),
            "train.steps=3".into(),
            "model.dtype=bf16".into(),
            "train.recompute=layer".into(),
        ];
        b.ok(&["train", "run.toml"].into_iter().chain(set.iter().map(String::as_str)).collect::<Vec<_>>());
        let dir = b.path(stage).join("checkpoint-000003");
        assert!(dir.join("optimizer/master_weights.safetensors").exists());
        let config: Value =
            serde_json::from_str(&fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(config["task_type"], if stage == "scalar" { "SEQ_CLS" } else { "CAUSAL_LM" });
        assert_eq!(config["modules_to_save"].is_null(), stage != "scalar");
        if stage == "scalar" {
            let (base, rows) = (golden("qwen3"), b.path("rows.jsonl"));
            let said = b.ok(&["judge", "--model", utf8(&base), "--adapter", utf8(&dir), "--input", utf8(&rows)]);
            assert!(json_lines(&said)[0]["reward_a"].is_number(), "{said}");
            let named = format!("r={}", dir.display());
            b.fails(
                &["judge", "--model", utf8(&base), "--adapter", &named, "--input", utf8(&rows)],
                1,
                &["no reward row"],
            );
        }
    }
}

#[test]
fn a_merged_adapter_judges_as_the_adapter_does() {
    let b = bench();
    let (dir, rows, base) = (adapter(&b, 1), b.path("rows.jsonl"), golden("qwen3"));
    let (bare, beside) = (judge(&b, &rows, &[]), judge(&b, &rows, &["--adapter", utf8(&dir)]));
    assert!(farthest(&margins(&bare), &margins(&beside)) > 1e-2, "the adapter does something");
    b.ok(&["merge", "--model", utf8(&base), "--adapter", utf8(&dir), "--out", "merged", "--dtype", "f32"]);
    let merged = b.ok(&["judge", "--model", "merged", "--input", utf8(&rows)]);
    assert!(farthest(&margins(&merged), &margins(&beside)) < 1e-4, "{merged} {beside}");
    let args = ["merge", "--model", utf8(&base), "--adapter", utf8(&dir), "--out", "merged"];
    b.fails(&args, 2, &["exists already"]);
    let other = golden("llama");
    b.fails(
        &["merge", "--model", utf8(&other), "--adapter", utf8(&dir), "--out", "no"],
        1,
        &["another model", "llama"],
    );
    assert!(!b.path("no").exists());
    b.fails(&["judge", "--model", utf8(&dir), "--input", utf8(&rows)], 1, &["this is an adapter"]);
}

#[test]
fn rows_choose_their_adapters_and_get_the_bits_of_separate_runs() {
    let b = bench();
    let (one, two, rows) = (adapter(&b, 1), adapter(&b, 2), b.path("rows.jsonl"));
    let named = [format!("one={}", one.display()), format!("two={}", two.display())];
    let lines: Vec<String> = fs::read_to_string(&rows).unwrap().lines().map(String::from).collect();
    let tagged =
        |name: &str| lines.iter().map(|l| l.replacen('{', &format!("{{\"adapter\": {name}, "), 1)).collect::<Vec<_>>();
    let mixed: Vec<String> = (0..lines.len())
        .flat_map(|i| {
            [tagged("\"two\"")[i].clone(), lines[i].clone(), tagged("\"one\"")[i].clone(), tagged("null")[i].clone()]
        })
        .collect();
    let mixed = b.write("mixed.jsonl", &(mixed.join("\n") + "\n"));
    let flags = ["--adapter", &named[0], "--adapter", &named[1]];
    let together: Vec<String> = judge(&b, &mixed, &flags).lines().map(String::from).collect();
    let alone = |more: &[&str]| judge(&b, &rows, more).lines().map(String::from).collect::<Vec<_>>();
    let (bare, first, second) = (alone(&[]), alone(&["--adapter", utf8(&one)]), alone(&["--adapter", utf8(&two)]));
    assert!(first[0] != second[0] && first[0] != bare[0]);
    for i in 0..lines.len() {
        assert_eq!(&together[4 * i..4 * i + 4], [&second[i], &bare[i], &first[i], &bare[i]].map(String::clone));
    }
    // The same in text: generation and ranking.
    let base = golden("qwen3");
    let prompt =
        |name: &str| format!("{{\"prompt\": \"Hello\", \"responses\": [\"a\", \"bb\"], \"adapter\": {name}}}\n");
    let asked = b.write("asked.jsonl", &["\"one\"", "\"two\"", "null", "\"one\""].map(prompt).concat());
    let plain = b.write("plain.jsonl", "{\"prompt\": \"Hello\", \"responses\": [\"a\", \"bb\"]}\n");
    for verb in [&["generate", "--max-tokens", "6"][..], &["rank"]] {
        let run = |input: &Path, more: &[&str]| {
            let said =
                b.ok(&[verb, &["--model", utf8(&base), "--dtype", "f32", "--input", utf8(input)], more].concat());
            let body = |mut v: Value| v.as_object_mut().unwrap().remove("id").map(|_| v).unwrap();
            json_lines(&said).into_iter().map(body).collect::<Vec<Value>>()
        };
        let together = run(&asked, &flags);
        let alone =
            [&["--adapter", utf8(&one)][..], &["--adapter", utf8(&two)], &[]].map(|more| run(&plain, more)[0].clone());
        assert_eq!(together, [&alone[0], &alone[1], &alone[2], &alone[0]].map(Value::clone), "{verb:?}");
        assert!(alone[0] != alone[1], "{verb:?}");
    }
    let fails = |flags: &[&str], code: i32, words: &[&str]| {
        b.fails(&[&["judge", "--model", utf8(&base), "--input", utf8(&mixed)], flags].concat(), code, words)
    };
    fails(&flags[..2], 1, &["mixed.jsonl:1", "\"two\"", "there are one"]);
    fails(&[], 1, &["--adapter two=DIR"]);
    fails(&[flags[0], flags[1], flags[0], flags[1]], 2, &["one twice"]);
    fails(&["--adapter", "nowhere"], 1, &["nowhere", "no such directory"]);
    fails(&["--adapter", utf8(&base)], 1, &["a model, not an adapter"]);
}

#[test]
fn training_goes_on_from_an_adapter_of_peft() {
    let b = bench();
    let (theirs, keep) = (golden("lora/qwen3"), b.path("theirs"));
    let text = fs::read_to_string(b.path("run.toml")).unwrap();
    let path = format!("adapter = {theirs:?}");
    b.write("go_on.toml", &text.replace("rank = 3\nalpha = 4", &path));
    b.ok(&["train", "go_on.toml", "train.steps=2"]);
    let read = |dir: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (before, after) = (read(&theirs), read(&b.path("run/checkpoint-000002")));
    for key in ["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "peft_version"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    fs::create_dir(&keep).unwrap();
    fs::copy(theirs.join("adapter_model.safetensors"), keep.join("adapter_model.safetensors")).unwrap();
    let mut dropped = before.clone();
    dropped["lora_dropout"] = 0.1.into();
    fs::write(keep.join("adapter_config.json"), dropped.to_string()).unwrap();
    b.write("dropout.toml", &text.replace("rank = 3\nalpha = 4", "adapter = \"theirs\""));
    b.fails(&["train", "dropout.toml", "checkpoint.dir=x"], 1, &["lora_dropout is 0.1"]);
    // Running it needs no dropout.
    judge(&b, &b.path("rows.jsonl"), &["--adapter", utf8(&keep)]);
}

#[test]
fn a_learning_curve_is_resumable_and_the_same_however_it_was_stopped() {
    let b = bench();
    let args = ["learning-curve", "run.toml", "train.steps=2", "--counts", "4,0,2", "--seeds", "2", "--out", "curve"];
    let said = b.ok(&args);
    let read = |name: &str| fs::read_to_string(b.path("curve").join(name)).unwrap();
    let files = ["learning_curve.json", "learning_curve.csv"].map(read);
    let curve: Value = serde_json::from_str(&files[0]).unwrap();
    let points = curve["points"].as_array().unwrap();
    assert_eq!(points.iter().map(|p| p["count"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 4]);
    assert_eq!(points.iter().map(|p| p["accuracy"]["n"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(points[0]["accuracy"]["low"].is_null() && points[1]["loss"]["low"].is_number(), "{curve}");
    let cells = curve["cells"].as_array().unwrap();
    assert!(cells.len() == 5 && cells[1]["examples"] == 2 && cells[3]["steps"] == 2, "{curve}");
    assert_ne!(cells[1]["loss"], cells[2]["loss"], "seeds differ");
    assert!(read("report.html").contains("Accuracy in both orders together"));
    assert!(said.contains("95% interval") && files[1].lines().count() == 6, "{said}");
    // 0 examples is the judge as it is.
    let rows = fs::read_to_string(b.path("pairs.jsonl")).unwrap();
    let rows = rows.replace("\"chosen\"", "\"response_a\"").replace("\"rejected\"", "\"response_b\"");
    let rows = b.write("eval.jsonl", &rows);
    let answers = json_lines(&judge(&b, &rows, &[]));
    let right = answers.iter().filter(|a| a["verdict"] == "A").count() as f64 / answers.len() as f64;
    assert_eq!(points[0]["accuracy"]["mean"].as_f64().unwrap(), right);
    // What is done is not done again; what is missing comes out the same.
    let again = b.ok(&args);
    assert!(!again.contains("step "), "{again}");
    fs::remove_file(b.path("curve/cells/2-seed-43.json")).unwrap();
    let again = b.ok(&args);
    assert!(again.contains("2-seed-43") && !again.contains("2-seed-42:"), "{again}");
    assert!(files == ["learning_curve.json", "learning_curve.csv"].map(read));
    let with = |more: &[&'static str]| [&args[..], more].concat();
    b.fails(&with(&["train.lr=1e-3"]), 2, &["other settings"]);
    b.fails(&["learning-curve", "run.toml", "--counts", "0,7", "--out", "x"], 2, &["7 examples", "6 usable"]);
    b.fails(&["learning-curve", "run.toml", "--counts", "1,1"], 2, &["1 is there twice"]);
    b.fails(
        &["learning-curve", "run.toml", "train.stage=sft", "data.max_tokens=900", "--counts", "1"],
        2,
        &["no verdict to count"],
    );
    assert!(!b.path("x").exists());
}
