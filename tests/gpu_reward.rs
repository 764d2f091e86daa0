//! The papers' pipeline on a GPU: judging with rationales, evaluating, proving and self-training say what they say on the CPU.

use crate::cli::{Bench, json_lines, utf8};
use crate::devices::gpus;
use crate::gpu::{ends, program_on};
use crate::prove::{FORMS, World, prover};
use crate::rationale::{TAUGHT, pair};
use crate::tolerance::{Check, Class, GPU_BF16, GPU_BF16_MAGNIFIED, agree};
use gramophone::text::message::transcript;
use serde_json::{Value, json};
use std::fs;

/// Both numbers or none, and near each other: the models are tiny and store everything in bf16.
fn near(check: &mut Check, class: Class, cpu: &Value, gpu: &Value, names: &[&str]) {
    for name in names {
        match (cpu[*name].as_f64(), gpu[*name].as_f64()) {
            (Some(a), Some(b)) => check.value(class, format_args!("{name} of {cpu}"), b, a),
            (a, b) => assert_eq!(a, b, "{name}: {cpu} {gpu}"),
        }
    }
}

/// Greedy texts are the same, probabilities near.
#[test]
fn rationales_and_suites_are_those_of_the_cpu() {
    let (b, model) = (Bench::new(), TAUGHT.path());
    let row = |i: usize| {
        let ((pair, first), source) = (pair(i), ["mmlu-pro-law", "livebench-math"][i % 2]);
        json!({"id": i, "pair_id": i, "prompt": transcript(&pair.prompt).unwrap(), "question": transcript(&pair.prompt).unwrap(),
               "response_a": pair.a, "response_b": pair.b, "response_A": pair.a, "response_B": pair.b, "source": source,
               "label": if first { "A>B" } else { "B>A" }})
    };
    b.write("rows.jsonl", &(0..2).map(|i| row(i).to_string() + "\n").collect::<String>());
    let template = model.join("judge.txt");
    let flags = ["--rationale", "--model", utf8(model), "--template", utf8(&template), "--max-tokens", "40"];
    let judge = [&["judge", "--input", "rows.jsonl"], &flags[..]].concat();
    let eval = |out: &'static str| {
        [&["eval", "judgebench", "--data", "rows.jsonl", "--bootstrap", "0", "--out", out], &flags[..]].concat()
    };
    let cpu = json_lines(&b.ok(&judge));
    b.ok(&eval("cpu"));
    let rows = |out: &str| json_lines(&fs::read_to_string(b.path(out).join("rows.jsonl")).unwrap());
    for (name, _) in gpus() {
        let out = program_on(&b, &name, &judge);
        ends(&out, 0, &[]);
        for (cpu, gpu) in cpu.iter().zip(json_lines(&String::from_utf8(out.stdout).unwrap())) {
            for field in ["id", "verdict", "rationale", "votes", "tokens"] {
                assert_eq!(cpu[field], gpu[field], "{field} on {name}");
            }
            agree("judging with rationales on a GPU", |check| {
                near(check, GPU_BF16, cpu, &gpu, &["p_a"]);
                near(check, GPU_BF16_MAGNIFIED, cpu, &gpu, &["margin_ab", "margin_ba"]);
            });
        }
        ends(&program_on(&b, &name, &eval("gpu")), 0, &[]);
        for (cpu, gpu) in rows("cpu").iter().zip(rows("gpu")) {
            for field in ["id", "verdict", "correct", "rationale", "votes", "tokens", "written"] {
                assert_eq!(cpu[field], gpu[field], "{field} on {name}");
            }
        }
        fs::remove_dir_all(b.path("gpu")).unwrap();
    }
}

#[test]
fn proofs_and_their_scores_are_those_of_the_cpu() {
    let b = Bench::new();
    let model = prover(&b, 200);
    b.write("rows.jsonl", &World::rows((0..12).step_by(4), World::labelled));
    let base = ["prove", "--model", &model, "--input", "rows.jsonl", "--max-tokens", "24", "--context", "100"];
    let args = [&base[..], &FORMS, &["--proofs", "2", "--temperature", "0.3"]].concat();
    let cpu = json_lines(&b.ok(&args));
    assert!(!cpu.is_empty());
    for (name, _) in gpus() {
        let out = program_on(&b, &name, &args);
        ends(&out, 0, &[]);
        let gpu = json_lines(&String::from_utf8(out.stdout).unwrap());
        assert_eq!(cpu.len(), gpu.len(), "{name}");
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            for field in ["id", "rationale", "proof", "tokens", "sound"] {
                assert_eq!(cpu[field], gpu[field], "{field} on {name}");
            }
            agree("proving on a GPU", |check| near(check, GPU_BF16, cpu, gpu, &["score", "logprob", "logprob_alone"]));
        }
    }
}

/// All of it with models that know their world already, so that few steps and few pairs are enough.
#[test]
fn self_training_runs_to_its_end() {
    let b = Bench::new();
    let ready = prover(&b, 200);
    b.write(
        "judge.toml",
        &format!(
            "[model]\n{}[data]\ntrain = \"seed.jsonl\"\nmax_tokens = 128\ntemplate = \"judge.txt\"\n\
             rationale_form = \"rationale.form\"\nproof_form = \"proof.form\"\n\
             [train]\nstage = \"sft\"\nsteps = 160\n{}[checkpoint]\ndir = \"judge\"\n[log]\nevery = 50\n",
            World::MODEL,
            World::TRAIN
        ),
    );
    b.ok(&["train", "judge.toml"]);
    for (file, from) in [("labelled", 0), ("unlabelled", 1), ("held-out", 2)] {
        b.write(&format!("{file}.jsonl"), &World::rows((from..12).step_by(3), World::labelled));
    }
    b.write("human.jsonl", &World::rows(0..4, World::reasoned));
    let train = "steps = 1\nbatch = 4\nlr = 1e-6\nmicro_tokens = 256\n";
    b.write(
        "run.toml",
        &format!(
            "[pipeline]\ndir = \"out\"\nunit = 10\n\
             [data]\nrationales = \"human.jsonl\"\nlabelled = \"labelled.jsonl\"\nunlabelled = \"unlabelled.jsonl\"\n\
             held_out = \"held-out.jsonl\"\n\
             [forms]\njudge = \"judge.txt\"\nproving = \"proving.txt\"\nrationale = \"rationale.form\"\nproof = \"proof.form\"\n\
             [prover]\nproofs = 2\nmax_tokens = 24\ncontext = 100\ntemperature = 0.3\n\
             [prover.model]\npath = \"{ready}\"\n[prover.data]\nmax_tokens = 128\n[prover.train]\n{train}\
             [reward]\nvotes = 1\nmax_tokens = 24\ncontext = 100\nagreement = 0.5\ntau = 0.5\ntemperature = 0.0\n\
             [reward.model]\npath = \"judge/checkpoint-000160\"\n[reward.data]\nmax_tokens = 128\n[reward.train]\n{train}\
             [rounds]\ncount = 1\nstart = \"previous\"\n"
        ),
    );
    b.ok(&["self-train", "run.toml", "pipeline.dir=cpu"]);
    let stats = |dir: &str, set: &str| {
        let text = fs::read_to_string(b.path(dir).join(set).join("stats.json")).unwrap();
        let stats: Value = serde_json::from_str(&text).unwrap();
        ["pairs", "labelled", "accepted", "reasons"].map(|name| stats[name].clone())
    };
    for (name, _) in gpus() {
        ends(&program_on(&b, &name, &["self-train", "run.toml", "pipeline.dir=gpu"]), 0, &[]);
        assert!(b.path("gpu/final/checkpoint-000001/model.safetensors").exists());
        for set in ["labelled", "round-1"] {
            assert_eq!(stats("cpu", set), stats("gpu", set), "{set} on {name}");
        }
        fs::remove_dir_all(b.path("gpu")).unwrap();
    }
}
