//! Proving, as a person runs it: a tiny world, a tiny prover, rows in and out.

use crate::cli::{Bench, json_lines};
use gramophone::text::bpe::Recipe;
use gramophone::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fs;

/// A world small enough to be learned in seconds: of two digits the larger one is better, and this is why.
pub struct World;

pub const RATIONALE_FORM: &str = "<think>\n{why}\n</think>\n<answer>\n{label}\n</answer>\n";
pub const PROOF_FORM: &str = "As {why}, it is {label}\n";
pub const JUDGE: &str = "{prompt} A {response_a} B {response_b} <answer>\n";
pub const PROVING: &str = "{prompt} A {response_a} B {response_b} prove {label}\n";

impl World {
    /// Pair number `i` of 90: the digits shown first and second.
    fn digits(i: usize) -> (usize, usize) {
        let (a, b) = (i / 9 % 10, i % 9);
        (a, b + usize::from(b >= a))
    }

    pub fn why(i: usize) -> String {
        let (a, b) = World::digits(i);
        format!("{} beats {}", a.max(b), a.min(b))
    }

    pub fn label(i: usize) -> &'static str {
        let (a, b) = World::digits(i);
        if a > b { "A" } else { "B" }
    }

    pub fn pair(i: usize) -> Value {
        let (a, b) = World::digits(i);
        json!({"id": i, "prompt": "more?", "response_a": a.to_string(), "response_b": b.to_string()})
    }

    pub fn labelled(i: usize) -> Value {
        let mut row = World::pair(i);
        row["label"] = World::label(i).into();
        row
    }

    pub fn reasoned(i: usize) -> Value {
        let mut row = World::labelled(i);
        let (why, label) = (World::why(i), World::label(i));
        row["rationale"] = format!("<think>\n{why}\n</think>\n<answer>\n{label}\n</answer>").into();
        row
    }

    pub fn rows(which: impl Iterator<Item = usize>, row: fn(usize) -> Value) -> String {
        which.map(|i| row(i).to_string() + "\n").collect()
    }

    /// Writes the forms, the templates and a tokenizer of the world's words.
    pub fn furnish(b: &Bench) {
        b.write("rationale.form", RATIONALE_FORM);
        b.write("proof.form", PROOF_FORM);
        b.write("judge.txt", JUDGE);
        b.write("proving.txt", PROVING);
        let texts: Vec<String> = (0..90)
            .map(|i| {
                let (a, b) = World::digits(i);
                let (why, label) = (World::why(i), World::label(i));
                format!(
                    "user\nmore? A {a} B {b} prove {label}assistant\nAs {why}, it is {label}\n\
                     more? A {a} B {b} <answer>\n<think>\n{why}\n</think>\n<answer>\n{label}\n</answer>"
                )
            })
            .collect();
        let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), &Recipe::new(320)).unwrap();
        fs::create_dir(b.path("tokenizer")).unwrap();
        tokenizer.save(&b.path("tokenizer")).unwrap();
    }

    /// The run file of a tiny model.
    pub const MODEL: &'static str =
        "family = \"qwen3\"\nlayers = 2\nhidden = 48\nheads = 3\nffn = 96\ntokenizer = \"tokenizer\"\n";
    pub const TRAIN: &'static str = "batch = 16\nlr = 1e-2\nbeta2 = 0.98\nmicro_tokens = 1024\nfinal_lr = 0.1\n";
}

/// A prover of the world, trained for so many steps.
pub fn prover(b: &Bench, steps: usize) -> String {
    World::furnish(b);
    b.write("seed.jsonl", &World::rows(0..90, World::reasoned));
    b.write(
        "prover.toml",
        &format!(
            "[model]\n{}[data]\ntrain = \"seed.jsonl\"\nmax_tokens = 128\ntemplate = \"proving.txt\"\n\
             rationale_form = \"rationale.form\"\nproof_form = \"proof.form\"\n\
             [train]\nstage = \"prove\"\nsteps = {steps}\n{}[checkpoint]\ndir = \"prover\"\n[log]\nevery = 50\n",
            World::MODEL,
            World::TRAIN
        ),
    );
    b.ok(&["train", "prover.toml"]);
    format!("prover/checkpoint-{steps:06}")
}

pub const FORMS: [&str; 6] =
    ["--rationale-form", "rationale.form", "--proof-form", "proof.form", "--template", "proving.txt"];

#[test]
fn a_prover_proves_and_says_what_it_could_not() {
    let b = Bench::new();
    let model = prover(&b, 200);
    let rows = World::rows((0..90).step_by(4), World::labelled)
        + "{\"id\": \"tie\", \"prompt\": \"more?\", \"response_a\": \"1\", \"response_b\": \"1 \", \"label\": \"tie\"}\n";
    b.write("rows.jsonl", &rows);
    let prove = |more: &[&str]| {
        let base = ["prove", "--model", &model, "--input", "rows.jsonl", "--max-tokens", "24", "--context", "100"];
        b.ok(&[&base, &FORMS[..], more].concat())
    };
    let said = prove(&["--rejects", "rejects.jsonl"]);
    let (proved, rejects) = (json_lines(&said), json_lines(&fs::read_to_string(b.path("rejects.jsonl")).unwrap()));
    assert_eq!(proved.len() + rejects.len(), 24, "every row is accepted or rejected");
    assert!(proved.len() >= 15, "{} proved: {rejects:?}", proved.len());
    assert!(rejects.iter().any(|r| r["id"] == "tie" && r["reason"] == "ties"));
    let mut right = 0;
    for row in &proved {
        let i = row["id"].as_u64().unwrap() as usize;
        assert_eq!(row["label"], World::label(i));
        let rationale = row["rationale"].as_str().unwrap();
        assert!(
            rationale.starts_with("<think>\n")
                && rationale.ends_with(&format!("<answer>\n{}\n</answer>", World::label(i)))
        );
        right += usize::from(rationale == World::reasoned(i)["rationale"].as_str().unwrap());
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!((number("score") + number("logprob") / number("logprob_alone")).abs() < 1e-12);
        assert!(number("logprob") < 0.0 && number("tokens") > 3.0 && number("sound") >= 1.0);
    }
    assert!(2 * right > proved.len(), "{right} of {} are right", proved.len());
    // The bits of a row are its own: in any batch, alone, and in another order.
    for more in [&["--batch", "1", "--threads", "1"][..], &["--batch", "7", "--threads", "2"]] {
        assert_eq!(prove(more), said);
    }
    let lines: Vec<String> =
        fs::read_to_string(b.path("rows.jsonl")).unwrap().lines().rev().map(String::from).collect();
    b.write("rows.jsonl", &lines.join("\n"));
    let mut backwards = json_lines(&prove(&[]));
    backwards.reverse();
    assert_eq!(backwards, proved);
    assert_ne!(prove(&["--seed", "1"]).len(), 0);

    // What was written trains a judge, and another prover.
    b.write("proofs.jsonl", &said);
    for (stage, template) in [("sft", "judge.txt"), ("prove", "proving.txt")] {
        let set = [
            format!("train.stage={stage}"),
            format!("data.template={template}"),
            "data.train=proofs.jsonl".into(),
            "train.steps=2".into(),
            format!("checkpoint.dir={stage}"),
        ];
        let args: Vec<&str> = ["train", "prover.toml"].into_iter().chain(set.iter().map(String::as_str)).collect();
        b.ok(&args);
    }

    // A prover that leaks: every proof of it is rejected, with the reason.
    let out = prove(&["--leak", "beats", "--rejects", "leaks.jsonl"]);
    assert_eq!(out, "");
    let leaks = json_lines(&fs::read_to_string(b.path("leaks.jsonl")).unwrap());
    assert!(leaks.iter().filter(|r| r["reason"] == "leak").count() >= 5, "{leaks:?}");
    assert!(leaks.iter().all(|r| r["reason"] != "leak" || r["proof"].as_str().unwrap().contains("beats")));
}

#[test]
fn what_cannot_be_proved_is_named() {
    let b = Bench::new();
    World::furnish(&b);
    b.ok(&[
        "init",
        "--family",
        "qwen3",
        "--tokenizer",
        "tokenizer",
        "--layers",
        "1",
        "--hidden",
        "32",
        "--heads",
        "2",
        "--out",
        "model",
    ]);
    b.write("rows.jsonl", &World::rows(0..3, World::labelled));
    let fails = |code: i32, more: &[&str], words: &[&str]| {
        let base = ["prove", "--model", "model", "--context", "100", "--max-tokens", "4"];
        b.fails(&[&base[..], more].concat(), code, words);
    };
    b.write("template.txt", "{prompt} {response_a} {response_b}");
    fails(2, &["--input", "rows.jsonl", "--template", "template.txt"], &["template.txt", "{label}"]);
    b.write("form.txt", "{why} and that is all");
    fails(2, &["--input", "rows.jsonl", "--proof-form", "form.txt"], &["form.txt", "{label}"]);
    fails(2, &["--input", "rows.jsonl", "--proof-form", "proof.form"], &["no field", "{feedback}"]);
    fails(2, &["--input", "rows.jsonl", "--quote", "("], &["regular expression"]);
    fails(2, &["--input", "rows.jsonl", "--proofs", "0"], &["proofs is 0"]);
    fails(2, &["--input", "rows.jsonl", "--temperature=-1"], &["temperature"]);
    b.write("unlabelled.jsonl", &World::rows(0..2, World::pair));
    fails(1, &["--input", "unlabelled.jsonl"], &["unlabelled.jsonl:1", "label"]);
    b.write("wrong.jsonl", "{\"prompt\": \"q\", \"response_a\": \"x\", \"response_b\": \"y\", \"label\": 7}\n");
    fails(1, &["--input", "wrong.jsonl"], &["wrong.jsonl:1", "\"label\""]);
    b.write("foreign.jsonl", "{\"foo\": 1}\n");
    fails(1, &["--input", "foreign.jsonl"], &["foreign.jsonl:1", "foo"]);
    let long = World::labelled(1).to_string().replace("more?", &"more ".repeat(200));
    b.write("long.jsonl", &long);
    fails(1, &["--input", "long.jsonl"], &["long.jsonl:1", "tokens"]);
    fails(2, &["--input", "rows.jsonl", "--output", "o.jsonl", "--rejects", "rows.jsonl"], &["rows.jsonl", "input"]);
    assert!(!b.path("o.jsonl").exists());
}

#[test]
fn data_inspect_shows_proofs_with_and_without_their_context() {
    let b = Bench::new();
    World::furnish(&b);
    b.write("seed.jsonl", &World::rows(0..20, World::reasoned));
    b.write(
        "run.toml",
        "[model]\npath = \"tokenizer\"\n[data]\ntrain = \"seed.jsonl\"\ntemplate = \"proving.txt\"\n\
         rationale_form = \"rationale.form\"\nproof_form = \"proof.form\"\n[train]\nstage = \"prove\"\nempty_context = 0.5\n",
    );
    let shown = b.ok(&["data", "inspect", "--config", "run.toml", "-n", "40"]);
    let alone = shown.matches("  | <|im_start|>user\n  | <|im_end|>").count();
    assert!((4..=16).contains(&alone), "{alone} in isolation: {shown}");
    assert!(shown.contains(&format!("training: {} examples", 20 + alone)), "{shown}");
    assert!(
        shown.contains("stage prove")
            && shown.contains("prove A")
            && shown.contains("  | As 1 beats 0, it is B<|im_end|>")
    );
    // HelpSteer3: of those who agree with the whole the one with the strongest view, and no ties.
    let rating = |score: i64, text: &str| json!({"score": score, "reasoning": format!("@Response 2 {text}"), "feedback1": "Response 1 is bad", "feedback2": "f2"});
    let row = |preference: i64| {
        json!({"domain": "general", "language": "english", "context": [{"role": "user", "content": "q"}], "response1": "x",
               "response2": "y", "overall_preference": preference,
               "individual_preference": [rating(1, "mild"), rating(-3, "against"), rating(2, "strong"), rating(2, "later")]})
        .to_string() + "\n"
    };
    b.write("helpsteer.jsonl", &[row(1), row(0), row(-1)].concat());
    let shown =
        b.ok(&["data", "inspect", "--tokenizer", "tokenizer", "--stage", "prove", "-n", "9", "helpsteer.jsonl"]);
    assert!(
        shown.contains("1 ties") && shown.contains("Response B strong") && shown.contains("Response B against"),
        "{shown}"
    );
    assert!(shown.contains("  | Response A: Response A is bad\n  | Response B: f2\n"), "{shown}");
    assert!(!shown.contains("mild") && !shown.contains("later"), "{shown}");
    b.write("plain.jsonl", &World::rows(0..3, World::labelled));
    for stage in ["sft", "prove"] {
        let args = ["data", "inspect", "--tokenizer", "tokenizer", "--stage", stage, "plain.jsonl"];
        b.fails(&args, 1, &[stage, "labelled pairs with a rationale", "3 without a rationale"]);
    }
    let shown = b.ok(&["data", "inspect", "--tokenizer", "tokenizer", "--stage", "sft", "helpsteer.jsonl"]);
    assert!(
        shown.contains("Conclusion:\n  | Response B is better.\n  | </think>\n  | <answer>\n  | B\n  | </answer>"),
        "{shown}"
    );
}
