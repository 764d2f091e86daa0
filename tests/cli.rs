//! The program as a person runs it: the real binary in a temporary directory, good input and bad.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub fn golden(case: &str) -> PathBuf {
    let root =
        std::env::var_os("GRAMOPHONE_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root.join("tests/golden").join(case)
}

/// A temporary directory and the program in it.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
    pub fn command(&self, args: &[&str]) -> Command {
        // A bundle carries the program beside the tests.
        let built = || env!("CARGO_BIN_EXE_gramophone").into();
        let mut command = Command::new(std::env::var_os("GRAMOPHONE_BIN").unwrap_or_else(built));
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null());
        command
    }
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    /// Runs what must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
    /// Runs what must fail with this exit code in one line that holds all `words`.
    pub fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let out = self.run(args);
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{args:?}: no {word:?} in {message:?}");
        }
        if code == 1 {
            assert_eq!(message.lines().count(), 1, "one line: {message}");
        }
    }
    /// Six preference pairs of different lengths.
    pub fn pairs(&self) -> PathBuf {
        let row = |i: usize| {
            let (good, bad) = (format!("Yes, {i}."), format!("No, {}.", "never ".repeat(i)));
            format!("{{\"prompt\": \"Is {i} a number?\", \"chosen\": \"{good}\", \"rejected\": \"{bad}\"}}\n")
        };
        self.write("pairs.jsonl", &(0..6).map(row).collect::<String>())
    }
    /// Three rows to judge.
    pub fn rows(&self) -> PathBuf {
        let row = |i: usize| {
            format!(
                "{{\"id\": \"r{i}\", \"prompt\": \"Say {i}\", \"response_a\": \"{i}\", \"response_b\": \"{}\"}}\n",
                i + 1
            )
        };
        self.write("rows.jsonl", &(0..3).map(row).collect::<String>())
    }
    /// A run file over a tiny random model.
    pub fn run_file(&self) {
        self.pairs();
        let tokenizer = golden("qwen3");
        self.write(
            "run.toml",
            &format!(
                "[model]\nfamily = \"qwen3\"\nlayers = 1\nhidden = 32\nheads = 2\nffn = 32\ntokenizer = {tokenizer:?}\n\
                 [data]\ntrain = [\"pairs.jsonl\"]\neval = [\"pairs.jsonl\"]\n\
                 [train]\nsteps = 20\nbatch = 4\nlr = 1e-3\nmicro_tokens = 2048\n\
                 [checkpoint]\ndir = \"run\"\nevery = 10\nkeep = 5\n[log]\nevery = 5\n"
            ),
        );
    }
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

pub fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn judging_answers_every_row_in_order_whatever_the_threads() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let judge = |threads: &str| b.ok(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--threads", threads]);
    let one = judge("1");
    assert_eq!(one, judge("2"));
    let answers = json_lines(&one);
    assert_eq!(answers.iter().map(|a| a["id"].as_str().unwrap()).collect::<Vec<_>>(), ["r0", "r1", "r2"]);
    for a in &answers {
        let (ab, ba) = (a["margin_ab"].as_f64().unwrap(), a["margin_ba"].as_f64().unwrap());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!((a["p_a"].as_f64().unwrap() - 0.5 * (sigmoid(ab) + sigmoid(-ba))).abs() < 1e-6);
        assert_eq!(a["verdict"], if ab > ba { "A" } else { "B" });
        assert!((0.0..=1.0).contains(&a["label_mass"].as_f64().unwrap()));
        assert!(a["consistent"].is_boolean());
    }
    b.ok(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "out.jsonl"]);
    assert_eq!(fs::read_to_string(b.path("out.jsonl")).unwrap(), one);
}

#[test]
fn scalar_models_give_rewards() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3_scalar"), b.rows());
    let said = b.ok(&["judge", "--model", utf8(&model), "--input", utf8(&rows), "--scalar"]);
    assert_eq!(said, b.ok(&["judge", "--model", utf8(&model), "--input", utf8(&rows)]), "the architecture decides");
    let answers = json_lines(&said);
    for a in &answers {
        let (x, y) = (a["reward_a"].as_f64().unwrap(), a["reward_b"].as_f64().unwrap());
        assert_eq!(a["verdict"], if x > y { "A" } else { "B" });
    }
    let lm = golden("qwen3");
    b.fails(&["judge", "--model", utf8(&lm), "--input", utf8(&rows), "--scalar"], 1, &["--scalar"]);
    b.fails(&["generate", "--model", utf8(&model), "--input", utf8(&rows)], 1, &["scalar head"]);
}

#[test]
fn ranking_orders_all_responses() {
    let b = Bench::new();
    let rows =
        b.write("groups.jsonl", "{\"id\": 7, \"prompt\": \"Hi\", \"responses\": [\"a\", \"b\", \"cc\", \"d\"]}\n");
    for case in ["qwen3", "qwen3_scalar"] {
        for method in ["linear", "round-robin"] {
            let model = golden(case);
            let args = ["rank", "--model", utf8(&model), "--input", utf8(&rows), "--method", method];
            let answer = &json_lines(&b.ok(&args))[0];
            let mut order: Vec<u64> = answer["order"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
            assert_eq!(answer["id"], 7);
            assert_eq!(answer["scores"].as_array().unwrap().len(), 4);
            order.sort();
            assert_eq!(order, [0, 1, 2, 3]);
        }
    }
}

#[test]
fn generation_is_reproducible_and_settings_may_stand_in_the_row() {
    let b = Bench::new();
    let model = golden("llama");
    let rows = b.write(
        "prompts.jsonl",
        "{\"id\": 1, \"prompt\": \"Hello\", \"max_tokens\": 3}\n\
         {\"id\": 2, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"temperature\": 1, \"seed\": 5}\n",
    );
    let run = |batch: &str| {
        b.ok(&["generate", "--model", utf8(&model), "--input", utf8(&rows), "--max-tokens", "8", "--batch", batch])
    };
    let (one, many) = (run("1"), run("4"));
    assert_eq!(one, many, "the batch changes nothing");
    let answers = json_lines(&one);
    assert!(answers[0]["token_ids"].as_array().unwrap().len() <= 3);
    for a in &answers {
        assert!(a["text"].is_string());
        assert!(["stop", "length"].contains(&a["finish_reason"].as_str().unwrap()));
    }
}

#[test]
fn bad_rows_name_their_place_and_can_be_skipped() {
    let b = Bench::new();
    let model = golden("qwen3");
    let good = "{\"prompt\": \"q\", \"response_a\": \"x\", \"response_b\": \"y\"}";
    let rows = b.write("rows.jsonl", &format!("{good}\n{{\"prompt\": \"q\"}}\nnot json\n{good}\n"));
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "out.jsonl"];
    b.fails(&args, 1, &["rows.jsonl:2", "response_a"]);
    assert!(!b.path("out.jsonl").exists(), "no half output under its final name");
    let skipping = b.run(&[&args[..], &["--on-error", "skip"]].concat());
    assert!(skipping.status.success());
    assert!(String::from_utf8_lossy(&skipping.stderr).contains("left out 2 of 4 rows"));
    let answers = json_lines(&fs::read_to_string(b.path("out.jsonl")).unwrap());
    let ids: Vec<u64> = answers.iter().map(|a| a["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 4], "a row without an id has its number, whatever was left out before it");
    let empty = b.write("empty.jsonl", "");
    b.fails(&["judge", "--model", utf8(&model), "--input", utf8(&empty)], 1, &["empty"]);
    b.fails(&["judge", "--model", utf8(&model), "--input", "nowhere.jsonl"], 1, &["nowhere.jsonl"]);
    let long = b.write("long.jsonl", &good.replace('q', &"long ".repeat(3000)));
    b.fails(&["judge", "--model", utf8(&model), "--input", utf8(&long)], 1, &["long.jsonl:1", "tokens"]);
}

#[test]
fn a_full_disk_is_an_error() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let args = ["judge", "--model", utf8(&model), "--input", utf8(&rows), "--output", "/dev/full"];
    b.fails(&args, 1, &["/dev/full"]);
}

#[test]
fn usage_errors_exit_with_2_and_absent_things_with_1() {
    let b = Bench::new();
    let (model, rows) = (golden("qwen3"), b.rows());
    let judge = |more: &[&'static str]| [&["judge", "--model", utf8(&model), "--input", utf8(&rows)], more].concat();
    b.fails(&["judge", "--no-such-flag"], 2, &["--no-such-flag"]);
    b.fails(&judge(&["--device", "abacus"]), 2, &["abacus"]);
    b.fails(&judge(&["--device", "cuda"]), 1, &["--device cpu"]);
    b.fails(&judge(&["--context", "100000000"]), 2, &["--context"]);
    b.fails(&["judge", "--model", "nowhere", "--input", utf8(&rows)], 1, &["nowhere", "config.json"]);
    b.write("template.txt", "Compare {response_a} and {response_b}.");
    b.fails(&judge(&["--template", "template.txt"]), 2, &["{prompt}"]);
}

#[test]
fn damaged_weights_are_named() {
    let b = Bench::new();
    let rows = b.rows();
    let copy = |name: &str| {
        let to = b.path(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(golden("qwen3")).unwrap().map(|e| e.unwrap().path()) {
            fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
        }
        to
    };
    let judge =
        |model: &Path, words: &[&str]| b.fails(&["judge", "--model", utf8(model), "--input", utf8(&rows)], 1, words);
    let model = copy("missing");
    fs::remove_file(model.join("model.safetensors")).unwrap();
    judge(&model, &["model.safetensors"]);
    let model = copy("truncated");
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    for len in [0, 7, 100, bytes.len() - 1] {
        fs::write(model.join("model.safetensors"), &bytes[..len]).unwrap();
        judge(&model, &["model.safetensors"]);
    }
    let model = copy("shapes");
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["intermediate_size"] = Value::from(config["intermediate_size"].as_u64().unwrap() + 1);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    judge(&model, &["mlp."]);
    config["num_experts"] = Value::from(8);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    judge(&model, &["num_experts"]);
}

#[test]
fn a_run_file_with_a_wrong_key_names_the_nearest() {
    let b = Bench::new();
    b.run_file();
    b.fails(&["train", "run.toml", "train.learning_rat=1"], 2, &["train.learning_rat"]);
    b.fails(&["train", "run.toml", "train.stepz=1"], 2, &["steps"]);
    b.fails(&["train", "run.toml", "train.lr=fast"], 2, &["train.lr"]);
    b.fails(&["train", "nowhere.toml"], 2, &["nowhere.toml"]);
    let config = b.ok(&["train", "run.toml", "--print-config", "train.seed=9"]);
    assert!(config.contains("seed = 9") && config.contains("command line") && config.contains("run.toml"), "{config}");
    let plan = b.ok(&["plan", "run.toml"]);
    assert!(plan.contains("weights") && plan.contains("optimizer") && plan.contains("largest micro-batch"), "{plan}");
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let b = Bench::new();
    b.run_file();
    b.ok(&["train", "run.toml"]);
    let last = b.path("run/checkpoint-000020");
    let files = ["model.safetensors", "optimizer/first_moments.safetensors", "optimizer/second_moments.safetensors"];
    let read = || files.map(|f| fs::read(last.join(f)).unwrap());
    let straight = read();
    fs::remove_dir_all(&last).unwrap();
    let said = b.ok(&["train", "run.toml"]);
    assert!(said.contains("resumed at step 10"), "{said}");
    assert!(straight == read(), "20 steps are 10 and 10");
    let log = json_lines(&fs::read_to_string(b.path("run/trainer_log.jsonl")).unwrap());
    assert_eq!(log.iter().map(|r| r["current_steps"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 10, 15, 20]);
    for file in ["metrics.csv", "report.html", "tensorboard"] {
        assert!(b.path("run").join(file).exists(), "{file}");
    }
    // What it wrote is a model directory.
    let rows = b.rows();
    b.ok(&["judge", "--model", utf8(&last), "--input", utf8(&rows)]);
}

#[test]
fn every_stage_trains() {
    let b = Bench::new();
    b.run_file();
    b.write(
        "sft.jsonl",
        "{\"prompt\": \"Say a\", \"completion\": \"a\"}\n{\"prompt\": \"Say b\", \"completion\": \"b\"}\n",
    );
    for (stage, data, verdict) in [
        ("pretrain", "pairs", "candidates"),
        ("sft", "sft", "candidates"),
        ("scalar", "pairs", "candidates"),
        ("finetune", "pairs", "candidates"),
        ("finetune", "pairs", "vocabulary"),
    ] {
        let dir = format!("{stage}-{verdict}");
        let set = [
            format!("train.stage={stage}"),
            format!("train.verdict={verdict}"),
            "train.epsilon=0.2".to_string(),
            format!("data.train={data}.jsonl"),
            format!("data.eval={data}.jsonl"),
            format!("checkpoint.dir={dir}"),
            "train.steps=3".to_string(),
            "model.dtype=bf16".to_string(),
            "train.recompute=layer".to_string(),
            "data.max_tokens=1024".to_string(),
        ];
        let args: Vec<&str> = ["train", "run.toml"].into_iter().chain(set.iter().map(String::as_str)).collect();
        let said = b.ok(&args);
        let log = json_lines(&fs::read_to_string(b.path(&dir).join("trainer_log.jsonl")).unwrap());
        let last = log.last().unwrap();
        assert!(
            last["loss"].as_f64().unwrap().is_finite() && last["eval_loss"].as_f64().unwrap() > 0.0,
            "{stage}: {last}"
        );
        let judged = matches!(stage, "scalar" | "finetune");
        assert_eq!(said.contains(" | acc ") && said.contains(" | eval acc "), judged, "{dir}: {said}");
        assert_eq!(last["accuracy"].is_number() && last["eval_accuracy"].is_number(), judged, "{dir}: {last}");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint() {
    let b = Bench::new();
    b.run_file();
    b.ok(&["train", "run.toml", "train.steps=10"]);
    let args = ["train", "run.toml", "train.lr=1e38", "train.warmup=0", "train.schedule=constant", "train.steps=30"];
    b.fails(&args, 1, &["step", "checkpoint-000010"]);
    assert!(b.path("run/checkpoint-000010/model.safetensors").exists());
}

#[test]
fn sigterm_writes_a_checkpoint_and_exits_0() {
    let b = Bench::new();
    b.run_file();
    let args = ["train", "run.toml", "train.steps=100000", "log.every=1", "checkpoint.every=0"];
    let child = b.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = b.path("run/trainer_log.jsonl");
    for _ in 0..600 {
        if fs::read_to_string(&log).is_ok_and(|t| t.lines().count() >= 2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: a signal to our own child.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("stopped at step"), "{said}");
    let found = fs::read_dir(b.path("run"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("checkpoint-"));
    assert_eq!(found.count(), 1);
}

#[test]
fn init_is_reproducible_and_refuses_to_overwrite() {
    let b = Bench::new();
    let tokenizer = golden("qwen3");
    let init = |out: &'static str, seed: &'static str| {
        let shape = ["--layers", "1", "--hidden", "32", "--heads", "2", "--seed", seed, "--out", out];
        [&["init", "--family", "qwen3", "--tokenizer", utf8(&tokenizer)], &shape[..]].concat()
    };
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        b.ok(&init(out, seed));
    }
    let weights = |dir: &str| fs::read(b.path(dir).join("model.safetensors")).unwrap();
    assert_eq!(weights("a"), weights("b"));
    assert_ne!(weights("a"), weights("c"));
    b.fails(&init("a", "1"), 2, &["--out", "exists"]);
    b.fails(&["init", "--family", "mamba", "--out", "d"], 2, &["mamba", "qwen3"]);
    let odd = ["--layers", "1", "--hidden", "32", "--heads", "3", "--head-dim", "8", "--vocab", "300", "--out", "odd"];
    b.fails(&[&["init", "--family", "llama"], &odd[..]].concat(), 2, &["3 query heads", "width 32", "transformers"]);
    b.ok(&[&["init", "--family", "qwen3"], &odd[..]].concat());
    let config = fs::read_to_string(b.path("odd/config.json")).unwrap();
    b.write("llama.json", &config.replace("Qwen3", "Llama").replace("qwen3", "llama"));
    b.fails(&["init", "--config", "llama.json", "--out", "odder"], 2, &["3 query heads"]);
    assert!(!b.path("odder").exists());
}

#[test]
fn data_inspect_shows_what_is_learned() {
    let b = Bench::new();
    b.pairs();
    let tokenizer = golden("qwen3");
    let shown = b.ok(&["data", "inspect", "--tokenizer", utf8(&tokenizer), "--stage", "pretrain", "pairs.jsonl"]);
    assert!(shown.contains("learned") && shown.contains("6 examples"), "{shown}");
}

/// The part of `docs/formats.md` that is made from the table of keys. `GRAMOPHONE_WRITE=1` writes it.
#[test]
fn the_reference_of_run_files_is_current() {
    let path = golden("../../docs/formats.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- made from the table of keys -->\n", "<!-- end -->");
    let (head, rest) = text.split_once(begin).expect("the marker where the reference begins");
    let (old, tail) = rest.split_once(end).expect("the marker where it ends");
    let new = gramophone::train::config::reference();
    if std::env::var_os("GRAMOPHONE_WRITE").is_some() {
        fs::write(&path, format!("{head}{begin}{new}{end}{tail}")).unwrap();
    } else {
        assert!(old == new, "docs/formats.md is stale: run this test with GRAMOPHONE_WRITE=1");
    }
}

#[test]
fn ids_beyond_the_tokenizer_decode_to_nothing() {
    // The model has more embedding rows than the tokenizer has tokens, as published Qwen models do.
    let tokenizer = gramophone::text::tokenizer::Tokenizer::open(&golden("qwen3")).unwrap();
    let hi = tokenizer.encode("hi").unwrap();
    let padded: Vec<i32> = hi.iter().copied().chain([tokenizer.vocab_size() as i32]).collect();
    assert_eq!(tokenizer.decode(&padded).unwrap(), "hi");
}
